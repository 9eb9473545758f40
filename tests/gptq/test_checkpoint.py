"""Checkpoint: what is read from directories and single files, and what open and load refuse."""

import dataclasses
import json
import math
import os
import re
import tracemalloc
import warnings

import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from ferrum_numba.gptq import PRODUCERS, Checkpoint, Recipe, make_checkpoint
from ferrum_numba.gptq.packing import unpack_rows
from ferrum_numba.gptq.zeros import decode_zeros
from tests.campaigns.layers import random_tensors
from tests.gptq.fixtures import (
    DOWN_PROJ,
    FIXTURES,
    Q_PROJ,
    copy_of,
    edit_config,
    edit_tensors,
    fixture,
    refused,
    save_layer,
)

PARTS = ("qweight", "qzeros", "scales", "g_idx")


def test_tensors_are_the_bytes_of_the_file():
    stored = load_file(fixture("gm_v1_sym_g128") / "model.safetensors")
    tensors = Checkpoint.open(fixture("gm_v1_sym_g128")).load(Q_PROJ)
    for part in ("qweight", "qzeros", "scales", "g_idx"):
        np.testing.assert_array_equal(getattr(tensors, part), stored[f"{Q_PROJ}.{part}"])


def test_a_single_file_uses_the_configuration_beside_it():
    path = fixture("gm_v2_sym_g128")
    of_file = Checkpoint.open(path / "model.safetensors")
    assert dict(of_file.layers) == dict(Checkpoint.open(str(path)).layers)


def test_layers_cannot_be_altered():
    with pytest.raises(TypeError):
        Checkpoint.open(fixture("gm_v1_sym_g128")).layers["x"] = None


def test_without_g_idx_rows_are_in_order(plain):
    def drop(tensors):
        for name in [name for name in tensors if name.endswith(".g_idx")]:
            del tensors[name]

    before = Checkpoint.open(plain).load(Q_PROJ).dequantize()
    edit_tensors(plain / "model.safetensors", drop)
    checkpoint = Checkpoint.open(plain)
    assert not checkpoint.layers[Q_PROJ].act_order
    assert checkpoint.load(Q_PROJ).g_idx is None
    np.testing.assert_array_equal(checkpoint.load(Q_PROJ).dequantize(), before)


def test_auto_rounds_own_format(tmp_path):
    tensors = random_tensors(128, 64, 32, symmetric=True)
    save_layer(tmp_path / "model.safetensors", tensors)
    config = {"bits": 4, "group_size": 32, "sym": True, "quant_method": "auto-round"}
    config["packing_format"] = "auto_round:auto_gptq"
    (tmp_path / "quantization_config.json").write_text(json.dumps(config))
    checkpoint = Checkpoint.open(tmp_path)
    assert checkpoint.layers["layer"].zero_format == "v1"
    np.testing.assert_array_equal(checkpoint.load("layer").dequantize(), tensors.dequantize())


def test_a_short_last_group_and_odd_sizes(tmp_path):
    tensors = random_tensors(136, 72, 64, zero_format="v2")
    save_layer(tmp_path / "layer.safetensors", tensors)
    checkpoint = Checkpoint.open(tmp_path, group_size=64, zero_format="v2")
    spec = checkpoint.layers["layer"]
    assert (spec.K, spec.N, spec.groups, spec.bits, spec.symmetric) == (136, 72, 3, 4, None)
    np.testing.assert_array_equal(checkpoint.load("layer").dequantize(), tensors.dequantize())


def test_no_configuration(plain):
    (plain / "quantize_config.json").unlink()
    edit_config(plain / "config.json")
    content = json.loads((plain / "config.json").read_text())
    del content["quantization_config"]
    (plain / "config.json").write_text(json.dumps(content))
    message = (
        r"expected a quantisation configuration, found none of quantize_config\.json, "
        r"quantization_config\.json, quantization_config in config\.json; .*"
        r'Checkpoint\.open\(path, group_size=128, zero_format="v1"\)'
    )
    for arguments in ({}, {"group_size": 128}, {"zero_format": "v1"}):
        with refused(message):
            Checkpoint.open(plain / "model.safetensors", **arguments)
    stated = Checkpoint.open(plain, group_size=128, zero_format="v1")
    np.testing.assert_array_equal(
        stated.load(Q_PROJ).dequantize(),
        Checkpoint.open(fixture("gm_v1_sym_g128")).load(Q_PROJ).dequantize(),
    )
    with refused(r"qzeros: expected shape \[8, 32\], .*group_size=64 \(Checkpoint\.open's arg"):
        Checkpoint.open(plain, group_size=64, zero_format="v1")


