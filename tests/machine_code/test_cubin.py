"""Cubins: what is read of them, beside the PTX that they are made of, and by chance."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import ferrum_numba as fe
from ferrum_numba.machine_code import Cubin, is_machine_code, read_code
from tests.conftest import FIXTURES

FOLDER = FIXTURES / "machine_code"
CUBINS = ["sum_up_sm80", "sum_up_sm90a", "sum_up_sm100", "older_sm90a"]


def cubin(name: str) -> Cubin:
    found = read_code(FOLDER / f"{name}.cubin")
    assert isinstance(found, Cubin)
    return found


@pytest.mark.parametrize("name", CUBINS)
@pytest.mark.parametrize("entry", ["sum_up", "scale"])
def test_the_signature_is_the_ptxs(name: str, entry: str) -> None:
    """In places and sizes, and in what it demands of a launch."""
    machine = fe.Signature.of(cubin(name), entry)
    ptx = fe.Signature.from_ptx((FOLDER / "sum_up.ptx").read_text(), entry)
    assert [(p.offset, p.size) for p in machine.params] == [(p.offset, p.size) for p in ptx.params]
    assert [p.name for p in machine.params] == [p.name for p in ptx.params]
    assert (machine.nbytes, machine.maxntid) == (ptx.nbytes, ptx.maxntid)
    assert machine.target == "sm_" + name.rpartition("_sm")[2]


def test_what_an_entry_takes() -> None:
    """As ptxas -v says: 15 registers and 256 bytes of shared memory, of which none is reserved."""
    for name in CUBINS:
        entry = cubin(name).entries["sum_up"]
        assert 10 <= entry.registers <= 24
        assert (entry.shared_bytes, entry.local_bytes) == (256, 0)


def test_large_parameters_blocks_and_clusters() -> None:
    wide = fe.Signature.of(cubin("wide_sm90"))
    assert (wide.reqntid, wide.cluster) == ((64, 2, 1), (2, 2, 1))
    assert [(p.offset, p.size) for p in wide.params] == [(0, 8), (48, 20000)]
    # The entry's own constants begin at 0x210: 48 on is a multiple of 64.
    assert (0x210 + wide.params[1].offset) % 64 == 0


@pytest.mark.parametrize(
    ("target", "runs"),
    [
        ("sum_up_sm80", {(8, 0), (8, 6), (8, 9)}),
        ("sum_up_sm90a", {(9, 0)}),
        ("sum_up_sm100", {(10, 0), (10, 3)}),
    ],
)
def test_where_it_runs(target: str, runs: set[tuple[int, int]]) -> None:
    asked = [(7, 5), (8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (10, 3), (12, 0)]
    assert {capability for capability in asked if cubin(target).runs_on(capability)} == runs


def test_entries_that_are_not_named() -> None:
    code = cubin("sum_up_sm80")
    assert set(fe.Signature.entries(code)) == {"sum_up", "scale"}
    with pytest.raises(fe.AbiError, match="entry: expected one of .*sum_up.*, found none named"):
        fe.Signature.of(code)
    with pytest.raises(fe.PtxError, match="entry: expected one of the cubin's .*, found 'other'"):
        fe.Signature.of(code, "other")


def test_what_is_machine_code(tmp_path: Path) -> None:
    assert is_machine_code(b"")
    assert is_machine_code(str(FOLDER / "sum_up_sm80.cubin"))
    assert is_machine_code(FOLDER / "sum_up_none.fatbin")
    assert not is_machine_code(FOLDER / "sum_up.ptx")
    assert not is_machine_code(".version 8.0\n")
    assert not is_machine_code(tmp_path / "nothing")
    with pytest.raises(fe.PtxError, match="a cubin or a fatbin, found bytes that begin with"):
        read_code(b"something else")


def test_an_elf_file_of_another_machine() -> None:
    data = bytearray((FOLDER / "sum_up_sm80.cubin").read_bytes())
    data[18:20] = (62).to_bytes(2, "little")
    with pytest.raises(fe.PtxError, match="one of another machine"):
        Cubin(bytes(data))


@given(st.integers(0, 1 << 30), st.binary(max_size=4), st.integers(0, 1 << 30))
def test_damage_is_refused_or_harmless(at: int, put: bytes, cut: int) -> None:
    """Whatever stands in a file: a cubin, or a PtxError."""
    data = bytearray((FOLDER / "sum_up_sm80.cubin").read_bytes())
    data[at % len(data) : at % len(data) + len(put)] = put
    for damaged in (bytes(data), bytes(data[: cut % len(data)])):
        with contextlib.suppress(fe.PtxError):
            Cubin(damaged)


def test_places_beyond_all_memory() -> None:
    data = bytearray((FOLDER / "sum_up_sm80.cubin").read_bytes())
    data[0x28:0x30] = b"\xff" * 8
    with pytest.raises(fe.PtxError, match="a whole ELF file"):
        Cubin(bytes(data))


def test_the_cpu_device_refuses_it() -> None:
    with pytest.raises(fe.DeviceError, match="machine code for sm_80; take the PTX"):
        fe.open_device("cpu").load_module(FOLDER / "sum_up_sm80.cubin")
