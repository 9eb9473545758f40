"""Matrix products of a warp group, as each of its warps computes its own 16 of the 64 rows.

    chunks_<k|mn>(descriptor, rows, columns) -> <32 x i32>: shared addresses of 16-byte chunks
    wgmma_<A>_<B>_<n>_<a>_<b>(base, rows before, A's descriptor, A's registers, B's descriptor, C)

a: "r" (A in registers), "k" (in shared memory, K contiguous) or "mn" (M contiguous); b likewise.
C: n/2 planes of 32 numbers, in the order of the registers, which is that of mma.m16n8 tile by tile.
An instruction multiplies 32 bytes along K, two 16-byte chunks: what ldmatrix reads from them is
what mma takes.  Swizzling permutes whole chunks.

A descriptor holds, in units of 16 bytes, the start (bits 0-13), the leading (16-29) and the stride
(32-45) byte offset; bits 62-63 tell the swizzle: 0 none, 1 128, 2 64, 3 32 bytes.
Source: PTX ISA, "Asynchronous Warpgroup Level Matrix Shared Memory Layout" and "Strides"; of
CUTLASS, the canonical layouts in mma_sm90_desc.hpp.
"""

from __future__ import annotations

from ..layout import LANES
from ..routine import VECTOR, Routine, routine
from ..values import Text, Value
from .tiles import ELEMENTS, number_type, plane_bytes


@routine("chunks")
def chunks(r: Routine, major: str) -> None:
    """An atom has 2^s chunks side by side, eight such rows one below the other.

    K contiguous: rows are those of M or N, columns the chunks along K.  Otherwise rows are those of
    K, columns chunks of eight along M or N; without swizzle the offsets change places.
    """
    descriptor, row, column = r.takes("i64", VECTOR, VECTOR)

    def field(shift: int) -> Value:
        units = r.cast("trunc", r.op("lshr", descriptor, shift), "i32")
        return r.vector(r.op("shl", r.op("and", units, 16383), 4))

    start, leading, stride = field(0), field(16), field(32)
    mode = r.cast("trunc", r.op("lshr", descriptor, 62), "i32")
    plain = r.compare("icmp eq", mode, 0)
    s = r.vector(r.op("and", r.op("sub", r.constant("i32", 4), mode), 3))
    mask = r.op("sub", r.op("shl", r.vector(r.constant("i32", 1)), s), 1)
    block, near = r.op("lshr", row, 3), r.op("and", row, 7)
    width = r.op("shl", r.vector(r.constant("i32", 16)), s)
    if major == "k":
        across = r.op("mul", column, r.select(plain, leading, 16))
        down = r.op("mul", block, stride)
    else:
        inside = r.op("shl", r.op("and", column, mask), 4)
        far = r.op("mul", r.op("lshr", column, s), r.select(plain, stride, leading))
        across = r.op("add", far, inside)
        down = r.op("mul", block, r.select(plain, leading, stride))
    address = r.op("add", start, r.op("mul", near, width))
    address = r.op("add", r.op("add", address, across), down)
    swizzle = r.op("shl", r.op("and", r.op("lshr", address, 7), mask), 4)
    r.ret(r.op("xor", address, swizzle))


def addresses_of(r: Text, descriptor: Value, major: str, operand: str, first: Value) -> Value:
    """The addresses of four matrices of an ldmatrix from row `first` of M or N on."""
    # Which eight rows of M or N each covers; which of the two chunks along K.
    along, half = ([0, 1, 0, 1], [0, 0, 1, 1]) if operand == "a" else ([0, 0, 1, 1], [0, 1, 0, 1])
    every = [(along[lane // 8], half[lane // 8], lane % 8) for lane in range(LANES)]
    if major == "k":
        row = r.op("add", r.vector(first), r.numbers("i32", (8 * a + i for a, _, i in every)))
        column = r.numbers("i32", (h for _, h, _ in every))
    else:  # eight of M or N to a chunk
        chunk = r.vector(r.op("lshr", first, 3))
        row = r.numbers("i32", (8 * h + i for _, h, i in every))
        column = r.op("add", chunk, r.numbers("i32", (a for a, _, _ in every)))
    text = r.call(f"chunks_{major}", VECTOR, descriptor, row, column)
    return Value(text, "i32", LANES)


@routine("wgmma")
def wgmma(r: Routine, kind: str, kind_b: str, n: str, a: str, b: str) -> None:
    """Multiply two tiles of 8 columns at a time; where their number is odd, the last alone."""
    base, row, a_from, registers, b_from, sums = r.takes("ptr", "i32", "i64", "ptr", "i64", "ptr")
    prepared_a = r.room(f"[{plane_bytes(kind, 4) + 64} x i8]")
    prepared_b = [r.room(f"[{plane_bytes(kind, 2) + 64} x i8]") for _ in range(2)]
    registers_b, number = r.room("[512 x i8]"), number_type(kind)
    if a != "r":
        registers, place = r.room("[512 x i8]"), addresses_of(r, a_from, a, "a", row)
        name = "ldmatrix_4" + ("_trans" if a == "mn" else "")
        r.call(name, "void", base, place, registers)
    fragments = [r.load("i32", LANES, registers, 128 * i, 64) for i in range(4)]
    r.call(f"prepare_a_{kind}_4", "void", prepared_a, *fragments)

    def multiply(column: Value, count: int) -> None:
        """Multiply with so many tiles of 8 columns of B, from `column` on."""
        name = f"ldmatrix_{2 * count}" + ("_trans" if b == "mn" else "")
        r.call(name, "void", base, addresses_of(r, b_from, b, "b", column), registers_b)
        found = [r.load("i32", LANES, registers_b, 128 * i, 64) for i in range(2 * count)]
        for i in range(count):
            pair = found[2 * i : 2 * i + 2]
            r.call(f"prepare_b_{kind_b}_2", "void", prepared_b[i], *pair)
        c = r.item("i8", sums, r.op("mul", column, 64))
        numbers = "int" if number == "i32" else "float"
        places = [Value(r.at(c, 512 * i), "ptr") for i in range(count)]
        triples = [p for b, c in zip(prepared_b, places, strict=False) for p in (b, c, c)]
        r.call(f"mma_{numbers}_{ELEMENTS[kind]}_2_{count}", "void", prepared_a, *triples)

    pairs, odd = divmod(int(n) // 8, 2)
    if pairs:
        loop = r.loop(r.constant("i32", 0))
        with loop as (column,):
            multiply(column, 2)
            more = r.op("add", column, 16)
            loop.again_if(r.compare("icmp ult", more, 16 * pairs), more)
    if odd:
        multiply(r.constant("i32", 16 * pairs), 1)
