"""Fatbins: their members, compressed or not."""

from __future__ import annotations

import importlib.util

import pytest
from hypothesis import given
from hypothesis import strategies as st

import ferrum_numba as fe
from ferrum_numba.machine_code import Cubin, Fatbin, read_code
from tests.machine_code.test_cubin import FOLDER

PLAIN = FOLDER / "sum_up_none.fatbin"


def fatbin(kind: str) -> Fatbin:
    found = read_code(FOLDER / f"sum_up_{kind}.fatbin")
    assert isinstance(found, Fatbin)
    return found


@pytest.mark.parametrize("kind", ["none", "speed"])
def test_members(kind: str) -> None:
    found = fatbin(kind)
    kinds = [(member.is_cubin, member.target) for member in found.members]
    assert sorted(kinds) == [(False, "sm_80"), (True, "sm_80"), (True, "sm_90a")]
    for member in found.members:
        if member.is_cubin:
            assert Cubin(member.content).target == member.target
    assert found.ptx is not None
    assert fe.Signature.entries(found.ptx) == ["sum_up", "scale"]


def test_compression_says_the_same() -> None:
    packed = fatbin("speed")
    assert {member.compression for member in packed.members} == {"", "LZ4"}
    assert packed.ptx == fatbin("none").ptx


def test_what_a_gpu_takes() -> None:
    found = fatbin("none")
    taken = {c: found.cubin_for(c) for c in ((8, 0), (8, 9), (9, 0), (10, 0))}
    assert {c: code and code.target for c, code in taken.items()} == {
        (8, 0): "sm_80",
        (8, 9): "sm_80",
        (9, 0): "sm_90a",
        (10, 0): None,
    }


def test_by_zstd() -> None:
    """It takes a library, or a later Python; the error says so."""
    names = ("zstandard", "compression")
    if any(importlib.util.find_spec(name) for name in names):
        assert fatbin("size").ptx == fatbin("none").ptx
    else:
        with pytest.raises(fe.PtxError, match="compressed by zstd; install zstandard"):
            _ = fatbin("size").ptx


@given(st.integers(0, 1 << 30), st.binary(max_size=8), st.integers(0, 1 << 30))
def test_damage_is_refused_or_harmless(at: int, put: bytes, cut: int) -> None:
    data = bytearray((FOLDER / "sum_up_speed.fatbin").read_bytes())
    data[at % len(data) : at % len(data) + len(put)] = put
    for damaged in (bytes(data), bytes(data[: cut % len(data)])):
        try:
            for member in Fatbin(damaged).members:
                _ = member.content
        except fe.PtxError:
            pass


def test_members_without_an_end() -> None:
    """Zeros behind the head are no member, and one that is longer than the file is none."""
    data = PLAIN.read_bytes()
    with pytest.raises(fe.PtxError, match="a member of 0 bytes behind a head of 0, at 16"):
        Fatbin(data[:16] + bytes(len(data) - 16))
    longer = bytearray(data)
    longer[16 + 8 : 16 + 16] = (len(data)).to_bytes(8, "little")
    with pytest.raises(fe.PtxError, match="fatbin: expected a whole file"):
        Fatbin(bytes(longer))


def test_the_cpu_device_takes_its_ptx() -> None:
    module = fe.open_device("cpu").load_module(PLAIN)
    assert module.get_kernel("scale").signature.entry == "scale"
    assert module.text == fatbin("none").ptx
