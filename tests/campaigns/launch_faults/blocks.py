"""Faults of the parameter block: what a launcher writes wrong."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace

from ferrum_numba.debug.case import Case

from .fault import Fault, Launch, w4a16

_POINTERS, _INTEGERS = 5, 14


def _fields(case: Case) -> list[int]:
    return list(struct.unpack("<5Q14i2Q", case.block))


def _write(fields: list[int], layout: str) -> bytes:
    return struct.pack(layout, *fields)


def without(index: int, *, pad: bool) -> Callable[[int], Case]:
    """A parameter left out; pad: the block keeps its length, with what lay behind it."""

    def make(shape: int) -> Case:
        case = w4a16(shape).case()
        fields = _fields(case)
        del fields[index]
        pointers = _POINTERS - (index < _POINTERS)
        integers = _INTEGERS - (_POINTERS <= index < _POINTERS + _INTEGERS)
        layout = f"<{pointers}Q{integers}i" + ("4x" if integers % 2 else "") + "2Q"
        block = _write(fields, layout)
        return replace(case, block=block.ljust(112, b"\0") if pad else block)

    return make


def _with(index: int, value: int, layout: str) -> Callable[[int], Case]:
    def make(shape: int) -> Case:
        case = w4a16(shape).case()
        fields = _fields(case)
        fields.insert(index, value)
        return replace(case, block=_write(fields, layout))

    return make


def _cut(nbytes: int) -> Callable[[int], Case]:
    def make(shape: int) -> Case:
        case = w4a16(shape).case()
        return replace(case, block=case.block[:nbytes])

    return make


def values(change: Callable[[dict[str, int]], dict[str, int]]) -> Callable[[int], Case]:
    """Some integers replaced, the grid computed from them as a launcher would."""

    def make(shape: int) -> Case:
        launch = w4a16(shape)
        changed = launch.with_values(**change(dict(launch.values)))
        M, N = changed.values["M"], changed.values["N"]
        return changed.but(grid=(max(1, -(-M // 64)), max(1, -(-N // 64)), 1)).case()

    return make


def _same_grid(change: Callable[[dict[str, int]], dict[str, int]]) -> Callable[[int], Case]:
    def make(shape: int) -> Case:
        launch = w4a16(shape)
        return launch.with_values(**change(dict(launch.values))).case()

    return make


def swap(one: str, two: str) -> Callable[[dict[str, int]], dict[str, int]]:
    return lambda v: {one: v[two], two: v[one]}


def pointers(change: Callable[[list[int], Launch], None]) -> Callable[[int], Case]:
    def make(shape: int) -> Case:
        launch = w4a16(shape)
        case = launch.case()
        fields = _fields(case)
        change(fields, launch)
        return replace(case, block=_write(fields, "<5Q14i2Q"))

    return make


def _set(index: int, change: Callable[[int], int]) -> Callable[[list[int], Launch], None]:
    def apply(fields: list[int], launch: Launch) -> None:
        fields[index] = change(fields[index])

    return apply


def exchange(one: int, two: int) -> Callable[[list[int], Launch], None]:
    def apply(fields: list[int], launch: Launch) -> None:
        fields[one], fields[two] = fields[two], fields[one]

    return apply


def _wide(shape: int) -> Case:
    case = w4a16(shape).case()
    return replace(case, block=_write(_fields(case), "<21q"))


def _big_endian(shape: int) -> Case:
    case = w4a16(shape).case()
    return replace(case, block=_write(_fields(case), ">5Q14i2Q"))


def _integers_big_endian(shape: int) -> Case:
    case = w4a16(shape).case()
    fields = _fields(case)
    block = struct.pack("<5Q", *fields[:5]) + struct.pack(">14i", *fields[5:19]) + bytes(16)
    return replace(case, block=block)


def _bytes_of(**sizes: int) -> Callable[[dict[str, int]], dict[str, int]]:
    return lambda v: {name: v[name] * size for name, size in sizes.items()}


_ALL_IN_BYTES = _bytes_of(
    stride_am=2, stride_ak=2, stride_qwk=4, stride_qwn=4, stride_sk=2, stride_sn=2, stride_qzk=4,
    stride_qzn=4, stride_cm=2, stride_cn=2,
)  # fmt: skip

FAULTS = [
    Fault("missing-qzeros", "parameter-missing", "qzeros is left out", without(3, pad=False)),
    Fault("missing-c", "parameter-missing", "c is left out, the end is 0", without(4, pad=True)),
    Fault("missing-M", "parameter-missing", "M is left out, the end is 0", without(5, pad=True)),
    Fault(
        "missing-group-size",
        "parameter-missing",
        "group_size is left out, the end is 0",
        without(8, pad=True),
    ),
    Fault("missing-stride", "parameter-missing", "stride_qwk is left out", without(11, pad=True)),
    Fault(
        "extra-pointer",
        "parameter-extra",
        "a NULL pointer to a bias before c",
        _with(4, 0, "<6Q14i2Q"),
    ),
    Fault(
        "extra-integer",
        "parameter-extra",
        "an integer more, behind K",
        _with(8, 1, "<5Q15i4x2Q"),
    ),
    Fault(
        "extra-integer-first",
        "parameter-extra",
        "a batch size before M",
        _with(5, 1, "<5Q15i4x2Q"),
    ),
    Fault("no-scratch", "scratch-missing", "the block ends behind the strides", _cut(96)),
    Fault("integers-64-bit", "integers-too-wide", "sizes and strides as 8 bytes each", _wide),
    Fault("big-endian", "byte-order", "the whole block high byte first", _big_endian),
    Fault("big-endian-integers", "byte-order", "integers high byte first", _integers_big_endian),
    Fault("m-n-swapped", "sizes-swapped", "M and N exchanged", values(swap("M", "N"))),
    Fault("n-k-swapped", "sizes-swapped", "N and K exchanged", values(swap("N", "K"))),
    Fault(
        "k-group-swapped",
        "sizes-swapped",
        "K and group_size exchanged",
        values(swap("K", "group_size")),
    ),
    Fault("all-strides-in-bytes", "strides-in-bytes", "all in bytes", values(_ALL_IN_BYTES)),
    Fault("a-stride-in-bytes", "strides-in-bytes", "of a's rows", values(_bytes_of(stride_am=2))),
    Fault(
        "qweight-stride-in-bytes",
        "strides-in-bytes",
        "of qweight's rows",
        values(_bytes_of(stride_qwk=4)),
    ),
    Fault("c-stride-in-bytes", "strides-in-bytes", "of c's rows", values(_bytes_of(stride_cm=2))),
    Fault("a-strides-swapped", "strides-swapped", "of a", values(swap("stride_am", "stride_ak"))),
    Fault(
        "qweight-strides-swapped",
        "strides-swapped",
        "of qweight",
        values(swap("stride_qwk", "stride_qwn")),
    ),
    Fault("c-strides-swapped", "strides-swapped", "of c", values(swap("stride_cm", "stride_cn"))),
    Fault(
        "qzeros-stride-unpacked",
        "stride-wrong",
        "qzeros' rows N apart, not N/8",
        values(lambda v: {"stride_qzk": v["N"]}),
    ),
    Fault(
        "qweight-stride-k",
        "stride-wrong",
        "qweight's rows K/8 apart",
        values(lambda v: {"stride_qwk": v["K"] // 8}),
    ),
    Fault("k-in-words", "size-wrong", "K/8 for K", _same_grid(lambda v: {"K": v["K"] // 8})),
    Fault("n-in-words", "size-wrong", "N/8 for N", _same_grid(lambda v: {"N": v["N"] // 8})),
    Fault("m-padded", "size-wrong", "M rounded up to the tile", values(lambda v: {"M": 64})),
    Fault(
        "group-size-doubled",
        "group-size-wrong",
        "twice as large",
        values(lambda v: {"group_size": 2 * v["group_size"]}),
    ),
    Fault(
        "group-size-minus-one",
        "group-size-wrong",
        "-1, as the checkpoint's file has it",
        values(lambda v: {"group_size": -1}),
    ),
    Fault(
        "group-size-of-k",
        "group-size-wrong",
        "K, one group for all",
        values(lambda v: {"group_size": v["K"]}),
    ),
    Fault(
        "scales-qzeros-swapped", "pointers-swapped", "scales and qzeros", pointers(exchange(2, 3))
    ),
    Fault("a-c-swapped", "pointers-swapped", "a and c", pointers(exchange(0, 4))),
    Fault("null-scales", "pointer-null", "scales is NULL", pointers(_set(2, lambda p: 0))),
    Fault("null-c", "pointer-null", "c is NULL", pointers(_set(4, lambda p: 0))),
    Fault(
        "address-of-32-bits",
        "pointer-truncated",
        "qweight's address cut to 32 bits",
        pointers(_set(1, lambda p: p & 0xFFFF_FFFF)),
    ),
    Fault(
        "stale-address",
        "array-freed",
        "qweight's address from before it was moved",
        pointers(_set(1, lambda p: p - 0x1_0000_0000)),
    ),
    Fault(
        "freed-output",
        "array-freed",
        "c's address is that of an array let go of",
        pointers(_set(4, lambda p: p + 0x40_0000)),
    ),
    Fault(
        "one-row-on",
        "pointer-offset",
        "a's address is that of its second row",
        pointers(lambda v, launch: v.__setitem__(0, v[0] + 2 * launch.values["K"])),
    ),
    Fault(
        "header-not-skipped",
        "pointer-offset",
        "qweight's address is 16 bytes into it",
        pointers(_set(1, lambda p: p + 16)),
    ),
    Fault(
        "odd-address",
        "array-misaligned",
        "a begins at an odd byte",
        pointers(_set(0, lambda p: p + 1)),
    ),
]
