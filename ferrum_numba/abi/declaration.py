"""Parameters as sidecars declare them.

A parameter is an object of the list `params`:

    name, type   as in the kernel's source, in Triton's terms: "M" "i32", "a" "*fp16"
    role         "input", "output", "size", "stride", "argument" (none of these), or what the
                 launcher fills in and the caller never passes:
                 "workspace"        memory, undefined at the start of a launch and after it
                 "counters"         memory, zero at the start; the kernel leaves it zero
                 "global_scratch", "profile_scratch"    Triton's own two pointers
                 "derived"          an integer (i32, i64), computed from the launch's
                 "tensor_map"       128 bytes by value ("tensordesc"): an array's tensor map
    shape, strides   of an array: expressions in elements, one a dimension
    align        bytes that the address has to be a multiple of
    nullable     true: the caller may leave it out or give None, and the kernel gets NULL
    nbytes       of a workspace or of counters: an expression, evaluated for each launch
    value        of a derived integer: an expression, which reads derived ones ahead of it, too
    of, box      of a tensor map: the array, and expressions over the tile, in elements
    swizzle, l2  of a tensor map: bytes, as `TensorMap` has them; left out for none
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from ..errors import AbiError
from . import sidecar_fields as read
from .expression import Expression
from .map_form import PROMOTIONS, SWIZZLES
from .signature import LAUNCHER_ROLES, MAP_TYPE, Role

_MAP_KEYS = {"of", "box", "swizzle", "l2"}
_PARAMETER_KEYS = {
    *("name", "type", "role", "shape", "strides", "align", "nullable", "nbytes", "value"),
    *_MAP_KEYS,
}
_DERIVED_TYPES = ("i32", "i64")


@dataclass(frozen=True)
class MapRule:
    """A tensor map as it is to be made: its array, the box in elements, the rest in bytes."""

    of: str
    box: tuple[Expression, ...]
    swizzle: int | None = None
    l2: int | None = None


@dataclass(frozen=True)
class Declaration:
    """One parameter as the sidecar declares it.

    type: in Triton's terms, "i32" or "*fp16".  shape: extents of the array, in elements;
    strides: the names of the stride parameters, in elements, one an extent.  align: bytes.
    nullable: whether the caller may leave it out.  nbytes: of a workspace or counters.  value: of
    a derived integer.  map: of a tensor map.
    """

    name: str
    type: str
    role: Role
    shape: tuple[Expression, ...] = ()
    strides: tuple[Expression, ...] = ()
    align: int | None = None
    nullable: bool = False
    nbytes: Expression | None = None
    value: Expression | None = None
    map: MapRule | None = None

    @property
    def rule(self) -> str:
        """The rule by which the launcher computes the parameter; empty for any other."""
        if self.map is not None:
            numbers = [("swizzle", self.map.swizzle), ("l2", self.map.l2)]
            more = "".join(f", {name} {number}" for name, number in numbers if number)
            return f"of {self.map.of}, box [{', '.join(e.text for e in self.map.box)}]{more}"
        return f"= {self.value.text}" if self.value is not None else ""

    def to_mapping(self) -> dict[str, Any]:
        """The declaration as the sidecar's JSON has it."""
        fields: dict[str, Any] = {"name": self.name, "type": self.type, "role": self.role}
        if self.shape:
            fields["shape"] = [rule.text for rule in self.shape]
            fields["strides"] = [rule.text for rule in self.strides]
        if self.align is not None:
            fields["align"] = self.align
        if self.nullable:
            fields["nullable"] = True
        if self.nbytes is not None:
            fields["nbytes"] = self.nbytes.text
        if self.value is not None:
            fields["value"] = self.value.text
        if self.map is not None:
            fields |= {"of": self.map.of, "box": [rule.text for rule in self.map.box]}
            given = {"swizzle": self.map.swizzle, "l2": self.map.l2}
            fields |= {key: value for key, value in given.items() if value is not None}
        return fields

    def derive(self, values: Mapping[str, int]) -> int:
        """The value of a derived integer.  Raises AbiError for one that its type does not hold."""
        assert self.value is not None
        try:
            found = self.value(values)
        except AbiError as error:
            error.within(self.name)
            raise
        limit = 1 << (int(self.type[1:]) - 1)
        if not -limit <= found < limit:
            raise AbiError(
                self.name,
                f"{-limit} to {limit - 1} ({self.type})",
                f"{found} = {self.value.text} with {self.value.show(values)}",
            )
        return found


