"""Bulk copies whose first and last bytes lie in arrays, and the bytes between may not."""

from __future__ import annotations

import mmap
import platform
import sys
from collections.abc import Callable

import numpy as np
import pytest

from ferrum_numba.emulator.checks import Finding, LaunchArray
from tests.emulator.test_mbarrier import BULK, RIGHT
from tests.emulator.test_tensor import BLOCK, Case, copy_in, copy_out

from .harness import check, described

Ends = tuple[int, int, int, int, int, int]

MAP_32BIT = 0x40  # of Linux on x86-64; Python's mmap does not name it
BULK_COPY = BULK.format(**RIGHT)  # 1024 bytes from p0 to p1
PLANES = Case("f4", (8, 4, 4), (8, 2, 3), (0, 1, 0))  # bytes 32-96, 160-224, 288-352; rows of 32
CUT = Case("f2", (24, 8), (16, 8), (16, 0), 0, 8)  # 16 bytes from every 64 on, from byte 32 on


def zeros(nbytes: int) -> np.ndarray:
    return np.zeros(nbytes, np.uint8)


def low_zeros(nbytes: int) -> np.ndarray:
    """As `zeros`, in the first 4 GiB, where the numbers of shared memory's addresses lie, too."""
    return np.frombuffer(mmap.mmap(-1, nbytes, mmap.MAP_PRIVATE | mmap.MAP_ANON | MAP_32BIT), "u1")


def findings(
    body: str,
    ends: Ends,
    roles: tuple[str, str, str] = ("", "", ""),
    parameter: int = 0,
    block: int = BLOCK,
    checks: tuple[str, ...] = ("memory", "init", "race"),
    zeros: Callable[[int], np.ndarray] = zeros,
) -> list[Finding]:
    """Of a kernel that is given x0, another array and place for a tensor map.

    ends: where x0, x1 and x2 begin and end in one piece of memory; parameter: which of them is x0.
    """
    memory, y, tensor_map = (zeros(nbytes) for nbytes in (2048, 2048, 128))
    first, *others = (
        LaunchArray(f"x{i}", memory.ctypes.data + start, end - start, role=role)
        for i, (start, end, role) in enumerate(zip(ends[::2], ends[1::2], roles, strict=True))
    )
    arrays = [
        LaunchArray("y", y.ctypes.data, y.nbytes),
        LaunchArray("map", tensor_map.ctypes.data, tensor_map.nbytes),
    ]
    arrays.insert(parameter, first)
    return check(body, *arrays, *others, checks=checks, block=block, shared_bytes=4096)


@pytest.mark.parametrize(
    ("case", "ends", "text"),
    [
        (PLANES, (0, 512, 512, 768, 768, 1024), None),
        (PLANES, (0, 200, 200, 300, 300, 352), None),  # side by side, in the middle of a row
        (PLANES, (0, 96, 160, 224, 288, 352), None),
        (PLANES, (0, 96, 160, 192, 288, 352), "32 bytes at 0 bytes behind the end of x1"),
        (PLANES, (0, 96, 160, 200, 288, 352), "32 bytes at the end of x1 (byte 32 of 40)"),
        (PLANES, (0, 128, 256, 512, 512, 1024), "32 bytes at 32 bytes behind the end of x0"),
        (CUT, (0, 48, 96, 112, 160, 496), None),
        (CUT, (0, 48, 96, 111, 160, 496), "16 bytes at the end of x1 (byte 0 of 15)"),
    ],
    ids=str,
)
@pytest.mark.parametrize("make", [copy_in, copy_out])
def test_rows_of_boxes(
    make: Callable[[Case], str], case: Case, ends: Ends, text: str | None
) -> None:
    found = findings(make(case), ends)
    assert [finding.kind for finding in found] == (["out-of-bounds"] if text else [])
    assert all(text in finding.message for finding in found)


@pytest.mark.skipif(sys.platform != "linux" or platform.machine() != "x86_64", reason="MAP_32BIT")
def test_arrays_at_low_addresses() -> None:
    ends = (0, 96, 160, 192, 288, 352)
    (found,) = findings(copy_in(PLANES), ends, zeros=low_zeros)
    assert found.space == "global"
    assert "32 bytes at 0 bytes behind the end of x1" in found.message


