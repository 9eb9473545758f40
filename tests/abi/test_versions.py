from __future__ import annotations

import pytest

import ferrum_numba as fe
from ferrum_numba.abi import cuda_for_ptx, driver_for_ptx, loader_for_ptx, runs_on


@pytest.mark.parametrize(
    ("target", "capability", "expected"),
    [
        ("sm_80", (8, 0), True),
        ("sm_80", (9, 0), True),
        ("sm_80", (12, 0), True),
        ("sm_80", (7, 5), False),
        ("sm_90a", (9, 0), True),
        ("sm_90a", (10, 0), False),
        ("sm_90a", (8, 9), False),
        ("sm_100f", (10, 3), True),
        ("sm_100f", (12, 0), False),
    ],
)
def test_runs_on(target: str, capability: tuple[int, int], expected: bool) -> None:
    assert runs_on(target, capability) is expected


def test_unknown_target() -> None:
    with pytest.raises(fe.AbiError, match="gfx942"):
        runs_on("gfx942", (9, 0))


def test_drivers() -> None:
    assert (cuda_for_ptx((7, 0)), driver_for_ptx((7, 0))) == ((11, 0), "450")
    assert cuda_for_ptx((9, 0)) == (13, 0)
    assert cuda_for_ptx((3, 0)) == (10, 0)
    assert cuda_for_ptx((99, 0)) is None
    assert driver_for_ptx((99, 0)) is None


@pytest.mark.parametrize(
    ("version", "words"),
    [
        ((7, 0), "CUDA 11.0 (driver 450)"),
        ((9, 4), "CUDA 13.4"),
        ((99, 0), "a CUDA newer than this package"),
    ],
)
def test_what_loads_a_ptx_isa(version: tuple[int, int], words: str) -> None:
    assert loader_for_ptx(version) == words
