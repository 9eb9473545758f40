"""Synthetic checkpoints: the dialects, their bytes, and that memory stays that of one tensor."""

import hashlib
import json
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import load_file

from ferrum_numba.gptq import MODELS, Checkpoint, Recipe, make_checkpoint
from ferrum_numba.gptq.packing import pack_columns
from ferrum_numba.gptq.synthesis import written_zeros
from ferrum_numba.gptq.zeros import decode_zeros
from tests.gptq.fixtures import Q_PROJ, refused

ZEROS = st.tuples(st.integers(1, 3), st.integers(1, 2)).flatmap(
    lambda size: hnp.arrays(np.uint8, (size[0], size[1] * 32), elements=st.integers(0, 15))
)

DIALECTS = {
    "plain": {},
    "v2": {"format": "v2"},
    "asymmetric": {"symmetric": False},
    "asymmetric v2": {"symmetric": False, "format": "v2"},
    "act-order with bias": {"act_order": True, "bias": True, "group_size": 64},
    "bfloat16": {"dtype": "bfloat16"},
    "one group": {"group_size": -1},
    "short last group": {"group_size": 96},
    "mixed with head": {"mixed": True, "lm_head": True},
    "2 bits": {"bits": 2},
    "3 bits": {"bits": 3},
    "8 bits": {"bits": 8},
    "sharded": {"shards": 4},
    "layers only": {"layers_only": True},
    "AutoGPTQ": {"producer": "autogptq"},
    "AutoGPTQ act-order": {"producer": "autogptq", "act_order": True, "bias": True},
    "auto-round": {"producer": "auto-round", "symmetric": False},
}


def digest(folder):
    """Of all files in a folder."""
    files = sorted(folder.iterdir())
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@pytest.mark.filterwarnings("ignore:.*stored nibbles of 0xF")  # random zeros of auto-round's
@pytest.mark.parametrize("name", DIALECTS)
def test_dialects(tmp_path, name):
    recipe = Recipe(layers=1, **DIALECTS[name])
    nbytes = make_checkpoint(tmp_path, recipe)
    checkpoint = Checkpoint.open(tmp_path)
    assert not checkpoint.problems
    assert nbytes == sum(file.stat().st_size for file in tmp_path.glob("*.safetensors"))
    assert len(list(tmp_path.glob("*.safetensors"))) == recipe.shards
    assert list(checkpoint.layers) == sorted(linear.name for linear in recipe.linears())
    for linear in recipe.linears():
        spec = checkpoint.layers[linear.name]
        assert (spec.K, spec.N, spec.bits) == (linear.K, linear.N, linear.bits)
        assert spec.act_order == recipe.act_order
        assert spec.bias == (recipe.bias or recipe.producer == "autogptq")
        assert spec.scales_dtype == recipe.dtype
        weight = checkpoint.load_dense(linear.name).astype(np.float32)
        assert 0.7 < weight.std() * np.sqrt(linear.K) < 1.4  # unit inputs give unit outputs
    producer = checkpoint.quantization.producer.split(":")[0]
    assert producer == {"autogptq": "auto_gptq"}.get(recipe.producer, recipe.producer)


def test_the_same_recipe_gives_the_same_bytes(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        make_checkpoint(tmp_path / name, Recipe(layers=1, symmetric=False, seed=seed))
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in "ac")
    for name in one:
        assert (one[name].tobytes() == other[name].tobytes()) == ("norm" in name or "g_idx" in name)


def test_a_tensor_is_the_same_in_one_file_and_in_many(tmp_path):
    make_checkpoint(tmp_path / "one", Recipe(layers=1))
    make_checkpoint(tmp_path / "many", Recipe(layers=1, shards=7))
    one = load_file(tmp_path / "one" / "model.safetensors")
    index = json.loads((tmp_path / "many" / "model.safetensors.index.json").read_text())
    many = {}
    for file in set(index["weight_map"].values()):
        found = load_file(tmp_path / "many" / file)
        assert {index["weight_map"][name] for name in found} == {file}
        many |= found
    assert set(one) == set(many)
    assert all(one[name].tobytes() == many[name].tobytes() for name in one)


def test_memory_is_that_of_a_tensor(tmp_path):
    tracemalloc.start()
    try:
        recipe = Recipe(like="llama-3.1-8b", layers=1, layers_only=True)
        nbytes = make_checkpoint(tmp_path, recipe)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert nbytes > 110e6
    assert peak < 40e6  # the largest tensor has 29 MB
    assert len(list(Recipe(like="llama-3.1-8b").linears())) == 224


def test_progress_reaches_the_total(tmp_path):
    seen = []
    make_checkpoint(tmp_path, Recipe(layers=1), lambda done, total: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1]
    assert seen == sorted(seen)