def test_a_row_that_may_only_be_read() -> None:
    ends = (0, 192, 192, 224, 224, 512)
    assert not findings(copy_in(PLANES), ends, ("", "input", ""))
    (found,) = findings(copy_out(PLANES), ends, ("", "input", ""))
    assert found.kind == "read-only"
    assert "writes 32 bytes to x1 (byte 0 of 32)" in found.message


@pytest.mark.parametrize(
    ("ends", "text"),
    [
        ((0, 1024, 1024, 1536, 1536, 2048), None),
        ((0, 500, 500, 700, 700, 1024), None),
        ((0, 512, 528, 768, 768, 1024), "1024 bytes at the end of x0 (byte 0 of 512)"),
    ],
)
@pytest.mark.parametrize("parameter", [0, 1])
def test_bulk_copies(ends: Ends, text: str | None, parameter: int) -> None:
    found = findings(BULK_COPY, ends, parameter=parameter, block=256)
    assert [finding.kind for finding in found] == (["out-of-bounds"] if text else [])
    assert all(text in finding.message for finding in found)


def test_a_bulk_copy_of_nothing_touches_nothing() -> None:
    body = BULK_COPY.replace("[%q0], 1024", "[%q0+1024], 0")
    body = body.replace("_, [%t2+1024], 1024", "_, [%t2+1024], 0")
    assert not findings(body, (0, 1024, 1040, 1056, 1056, 1072), block=256, checks=("memory",))


@pytest.mark.parametrize(
    ("body", "block", "first", "last", "text"),
    [
        (copy_in(PLANES), 128, 56, 72, None),  # bytes 224 to 288, which the box has not
        (copy_in(PLANES), 128, 48, 72, "reads 32 bytes of x0 (byte 192 of 512)"),
        (BULK_COPY, 256, 256, 256, None),
        (BULK_COPY, 256, 100, 110, "reads 40 bytes of x0 (byte 400 of 1024)"),
    ],
    ids=["box", "box 48-72", "bulk", "bulk 100-110"],
)
def test_scratch_that_was_not_written(
    body: str, block: int, first: int, last: int, text: str | None
) -> None:
    """Each thread writes a word of x0, but for those from `first` to `last`."""
    store = f"""setp.lt.u32 %p8, %t0, {first}; setp.ge.u32 %p9, %t0, {last};
or.pred %p8, %p8, %p9; mad.wide.u32 %q20, %t0, 4, %q0; @%p8 st.global.b32 [%q20], %t0; bar.sync 0;
"""
    found = findings(
        store + body, (0, 4 * block, 1600, 1700, 1700, 1800), ("scratch", "", ""), block=block
    )
    assert [finding.kind for finding in found] == (["uninitialised-global"] if text else [])
    assert all(text in finding.message for finding in found)


REDUCTION = """setp.ne.u32 %p1, %t0, 0; mov.u32 %t2, tile; mad.lo.u32 %t3, %t0, 4, %t2;
st.shared.b32 [%t3], %t0; fence.proxy.async; bar.sync 0; @%p1 bra END;
cp.reduce.async.bulk.global.shared::cta.bulk_group.add.u32 [%q0], [%t2], 128;
cp.async.bulk.commit_group; cp.async.bulk.wait_group 0;
END:"""


@pytest.mark.parametrize(
    ("nbytes", "role", "kinds"),
    [
        (128, "output", []),
        (128, "input", ["read-only"]),
        (112, "", ["out-of-bounds"]),
        (192, "output", ["unwritten-output"]),
    ],
)
def test_bulk_reductions_write(nbytes: int, role: str, kinds: list[str]) -> None:
    words = np.zeros(nbytes // 4, np.uint32)
    found = check(REDUCTION, described("x", words, role), checks=("memory", "init", "race"), grid=3)
    assert [finding.kind for finding in found] == kinds
    if not kinds:
        np.testing.assert_array_equal(words, 3 * np.arange(32))
