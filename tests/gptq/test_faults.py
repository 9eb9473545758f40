"""Every way in which a checkpoint can be damaged, and what is said of it.

`python -m tests.gptq.test_faults` prints the table.
"""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from ferrum_numba.errors import CheckpointError
from ferrum_numba.gptq import Checkpoint, Recipe, make_checkpoint
from ferrum_numba.gptq.faults import FAULTS, apply_fault
from tests.gptq.fixtures import copy_of, fixture, refused

RECIPE = Recipe(shards=2, layers=1)
FILE = r"/model-00001-of-00002\.safetensors: "
LAYER = r"model\.layers\.0\.self_attn\.q_proj"
SCALES = rf"{FILE}{LAYER}\.scales: "
ENTRY = rf"{SCALES}expected a JSON object of dtype, shape and data_offsets, each once, found "
DTYPE = rf"{SCALES}expected dtype to be one of BOOL, .*C64, found "
SIZES = rf"{SCALES}expected shape to be a list of up to 64 sizes of at least 0, found "
OFFSETS = rf"{SCALES}expected data_offsets \[begin, end\] with 0 <= begin <= end, found "
NO_JSON = rf"{FILE}expected a safetensors file, found a header that is no JSON object "
LENGTH = rf"{FILE}expected a safetensors file, found a header length of "
SOURCE = r"quantize_config\.json and config\.json"
PLACE = rf"^.*/model\.safetensors\.index\.json: {LAYER}\.scales: expected the name of a file in .*"

