"""A whole launch from a few of its values: what the sidecar says of the rest.

For looking at, not for launching: arrays that nobody gave get addresses that no memory has.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from ...abi.arrays import POINTEE_DTYPES, ArrayReference
from ...abi.sidecar import Sidecar
from ...abi.signature import SCRATCH_ROLES, Parameter, Signature
from ...devices import tensor_map
from ...errors import AbiError
from .notation import dtype_nbytes, is_array, read_array

_FIRST_ADDRESS = 0x7F00_0000_0000
_STEP = 1 << 21  # bytes, as drivers map memory


@dataclass(frozen=True)
class Proposal:
    """Values of all parameters, as `ParameterBlock.set` takes them, and where arrays lie.

    assumed: the parameters that nobody gave.
    """

    values: Mapping[str, object]
    arrays: Mapping[str, ArrayReference]
    assumed: frozenset[str]


def propose(signature: Signature, sidecar: Sidecar, given: Mapping[str, str]) -> Proposal:
    """Complete a launch.

    given: by parameter name, an integer, a number, an address or an array as text
    ("float16[4, 4096]@0x7f0000000000"), or for an aggregate the hex digits of its bytes.  Strides
    that are not given are those of arrays in C order, arrays those that the sidecar declares; what
    the launcher computes follows from them.

    Raises AbiError for a value that cannot be read; what is neither given nor declared is left out.
    """
    values: dict[str, object] = {}
    arrays: dict[str, ArrayReference] = {}
    free = _FIRST_ADDRESS
    for name, text in given.items():
        parameter = signature[name]
        if is_array(text):
            arrays[name] = read_array(name, text, free)
            values[name] = arrays[name].address
            free = _behind(free, arrays[name])
        else:
            values[name] = _read(parameter, text)
    sizes = {**(sidecar.tile or {}), **{n: v for n, v in values.items() if type(v) is int}}
    sizes = {**sidecar.derived(sizes), **sizes}
    integers = {p.name for p in signature.params if not p.is_pointer}
    for declaration in sidecar.params:
        if not all(rule.names <= sizes.keys() for rule in declaration.shape):
            continue
        extents = [max(rule(sizes), 0) for rule in declaration.shape]
        step = 1
        for rule, extent in zip(reversed(declaration.strides), reversed(extents), strict=True):
            if rule.text in integers and rule.text not in values:
                values[rule.text] = sizes[rule.text] = step
            step *= extent
        dtype = POINTEE_DTYPES.get(declaration.type)
        if declaration.shape and dtype is not None and declaration.name not in values:
            nbytes = prod(extents) * dtype_nbytes(dtype)
            arrays[declaration.name] = ArrayReference(
                free, tuple(extents), None, dtype, dtype_nbytes(dtype), nbytes, device=""
            )
            values[declaration.name] = free
            free = _behind(free, arrays[declaration.name])
    sizes = {**sidecar.derived(sizes), **sizes}  # with the strides
    computed: dict[str, object] = {n: sizes[n] for n in signature.computed if n in sizes}
    computed |= tensor_map.maps_of(sidecar, arrays, sizes)
    values |= {p.name: 0 for p in sidecar.params if p.nullable and p.name not in values}
    assumed = frozenset(values.keys() - given.keys())
    return Proposal({**computed, **values}, arrays, assumed)


def _behind(free: int, array: ArrayReference) -> int:
    """The next address that is free, arrays that were given with an address left alone."""
    if array.address != free:
        return free
    return -(-(free + max(array.available, 1)) // _STEP) * _STEP


def _read(parameter: Parameter, text: str) -> object:
    """A value of the parameter's kind from text."""
    if parameter.count is not None:
        try:
            return bytes.fromhex(text.removeprefix("0x"))
        except ValueError:
            raise AbiError(
                parameter.name,
                f"hex digits for .{parameter.ptx_type}[{parameter.count}]",
                f"{text!r}",
            ) from None
    if text.lower() in ("null", "none") and (
        parameter.is_pointer or parameter.role in SCRATCH_ROLES
    ):
        return 0
    for read in (lambda: int(text, 0), lambda: float(text)):
        try:
            return read()
        except ValueError:
            continue
    raise AbiError(
        parameter.name,
        "a number, an address, or an array such as float16[4, 4096]@0x7f0000000000",
        f"{text!r}",
    )
