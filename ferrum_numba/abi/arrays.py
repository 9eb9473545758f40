"""Arrays of a launch: where one lies, and what its declaration demands of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ..errors import AbiError
from .declaration import Declaration, MapRule
from .expression import Expression
from .map_form import MapForm

# Triton's pointee types, and the array dtypes that they stand for.
POINTEE_DTYPES = {
    "*i1": "bool",
    "*i8": "int8",
    "*u8": "uint8",
    "*i16": "int16",
    "*u16": "uint16",
    "*i32": "int32",
    "*u32": "uint32",
    "*i64": "int64",
    "*u64": "uint64",
    "*fp16": "float16",
    "*bf16": "bfloat16",
    "*fp32": "float32",
    "*fp64": "float64",
}


@dataclass(frozen=True)
class ArrayReference:
    """Description of an array on a device, as far as a launch needs it.

    address: of element [0, ..., 0].  shape in elements; strides in bytes, None for C order.
    dtype: NumPy's name of it.  available: bytes from `address` to the end of the array's extent.
    device: where it lies, e.g. "cuda:0" or "cpu".
    ready: lets a stream, given by its handle, wait for another that may still write the array; None
    where there is nothing to wait for.
    """

    address: int
    shape: tuple[int, ...]
    strides: tuple[int, ...] | None
    dtype: str
    itemsize: int
    available: int
    device: str
    readonly: bool = False
    ready: Callable[[int], None] | None = None

    @property
    def contiguous(self) -> bool:
        """True if the elements lie in C order without gaps."""
        if self.strides is None or 0 in self.shape:
            return True
        expected = self.itemsize
        for extent, stride in zip(reversed(self.shape), reversed(self.strides), strict=True):
            if extent != 1 and stride != expected:
                return False
            expected *= extent
        return True

    @property
    def row_stride(self) -> int | None:
        """Elements from one row to the next, where rows of C order lie equally far apart.

        All axes but the last count as one.  None for any other layout.
        """
        if not self.shape or self.strides is None:
            return None
        *lead, (columns, step) = zip(self.shape, self.strides, strict=True)
        row = span = None
        for extent, stride in reversed(lead):
            if extent == 1:
                continue
            if span not in (None, stride):
                return None
            row, span = stride if row is None else row, stride * extent
        if row is None or row < 0 or row % self.itemsize or (columns > 1 and step != self.itemsize):
            return None
        return row // self.itemsize

    def alike(self, other: ArrayReference) -> bool:
        """True if the two differ in where they lie only."""
        return (
            self.shape == other.shape
            and self.strides == other.strides
            and self.dtype == other.dtype
            and self.available == other.available
            and self.readonly == other.readonly
        )


def check_array(declaration: Declaration, array: ArrayReference, sizes: Mapping[str, int]) -> None:
    """Check an array's dtype, alignment, layout and length by its declaration.  Raises AbiError."""
    name = declaration.name
    expected = POINTEE_DTYPES.get(declaration.type)
    if expected is not None and array.dtype != expected:
        raise AbiError(
            name, f"dtype {expected} ({declaration.type})", array.dtype, "convert it first"
        )
    align = declaration.align or array.itemsize
    if array.address % align:
        raise AbiError(
            name,
            f"an address aligned to {align} bytes",
            f"{array.address:#x}",
            "pass a copy of the array, or take a kernel that reads it where it lies",
        )
    if declaration.role == "output" and array.readonly:
        raise AbiError(name, "a writable array", "a read-only one")
    if not declaration.shape:
        return
    extents = [rule(sizes) for rule in declaration.shape]
    strides = [rule(sizes) for rule in declaration.strides]
    _check_layout(declaration, array, extents, strides)
    _check_length(declaration, array, extents, strides)
    if declaration.role == "output":
        _check_apart(declaration, extents, strides)


class Mapped(NamedTuple):
    """The array of which a tensor map is, by its parameter's name, and the map's form."""

    of: str
    form: MapForm