# Those that stop the open: the file is not what it says, so nothing in it can be believed; or
# nothing tells how any layer is to be read.
AT_OPEN = {
    "empty-file": FILE + r"expected a safetensors file, which has at least 8 bytes, found 0",
    "seven-bytes": FILE + r"expected a safetensors file, which has at least 8 bytes, found 7",
    "lfs-pointer": FILE + r"expected a safetensors file, found a Git LFS pointer; .*git lfs pull",
    "header-length-zero": LENGTH + r"0 bytes, where 2\.\.437048 are possible in a file of 437056",
    "header-length-beyond-file": LENGTH + r"1099511627776 bytes, where 2\.\.437048",
    "header-length-huge": LENGTH + r"18446744073709551615 bytes, where 2\.\.437048",
    "header-length-over-limit": LENGTH + r"100000001 bytes, where 2\.\.100000000 .*of 200000000",
    "header-length-short": NO_JSON + r"\(Expecting ',' delimiter",
    "header-of-nothing": NO_JSON + r"\(begins with b'\\x00",
    "header-not-utf8": NO_JSON + r"\('utf-8' codec can't decode byte 0xff",
    "header-list": NO_JSON + r"\(begins with b'\[1, 2\]'\)",
    "header-nested": NO_JSON + r"\(maximum recursion depth",
    "header-nan": NO_JSON + r"\(found NaN, which JSON does not have\)",
    "header-trailing-text": NO_JSON + r"\(Extra data",
    "metadata-list": FILE + r"__metadata__: expected a JSON object of texts .*found \['pt'\]",
    "metadata-number": FILE + r"__metadata__: expected .* of texts .*found \{'format': 1\}",
    "duplicate-tensor": SCALES + "expected once in the header, found twice",
    "duplicate-field": ENTRY + r"\{'dtype': 'F16', ",
    "entry-number": ENTRY + "3;",
    "entry-without-dtype": ENTRY + r"\{'shape': .*'type': 'F16'\}",
    "entry-with-more": ENTRY + r"\{.*'order': 'F'\}",
    "dtype-unknown": DTYPE + "'F17'",
    "dtype-number": DTYPE + "16",
    "shape-number": SIZES + "256",
    "shape-negative": SIZES + r"\[-2, 256\]",
    "shape-fraction": SIZES + r"\[2\.5, 256\]",
    "shape-text": SIZES + r"\['2', 256\]",
    "shape-bool": SIZES + r"\[True, 256\]",
    "shape-beyond-64-bits": SIZES + r"\['?1180591620717411303424'?, 256\]",
    "shape-digits": SIZES + r"\['9{100,198}…",
    "shape-overflow": SCALES + r"expected data_offsets to span 36893488147419103232 bytes, as F16",
    "shape-dimensions": SIZES + r"\[1, 1, 1, .*…",
    "offsets-swapped": OFFSETS + r"\[297216, 296192\]",
    "offsets-negative": OFFSETS + r"\[-2, 510\]",
    "offsets-three": OFFSETS + r"\[0, 1, 2\]",
    "offsets-text": OFFSETS + "'0:512'",
    "size-against-shape": SCALES + r"expected data_offsets to span 1024 bytes, .*found 1022 \(",
    "dtype-against-size": SCALES + r"expected data_offsets to span 2048 bytes, as F32 \[2, 256\]",
    "offset-outside": FILE + r"\S+\.qweight: expected a file of 439\d+ bytes, .*found 43\d+: .*cut",
    "invented-terabytes": FILE + r"\S+\.qweight: expected a file of \d{14} bytes, .*found 43\d+:",
    "overlap": SCALES + r"expected its bytes to begin at 296192, where .*: an overlap of 2 bytes",
    "hole": FILE + r"\S+\.g_idx: expected its bytes to begin at 296192, .*: a hole of 1024 bytes",
    "trailing-bytes": FILE + r"expected 437056 bytes, .*found 437072: 16 bytes at the end belong",
    "truncated": FILE + r"\S+\.qweight: expected a file of 437056 bytes, .*found 436957: .* cut",
    "truncated-header": LENGTH + r"\d+ bytes, where 2\.\.42 are possible in a file of 50",
    "tensor-in-two-files": r"^model\.\S+: expected in one file, found in model-00001\S+ and other",
    "directory-for-file": r"/other\.safetensors: expected a regular file, found a directory",
    "dangling-link": r"/other\.safetensors: expected a regular file, found a link to nothing",
    "no-safetensors": r"expected \*\.safetensors files, found .*model-00001-of-00002\.bin",
    "index-path-up": PLACE + r"found '\.\./\.\./outside\.safetensors'",
    "index-absolute-path": PLACE + "found '/outside",
    "index-number": PLACE + "found 3",
    "configuration-missing": r"expected a quantisation configuration, found none of quantize_conf",
    "configuration-not-json": r"/quantize_config\.json: expected JSON, found what cannot be read",
    "configuration-list": r"/quantize_config\.json: expected a JSON object, found list",
    "configurations-disagree": r"^group_size: .*quantize_config\.json says 1128, .*config\.json sa",
    "bits-missing": rf"^bits: expected in {SOURCE}, found nothing",
    "bits-text": r"^bits in quantize_config\.json: expected int, found '4'",
    "bits-wrong": rf"\.qzeros: expected shape .*bits=8 .*{SOURCE}.*\(and 6 more such layers\)",
    "bits-impossible": rf"expected bits to be one of 2, 3, 4, 8, found 5 \({SOURCE}\)",
    "group-size-missing": rf"^group_size: expected in {SOURCE}, found nothing",
    "group-size-zero": r"group_size: expected a positive number of rows .*found 0; correct it",
    "group-size-wrong": r"\.qzeros: expected shape \[22, 32\], .*group_size=24 .*found \[4, 32\]",
    "sym-number": r"^sym in quantize_config\.json: expected bool, found 1",
    "method-awq": rf"^quant_method: expected 'gptq' or .*{SOURCE}, found 'awq'",
    "format-marlin": rf"^checkpoint_format: expected one of gptq, .*{SOURCE}, found 'marlin'",
    "pack-dtype": rf"^pack_dtype: expected 'int32' in {SOURCE}, found 'int16'",
    "dynamic-pattern": r"^dynamic\['-:\('\] in .*: expected a regular expression, found one that",
}