@given(ZEROS)
def test_zeros_of_0_are_each_producers_own(zeros):
    """Formulas of FORMATS written out anew, a level at a time."""
    words = {}
    for producer in ("gptqmodel", "autogptq", "auto-round"):
        words[producer] = written_zeros(zeros, producer, False, 4).view(np.uint32)
        assert (written_zeros(zeros, producer, True, 4) == pack_columns(zeros)).all()
    for group, row in enumerate(zeros.reshape(len(zeros), -1, 8).astype(object)):
        for column, levels in enumerate(row):
            whole = sum(int(level) << 4 * j for j, level in enumerate(levels))
            assert words["gptqmodel"][group, column] == (whole - 0x11111111) % (1 << 32)
            destroyed = 0
            for j, level in enumerate(levels):
                destroyed |= (int(level) - 1) % (1 << 32) << 4 * j
            assert words["autogptq"][group, column] == destroyed % (1 << 32)
            clamped = sum(max(int(level) - 1, 0) << 4 * j for j, level in enumerate(levels))
            assert words["auto-round"][group, column] == clamped
    read = decode_zeros(words["gptqmodel"].view(np.int32), "v1_gptqmodel")
    np.testing.assert_array_equal(read, zeros)
    read = decode_zeros(words["auto-round"].view(np.int32), "v1")
    np.testing.assert_array_equal(read, np.maximum(zeros, 1))


def test_shapes_of_llama():
    shapes = MODELS["llama-3.1-8b"].linears()
    assert shapes["self_attn.k_proj"] == (4096, 1024)
    assert shapes["mlp.down_proj"] == (14336, 4096)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"like": "huge"}, "^like: expected one of tiny, llama-3.1-8b, found 'huge'"),
        ({"bits": 5}, "^bits: expected one of 2, 3, 4, 8, found 5"),
        ({"format": "v3"}, "^format: expected one of v1, v2, found 'v3'"),
        ({"producer": "awq"}, "^producer: expected one of gptqmodel, autogptq, auto-round, found"),
        ({"dtype": "float32"}, "^dtype: expected one of float16, bfloat16, found 'float32'"),
        ({"shards": 0}, "^shards: expected at least 1, found 0"),
        ({"layers": 0}, "^layers: expected at least 1, found 0"),
        ({"group_size": 0}, "^group_size: expected a positive number of rows"),
        (
            {"producer": "autogptq", "format": "v2"},
            "^producer: expected gptqmodel for format v2, found autogptq, which does not write it",
        ),
        ({"producer": "auto-round", "act_order": True}, "^producer: expected gptqmodel for act_or"),
    ],
)
def test_recipes_that_cannot_be(options, message):
    with refused(message):
        Recipe(**options)


def test_a_folder_with_something_in_it(tmp_path):
    (tmp_path / "note").touch()
    with refused("expected no such path, or an empty directory, found something there"):
        make_checkpoint(tmp_path, Recipe())
    with refused("expected no such path, or an empty directory"):
        make_checkpoint(tmp_path / "note", Recipe())


def test_act_order_permutes_the_rows(tmp_path):
    make_checkpoint(tmp_path, Recipe(layers=1, act_order=True))
    g_idx = Checkpoint.open(tmp_path).load(Q_PROJ).g_idx
    np.testing.assert_array_equal(np.bincount(g_idx), [128, 128])


def test_the_tokenizer_has_each_byte_and_a_chat(tmp_path):
    """A whole model can be talked to; layers alone have no use for a tokenizer."""
    pytest.importorskip("tokenizers", reason="the extra `text` is not installed")
    from ferrum_numba.text import Tokenizer

    make_checkpoint(tmp_path / "whole", Recipe(layers=1))
    tokenizer = Tokenizer.load(tmp_path / "whole")
    text = bytes(range(1, 128)).decode() + "ä€😀"
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert len(ids) == len(text.encode())
    assert set(ids) <= {*range(3, 259)}
    assert tokenizer.decode(tokenizer.chat("hi")) == "user: hi\nassistant: "
    assert tokenizer.eos == (2,)
    assert all(tokenizer.decode([token]) for token in range(259, 512))
    make_checkpoint(tmp_path / "layers", Recipe(layers=1, layers_only=True))
    assert not list((tmp_path / "layers").glob("tokenizer*"))


def test_the_example_is_gone_when_the_process_ends():
    code = (
        "import ferrum_numba as fe\n"
        "path = fe.example_checkpoint(act_order=True)\n"
        "spec = fe.Checkpoint.open(path).layers['model.layers.1.mlp.down_proj']\n"
        "print(path, spec.act_order)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    path, act_order = done.stdout.split()
    assert act_order == "True"
    assert not Path(path).parent.exists()
