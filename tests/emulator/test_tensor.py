"""Tensor maps, and copies of boxes of tensors by them: the CPU device, and a GPU, against NumPy."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import ml_dtypes as ml_dtypes  # NumPy knows bfloat16 by it
import numpy as np
import pytest

import ferrum_numba as fe
from tests.emulator.checks.harness import ALL, check, described
from tests.emulator.test_mbarrier import WAIT

BLOCK = 128
ELEMTYPES = {"u1": 0, "u2": 1, "u4": 2, "i4": 3, "u8": 4, "i8": 5, "f2": 6, "f4": 7, "f8": 9}
ELEMTYPES["bfloat16"] = 10
NAMES = ("box_dim", "global_dim", "element_stride")


class Case(NamedTuple):
    """Innermost dimension first, as tensor maps have it; strides are those of C order, padded."""

    dtype: str
    dims: tuple[int, ...]
    box: tuple[int, ...]
    at: tuple[int, ...]
    swizzle: int = 0
    pad: int = 0  # elements between rows


CASES = [
    Case("f2", (72, 40), (64, 32), (0, 0), 3),
    Case("f2", (72, 40), (64, 32), (64, 16), 3),
    Case("f2", (72, 40), (32, 32), (-8, 30), 2, 8),
    Case("f2", (75, 40), (16, 8), (64, -3), 1, 5),
    Case("f2", (75, 40), (16, 8), (72, 37), 1, 5),
    Case("u1", (100, 7), (64, 4), (48, 2), 0, 12),
    Case("u1", (128, 300), (128, 256), (0, 50), 3),
    Case("f4", (36, 5, 6), (32, 3, 4), (8, 3, -1), 3),
    Case("u8", (10, 3, 4), (4, 2, 2), (8, 1, 3), 0),
    Case("u4", (20, 3, 2, 5), (8, 2, 2, 3), (16, 2, 0, 3), 1),
    Case("u2", (24, 3, 2, 2, 3), (16, 2, 2, 1, 2), (16, -1, 1, 1, 2), 1),
    Case("f4", (1000,), (256,), (900,), 0),
    Case("f2", (64, 64), (64, 64), (200, 0), 3),  # all of it outside
]


def make_map(case: Case) -> str:
    """Instructions of the first warp that make the map at %q2, by way of the first 128 bytes."""
    itemsize = np.dtype(case.dtype).itemsize
    lines = [
        "mov.u32 %t2, tile; setp.lt.u32 %p1, %t0, 32; setp.eq.u32 %p2, %t0, 0; mov.u32 %t5, 0;",
        "mad.lo.u32 %t3, %t0, 4, %t2; @%p1 st.shared.b32 [%t3], %t5; bar.warp.sync -1;",
    ]

    def put(field: str, bits: int, *values: object) -> None:
        listed = ", ".join(map(str, values))
        opcode = f"tensormap.replace.tile.{field}.shared::cta.b1024.b{bits}"
        lines.append(f"@%p2 {opcode} [%t2], {listed};")

    put("global_address", 64, "%q0")
    put("rank", 32, len(case.dims) - 1)
    row = case.dims[0] + case.pad
    for d, sizes in enumerate(zip(case.box, case.dims, (1,) * len(case.dims), strict=True)):
        for field, size in zip(NAMES, sizes, strict=True):
            lines.append(f"mov.u32 %t4, {size};")
            put(field, 32, d, "%t4")
        if d:
            lines.append(f"mov.u64 %q9, {row * itemsize};")
            put("global_stride", 64, d - 1, "%q9")
            row *= case.dims[d]
    put("elemtype", 32, ELEMTYPES[case.dtype])
    put("interleave_layout", 32, 0)
    put("swizzle_mode", 32, case.swizzle)
    put("fill_mode", 32, 0)
    lines.append(
        "@%p1 tensormap.cp_fenceproxy.global.shared::cta.tensormap::generic.release.gpu"
        ".sync.aligned [%q2], [%t2], 128;"
        "@%p1 fence.proxy.tensormap::generic.acquire.gpu [%q2], 128; bar.sync 0;"
    )
    return "\n".join(lines)


def coordinates(case: Case) -> str:
    return "{" + ", ".join(f"%t{20 + d}" for d in range(len(case.at))) + "}"


def copy_in(case: Case, wait: str | None = None, map_register: str = "%q2") -> str:
    """p1 = the box at `case.at` of the tensor p0, as it lies in shared memory."""
    nbytes = int(np.prod(case.box)) * np.dtype(case.dtype).itemsize
    places = "".join(f"mov.b32 %t{20 + d}, {c};" for d, c in enumerate(case.at))
    opcode = (
        f"cp.async.bulk.tensor.{len(case.dims)}d.shared::cluster.global.tile"
        ".mbarrier::complete_tx::bytes"
    )
    return f"""{make_map(case)}
