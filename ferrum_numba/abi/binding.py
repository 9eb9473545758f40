"""Parameter values made of a caller's arguments, and checked.

Everything that PTX and sidecar know about a launch is held against what the caller gave: names and
number of arguments, types and ranges, array dtypes, alignment, device and extent, the grid.  What
is wrong raises AbiError before anything is launched.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from numbers import Number
from typing import NamedTuple

from ..errors import AbiError
from .arrays import (
    ArrayReference,
    Mapped,
    check_array,
    check_contiguous,
    check_overlap,
    mapped,
)
from .block import Raw, encode
from .expression import Expression
from .launch import LaunchConfig
from .map_form import MapForm
from .sidecar import Sidecar
from .signature import MAP_NBYTES, Parameter, Signature

Describe = Callable[[str, object], ArrayReference]
MakeMap = Callable[[MapForm, int], bytes]  # of an array at an address
_INTEGERS = frozenset(("i8", "u8", "i16", "u16", "i32", "u32", "i64", "u64"))
_SCRATCH_ALIGN = 16  # bytes, of a workspace or counters where the sidecar does not say


@dataclass(frozen=True)
class Demand:
    """Scratch memory that a launch owes one parameter: `nbytes` bytes, aligned to `align`.

    zeroed: whether it has to be zero when the launch starts.
    """

    name: str
    nbytes: int
    align: int
    zeroed: bool


@dataclass(frozen=True)
class Bound:
    """Checked arguments of one launch.

    values: of every parameter but the scratch pointers, as the parameter block takes them.
    arrays: where the array arguments lie.
    scratch: what the launcher has to provide; a scratch pointer that is not in it stays NULL.
    maps: the tensor maps that it makes, by parameter; those of arrays that are left out are not
    here.
    """

    config: LaunchConfig
    values: Mapping[str, Raw]
    arrays: Mapping[str, ArrayReference]
    scratch: tuple[Demand, ...] = ()
    maps: Mapping[str, Mapped] = field(default_factory=dict)

    def at(self, addresses: Mapping[str, int], maps: Mapping[str, bytes]) -> Bound:
        """The same arguments, some arrays at other addresses; maps: all, as they are there."""
        moved = {name: replace(self.arrays[name], address=a) for name, a in addresses.items()}
        values, arrays = {**self.values, **addresses, **maps}, {**self.arrays, **moved}
        return Bound(self.config, values, arrays, self.scratch, self.maps)


class Movable(NamedTuple):
    """Replacement of an array by one that lies elsewhere and is otherwise alike.

    align, nbytes: of its address, and from there on.  apart: names and bytes of the arrays that it
    shares no memory with.
    """

    align: int
    nbytes: int
    apart: tuple[tuple[str, int], ...]


class Binder:
    """Checks the arguments of launches of one entry.

    describe(name, value) says where an array argument lies, and raises AbiError, with the remedy,
    for a value that is no array of the launch's device.  make_map(form, address) makes a tensor map
    for that device.
    """

    def __init__(
        self,
        signature: Signature,
        sidecar: Sidecar,
        describe: Describe,
        make_map: MakeMap,
        unread: Iterable[str] = (),
    ) -> None:
        """unread: pointers that may be left out, as the kernel does not look at them."""
        self.signature = signature
        self.sidecar = sidecar
        self._describe, self._make_map = describe, make_map
        self._declarations = {p.name: p for p in sidecar.params}
        self._outputs = [p.name for p in sidecar.params if p.role == "output"]
        # Which names each array's declared extent depends on: what to look at again on a change.
        self._depends = {p.name: {p.name} | _names((*p.shape, *p.strides)) for p in sidecar.params}
        self._grid_names = _names(sidecar.grid or ())
        self._constrained = _names(sidecar.constraints)
        derived = {p.name for p in sidecar.params if p.value is not None}
        self._given_rules = [r for r in sidecar.constraints if r.names.isdisjoint(derived)]
        self._derived_rules = [r for r in sidecar.constraints if not r.names.isdisjoint(derived)]
        self._maps = [(p.name, p.map) for p in sidecar.params if p.map is not None]
        # Also of arrays, whose address a constraint may read.
        self._weighed = frozenset().union(*(rule.weighed for rule in sidecar.constraints))
        self._nullable = {p.name for p in sidecar.params if p.nullable}.union(unread)
        self._integers = {
            p.name: p.integer_range
            for p in signature.arguments
            if p.c_type in _INTEGERS and not p.is_pointer
        }

    def bind(
        self, config: LaunchConfig, positional: Sequence[object], named: Mapping[str, object]
    ) -> Bound:
        """All arguments of a launch, checked.  Raises AbiError."""
        arguments = _assign(self.signature, positional, named, self._nullable)
        check_config(self.signature, self.sidecar, config)
        values, arrays = self._read(arguments)
        sizes, changed = self._derive(values, {*arguments, *(self.sidecar.tile or ())})
        self._check_grid(config, sizes)
        self._check_arrays(arrays, sizes, changed)
        maps = self._map(values, arrays, sizes)
        return Bound(config, values, arrays, self._demands(config, sizes), maps)

    def rebind(self, bound: Bound, changes: Mapping[str, object]) -> Bound:
        """`bound` with some arguments changed; the grid follows the sidecar's rule.

        Only what a change can have touched is checked again.  Raises AbiError as `bind` does.
        """
        _refuse_filled_in(self.signature, changes)
        for name in changes:
            if name not in bound.values:
                expected = ", ".join(p.name for p in self.signature.arguments)
                raise AbiError(self.signature.entry, f"the arguments {expected}", f"unknown {name}")
        new_values, new_arrays = self._read(changes)
        values = {**bound.values, **new_values}
        kept = {name: array for name, array in bound.arrays.items() if name not in changes}
        arrays = {**kept, **new_arrays}
        if len(new_arrays) == len(changes) and self._only_moved(new_arrays, bound.arrays):
            self._check_overlaps(arrays, changes.keys())
            for name, (of, form) in bound.maps.items():
                if of in new_arrays:
                    values[name] = self._make_map(form, new_arrays[of].address)
            return Bound(bound.config, values, arrays, bound.scratch, bound.maps)
        sizes, changed = self._derive(values, changes.keys())
        config = bound.config
        if self.sidecar.grid is not None and not self._grid_names.isdisjoint(changed):
            x, y, z = (rule(sizes) for rule in self.sidecar.grid)
            grid = (x, y, z)
            if grid != config.grid:
                config = replace(config, grid=grid)
                check_config(self.signature, self.sidecar, config)
        self._check_arrays(arrays, sizes, changed)
        maps = self._map(values, arrays, sizes)
        return Bound(config, values, arrays, self._demands(config, sizes), maps)

    def movable(self, bound: Bound) -> dict[str, Movable]:
        """Conditions under which another array may replace each array of a launch.

        An array is left out whose address a constraint reads: it has to be looked at each time.
        """
        nbytes = {name: array.available for name, array in bound.arrays.items()}
        found = {}
        for name, array in bound.arrays.items():
            if name in self._weighed:
                continue
            declaration = self._declarations.get(name)
            align = (declaration.align or array.itemsize) if declaration is not None else 1
            others = nbytes if name in self._outputs else self._outputs
            apart = tuple((n, nbytes[n]) for n in others if n != name and n in nbytes)
            found[name] = Movable(align, array.available, apart)
        return found

    def _only_moved(
        self, new: Mapping[str, ArrayReference], old: Mapping[str, ArrayReference]
    ) -> bool:
        """True if arrays differ from those before in their addresses only, equally aligned."""
        for name, array in new.items():
            before, declaration = old.get(name), self._declarations.get(name)
            if before is None or declaration is None or name in self._weighed:
                return False
            if array.address % (declaration.align or array.itemsize):
                return False
            if not array.alike(before):
                return False
        return True

    def _demands(self, config: LaunchConfig, sizes: Mapping[str, int]) -> tuple[Demand, ...]:
        demands = []
        for parameter in self.signature.scratch:
            name, role = parameter.name, parameter.role
            declaration = self._declarations.get(name)
            if declaration is not None and declaration.nbytes is not None:
                nbytes, align = declaration.nbytes(sizes), declaration.align or _SCRATCH_ALIGN
                demands.append(Demand(name, nbytes, align, role == "counters"))
                continue
            for scratch in self.sidecar.scratch:
                if scratch.role == role:
                    nbytes = config.ctas * self.sidecar.num_ctas * scratch.size
                    demands.append(Demand(name, nbytes, scratch.align, False))
        # A pointer to nothing stays NULL: the kernel never reads it.
        return tuple(demand for demand in demands if demand.nbytes > 0)

    def _read(
        self, arguments: Mapping[str, object]
    ) -> tuple[dict[str, Raw], dict[str, ArrayReference]]:
        values: dict[str, Raw] = {}
        arrays: dict[str, ArrayReference] = {}
        for name, value in arguments.items():
            limits = self._integers.get(name)
            if limits is not None and type(value) is int and limits[0] <= value <= limits[1]:
                values[name] = value
                continue
            parameter = self.signature[name]
            address = _raw_address(parameter, value)
            if value is None and name in self._nullable:
                values[name] = 0
            elif address is not None:
                values[name] = address
            elif _takes_array(parameter, value):
                if parameter.c_type is None and isinstance(value, int):
                    raise AbiError(
                        name,
                        "an array",
                        f"the integer {value}",
                        "None stands for NULL, ctypes.c_void_p for an address",
                    )
                array = arrays[name] = self._describe(name, value)
                if array.available and not array.address:
                    raise AbiError(
                        name,
                        "memory",
                        f"an array of {array.available} bytes at address 0",
                        "was it freed?",
                    )
                values[name] = array.address
            else:
                mapped = getattr(value, "tensor_map_of", None)
                if mapped is not None:  # it has to be made for the launch's device
                    self._describe(name, mapped)
                values[name] = encode(parameter, value)
        return values, arrays

    def _derive(self, values: dict[str, Raw], changed: Set[str]) -> tuple[dict[str, int], Set[str]]:
        """Put the derived integers among the values, and check the constraints.

        Returns what rules may read (the integers of the launch, and the tile), and `changed` with
        the derived integers that are others than before.
        """
        sizes = {name: value for name, value in values.items() if type(value) is int}
        sizes = {**(self.sidecar.tile or {}), **sizes}
        # Ahead of what is derived: of sizes that no launch may have all else is nonsense.
        self._check_constraints(self._given_rules, sizes, changed)
        derived = self.sidecar.derived(sizes)
        if derived:
            changed = changed | {n for n, value in derived.items() if values.get(n) != value}
            values |= derived
            sizes |= derived
            self._check_constraints(self._derived_rules, sizes, changed)
        return sizes, changed

    def _map(
        self,
        values: dict[str, Raw],
        arrays: Mapping[str, ArrayReference],
        sizes: Mapping[str, int],
    ) -> dict[str, Mapped]:
        """Put the tensor maps among the values; of an array that is left out it is zeros."""
        maps = {}
        for name, rule in self._maps:
            values[name] = bytes(MAP_NBYTES)
            try:
                found = mapped(rule, self._declarations, arrays, sizes)
                if found is not None:
                    values[name] = self._make_map(found.form, arrays[rule.of].address)
                    maps[name] = found
            except AbiError as error:
                error.part_of(name)
                raise
        return maps

    def _check_constraints(
        self, rules: Sequence[Expression], sizes: Mapping[str, int], changed: Set[str]
    ) -> None:
        if self._constrained.isdisjoint(changed):
            return
        for rule in rules:
            if not rule.names.isdisjoint(changed) and not rule(sizes):
                entry = self.signature.entry
                raise AbiError(entry, rule.text, rule.show(sizes))

    def _check_grid(self, config: LaunchConfig, sizes: Mapping[str, int]) -> None:
        rules = self.sidecar.grid
        if rules is None:
            return
        expected = tuple(rule(sizes) for rule in rules)
        if config.grid != expected:
            text = ", ".join(rule.text for rule in rules)
            used = ", ".join(f"{n} = {sizes[n]}" for n in sorted(self._grid_names))
            raise AbiError("grid", f"{expected} = ({text}) with {used}", config.grid)

    def _check_arrays(
        self, arrays: Mapping[str, ArrayReference], sizes: Mapping[str, int], changed: Set[str]
    ) -> None:
        for name, array in arrays.items():
            if name not in self._declarations:
                check_contiguous(name, array)
            elif not self._depends[name].isdisjoint(changed):
                check_array(self._declarations[name], array, sizes)
        self._check_overlaps(arrays, changed)

    def _check_overlaps(self, arrays: Mapping[str, ArrayReference], changed: Set[str]) -> None:
        for output in self._outputs:
            if output in arrays and not arrays.keys().isdisjoint(changed):
                check_overlap(output, arrays)


def check_config(signature: Signature, sidecar: Sidecar, config: LaunchConfig) -> None:
    """Block and shared memory against what PTX and sidecar demand.  Raises AbiError."""
    expected = None
    if signature.reqntid is not None:
        x, y, z = (*signature.reqntid, 1, 1)[:3]
        expected, source = (x, y, z), "the PTX's .reqntid"
    elif sidecar.num_warps is not None:
        expected, source = (sidecar.num_warps * 32, 1, 1), "the sidecar's num_warps * 32"
    if expected is not None and config.block != expected:
        raise AbiError("block", f"{expected} ({source})", config.block)
    if signature.maxntid is not None and config.threads > math.prod(signature.maxntid):
        raise AbiError(
            "block",
            f"at most {math.prod(signature.maxntid)} threads (the PTX's .maxntid)",
            f"{config.threads} {config.block}",
        )
    if signature.cluster is not None:
        x, y, z = (*signature.cluster, 1, 1)[:3]
        if config.cluster not in (None, (x, y, z)):
            raise AbiError(
                "cluster", f"{(x, y, z)} (the PTX's .reqnctapercluster) or None", config.cluster
            )
        replace(config, cluster=(x, y, z))  # refuses a grid that they do not divide
    if sidecar.cooperative and not config.cooperative:
        raise AbiError(
            "cooperative",
            ("True (the sidecar's launch_cooperative_grid), since the CTAs wait for each other"),
            "False",
        )
    if sidecar.shared_bytes is not None and config.shared_bytes != sidecar.shared_bytes:
        raise AbiError(
            "shared_bytes", f"{sidecar.shared_bytes} (the sidecar's shared)", config.shared_bytes
        )


def _assign(
    signature: Signature,
    positional: Sequence[object],
    named: Mapping[str, object],
    nullable: Set[str],
) -> dict[str, object]:
    expected = [p.name for p in signature.arguments]
    if len(positional) > len(expected):
        raise AbiError(
            signature.entry,
            f"{len(expected)} arguments ({', '.join(expected)})",
            f"{len(positional)} by position",
        )
    arguments = dict(zip(expected, positional, strict=False))
    twice = sorted(arguments.keys() & named.keys())
    if twice:
        raise AbiError(", ".join(twice), "given by position and by name")
    _refuse_filled_in(signature, named)
    arguments |= named
    for name in nullable:
        arguments.setdefault(name, None)
    missing = [name for name in expected if name not in arguments]
    extra = sorted(arguments.keys() - set(expected))
    if missing or extra:
        problems = [f"none for {', '.join(missing)}"] if missing else []
        problems += [f"unknown {', '.join(extra)}"] if extra else []
        given = [f"{len(positional)} by position"] if positional and not named else []
        raise AbiError(
            signature.entry, f"the arguments {', '.join(expected)}", "; ".join([*problems, *given])
        )
    return arguments


def _refuse_filled_in(signature: Signature, named: Mapping[str, object]) -> None:
    filled = signature.filled_in & named.keys()
    if filled:
        raise AbiError(", ".join(sorted(filled)), "the launcher fills it in", remedy="leave it out")


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
    """True if `value` goes to a pointer; what neither PTX nor sidecar says, the value decides."""
    if parameter.is_pointer or parameter.c_type is not None or parameter.size != 8:
        return parameter.is_pointer
    return parameter.count is None and not isinstance(value, (Number, bytes))


def _names(rules: Iterable[Expression]) -> set[str]:
    return {name for rule in rules for name in rule.names}
