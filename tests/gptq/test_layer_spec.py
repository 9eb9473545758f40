"""LayerSpec: shapes, widths and rules of each layer, and tensors that contradict them."""

import json
import re

import numpy as np
import pytest
from safetensors.numpy import save_file

from ferrum_numba.gptq import Checkpoint, Recipe, make_checkpoint
from tests.campaigns.layers import random_tensors
from tests.gptq.fixtures import (
    DOWN_PROJ,
    FIXTURES,
    Q_PROJ,
    damaged,
    edit_config,
    edit_tensors,
    fixture,
    refused,
)


@pytest.mark.parametrize("name", FIXTURES)
def test_specs_equal_the_manifest(name):
    checkpoint = Checkpoint.open(fixture(name))
    modules = json.loads((fixture(name) / "manifest.json").read_text())["modules"]
    assert set(checkpoint.layers) == set(modules)
    for layer, spec in checkpoint.layers.items():
        made = modules[layer]
        assert spec.name == layer
        assert (spec.K, spec.N, spec.bits) == (made["K"], made["N"], made.get("bits", 4))
        assert spec.group_size == made["group_size"]  # -1 is written as K there too
        assert spec.groups == -(-spec.K // spec.group_size)
        assert spec.bias == made["bias"]
        assert spec.act_order == (not made.get("g_idx_monotonic", True))
        assert f"torch.{spec.scales_dtype}" == made["scales_dtype"]
        tensors = checkpoint.load(layer)
        assert (tensors.K, tensors.N, tensors.group_size) == (spec.K, spec.N, spec.group_size)
        assert tensors.nbytes == spec.nbytes
        assert tensors.act_order == spec.act_order
        assert spec.zero_format == name.split("_")[1]
        # As plain as is exact: only a zero of 0 needs its writer's own reading.
        assert tensors.zero_format in (spec.zero_format, checkpoint.quantization.zero_format)
        assert tensors.zero_format == spec.zero_format or "zp0" in name


def test_autogptqs_bias_of_zeros_is_reported_as_it_is():
    checkpoint = Checkpoint.open(fixture("ag_v1_sym_g64_bf16scales"))
    assert checkpoint.layers[Q_PROJ].bias
    bias = checkpoint.load(Q_PROJ).bias
    assert bias is not None
    assert not bias.astype(np.float32).any()


def test_act_order_is_what_g_idx_says_not_the_flag(plain):
    for file in ("quantize_config.json", "config.json"):
        edit_config(plain / file, desc_act=True)
    assert not Checkpoint.open(plain).layers[Q_PROJ].act_order


def test_a_layer_that_a_rule_excludes(plain):
    edit_config(plain / "quantize_config.json", dynamic={"-:.*down_proj": {}})
    message = rf"{DOWN_PROJ}\.qweight: .*rule .*down_proj.*excludes it, found .*correct the rule"
    damaged(plain, DOWN_PROJ, message)


def test_bits_that_do_not_exist(plain):
    for file in ("quantize_config.json", "config.json"):
        edit_config(plain / file, bits=5)
    with refused(r"expected bits to be one of 2, 3, 4, 8, found 5 \(quantize_config\.json"):
        Checkpoint.open(plain)


def test_a_group_size_that_cannot_be(plain):
    edit_config(plain / "quantize_config.json", dynamic={".*q_proj": {"group_size": 0}})
    message = rf"^{Q_PROJ}: group_size: expected .*found 0; correct it in quantize_config\.json"
    damaged(plain, Q_PROJ, message)


def test_bits_against_the_shapes(plain):
    for file in ("quantize_config.json", "config.json"):
        edit_config(plain / file, bits=8)
    with refused(
        r"qzeros: expected shape .*with bits=8 .*the shapes fit bits=4 and group_size=128"
    ):
        Checkpoint.open(plain)


def test_rules_give_layers_their_own_group_size(plain):
    tensors = random_tensors(512, 256, 64, symmetric=True)

    def regroup(stored):
        for part in ("qweight", "qzeros", "scales"):
            stored[f"{DOWN_PROJ}.{part}"] = getattr(tensors, part)
        del stored[f"{DOWN_PROJ}.g_idx"]

    edit_tensors(plain / "model.safetensors", regroup)
    message = rf"{DOWN_PROJ}.qzeros: .*group_size=128 \(quantize_config.json and config.json"
    damaged(plain, DOWN_PROJ, message)
    edit_config(plain / "quantize_config.json", dynamic={".*down_proj": {"group_size": 64}})
    checkpoint = Checkpoint.open(plain)
    assert checkpoint.layers[DOWN_PROJ].group_size == 64
    assert checkpoint.layers[Q_PROJ].group_size == 128
    np.testing.assert_array_equal(checkpoint.load(DOWN_PROJ).dequantize(), tensors.dequantize())


@pytest.mark.parametrize("part", ["qweight", "qzeros", "scales"])
def test_a_missing_tensor(plain, part):
    edit_tensors(plain / "model.safetensors", lambda t: t.pop(f"{Q_PROJ}.{part}"))
    message = (
        rf"^{re.escape(Q_PROJ)}\.{part}: expected in model\.safetensors, found in none of them; "
        "the checkpoint is incomplete"
    )
    damaged(plain, Q_PROJ, message)


DAMAGED_AT_OPEN = {
    "qweight dtype": ("qweight", lambda a: a.astype(np.int64), r"expected I32 .*found I64"),
    "qweight dimensions": ("qweight", lambda a: a[0], r"expected I32 with 2 dim.*found I32 \[384"),
    "qzeros dtype": ("qzeros", lambda a: a.view(np.uint32), r"expected I32 .*found U32"),
    "qzeros shape": ("qzeros", lambda a: a[:1], r"expected shape \[2, 48\], .*found \[1, 48\]"),
    "scales dtype": (
        "scales",
        lambda a: a.astype(np.float32),
        r"expected F16 or BF16 .*found F32 \[2, 384\] in model\.safetensors; convert the scales",
    ),
    "scales shape": ("scales", lambda a: a[:, :8], r"expected shape \[2, 384\], .*found \[2, 8\]"),
    "scales empty": ("scales", lambda a: a[:0], r"expected .*none of them 0, found F16 \[0, 384\]"),
    "g_idx shape": ("g_idx", lambda a: a[:8], r"expected shape \[256\], .*\[8\] .*is damaged"),
    "g_idx dtype": ("g_idx", lambda a: a.astype(np.int64), r"expected I32 with 1 dim.*found I64"),
}


@pytest.mark.parametrize("fault", DAMAGED_AT_OPEN)
def test_damaged_tensors_at_open(plain, fault):
    part, change, message = DAMAGED_AT_OPEN[fault]
    name = f"{Q_PROJ}.{part}"

    def damage(tensors):
        tensors[name] = np.ascontiguousarray(change(tensors[name]))

    edit_tensors(plain / "model.safetensors", damage)
    damaged(plain, Q_PROJ, rf"^{re.escape(name)}: {message}")


def test_a_g_idx_out_of_range_is_seen_when_its_layer_is_loaded(plain):
    def damage(tensors):
        tensors[f"{Q_PROJ}.g_idx"] += np.int32(1)

    edit_tensors(plain / "model.safetensors", damage)
    checkpoint = Checkpoint.open(plain)
    assert checkpoint.layers[Q_PROJ].act_order
    message = rf"^{re.escape(Q_PROJ)}\.g_idx: expected groups 0\.\.1, .*found 1\.\.2"
    for load in (checkpoint.load, checkpoint.load_dense):
        with refused(message):
            load(Q_PROJ)


def test_a_bias_of_another_length(plain):
    edit_tensors(
        plain / "model.safetensors", lambda t: t.update({f"{Q_PROJ}.bias": np.ones(8, np.float16)})
    )
    damaged(plain, Q_PROJ, rf"^{re.escape(Q_PROJ)}\.bias: expected shape \[384\], .*found \[8\]")


def test_the_shapes_of_awq(plain):
    def repack(stored):
        for name in [name for name in stored if name.endswith(".qweight")]:
            rows, columns = stored[name].shape
            stored[name] = np.zeros((rows * 8, columns // 8), np.int32)
            del stored[name.replace("qweight", "g_idx")]

    edit_tensors(plain / "model.safetensors", repack)
    with refused(r"qzeros: expected shape .*these are the shapes of AWQ's layout"):
        Checkpoint.open(plain)


def test_qweight_of_partial_words(tmp_path):
    parts = {"qweight": np.zeros((8, 12), np.int32), "qzeros": np.zeros((2, 2), np.int32)}
    parts["scales"] = np.ones((2, 12), np.float16)
    save_file({f"a.{part}": array for part, array in parts.items()}, tmp_path / "a.safetensors")
    config = {"bits": 4, "group_size": 32, "quant_method": "gptq"}
    (tmp_path / "quantize_config.json").write_text(json.dumps(config))
    with refused(r"^a\.qweight: expected shape \[K\*4/32, N\] with whole words.*correct bits"):
        Checkpoint.open(tmp_path)


def layer_of(folder, K, N, *, rows, columns, group_size=128):
    """A checkpoint of one layer [K, N] whose words hold `rows` rows, and zeros of `columns`."""
    groups = -(-K // group_size)
    parts = {"qweight": np.zeros((rows // 8, N), np.int32)}
    parts["qzeros"] = np.zeros((groups, columns // 8), np.int32)
    parts["scales"] = np.ones((groups, N), np.float16)
    parts["g_idx"] = np.arange(K, dtype=np.int32) // np.int32(group_size)
    save_file({f"a.{part}": array for part, array in parts.items()}, folder / "a.safetensors")
    config = {"bits": 4, "group_size": group_size, "quant_method": "gptq"}
    (folder / "quantize_config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("K", "rows"), [(3420, 3392), (3420, 3416), (4100, 4096), (100, 96), (2730, 2720)]
)
def test_rows_that_packing_dropped_are_missed_in_qweight(tmp_path, K, rows):
    with refused(
        rf"^a\.qweight: expected {-(-K // 8)} rows of words for the {K} rows that a\.g_idx .*"
        rf"found {rows // 8} in a\.safetensors, which hold {rows}: packing dropped the last "
        rf"{K - rows} rows, .*pad the layer to a multiple of 32"
    ):
        Checkpoint.open(layer_of(tmp_path, K, 64, rows=rows, columns=64))


def test_a_qweight_that_is_cut_is_to_blame_where_all_others_agree(tmp_path):
    with refused(r"^a\.qweight: expected 128 rows .*found 64 .*which hold 512; .*is damaged"):
        Checkpoint.open(layer_of(tmp_path, 1024, 64, rows=512, columns=64))


def test_columns_that_packing_dropped_are_missed_in_qzeros(tmp_path):
    with refused(
        r"^a\.qzeros: expected zeros for 60 columns, .*found 7 words in a\.safetensors, which "
        r"hold 56: packing dropped the zeros of the last columns; pad"
    ):
        Checkpoint.open(layer_of(tmp_path, 128, 60, rows=128, columns=56))


@pytest.mark.parametrize("bits", [4, 8])
def test_a_g_idx_of_zeros_is_ignored_when_asked(tmp_path, bits):
    make_checkpoint(tmp_path, Recipe(layers=1, bits=bits, layers_only=True))
    expected = Checkpoint.open(tmp_path).dense(DOWN_PROJ)
    edit_tensors(tmp_path / "model.safetensors", lambda t: t[f"{DOWN_PROJ}.g_idx"].fill(0))
    before = (tmp_path / "model.safetensors").read_bytes()
    with refused(r'g_idx: expected rows in each of the groups .*g_idx="ignore"'):
        Checkpoint.open(tmp_path).dense(DOWN_PROJ)
    checkpoint = Checkpoint.open(tmp_path, g_idx="ignore")
    assert not checkpoint.layers[DOWN_PROJ].act_order
    np.testing.assert_array_equal(checkpoint.dense(DOWN_PROJ), expected)
    if bits == 4:
        np.testing.assert_array_equal(checkpoint.load(DOWN_PROJ).dequantize(), expected)
    assert (tmp_path / "model.safetensors").read_bytes() == before


def test_an_unknown_way_to_read_g_idx(plain):
    with refused(r"^g_idx: expected one of 'file', 'ignore', found 'zeros'"):
        Checkpoint.open(plain, g_idx="zeros")
