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

from ..library import Helpers, family
from .tiles import ELEMENTS, number_type, plane_bytes

_VECTOR = "<32 x i32>"


def _spread(name: str, value: str) -> str:
    """Lines that put an i32 into all lanes of %name."""
    return f"""  %{name}.one = insertelement {_VECTOR} poison, i32 {value}, i64 0
  %{name} = shufflevector {_VECTOR} %{name}.one, {_VECTOR} poison, {_VECTOR} zeroinitializer
"""


@family("chunks")
def chunks(helpers: Helpers, name: str, major: str) -> str:
    """Of an atom 2^s chunks lie side by side, eight such rows one below the other."""
    fields = "".join(
        f"""  %{field}.down = lshr i64 %descriptor, {shift}
  %{field}.word = trunc i64 %{field}.down to i32
  %{field}.units = and i32 %{field}.word, 16383
  %{field}.bytes = shl i32 %{field}.units, 4
{_spread(field, f"%{field}.bytes")}"""
        for field, shift in (("start", 0), ("leading", 16), ("stride", 32))
    )
    # K contiguous: rows are those of M or N, columns the chunks along K.  Otherwise rows are
    # those of K, columns chunks of eight along M or N; without swizzle the offsets change places.
    far = {
        "k": f"""  %step = select i1 %plain, {_VECTOR} %leading, {_VECTOR} splat (i32 16)
  %across = mul {_VECTOR} %column, %step
  %down = mul {_VECTOR} %block, %stride
""",
        "mn": f"""  %atom = lshr {_VECTOR} %column, %s
  %inside = and {_VECTOR} %column, %mask
  %inside.bytes = shl {_VECTOR} %inside, splat (i32 4)
  %far = select i1 %plain, {_VECTOR} %stride, {_VECTOR} %leading
  %atom.bytes = mul {_VECTOR} %atom, %far
  %across = add {_VECTOR} %atom.bytes, %inside.bytes
  %below = select i1 %plain, {_VECTOR} %leading, {_VECTOR} %stride
  %down = mul {_VECTOR} %block, %below
""",
    }[major]
    return f"""
define internal {_VECTOR} @{name}(i64 %descriptor, {_VECTOR} %row, {_VECTOR} %column) #0 {{
{fields}  %mode.down = lshr i64 %descriptor, 62
  %mode = trunc i64 %mode.down to i32
  %minus = sub i32 4, %mode
  %s.word = and i32 %minus, 3
  %plain = icmp eq i32 %mode, 0
{_spread("s", "%s.word")}  %power = shl {_VECTOR} splat (i32 1), %s
  %mask = sub {_VECTOR} %power, splat (i32 1)
  %block = lshr {_VECTOR} %row, splat (i32 3)
  %near = and {_VECTOR} %row, splat (i32 7)
  %width = shl {_VECTOR} splat (i32 16), %s
  %near.bytes = mul {_VECTOR} %near, %width
{far}  %sum = add {_VECTOR} %start, %near.bytes
  %sum.across = add {_VECTOR} %sum, %across
  %address = add {_VECTOR} %sum.across, %down
  %bits = lshr {_VECTOR} %address, splat (i32 7)
  %masked = and {_VECTOR} %bits, %mask
  %swizzle = shl {_VECTOR} %masked, splat (i32 4)
  %result = xor {_VECTOR} %address, %swizzle
  ret {_VECTOR} %result
}}
"""


def _constant(numbers: list[int]) -> str:
    return "<" + ", ".join(f"i32 {n}" for n in numbers) + ">"


