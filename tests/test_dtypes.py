"""dtypes by name, with ml_dtypes and without."""

from __future__ import annotations

import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest

from ferrum_numba.digest import sha256
from ferrum_numba.dtypes import dtype_named, largest


def test_dtypes_by_name() -> None:
    assert dtype_named("bfloat16") == ml_dtypes.bfloat16
    assert dtype_named("float8_e4m3fn") == ml_dtypes.float8_e4m3fn
    assert dtype_named("float16") == dtype_named(np.float16) == np.float16
    assert dtype_named(np.dtype(ml_dtypes.bfloat16)) == ml_dtypes.bfloat16


@pytest.mark.parametrize("wrong", ["bfloat17", "finfo", 3])
def test_what_names_no_dtype(wrong: object) -> None:
    with pytest.raises(TypeError):
        dtype_named(wrong)  # type: ignore[arg-type]


def test_bfloat16_by_name_where_nobody_has_loaded_it() -> None:
    code = (
        "import ferrum_numba as fe, numpy as np, sys\n"
        "device = fe.open_device('cpu')\n"
        "checkpoint = fe.Checkpoint.open(fe.example_checkpoint())\n"
        "name = next(iter(checkpoint))\n"
        "before = 'ml_dtypes' in sys.modules\n"
        "print(before, device.empty(2, 'bfloat16').dtype, device.mapped(2, 'bfloat16').dtype)\n"
        "print(checkpoint.dense(name, 'bfloat16').dtype,"
        " fe.GptqLinear.load(checkpoint, name, device=device, dtype='bfloat16').dtype)\n"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.stdout.split() == ["False", *["bfloat16"] * 4], found.stderr


def test_the_largest_number() -> None:
    assert largest(np.dtype(np.float16)) == 65504
    assert largest(np.dtype(ml_dtypes.bfloat16)) == ml_dtypes.finfo(ml_dtypes.bfloat16).max


def test_the_digest_is_sha256() -> None:
    assert sha256(b"abc").hexdigest().startswith("ba7816bf8f01cfea")