# Those that meet one layer: the others are read all the same.
AT_LOAD = {
    "missing-shard": rf"^{LAYER}\.\w+: expected in model-00002\S+, found in none .*places it in",
    "dynamic-excludes": rf"^{LAYER}\.qweight: expected no quantised layer .*rule '\.\*q_proj'",
    "dynamic-bits": rf"^{LAYER}\.qzeros: expected shape \[1, 64\], .*bits=8 .*found \[2, 32\]",
    "missing-qweight": rf"^{LAYER}\.qweight: expected in model-00001.*, found in none of them",
    "missing-qzeros": rf"^{LAYER}\.qzeros: expected in model-00001.*, found in none of them",
    "missing-scales": rf"^{LAYER}\.scales: expected in model-00001.*, found in none of them",
    "qweight-int64": rf"^{LAYER}\.qweight: expected I32 with 2 dim.*found I64 \[32, 256\] in model",
    "qweight-flat": rf"^{LAYER}\.qweight: expected I32 with 2 dimensions, .*found I32 \[8192\]",
    "qweight-transposed": rf"^{LAYER}\.qzeros: expected shape \[16, 4\], as .*found \[2, 32\]",
    "qweight-row-less": rf"^{LAYER}\.g_idx: expected shape \[248\], as .*found \[256\]",
    "qweight-empty": rf"^{LAYER}\.qweight: expected .*none of them 0, found I32 \[0, 256\]",
    "qzeros-uint32": rf"^{LAYER}\.qzeros: expected I32 with 2 dim.*found U32 \[2, 32\]",
    "qzeros-row-less": rf"^{LAYER}\.qzeros: expected shape \[2, 32\], .*found \[1, 32\]",
    "qzeros-unpacked": rf"^{LAYER}\.qzeros: expected shape \[2, 32\], .*found \[2, 256\]",
    "qzeros-mislabelled": rf"^{LAYER}\.qzeros: expected 0x77777777 .*found 0x88888888 in all",
    "qzeros-flipped-bit": rf"^{LAYER}\.qzeros: .*found 0x77777577 at \[1, 31\], the first of 1 ",
    "scales-float32": rf"^{LAYER}\.scales: expected F16 or BF16 .*found F32 \[2, 256\]",
    "scales-row-less": rf"^{LAYER}\.scales: expected shape \[2, 256\], .*found \[1, 256\]",
    "scales-transposed": rf"^{LAYER}\.scales: expected shape \[2, 256\], .*found \[256, 2\]",
    "scales-empty": rf"^{LAYER}\.scales: expected .*none of them 0, found F16 \[0, 256\]",
    "scales-nan": rf"^{LAYER}\.scales: expected finite numbers, found 1 .*the first at \[0, 3\]",
    "scales-infinite": rf"^{LAYER}\.scales: expected finite numbers, found 1 .*first at \[0, 3\]",
    "scales-too-large": r"scales: expected scale \* \(level - zero\) within float16 \(65504\)",
    "g-idx-missing": rf"^{LAYER}\.g_idx: expected one, as desc_act is true in {SOURCE}, found none",
    "g-idx-int64": rf"^{LAYER}\.g_idx: expected I32 with 1 dimension, .*found I64 \[256\]",
    "g-idx-short": rf"^{LAYER}\.g_idx: expected shape \[256\], .*found \[255\]",
    "g-idx-beyond": rf"^{LAYER}\.g_idx: expected groups 0\.\.1, .*found 0\.\.10000",
    "g-idx-zeros": rf"^{LAYER}\.g_idx: expected rows in each of the groups 0\.\.1, found none in 1",
    "g-idx-negative": rf"^{LAYER}\.g_idx: expected groups 0\.\.1, .*found -1\.\.1",
    "bias-long": rf"^{LAYER}\.bias: expected shape \[256\], .*found \[264\]",
    "bias-int32": rf"^{LAYER}\.bias: expected F16 or BF16 or F32 with 1 dim.*found I32 \[256\]",
    "bias-nan": rf"^{LAYER}\.bias: expected finite numbers, found 256 that are not",
}