add.u32 %t6, %t2, 1024; {places}
@%p2 mbarrier.init.shared.b64 [%t2+512], 1; fence.proxy.async.shared::cta; bar.sync 0;
@%p2 mbarrier.arrive.expect_tx.shared.b64 _, [%t2+512], {nbytes};
@%p2 {opcode} [%t6], [{map_register}, {coordinates(case)}], [%t2+512];
{WAIT.format("%t2+512", 0) if wait is None else wait}
mov.u32 %t7, %t0;
COPY: setp.ge.u32 %p3, %t7, {nbytes // 4}; @%p3 bra COPIED;
mad.lo.u32 %t8, %t7, 4, %t6; ld.shared.b32 %t9, [%t8];
mad.wide.u32 %q5, %t7, 4, %q1; st.global.b32 [%q5], %t9;
add.u32 %t7, %t7, {BLOCK}; bra COPY;
COPIED:"""


def copy_out(case: Case, operation: str = "") -> str:
    """The box at `case.at` of the tensor p0 = p1, which is as in shared memory.

    operation: by which the two are combined instead.
    """
    nbytes = int(np.prod(case.box)) * np.dtype(case.dtype).itemsize
    places = "".join(f"mov.b32 %t{20 + d}, {c};" for d, c in enumerate(case.at))
    action, how = ("reduce.", f".{operation}") if operation else ("", "")
    rank = len(case.dims)
    opcode = f"cp.{action}async.bulk.tensor.{rank}d.global.shared::cta{how}.tile.bulk_group"
    return f"""{make_map(case)}
add.u32 %t6, %t2, 1024; {places} mov.u32 %t7, %t0;
COPY: setp.ge.u32 %p3, %t7, {nbytes // 4}; @%p3 bra COPIED;
mad.lo.u32 %t8, %t7, 4, %t6; mad.wide.u32 %q5, %t7, 4, %q1; ld.global.b32 %t9, [%q5];
st.shared.b32 [%t8], %t9;
add.u32 %t7, %t7, {BLOCK}; bra COPY;
COPIED: fence.proxy.async.shared::cta; bar.sync 0;
@%p2 {opcode} [%q2, {coordinates(case)}], [%t6];
@%p2 cp.async.bulk.commit_group; @%p2 cp.async.bulk.wait_group 0;"""


def ptx(body: str) -> str:
    parameters = ", ".join(f".param .u64 p{i}" for i in range(3))
    loads = "".join(f"ld.param.u64 %q{i}, [p{i}];" for i in range(3))
    return f""".version 8.3
.target sm_90a
.address_size 64
.extern .shared .align 1024 .b8 tile[];
.visible .entry k({parameters})
{{
.reg .pred %p<16>; .reg .b32 %t<64>; .reg .b64 %q<32>;
{loads} mov.u32 %t0, %tid.x;
{body}
ret;
}}
"""


def tensor(case: Case) -> np.ndarray:
    """The tensor with its padding, as one row of elements."""
    size = (case.dims[0] + case.pad) * int(np.prod(case.dims[1:]))
    values = np.random.default_rng(0).integers(1, 100, size)
    return values.astype(case.dtype)


def row_end(case: Case) -> int:
    """The elements of a row that a copy writes: 16 bytes are written as a whole."""
    per = 16 // np.dtype(case.dtype).itemsize
    return -(-case.dims[0] // per) * per


def box_of(case: Case, width: int) -> list[tuple[int, int]]:
    """(place in shared memory, place in the tensor or -1) of each element of the box.

    width: of the tensor's rows, in elements.
    """
    itemsize = np.dtype(case.dtype).itemsize
    pairs = []
    for i, steps in enumerate(itertools.product(*(range(n) for n in reversed(case.box)))):
        at = [c + step for c, step in zip(case.at, reversed(steps), strict=True)]
        inside = all(0 <= x < n for x, n in zip(at, (width, *case.dims[1:]), strict=True))
        offset, row = 0, 1
        for d, x in enumerate(at):
            offset += x * row
            row *= case.dims[d] + (0 if d else case.pad)
        byte = 1024 + i * itemsize  # 1024: where the box begins
        byte ^= (byte >> 7 & (1 << case.swizzle) - 1) << 4
        pairs.append(((byte - 1024) // itemsize, offset if inside else -1))
    return pairs


def launch(device: fe.Device, body: str, *arrays: np.ndarray) -> list[np.ndarray]:
    mine = [device.to_device(array) for array in arrays]
    config = fe.LaunchConfig(1, BLOCK, shared_bytes=64 * 1024)
    device.load_module(ptx(body)).get_kernel().launch(config, *mine)
    return [device.to_host(array) for array in mine]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_boxes_in(device: fe.Device, case: Case) -> None:
    x, pairs = tensor(case), box_of(case, case.dims[0])
    out = np.full(len(pairs), 77, case.dtype)
    expected = np.empty_like(out)
    for near, far in pairs:
        expected[near] = x[far] if far >= 0 else 0
    _, found, _ = launch(device, copy_in(case), x, out, np.zeros(32, np.int32))
    np.testing.assert_array_equal(found, expected)


OUT = [case for case in CASES if min(case.at) >= 0]  # an H200 takes no others


@pytest.mark.parametrize("case", OUT, ids=str)
def test_boxes_out(device: fe.Device, case: Case) -> None:
    x, pairs = tensor(case), box_of(case, row_end(case))
    values = np.random.default_rng(1).integers(100, 120, len(pairs)).astype(case.dtype)
    expected = x.copy()
    for near, far in pairs:
        if far >= 0:
            expected[far] = values[near]
    found, _, _ = launch(device, copy_out(case), x, values, np.zeros(32, np.int32))
    np.testing.assert_array_equal(found, expected)


OPERATIONS = {
    "add": lambda x, y: x + y,
    "min": np.minimum,
    "max": np.maximum,
    "inc": lambda x, y: 0 if x >= y else x + 1,
    "dec": lambda x, y: y if x == 0 or x > y else x - 1,
    "and": lambda x, y: x & y,
    "or": lambda x, y: x | y,
    "xor": lambda x, y: x ^ y,
}
COMBINED = {
    "add": ("u4", "i4", "u8", "f2", "f4", "f8", "bfloat16"),
    **dict.fromkeys(("min", "max"), ("u4", "i4", "u8", "i8", "f2", "bfloat16")),
    **dict.fromkeys(("inc", "dec"), ("u4",)),
    **dict.fromkeys(("and", "or", "xor"), ("u4", "u8")),
}


def combined(device: fe.Device, case: Case, operation: str) -> tuple[np.ndarray, np.ndarray]:
    """Result of the device for a tensor, and NumPy's."""
    x, pairs = tensor(case), box_of(case, case.dims[0])
    low = 0 if np.dtype(case.dtype).kind == "u" else -50
    values = np.random.default_rng(1).integers(low, 120, len(pairs)).astype(case.dtype)
    expected = x.copy()
    for near, far in pairs:
        if far >= 0:
            expected[far] = OPERATIONS[operation](x[far], values[near])
    map_ = np.zeros(32, np.int32)
    found, _, _ = launch(device, copy_out(case, operation), x.view("u1"), values.view("u1"), map_)
    return found.view(case.dtype), expected


@pytest.mark.parametrize(
    ("operation", "dtype"), [(name, dtype) for name in COMBINED for dtype in COMBINED[name]]
)
def test_boxes_combined(device: fe.Device, operation: str, dtype: str) -> None:
    case = Case(dtype, (48, 5, 3), (16, 4, 2), (32, 2, 0), 1 if np.dtype(dtype).itemsize < 4 else 0)
    np.testing.assert_array_equal(*combined(device, case, operation))


def test_nothing_is_combined_outside_of_the_tensor() -> None:
    case = Case("f2", (75, 40), (16, 8), (64, 37), 1, 5)
    np.testing.assert_array_equal(*combined(fe.open_device("cpu"), case, "add"))


@pytest.mark.parametrize(("operation", "dtype"), [("add", "i8"), ("min", "f4"), ("inc", "i4")])
def test_types_that_are_not_combined(operation: str, dtype: str) -> None:
    case = Case(dtype, (48, 5), (16, 4), (32, 0))
    with pytest.raises(fe.PtxError, match="of types that PTX has for the operation"):
        combined(fe.open_device("cpu"), case, operation)


# ---- checks ----

SQUARE = Case("f2", (64, 64), (64, 64), (0, 0), 3)
CUT = Case("f2", (72, 70), (64, 64), (64, 64), 3)


def findings(body: str, x: np.ndarray, y: np.ndarray, roles: tuple[str, str]) -> set[str]:
    arrays = (
        described("x", x, roles[0]),
        described("y", y, roles[1]),
        described("map", np.zeros(32, np.int32)),
    )
    found = check(body, *arrays, checks=ALL, block=BLOCK, shared_bytes=32 * 1024)
    return {finding.kind for finding in found}


@pytest.mark.parametrize("case", [SQUARE, CUT], ids=str)
def test_intact_kernels_are_clean(case: Case) -> None:
    x, y = tensor(case), np.zeros(np.prod(case.box), case.dtype)
    assert not findings(copy_in(case), x, y, ("input", "output"))
    roles = ("output" if case is SQUARE else "", "input")
    assert not findings(copy_out(case), x, y, roles)
    assert not findings(copy_out(case, "add"), x, y, roles)


def test_what_boxes_need() -> None:
    x, y = tensor(SQUARE), np.zeros(64 * 64, np.float16)
    roles = ("input", "output")
    assert "race" in findings(copy_in(SQUARE, wait=""), x, y, roles)
    taller = SQUARE._replace(dims=(64, 65), at=(0, 1))
    assert findings(copy_in(taller), x, y, roles) >= {"out-of-bounds"}
    out = copy_out(SQUARE)
    unfenced = out.replace("fence.proxy.async.shared::cta;", "")
    assert "missing-fence" in findings(unfenced, x, y, ("output", "input"))
    assert "out-of-bounds" in findings(copy_out(taller), x, y, ("", "input"))
    half = out.replace(", {%t20, %t21}]", ", {%t20, %t7}]")  # from row 256 on: all outside
    assert findings(half, x, y, ("output", "input")) == {"unwritten-output"}


def test_a_map_that_lies_outside() -> None:
    x, y = tensor(SQUARE), np.zeros(64 * 64, np.float16)
    with pytest.raises(fe.LaunchError, match=r"128 bytes at the end of map \(byte 64 of 128\)"):
        findings(copy_in(SQUARE, map_register="%q2+64"), x, y, ("input", "output"))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("rank.shared::cta.b1024.b32 [%t2], 1", "rank.shared::cta.b1024.b32 [%t2], 2"),
        (
            "swizzle_mode.shared::cta.b1024.b32 [%t2], 3",
            "swizzle_mode.shared::cta.b1024.b32 [%t2], 2",
        ),
        ("fill_mode.shared::cta.b1024.b32 [%t2], 0", "fill_mode.shared::cta.b1024.b32 [%t2], 1"),
        ("element_stride", "box_dim"),
        ("add.u32 %t6, %t2, 1024", "add.u32 %t6, %t2, 1040"),
        ("mov.b32 %t20, 0", "mov.b32 %t20, 4"),
    ],
)
def test_a_map_that_cannot_be_used(old: str, new: str) -> None:
    body = copy_in(SQUARE)
    assert old in body
    x, y = tensor(SQUARE), np.zeros(64 * 64, np.float16)
    with pytest.raises(fe.PtxError, match=r"PTX line \d+.*no tensor map, or no place"):
        launch(fe.open_device("cpu"), body.replace(old, new), x, y, np.zeros(32, np.int32))


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        (".tile.rank", ".tile.rank.box_dim", "expected one of"),
        ("global_address.shared::cta.b1024.b64", "global_address.shared::cta.b1024.b32", "64 bits"),
        ("[%t2], 0, %t4", "[%t2], 5, %t4", "from 0 to 4"),
        ("{%t20, %t21}", "{%t20}", "2 coordinates, found 1"),
        ("[%q2, {%t20, %t21}]", "[%q2]", "expected a rank"),
        ("shared::cluster.global.tile", "shared::cluster.global.im2col", "im2col"),
        ("[%t2], 128;", "[%t2], 64;", "128 bytes"),
    ],
)
def test_what_is_refused(old: str, new: str, text: str) -> None:
    body = copy_in(SQUARE)
    assert old in body
    arrays = (tensor(SQUARE), np.zeros(64 * 64, np.float16), np.zeros(32, np.int32))
    with pytest.raises(fe.PtxError, match=text):
        launch(fe.open_device("cpu"), body.replace(old, new), *arrays)
