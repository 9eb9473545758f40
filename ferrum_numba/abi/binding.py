"""From a caller's arguments to checked parameter values.

Everything that PTX and sidecar know about a launch is held against what the caller gave: names and
number of arguments, types and ranges, array dtypes, alignment, device and extent, the grid.  What
is wrong raises AbiError before anything is launched.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass

from ..errors import AbiError
from .block import Raw, encode
from .expression import Expression
from .launch import LaunchConfig
from .sidecar import Declaration, Sidecar
from .signature import Parameter, Signature

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
    """What a launch needs to know of an array that lies on a device.

    address: of element [0, ..., 0].  shape in elements; strides in bytes, None for C order.
    dtype: NumPy's name of it.  available: bytes from `address` to the end of the array's extent.
    device: where it lies, e.g. "cuda:0" or "cpu".
    """

    address: int
    shape: tuple[int, ...]
    strides: tuple[int, ...] | None
    dtype: str
    itemsize: int
    available: int
    device: str
    readonly: bool = False

    @property
    def contiguous(self) -> bool:
        """Whether the elements lie in C order without gaps."""
        if self.strides is None or 0 in self.shape:
            return True
        expected = self.itemsize
        for extent, stride in zip(reversed(self.shape), reversed(self.strides), strict=True):
            if extent != 1 and stride != expected:
                return False
            expected *= extent
        return True


Describe = Callable[[str, object], ArrayReference]


@dataclass(frozen=True)
class Bound:
    """Checked arguments of one launch.

    values: of every parameter but the scratch pointers, as the parameter block takes them.
    arrays: where the array arguments lie.
    """

    config: LaunchConfig
    values: Mapping[str, Raw]
    arrays: Mapping[str, ArrayReference]


class Binder:
    """Checks the arguments of launches of one entry.

    describe(name, value) says where an array argument lies, and raises AbiError, with the remedy,
    for a value that is no array of the launch's device.
    """

    def __init__(self, signature: Signature, sidecar: Sidecar, describe: Describe) -> None:
        self.signature = signature
        self.sidecar = sidecar
        self._describe = describe
        self._declarations = {p.name: p for p in sidecar.params}
        self._outputs = [p.name for p in sidecar.params if p.role == "output"]
        # Which names each array's declared extent depends on: what to look at again on a change.
        self._depends = {p.name: {p.name} | _names((*p.shape, *p.strides)) for p in sidecar.params}
        self._grid_names = _names(sidecar.grid or ())

    def bind(
        self, config: LaunchConfig, positional: Sequence[object], named: Mapping[str, object]
    ) -> Bound:
        """All arguments of a launch, checked.  Raises AbiError."""
        arguments = _assign(self.signature, positional, named)
        check_config(self.signature, self.sidecar, config)
        values, arrays = self._read(arguments)
        sizes = self._sizes(values)
        self._check_constraints(sizes, sizes.keys())
        self._check_grid(config, sizes)
        self._check_arrays(arrays, sizes, arguments.keys())
        return Bound(config, values, arrays)

    def rebind(self, bound: Bound, changes: Mapping[str, object]) -> Bound:
        """`bound` with some arguments changed; the grid follows the sidecar's rule.

        Only what a change can have touched is checked again.  Raises AbiError as `bind` does.
        """
        for name in changes:
            if name not in bound.values:
                expected = ", ".join(bound.values)
                raise AbiError(f"{self.signature.entry}: unknown {name}; expected {expected}")
        new_values, new_arrays = self._read(changes)
        values, arrays = {**bound.values, **new_values}, {**bound.arrays, **new_arrays}
        sizes = self._sizes(values)
        self._check_constraints(sizes, changes.keys())
        config = bound.config
        if self.sidecar.grid is not None and not self._grid_names.isdisjoint(changes):
            grid = tuple(rule(sizes) for rule in self.sidecar.grid)
            if grid != config.grid:
                config = LaunchConfig(grid, config.block, config.shared_bytes)
        self._check_arrays(arrays, sizes, changes.keys())
        return Bound(config, values, arrays)

    def _read(
        self, arguments: Mapping[str, object]
    ) -> tuple[dict[str, Raw], dict[str, ArrayReference]]:
        values: dict[str, Raw] = {}
        arrays: dict[str, ArrayReference] = {}
        for name, value in arguments.items():
            parameter = self.signature[name]
            address = _raw_address(parameter, value)
            if address is not None:
                values[name] = address
            elif _takes_array(parameter, value):
                arrays[name] = self._describe(name, value)
                values[name] = arrays[name].address
            else:
                values[name] = encode(parameter, value)
        return values, arrays

    def _sizes(self, values: Mapping[str, Raw]) -> dict[str, int]:
        """What rules may read: the integers of the launch, and the tile."""
        sizes = {name: value for name, value in values.items() if type(value) is int}
        return {**(self.sidecar.tile or {}), **sizes}

    def _check_constraints(self, sizes: Mapping[str, int], changed: Set[str]) -> None:
        for rule in self.sidecar.constraints:
            if not rule.names.isdisjoint(changed) and not rule(sizes):
                entry = self.signature.entry
                raise AbiError(f"{entry}: expected {rule.text}, found {rule.show(sizes)}")

    def _check_grid(self, config: LaunchConfig, sizes: Mapping[str, int]) -> None:
        rules = self.sidecar.grid
        if rules is None:
            return
        expected = tuple(rule(sizes) for rule in rules)
        if config.grid != expected:
            text = ", ".join(rule.text for rule in rules)
            used = ", ".join(f"{n} = {sizes[n]}" for n in sorted(self._grid_names))
            raise AbiError(f"grid: expected {expected} = ({text}) with {used}, found {config.grid}")

    def _check_arrays(
        self, arrays: Mapping[str, ArrayReference], sizes: Mapping[str, int], changed: Set[str]
    ) -> None:
        for name, array in arrays.items():
            if name not in self._declarations:
                _check_contiguous(name, array)
            elif not self._depends[name].isdisjoint(changed):
                check_array(self._declarations[name], array, sizes)
        for output in self._outputs:
            if output in arrays and not arrays.keys().isdisjoint(changed):
                _check_overlap(output, arrays)


def check_config(signature: Signature, sidecar: Sidecar, config: LaunchConfig) -> None:
    """Block and shared memory against what PTX and sidecar demand.  Raises AbiError."""
    expected = None
    if signature.reqntid is not None:
        x, y, z = (*signature.reqntid, 1, 1)[:3]
        expected, source = (x, y, z), "the PTX's .reqntid"
    elif sidecar.num_warps is not None:
        expected, source = (sidecar.num_warps * 32, 1, 1), "the sidecar's num_warps * 32"
    if expected is not None and config.block != expected:
        raise AbiError(f"block: expected {expected} ({source}), found {config.block}")
    if sidecar.shared_bytes is not None and config.shared_bytes != sidecar.shared_bytes:
        raise AbiError(
            f"shared_bytes: expected {sidecar.shared_bytes} (the sidecar's shared), "
            f"found {config.shared_bytes}"
        )


def check_array(declaration: Declaration, array: ArrayReference, sizes: Mapping[str, int]) -> None:
    """One array against its declaration: dtype, alignment, layout and length.  Raises AbiError."""
    name = declaration.name
    expected = POINTEE_DTYPES.get(declaration.type)
    if expected is not None and array.dtype != expected:
        raise AbiError(
            f"{name}: expected dtype {expected} ({declaration.type}), found {array.dtype}"
        )
    align = declaration.align or array.itemsize
    if array.address % align:
        raise AbiError(
            f"{name}: expected an address aligned to {align} bytes, found {array.address:#x}"
        )
    if declaration.role == "output" and array.readonly:
        raise AbiError(f"{name}: expected a writable array, found a read-only one")
    if not declaration.shape:
        return
    extents = [rule(sizes) for rule in declaration.shape]
    strides = [rule(sizes) for rule in declaration.strides]
    _check_layout(declaration, array, extents, strides)
    _check_length(declaration, array, extents, strides)


def _assign(
    signature: Signature, positional: Sequence[object], named: Mapping[str, object]
) -> dict[str, object]:
    expected = [p.name for p in signature.arguments]
    if len(positional) > len(expected):
        raise AbiError(
            f"{signature.entry}: expected {len(expected)} arguments "
            f"({', '.join(expected)}), found {len(positional)} by position"
        )
    arguments = dict(zip(expected, positional, strict=False))
    twice = sorted(arguments.keys() & named.keys())
    if twice:
        raise AbiError(f"{', '.join(twice)}: given by position and by name")
    scratch = [p.name for p in signature.scratch if p.name in named]
    if scratch:
        raise AbiError(f"{', '.join(scratch)}: the launcher fills in scratch; leave it out")
    arguments |= named
    missing = [name for name in expected if name not in arguments]
    extra = sorted(arguments.keys() - set(expected))
    if missing or extra:
        problems = [f"missing {', '.join(missing)}"] if missing else []
        problems += [f"unknown {', '.join(extra)}"] if extra else []
        raise AbiError(f"{signature.entry}: {'; '.join(problems)}; expected {', '.join(expected)}")
    return arguments


def _raw_address(parameter: Parameter, value: object) -> int | None:
    """An address that the caller spelt out: `c_void_p`, or None for NULL.

    Only where no sidecar declares the parameter; a declared array is checked, so it has to be one.
    """
    if parameter.size != 8 or parameter.c_type is not None:
        return None
    if value is None:
        return 0
    return value.value or 0 if isinstance(value, ctypes.c_void_p) else None


def _takes_array(parameter: Parameter, value: object) -> bool:
    """Whether `value` goes to a pointer; what neither PTX nor sidecar says, the value decides."""
    if parameter.is_pointer or parameter.c_type is not None or parameter.size != 8:
        return parameter.is_pointer
    return parameter.count is None and not isinstance(value, (int, float, bytes))


def _check_layout(
    declaration: Declaration, array: ArrayReference, extents: list[int], strides: list[int]
) -> None:
    """A strided array is right only where the stride arguments say the same strides."""
    if array.contiguous:
        return
    actual = [s // array.itemsize for s in array.strides or ()]
    steps = [stride for stride, extent in zip(strides, extents, strict=True) if extent > 1]
    matching = [s for s, extent in zip(actual, array.shape, strict=True) if extent > 1]
    if len(actual) != len(extents) or steps != matching:
        given = ", ".join(
            f"{rule.text} = {s}" for rule, s in zip(declaration.strides, strides, strict=True)
        )
        raise AbiError(
            f"{declaration.name}: expected a C-contiguous array, or one with the strides that the "
            f"launch states ({given}, in elements), found strides {actual} for shape "
            f"{array.shape}; copy it first"
        )


def _check_length(
    declaration: Declaration, array: ArrayReference, extents: list[int], strides: list[int]
) -> None:
    """The first and the last element that the kernel may touch lie inside the array."""
    if min(extents) <= 0:
        return
    reach = [(extent - 1) * stride for extent, stride in zip(extents, strides, strict=True)]
    if any(distance < 0 for distance in reach):
        raise AbiError(
            f"{declaration.name}: {_show(declaration.strides, strides)}: a negative "
            "stride reads before the array"
        )
    needed = (sum(reach) + 1) * array.itemsize
    if needed > array.available:
        raise AbiError(
            f"{declaration.name}: expected at least {needed} bytes for "
            f"{_show(declaration.shape, extents)} with strides "
            f"{_show(declaration.strides, strides)}, found {array.available} bytes "
            f"(shape {array.shape}, {array.dtype})"
        )


def _show(rules: tuple[Expression, ...], values: list[int]) -> str:
    text = ", ".join(rule.text for rule in rules)
    return f"({text}) = {tuple(values)}"


def _check_contiguous(name: str, array: ArrayReference) -> None:
    """Without a declaration nothing says what strides the kernel expects, so: none."""
    if not array.contiguous:
        raise AbiError(
            f"{name}: expected a C-contiguous array, found strides "
            f"{array.strides} bytes for shape {array.shape}; copy it first"
        )


def _check_overlap(output: str, arrays: Mapping[str, ArrayReference]) -> None:
    """An output shares no memory with another array: CTAs run in any order."""
    first = arrays[output]
    for name, other in arrays.items():
        if name != output and (
            first.address < other.address + other.available
            and other.address < first.address + first.available
        ):
            raise AbiError(
                f"{output}: shares memory with {name}; the kernel writes {output} "
                f"while other CTAs still read {name}: give it an array of its own"
            )


def _names(rules: Iterable[Expression]) -> set[str]:
    return {name for rule in rules for name in rule.names}