# Those that only concern an index, which is not needed: named in Checkpoint.problems.
NAMED = {
    "index-unreadable": r"/model\.safetensors\.index\.json: expected a JSON object with weight_map",
    "index-names-more": rf"^{LAYER}\.gone\.qweight: expected in .*found in none of them",
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    """A checkpoint without fault."""
    folder = tmp_path_factory.mktemp("sound") / "checkpoint"
    make_checkpoint(folder, RECIPE)
    return folder


@pytest.fixture
def checkpoint(sound, tmp_path) -> Path:
    """A copy of it to damage."""
    return Path(shutil.copytree(sound, tmp_path / "checkpoint"))


def test_every_fault_has_its_message():
    assert {*AT_OPEN, *AT_LOAD, *NAMED} == set(FAULTS)
    assert len(FAULTS) >= 60


@pytest.mark.parametrize("fault", AT_OPEN)
def test_files_that_lie_stop_the_open(checkpoint, fault):
    apply_fault(checkpoint, fault)
    tracemalloc.start()
    try:
        with refused(AT_OPEN[fault]) as raised:
            Checkpoint.open(checkpoint)
        assert tracemalloc.get_traced_memory()[1] < 4e6  # not what the header invents
    finally:
        tracemalloc.stop()
    assert len(str(raised.value)) < 800


@pytest.mark.parametrize("fault", AT_LOAD)
def test_a_damaged_layer_does_not_stop_the_rest(checkpoint, sound, fault):
    layer = apply_fault(checkpoint, fault)
    opened, whole = Checkpoint.open(checkpoint), Checkpoint.open(sound)
    assert (layer in opened.layers) != (layer in opened.problems)
    with refused(AT_LOAD[fault]):
        opened.load(layer).dequantize()
    for name in opened.layers:
        if name != layer:
            expected = whole.load(name).dequantize()
            np.testing.assert_array_equal(opened.load(name).dequantize(), expected)
    assert len({**opened.layers, **opened.problems}) == 7


@pytest.mark.parametrize("fault", NAMED)
def test_an_index_that_is_wrong_is_named(checkpoint, fault):
    apply_fault(checkpoint, fault)
    opened = Checkpoint.open(checkpoint)
    assert len(opened.layers) == 7
    (problem,) = opened.problems.values()
    assert re.search(NAMED[fault], problem)


@pytest.mark.parametrize("fault", ["hole", "missing-scales", "bias-long", "index-path-up"])
def test_faults_fit_the_producers_files(tmp_path, fault):
    folder = copy_of("gm_v1_sym_g64_actorder_bias", tmp_path)
    layer = apply_fault(folder, fault)
    with pytest.raises(CheckpointError):
        Checkpoint.open(folder).load(layer)
    Checkpoint.open(fixture("gm_v1_sym_g64_actorder_bias")).load(layer)


def test_faults_that_do_not_fit(tmp_path, checkpoint):
    with refused(r"^fault: expected one of empty-file, .*found 'none'"):
        apply_fault(checkpoint, "none")
    make_checkpoint(tmp_path / "one", Recipe(layers=1))
    with refused("^fault: expected a checkpoint of several shards, found one file"):
        apply_fault(tmp_path / "one", "missing-shard")


def print_table() -> None:
    """Each fault, what it does and what is said of it."""
    with tempfile.TemporaryDirectory() as folder:
        sound = Path(folder) / "sound"
        make_checkpoint(sound, RECIPE)
        for name, fault in FAULTS.items():
            path = Path(shutil.copytree(sound, Path(folder) / name))
            layer = apply_fault(path, name)
            try:
                opened = Checkpoint.open(path)
                opened.load(layer).dequantize()
                message = "; ".join(opened.problems.values())
            except CheckpointError as error:
                message = str(error)
            sys.stdout.write(f"{name}\n  {fault.what}\n  {message.replace(str(path), '…')}\n")
        sys.stdout.write(f"{len(FAULTS)} faults\n")


if __name__ == "__main__":
    print_table()