def test_group_size_beside_a_configuration(plain):
    with refused(
        r"group_size: expected none .*found 64, while 128 stands in quantize_config\.json"
    ):
        Checkpoint.open(plain, group_size=64)


def test_an_unknown_zero_format(plain):
    with refused(r"zero_format: expected one of 'v1', .*found 'v9'"):
        Checkpoint.open(plain, zero_format="v9")


@pytest.mark.parametrize(("bits", "K"), [(2, 256), (3, 256), (8, 256)])
def test_other_widths_are_listed_and_not_loaded(plain, bits, K):
    def widen(tensors):
        tensors["lm_head.qweight"] = np.zeros((K * bits // 32, 64), np.int32)
        tensors["lm_head.qzeros"] = np.zeros((K // 32, 64 * bits // 32), np.int32)
        tensors["lm_head.scales"] = np.ones((K // 32, 64), np.float16)

    edit_tensors(plain / "model.safetensors", widen)
    rule = {"lm_head": {"bits": bits, "group_size": 32}}
    edit_config(plain / "quantize_config.json", dynamic=rule)
    checkpoint = Checkpoint.open(plain)
    spec = checkpoint.layers["lm_head"]
    assert (spec.bits, spec.K, spec.N, spec.group_size) == (bits, K, 64, 32)
    with refused(rf"^lm_head: expected a 4-bit layer, found {bits} bits; .*Checkpoint.dense"):
        checkpoint.load("lm_head")
    checkpoint.load(Q_PROJ)


@pytest.mark.parametrize("producer", PRODUCERS)
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32])
def test_any_width_is_dequantised_when_asked(tmp_path, producer, bits, dtype):
    act_order = producer != "auto-round"
    recipe = Recipe(
        layers=1, bits=bits, group_size=96, symmetric=False, producer=producer, act_order=act_order
    )
    make_checkpoint(tmp_path, recipe)
    checkpoint = Checkpoint.open(tmp_path)
    (file,) = tmp_path.glob("*.safetensors")
    stored = {part: load_file(file)[f"{DOWN_PROJ}.{part}"] for part in PARTS}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # auto-round's zeros of 15 could be others'
        weight = checkpoint.load_dense(DOWN_PROJ, dtype)
    levels = unpack_rows(stored["qweight"], bits).astype(np.float64)
    zeros = decode_zeros(stored["qzeros"], checkpoint.quantization.zero_format, bits).astype(
        np.float64
    )
    groups = stored["g_idx"]
    expected = stored["scales"].astype(np.float64)[groups] * (levels - zeros[groups])
    assert weight.dtype == dtype
    np.testing.assert_array_equal(weight, expected.astype(np.float32).astype(dtype))
    assert checkpoint.layers[DOWN_PROJ].act_order is act_order
    if bits == 4:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            loaded = checkpoint.load(DOWN_PROJ).dequantize(dtype)
        np.testing.assert_array_equal(weight, loaded)


def test_bfloat16_is_rounded_once_not_by_way_of_float16(tmp_path):
    make_checkpoint(tmp_path, Recipe(layers=1, dtype="bfloat16", symmetric=False, format="v2"))
    tensors = Checkpoint.open(tmp_path).load(Q_PROJ)
    exact = tensors.dequantize(np.float32)
    once = tensors.dequantize(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(once, exact.astype(ml_dtypes.bfloat16))
    twice = exact.astype(np.float16).astype(ml_dtypes.bfloat16)
    assert (once != twice).any()
    with refused("^dtype: expected one of float16, bfloat16, float32, found float64"):
        tensors.dequantize(np.float64)


def test_bfloat16_weights_beyond_bfloat16_are_refused():
    scales = np.full((1, 8), 3e38, ml_dtypes.bfloat16)
    tensors = dataclasses.replace(random_tensors(32, 8, -1), scales=scales)
    for dtype in (ml_dtypes.bfloat16, np.float32):
        with refused(r"^scales: expected scale \* \(level - zero\) within (bfloat16|float32) \("):
            tensors.dequantize(dtype)


def test_a_checkpoint_of_mixed_widths_and_a_head(tmp_path):
    make_checkpoint(tmp_path, Recipe(layers=1, mixed=True, lm_head=True))
    checkpoint = Checkpoint.open(tmp_path)
    bits = {name: spec.bits for name, spec in checkpoint.layers.items()}
    assert len(bits) == 8
    assert {name for name in bits if bits[name] == 8} == {DOWN_PROJ, "lm_head"}
    assert checkpoint.load_dense("lm_head").shape == (256, 512)
    assert checkpoint.quantization.lm_head


@pytest.mark.parametrize("bits", [3, 5])
def test_bit_planes_are_named_and_refused(tmp_path, bits):
    stored = {"qweight": np.zeros((bits, 32), np.int32), "qzeros": np.zeros((1, bits), np.int32)}
    stored["scales"] = np.ones((1, 32), np.float16)
    save_file({f"a.{part}": array for part, array in stored.items()}, tmp_path / "a.safetensors")
    config = {"bits": bits, "group_size": 32, "quant_method": "gptq", "checkpoint_format": "gptq_p"}
    (tmp_path / "quantize_config.json").write_text(json.dumps(config))
    checkpoint = Checkpoint.open(tmp_path)
    assert (checkpoint.layers["a"].bits, checkpoint.layers["a"].K) == (bits, 32)
    with refused(rf"^a: expected .*found {bits} bits of format gptq_p in bit planes"):
        checkpoint.load_dense("a")


def test_opening_40_gigabytes_costs_megabytes(tmp_path):
    """580 layers of 70 MB in one sparse file: only the header and each g_idx are read."""
    parts = {"qweight": ("I32", [1024, 16384]), "qzeros": ("I32", [64, 2048])}
    parts |= {"scales": ("F16", [64, 16384]), "g_idx": ("I32", [8192])}
    header, offset = {}, 0
    for number in range(580):
        for part, (dtype, shape) in parts.items():
            end = offset + math.prod(shape) * (2 if dtype == "F16" else 4)
            entry = {"dtype": dtype, "shape": shape, "data_offsets": [offset, end]}
            header[f"model.layers.{number}.q_proj.{part}"] = entry
            offset = end
    text = json.dumps(header).encode()
    file = tmp_path / "model.safetensors"
    file.write_bytes(len(text).to_bytes(8, "little") + text)
    in_order = np.arange(8192, dtype=np.int32) // np.int32(128)
    os.truncate(file, 8 + len(text) + offset - in_order.nbytes)
    with file.open("ab") as last:
        last.write(in_order.tobytes())
    assert file.stat().st_size > 40e9
    tracemalloc.start()
    try:
        checkpoint = Checkpoint.open(tmp_path, group_size=128, zero_format="v2")
        assert tracemalloc.get_traced_memory()[1] < 8e6
        tracemalloc.reset_peak()
        tensors = checkpoint.load("model.layers.579.q_proj")
        assert tracemalloc.get_traced_memory()[1] < tensors.nbytes + 8e6  # its bytes, once
    finally:
        tracemalloc.stop()
    assert len(checkpoint.layers) == 580
    assert tensors.nbytes == checkpoint.layers["model.layers.579.q_proj"].nbytes


def test_an_unknown_layer(plain):
    checkpoint = Checkpoint.open(plain)
    with refused(r"^model\.layers\.0\.self_attn\.q_porj: .*did you mean model\.layers\.0\.self_at"):
        checkpoint.load("model.layers.0.self_attn.q_porj")
    with refused(r"^zzz: .*Checkpoint\.layers has them"):
        checkpoint.load("zzz")


def test_scales_that_are_not_finite(plain):
    def damage(tensors):
        tensors[f"{Q_PROJ}.scales"][1, 5] = np.nan

    edit_tensors(plain / "model.safetensors", damage)
    checkpoint = Checkpoint.open(plain)  # values are read when a layer is loaded
    with refused(rf"^{re.escape(Q_PROJ)}\.scales: expected finite .*the first at \[1, 5\]"):
        checkpoint.load(Q_PROJ)
    checkpoint.load(DOWN_PROJ)


@pytest.mark.parametrize(
    ("name", "label", "remedy"),
    [("gm_v2_sym_g128", "gptq", "v2"), ("gm_v1_sym_g128", "gptq_v2", "v1_gptqmodel")],
)
def test_a_mislabelled_checkpoint(tmp_path, name, label, remedy):
    folder = copy_of(name, tmp_path)
    for file in ("quantize_config.json", "config.json"):
        edit_config(folder / file, checkpoint_format=label, format=label)
    checkpoint = Checkpoint.open(folder)
    with refused(
        rf"^{re.escape(Q_PROJ)}\.qzeros: .*found 0x[78]{{8}} in all of them.*"
        rf'Checkpoint\.open\(path, zero_format="{remedy[:2]}"\)'
    ):
        checkpoint.load(Q_PROJ)
    expected = Checkpoint.open(fixture(name)).load(Q_PROJ).dequantize()
    corrected = Checkpoint.open(folder, zero_format=remedy).load(Q_PROJ)
    np.testing.assert_array_equal(corrected.dequantize(), expected)
    assert not np.array_equal(
        Checkpoint.open(folder, zero_format=checkpoint.quantization.zero_format)
        .load(Q_PROJ)
        .zeros(),
        corrected.zeros(),
    )


def test_an_asymmetric_layer_may_have_any_zeros(tmp_path):
    folder = copy_of("gm_v2_sym_g128", tmp_path)
    for file in ("quantize_config.json", "config.json"):
        edit_config(folder / file, checkpoint_format="gptq", format="gptq", sym=False)
    assert (Checkpoint.open(folder).load(Q_PROJ).zeros() == 9).all()


def test_nibbles_of_f_without_a_producer_warn(tmp_path):
    folder = copy_of("gm_v1_asym_g32_zp0", tmp_path)
    for file in ("quantize_config.json", "config.json"):
        edit_config(folder / file, meta=None)
    checkpoint = Checkpoint.open(folder)
    assert checkpoint.quantization.producer == "unknown"
    with pytest.warns(UserWarning, match=rf'{Q_PROJ}.qzeros: .*zero_format="v1_gptqmodel"'):
        checkpoint.load(Q_PROJ)


def test_fixture_copies_keep_their_metadata(tmp_path):
    folder = copy_of("ag_v1_sym_g64_bf16scales", tmp_path)
    file = folder / "gptq_model-4bit-64g.safetensors"
    edit_tensors(file, lambda tensors: None)
    with safe_open(file, framework="np") as handle:
        assert handle.metadata()["auto_gptq_version"] == "0.7.1"
    assert Checkpoint.open(folder).quantization.zero_format == "v1_autogptq"


@pytest.mark.parametrize("name", FIXTURES)
def test_every_tensor_is_read_by_name_as_it_is_stored(name):
    checkpoint = Checkpoint.open(fixture(name))
    seen = 0
    for file in fixture(name).glob("*.safetensors"):
        with safe_open(file, framework="np") as handle:
            for tensor in handle.keys():  # noqa: SIM118
                spec, array = checkpoint.tensors[tensor], checkpoint.array(tensor)
                assert spec.file == file.name
                assert (spec.dtype, spec.shape) == (array.dtype.name, array.shape)
                stored = handle.get_slice(tensor)
                assert list(array.shape) == stored.get_shape()
                seen += 1
                if stored.get_dtype() != "BF16":  # which this reader does not have for NumPy
                    np.testing.assert_array_equal(array, handle.get_tensor(tensor))
    assert seen == len(checkpoint.tensors)
    assert not checkpoint.missing
    assert checkpoint.config == json.loads((fixture(name) / "config.json").read_text())


def test_bfloat16_tensors_are_ml_dtypes(tmp_path):
    make_checkpoint(tmp_path, Recipe(layers=1, dtype="bfloat16"))
    checkpoint = Checkpoint.open(tmp_path)
    assert checkpoint.tensors["lm_head.weight"].dtype == "bfloat16"
    head = checkpoint.array("lm_head.weight")
    assert head.dtype == ml_dtypes.bfloat16
    dense = checkpoint.dense("lm_head")
    assert (dense.dtype, dense.shape, dense.flags.c_contiguous) == (np.float16, (256, 512), True)
    np.testing.assert_array_equal(dense, head.T.astype(np.float16))


def test_an_unknown_tensor_is_answered_with_near_names(plain):
    checkpoint = Checkpoint.open(plain)
    with refused(r"^model\.norm\.wieght: expected the name of a tensor.*mean model\.norm\.weight"):
        checkpoint.array("model.norm.wieght")
    with refused(r"^zzz: .*Checkpoint\.tensors has them"):
        checkpoint.array("zzz")


def test_a_missing_tensor_is_said_to_be_missing(sharded):
    gone = "model-00003-of-00004.safetensors"
    (sharded / gone).unlink()
    missing = Checkpoint.open(sharded).missing
    assert set(missing.values()) == {gone}
    name = next(iter(missing))
    with refused(rf"^{re.escape(name)}: .*the index places it in '{gone}'"):
        Checkpoint.open(sharded).array(name)


def test_an_unquantised_weight_beyond_float16(plain):
    def enlarge(tensors):
        tensors["lm_head.weight"] = np.full((8, 16), 7e4, np.float32)
        tensors["lm_head.weight"][0, 0] = np.inf

    edit_tensors(plain / "model.safetensors", enlarge)
    checkpoint = Checkpoint.open(plain)
    assert checkpoint.dense("lm_head", np.float32).shape == (16, 8)
    tensors = load_file(plain / "model.safetensors")
    tensors["lm_head.weight"][0, 0] = 0
    save_file(tensors, plain / "model.safetensors")
    with refused(r"^lm_head\.weight: expected weights within float16 \(65504\)"):
        Checkpoint.open(plain).dense("lm_head")


def test_no_model_configuration(tmp_path):
    make_checkpoint(tmp_path, Recipe(layers=1))
    (tmp_path / "config.json").unlink()
    assert Checkpoint.open(tmp_path).config == {}