def mapped(
    rule: MapRule,
    declarations: Mapping[str, Declaration],
    arrays: Mapping[str, ArrayReference],
    sizes: Mapping[str, int],
) -> Mapped | None:
    """A tensor map's array, in the form that its declaration gives; None if it is left out.

    Raises AbiError for what no map can describe.
    """
    array = arrays.get(rule.of)
    if array is None:
        return None
    declared = declarations[rule.of]
    form = MapForm(
        dtype=array.dtype,
        itemsize=array.itemsize,
        shape=tuple(extent(sizes) for extent in declared.shape),
        strides=tuple(stride(sizes) * array.itemsize for stride in declared.strides),
        box=tuple(extent(sizes) for extent in rule.box),
        swizzle=rule.swizzle,
        l2=rule.l2,
    )
    return Mapped(rule.of, form)


def reach(extents: Sequence[int], strides: Sequence[int], itemsize: int) -> int:
    """Bytes from the first element to the end of the last; strides in elements, none negative."""
    if min(extents) <= 0:
        return 0
    steps = sum((n - 1) * stride for n, stride in zip(extents, strides, strict=True))
    return (steps + 1) * itemsize


def _check_layout(
    declaration: Declaration, array: ArrayReference, extents: list[int], strides: list[int]
) -> None:
    """Check that an array is contiguous, or has the strides that the stride arguments state."""
    if array.contiguous:
        return
    actual = [s // array.itemsize for s in array.strides or ()]
    if len(strides) == 2 and strides[1] == 1 and array.row_stride == strides[0]:
        return
    steps = [stride for stride, extent in zip(strides, extents, strict=True) if extent > 1]
    matching = [s for s, extent in zip(actual, array.shape, strict=True) if extent > 1]
    if len(actual) != len(extents) or steps != matching:
        given = ", ".join(
            f"{rule.text} = {s}" for rule, s in zip(declaration.strides, strides, strict=True)
        )
        raise AbiError(
            declaration.name,
            (
                "a C-contiguous array, or one with the strides that the launch states "
                f"({given}, in elements)"
            ),
            f"strides {actual} for shape {array.shape}",
            "copy it first",
        )


def _check_length(
    declaration: Declaration, array: ArrayReference, extents: list[int], strides: list[int]
) -> None:
    """The first and the last element that the kernel may touch lie inside the array."""
    if min(extents) <= 0:
        return
    if any(extent > 1 and stride < 0 for extent, stride in zip(extents, strides, strict=True)):
        raise AbiError(
            declaration.name,
            "no negative stride, which reads before the array",
            _show(declaration.strides, strides),
        )
    needed = reach(extents, strides, array.itemsize)
    if needed > array.available:
        raise AbiError(
            declaration.name,
            (
                f"at least {needed} bytes for {_show(declaration.shape, extents)} with strides "
                f"{_show(declaration.strides, strides)}"
            ),
            f"{array.available} bytes (shape {array.shape}, {array.dtype})",
        )


def _check_apart(declaration: Declaration, extents: list[int], strides: list[int]) -> None:
    """Check that no two elements of an output share a place: CTAs write them in any order."""
    taken = 1  # elements, by the axes of smaller strides
    for stride, extent in sorted(zip(strides, extents, strict=True)):
        if extent > 1 and stride < taken:
            raise AbiError(
                declaration.name,
                f"a stride of at least {taken}, so that elements of "
                f"{_show(declaration.shape, extents)} share no memory",
                f"{stride} in {_show(declaration.strides, strides)}",
            )
        taken += max(extent - 1, 0) * stride


def _show(rules: tuple[Expression, ...], values: list[int]) -> str:
    text = ", ".join(rule.text for rule in rules)
    return f"({text}) = {tuple(values)}"


def check_contiguous(name: str, array: ArrayReference) -> None:
    """Refuse strides: without a declaration nothing says which ones the kernel expects."""
    if not array.contiguous:
        raise AbiError(
            name,
            "a C-contiguous array",
            f"strides {array.strides} bytes for shape {array.shape}",
            "copy it first",
        )


def check_overlap(output: str, arrays: Mapping[str, ArrayReference]) -> None:
    """An output shares no memory with another array: CTAs run in any order."""
    first = arrays[output]
    for name, other in arrays.items():
        if name != output and (
            first.address < other.address + other.available
            and other.address < first.address + first.available
        ):
            raise AbiError(
                output,
                f"shares memory with {name}, which other CTAs still read while the kernel writes",
                remedy="give it an array of its own",
            )
