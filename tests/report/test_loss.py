"""Loss: what quantising a dense model costs, measured against NumPy and told from other faults."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from ferrum_numba.errors import CheckpointError
from ferrum_numba.gptq import Checkpoint, DenseModel, quantize_checkpoint
from ferrum_numba.report import Inputs, measure_loss
from tests.cli.commands import run, run_json
from tests.gptq.fixtures import edit_config, edit_tensors, fixture

SIZES = {"self_attn.q_proj": (64, 96), "mlp.up_proj": (128, 96), "mlp.down_proj": (96, 128)}
NAMES = [f"model.layers.0.{name}" for name in SIZES]


@pytest.fixture
def sides(tmp_path):
    """A checkpoint, and the dense model that it was quantised from."""
    rng = np.random.default_rng(0)
    dense = tmp_path / "dense"
    dense.mkdir()
    weights = {
        f"model.layers.0.{name}.weight": rng.normal(0, 0.02, size) for name, size in SIZES.items()
    }
    weights["model.embed_tokens.weight"] = rng.normal(0, 1, (32, 96))
    save_file(
        {n: w.astype(ml_dtypes.bfloat16) for n, w in weights.items()}, dense / "m.safetensors"
    )
    quantize_checkpoint(dense, tmp_path / "quantised", group_size=32)
    return tmp_path / "quantised", dense


def losses(sides, **options):
    checkpoint, dense = Checkpoint.open(sides[0]), DenseModel.open(sides[1])
    return {found.layer: found for found in measure_loss(checkpoint, dense, NAMES, **options)}


def test_losses_are_those_of_numpy(sides, tmp_path):
    rng = np.random.default_rng(1)
    x = {"x_96": rng.normal(0, 1, (5, 96)), f"{NAMES[2]}.x": rng.normal(0, 1, (7, 128)) + 3}
    save_file({n: a.astype(np.float32) for n, a in x.items()}, tmp_path / "x.safetensors")
    found = losses(sides, inputs=Inputs.open(tmp_path / "x.safetensors"))
    checkpoint, dense = Checkpoint.open(sides[0]), DenseModel.open(sides[1])
    for name, loss in found.items():
        used = "x_96" if name != NAMES[2] else f"{NAMES[2]}.x"
        W = dense.weight(checkpoint.layers[name]).astype(np.float64)
        D = checkpoint.dense(name, np.float32) - W
        y, lost = x[used] @ W, x[used] @ D
        assert (loss.verdict, loss.inputs) == ("pass", used)
        assert loss.weight_error == pytest.approx(np.linalg.norm(D) / np.linalg.norm(W), 1e-5)
        assert loss.output_error == pytest.approx(np.linalg.norm(lost) / np.linalg.norm(y), 1e-4)
        assert loss.max_abs_error == pytest.approx(np.abs(D).max(), 1e-5)
        assert loss.worst_column == np.square(lost).sum(axis=0).argmax()
        assert loss.weight_error == pytest.approx(loss.rounding_error, 0.1)


def test_random_inputs_are_the_same_each_time(sides):
    first, second = losses(sides), losses(sides)
    assert [replace(a, seconds=0) for a in first.values()] == [
        replace(b, seconds=0) for b in second.values()
    ]
    assert {loss.inputs for loss in first.values()} == {"random"}
    assert losses(sides, seed=1)[NAMES[0]].output_error != first[NAMES[0]].output_error


def test_zeros_that_are_read_wrong_are_more_than_quantising_loses(sides):
    quantised, _ = sides
    edit_config(quantised / "quantize_config.json", sym=False, checkpoint_format="gptq_v2")
    found = losses(sides)
    assert {loss.verdict for loss in found.values()} == {"mismatch"}
    assert re.search(
        r"found weights off by \+(0\.9|1\.0)\d levels on average", found[NAMES[0]].reason
    )


def test_another_models_weights_are_told(sides):
    edit_tensors(
        sides[1] / "m.safetensors",
        lambda t: t.update({f"{NAMES[0]}.weight": -t[f"{NAMES[0]}.weight"]}),
    )
    found = losses(sides)
    assert "expected weights within 4 times the" in found[NAMES[0]].reason
    assert [loss.verdict for loss in found.values()] == ["mismatch", "pass", "pass"]


def test_a_tolerance_of_the_outputs(sides):
    worst = max(loss.output_error for loss in losses(sides).values())
    assert {loss.verdict for loss in losses(sides, tolerance=worst * 1.01).values()} == {"pass"}
    found = losses(sides, tolerance=worst * 0.999)
    assert [loss.verdict for loss in found.values()].count("mismatch") == 1


def test_a_damaged_weight_does_not_pass(sides):
    def damage(tensors):
        tensors[f"{NAMES[0]}.weight"][3, 4] = np.nan

    edit_tensors(sides[1] / "m.safetensors", damage)
    assert [loss.verdict for loss in losses(sides).values()] == ["mismatch", "pass", "pass"]


def rename(folder, change):
    def renamed(tensors):
        for name in list(tensors):
            tensors[change(name)] = tensors.pop(name)

    edit_tensors(folder / "m.safetensors", renamed)


def test_a_text_model_is_found_where_others_put_it(sides):
    expected = losses(sides)
    rename(sides[1], lambda name: name.replace("model.layers", "language_model.model.layers"))
    found = losses(sides)
    assert [f.output_error for f in found.values()] == [e.output_error for e in expected.values()]


def test_experts_are_found_under_either_name(sides):
    expected = losses(sides)[NAMES[1]]
    name = "model.layers.0.mlp.experts.3.up_proj"
    edit_tensors(
        sides[0] / "model.safetensors",
        lambda t: t.update(
            {f"{name}.{p}": t[f"{NAMES[1]}.{p}"] for p in ("qweight", "qzeros", "scales", "g_idx")}
        ),
    )
    other = "language_model.model.layers.0.block_sparse_moe.experts.3.w3.weight"
    edit_tensors(sides[1] / "m.safetensors", lambda t: t.update({other: t[f"{NAMES[1]}.weight"]}))
    checkpoint, dense = Checkpoint.open(sides[0]), DenseModel.open(sides[1])
    (found,) = measure_loss(checkpoint, dense, [name])
    assert found.output_error == expected.output_error


def test_parts_of_fused_layers_are_found(tmp_path):
    rng = np.random.default_rng(0)
    rows = {"q_proj": 64, "k_proj": 32, "v_proj": 32, "gate_proj": 96, "up_proj": 96}
    parts = {name: rng.normal(0, 0.02, (n, 64)).astype(np.float16) for name, n in rows.items()}
    for folder in ("apart", "fused"):
        (tmp_path / folder).mkdir()
    save_file({f"a.{n}.weight": w for n, w in parts.items()}, tmp_path / "apart" / "m.safetensors")
    fused = {
        "a.qkv_proj.weight": np.concatenate([parts[p] for p in ("q_proj", "k_proj", "v_proj")])
    }
    fused["a.gate_up_proj.weight"] = np.concatenate([parts["gate_proj"], parts["up_proj"]])
    save_file(fused, tmp_path / "fused" / "m.safetensors")
    quantize_checkpoint(tmp_path / "apart", tmp_path / "quantised", group_size=32)
    checkpoint, dense = Checkpoint.open(tmp_path / "quantised"), DenseModel.open(tmp_path / "fused")
    assert len(checkpoint.layers) == 5
    for name, spec in checkpoint.layers.items():
        np.testing.assert_array_equal(dense.weight(spec).T, parts[name.removeprefix("a.")])


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        ({"b.weight": np.ones((64, 96), np.float16)}, "expected a weight of this name in .*dense"),
        (
            {f"{NAMES[0]}.weight": np.ones((64, 95), np.float16)},
            r"\[64, 96\], as .*found F16 \[64, ",
        ),
        ({f"{NAMES[0]}.weight": np.ones((64, 96), np.int8)}, r"found I8 \[64, 96\] in m\.safe"),
    ],
)
def test_a_weight_of_another_model_is_refused(sides, stored, message):
    save_file(stored, sides[1] / "m.safetensors")
    loss = losses(sides)[NAMES[0]]
    assert loss.verdict == "refused"
    with pytest.raises(CheckpointError, match=message):
        DenseModel.open(sides[1]).weight(Checkpoint.open(sides[0]).layers[NAMES[0]])


def test_a_quantised_model_is_not_dense():
    with pytest.raises(CheckpointError, match="expected a dense model, found tensors named"):
        DenseModel.open(fixture("gm_v1_sym_g128"))


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        ({"y": np.ones((1, 96), np.float32)}, "expected inputs, tensors named <layer>.x or x_<K>"),
        ({"x_96": np.ones((1, 95), np.float32)}, r"x_96: expected F16 .* \[rows, 96\], found F32"),
        ({"x_96": np.full((1, 96), np.nan, np.float16)}, "x_96: expected finite numbers"),
    ],
)
def test_inputs_that_are_none(sides, tmp_path, stored, message):
    file = tmp_path / "x.safetensors"
    save_file(stored, file)
    with pytest.raises(CheckpointError, match=message):
        Inputs.open(file).of(Checkpoint.open(sides[0]).layers[NAMES[0]])


# The command


def test_the_command(sides):
    result = run("compare", *sides)
    assert (result.exit_code, result.stderr) == (0, "")
    assert "3 layers: 3 pass; outputs off by " in result.stdout
    assert f"B: {sides[1]}, dense" in result.stdout
    code, found = run_json("compare", *sides, "--layers", "*.q_proj", "--m", 8)
    assert (code, len(found["results"]), found["m"]) == (0, 1, 8)
    assert found["summary"]["worst_output_error"] == found["results"][0]["output_error"]
    assert run("compare", *sides, "--tolerance", 1e-3).exit_code == 1


def test_what_means_nothing_beside_a_dense_model(sides, tmp_path):
    result = run("compare", *sides, "--html", tmp_path / "page.html")
    assert (result.exit_code, "--html: not with a dense model" in result.stderr) == (2, True)
    result = run("compare", sides[1], sides[0])
    assert "expected the quantised checkpoint before the dense model" in result.stderr
    result = run("compare", sides[0], sides[0], "--x", tmp_path / "x")
    assert "--x: only with a dense model as B" in result.stderr


def test_inputs_from_a_file(sides, tmp_path):
    save_file({"x_96": np.ones((4, 96), np.float16)}, tmp_path / "x.safetensors")
    result = run("compare", *sides, "--x", tmp_path / "x.safetensors", "--json")
    used = {found["layer"]: found["inputs"] for found in json.loads(result.stdout)["results"]}
    assert used == {NAMES[0]: "x_96", NAMES[1]: "x_96", NAMES[2]: "random"}