def read_declaration(index: int, fields: object) -> Declaration:
    """The parameter of a number, from the sidecar's JSON.  Raises AbiError."""
    if not isinstance(fields, dict) or not {"name", "type", "role"} <= fields.keys():
        raise AbiError(f"params[{index}]", "name, type and role", f"{fields!r}", where="sidecar")
    unknown = sorted(fields.keys() - _PARAMETER_KEYS)
    if unknown:
        raise AbiError(
            f"params[{index}]",
            f"keys among {', '.join(sorted(_PARAMETER_KEYS))}",
            f"unknown key {', '.join(unknown)}",
            where="sidecar",
            code="sidecar-misspelt",
        )
    name, type_, role = (read.string(fields, key) or "" for key in ("name", "type", "role"))
    if role not in get_args(Role):
        raise AbiError(
            "role",
            f"one of {', '.join(get_args(Role))}",
            f"{role!r}",
            where=f"sidecar: {name}",
            code="sidecar-misspelt",
        )
    shape = tuple(map(read.expression_of, read.sequence(fields, "shape")))
    strides = tuple(map(read.expression_of, read.sequence(fields, "strides")))
    if len(shape) != len(strides):
        raise AbiError(
            name,
            "as many strides as extents",
            f"{len(shape)} extents but {len(strides)} strides",
            where="sidecar",
        )
    align = read.count(fields, "align", 1, 4096)
    nullable = fields.get("nullable", False)
    if type(nullable) is not bool or (nullable and (type_[:1] != "*" or role in LAUNCHER_ROLES)):
        raise AbiError(
            "nullable",
            "true or false, and true only for a pointer that the caller gives",
            f"{nullable!r} for {type_} ({role})",
            where=f"sidecar: {name}",
        )
    nbytes = read.expression_of(fields["nbytes"]) if "nbytes" in fields else None
    if (nbytes is not None) != (role in ("workspace", "counters")) or (nbytes and type_[:1] != "*"):
        raise AbiError(
            name,
            "nbytes for a pointer of role workspace or counters, and for no other",
            f"{(nbytes.text if nbytes else 'none')} for {type_} ({role})",
            where="sidecar",
        )
    value = read.expression_of(fields["value"]) if "value" in fields else None
    if (value is not None) != (role == "derived") or (value and type_ not in _DERIVED_TYPES):
        raise AbiError(
            name,
            f"a value for {' or '.join(_DERIVED_TYPES)} of role derived, and for no other",
            f"{(value.text if value else 'none')} for {type_} ({role})",
            where="sidecar",
        )
    rule = _map_rule(name, type_, role, fields)
    return Declaration(name, type_, role, shape, strides, align, nullable, nbytes, value, rule)  # type: ignore[arg-type]


def _map_rule(name: str, type_: str, role: str, fields: Mapping[str, Any]) -> MapRule | None:
    of = read.string(fields, "of")
    box = tuple(map(read.expression_of, read.sequence(fields, "box")))
    given = fields.keys() & _MAP_KEYS
    if role != "tensor_map" and not given:
        return None
    if role != "tensor_map" or type_ != MAP_TYPE or not of or not box:
        raise AbiError(
            name,
            f"of and box for a {MAP_TYPE} of role tensor_map, and for no other",
            f"{', '.join(sorted(given)) or 'none'} for {type_} ({role})",
            where="sidecar",
        )
    for key, known in (("swizzle", SWIZZLES), ("l2", PROMOTIONS)):
        if fields.get(key) not in known:
            numbers = ", ".join(str(n) for n in known if n)
            found = f"{fields[key]!r}"
            raise AbiError(key, f"one of {numbers}, or none", found, where=f"sidecar: {name}")
    return MapRule(of, box, fields.get("swizzle"), fields.get("l2"))