def _matrices(major: str, along: list[int], half: list[int]) -> tuple[str, str]:
    """Rows and columns of the four 8x8 matrices of an ldmatrix, relative to the first row.

    along: which eight rows of M or N each covers; half: which of the two chunks along K.
    """
    lanes = [(along[lane // 8], half[lane // 8], lane % 8) for lane in range(32)]
    if major == "k":
        return _constant([8 * a + r for a, _, r in lanes]), _constant([h for _, h, _ in lanes])
    return _constant([8 * h + r for _, h, r in lanes]), _constant([a for a, _, _ in lanes])


def addresses_of(helpers: Helpers, name: str, major: str, operand: str, first: str) -> str:
    """Lines that set %<name> to the addresses of four matrices from row `first` of M or N on."""
    along, half = ([0, 1, 0, 1], [0, 0, 1, 1]) if operand == "a" else ([0, 0, 1, 1], [0, 1, 0, 1])
    rows, columns = _matrices(major, along, half)
    moved, fixed = (rows, columns) if major == "k" else (columns, rows)
    shift = 0 if major == "k" else 3  # eight of M or N to a chunk
    lines = f"""  %{name}.first = lshr i32 {first}, {shift}
{_spread(f"{name}.firsts", f"%{name}.first")}  %{name}.moved = add {_VECTOR} %{name}.firsts, {moved}
"""
    pair = (f"{_VECTOR} %{name}.moved", f"{_VECTOR} {fixed}")
    row, column = pair if major == "k" else pair[::-1]
    function = helpers.use(f"chunks_{major}")
    return lines + f"  %{name} = call {_VECTOR} @{function}(i64 %{operand}, {row}, {column})\n"


def _load_a(helpers: Helpers, kind: str, a: str) -> str:
    """Lines that prepare A at %prepared.a, from registers or from shared memory."""
    lines = "  %registers.a = getelementptr i8, ptr %registers, i64 0\n"
    if a != "r":
        ldmatrix = helpers.use("ldmatrix_4" + ("_trans" if a == "mn" else ""))
        lines = addresses_of(helpers, "at.a", a, "a", "%row") + (
            f"  %registers.a = alloca [512 x i8], align 64\n"
            f"  call void @{ldmatrix}(ptr %base, {_VECTOR} %at.a, ptr %registers.a)\n"
        )
    prepare = helpers.use(f"prepare_a_{kind}_4")
    loads = _load_registers("ra", "%registers.a", 4)
    values = ", ".join(f"{_VECTOR} %ra{i}" for i in range(4))
    return f"{lines}{loads}  call void @{prepare}(ptr %prepared.a, {values})\n"


def _load_registers(name: str, pointer: str, count: int) -> str:
    return "".join(
        f"  %{name}.p{i} = getelementptr i8, ptr {pointer}, i64 {128 * i}\n"
        f"  %{name}{i} = load {_VECTOR}, ptr %{name}.p{i}, align 64\n"
        for i in range(count)
    )


def _tiles(helpers: Helpers, label: str, kind: str, b: str, column: str, count: int) -> str:
    """Lines that multiply with `count` (1 or 2) tiles of 8 columns of B, from `column` on."""
    x = label
    number = number_type(kind)
    ldmatrix = helpers.use(f"ldmatrix_{2 * count}" + ("_trans" if b == "mn" else ""))
    prepare = helpers.use(f"prepare_b_{kind}_2")
    numbers = "int" if number == "i32" else "float"
    mma = helpers.use(f"mma_{numbers}_{ELEMENTS[kind]}_2_{count}")
    lines = [
        addresses_of(helpers, f"{x}.at", b, "b", column),
        f"  call void @{ldmatrix}(ptr %base, {_VECTOR} %{x}.at, ptr %registers.b)\n",
        _load_registers(f"{x}.r", "%registers.b", 2 * count),
    ]
    for i in range(count):
        pair = ", ".join(f"{_VECTOR} %{x}.r{2 * i + j}" for j in (0, 1))
        lines.append(f"  call void @{prepare}(ptr %prepared.b{i}, {pair})\n")
    lines.append(
        f"  %{x}.offset = mul i32 {column}, 64\n"
        f"  %{x}.c = getelementptr i8, ptr %sums, i32 %{x}.offset\n"
    )
    for i in range(4 * count):
        lines.append(
            f"  %{x}.c.p{i} = getelementptr i8, ptr %{x}.c, i64 {128 * i}\n"
            f"  %{x}.c{i} = load <32 x {number}>, ptr %{x}.c.p{i}, align 64\n"
        )
    sums = ", ".join(f"<32 x {number}> %{x}.c{i}" for i in range(4 * count))
    places = ", ".join(f"ptr %prepared.b{i}" for i in range(count))
    lines.append(f"  call void @{mma}(ptr %{x}.c, ptr %prepared.a, {places}, {sums})\n")
    return "".join(lines)


@family("wgmma")
def wgmma(helpers: Helpers, name: str, kind: str, kind_b: str, n: str, a: str, b: str) -> str:
    """Two tiles of 8 columns at a time; where their number is odd, the last alone."""
    pairs, odd = divmod(int(n) // 8, 2)
    last = _tiles(helpers, "last", kind_b, b, str(16 * pairs), 1) if odd else ""
    size_a, size_b = plane_bytes(kind, 4) + 64, plane_bytes(kind, 2) + 64
    return f"""
define internal void @{name}(ptr %base, i32 %row, i64 %a, ptr %registers, i64 %b, ptr %sums) #0 {{
  %prepared.a = alloca [{size_a} x i8], align 64
  %prepared.b0 = alloca [{size_b} x i8], align 64
  %prepared.b1 = alloca [{size_b} x i8], align 64
  %registers.b = alloca [512 x i8], align 64
{_load_a(helpers, kind, a)}  br label %test
test:
  %column = phi i32 [ 0, %0 ], [ %column.next, %pair ]
  %over = icmp uge i32 %column, {16 * pairs}
  br i1 %over, label %end, label %pair
pair:
{_tiles(helpers, "pair", kind_b, b, "%column", 2)}  %column.next = add i32 %column, 16
  br label %test
end:
{last}  ret void
}}
"""
