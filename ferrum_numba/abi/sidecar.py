"""The sidecar: what a launcher must know about a PTX and the PTX does not say.

One format, read leniently at one end and strictly at the other.  Triton's own metadata JSON
(`name`, `num_warps`, `shared`, scratch sizes, ...) is a sidecar as it is.  Ours adds the parameter
list, the tile, the grid rule, constraints and digests; with a parameter list, an unknown key is an
error, since it is most likely a misspelt check.

A parameter is an object of that list:

    name, type   as in the kernel's source, in Triton's terms: "M" "i32", "a" "*fp16"
    role         "input", "output", "size", "stride", "argument" (none of these), or memory that
                 the launcher provides and the caller never passes:
                 "workspace"        undefined at the start of a launch, undefined after it
                 "counters"         zero at the start of a launch; the kernel leaves them zero
                 "global_scratch", "profile_scratch"    Triton's own two pointers
    shape, strides   of an array: expressions in elements, one a dimension
    align        bytes that the address has to be a multiple of
    nullable     true: the caller may leave it out or give None, and the kernel gets NULL
    nbytes       of a workspace or of counters: an expression, evaluated for each launch

An expression (`abi.expression`) reads the integer parameters and the names of the tile; a
constraint also the addresses of nullable arrays, 0 for one that is left out.  Workspace and
counters belong to one stream: launches on a stream use the same ones, one after the other.  So a
kernel that is launched with `launch_pdl` touches them only after `griddepcontrol.wait`.

`Sidecar.check` compares a sidecar with its PTX and names both sides of every disagreement.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, get_args

from ..errors import AbiError
from ..machine_code import Cubin
from ..regular_file import read_regular
from . import sidecar_fields as read
from .expression import Expression
from .signature import SCRATCH_ROLES, Role, Signature

# Our PTX says in a comment what it was built with, so that a sidecar of another build is caught
# even where nobody computed a digest.
_BUILD_COMMENT = re.compile(r"^// ferrum-build: (\{.*\})\s*$", re.MULTILINE)

_PLAIN_KEYS = {
    *("name", "num_warps", "num_ctas", "num_stages", "shared", "target", "ptx_version"),
    *("launch_pdl", "launch_cooperative_grid"),
    *(f"{kind}_scratch_{what}" for kind in ("global", "profile") for what in ("size", "align")),
}
_OUR_KEYS = {
    *_PLAIN_KEYS,
    *("params", "tile", "constants", "grid", "constraints", "min_driver", "triton_version"),
    *("source", "source_sha256", "ptx_sha256"),
}
_OF_MACHINE_CODE = (0, 0)  # in place of a PTX version
_PARAMETER_KEYS = {"name", "type", "role", "shape", "strides", "align", "nullable", "nbytes"}
_OF_THIS_BUILD = "take the sidecar of this build"


@dataclass(frozen=True)
class Scratch:
    """One scratch buffer that the launcher owes: `size` bytes a CTA, aligned to `align` bytes."""

    role: Role
    size: int
    align: int


@dataclass(frozen=True)
class Declaration:
    """One parameter as the sidecar declares it.

    type: in Triton's terms, "i32" or "*fp16".  shape: extents of the array, in elements;
    strides: the names of the stride parameters, in elements, one an extent.  align: bytes.
    nullable: whether the caller may leave it out.  nbytes: of a workspace or counters.
    """

    name: str
    type: str
    role: Role
    shape: tuple[Expression, ...] = ()
    strides: tuple[Expression, ...] = ()
    align: int | None = None
    nullable: bool = False
    nbytes: Expression | None = None

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
        return fields


@dataclass(frozen=True, eq=False)
class Sidecar:
    """A parsed sidecar; a field that the JSON leaves out is None or empty.

    shared_bytes: dynamic shared memory a CTA, bytes.  grid: three expressions, or None.
    programmatic, cooperative: how the kernel was built to be launched, see LaunchConfig; in JSON
    Triton's keys `launch_pdl` and `launch_cooperative_grid`.
    """

    entry: str | None = None
    num_warps: int | None = None
    num_ctas: int = 1
    num_stages: int | None = None
    shared_bytes: int | None = None
    target: str | None = None
    ptx_version: tuple[int, int] | None = None
    scratch: tuple[Scratch, ...] = ()
    params: tuple[Declaration, ...] = ()
    tile: Mapping[str, int] | None = None
    constants: Mapping[str, int] | None = None
    grid: tuple[Expression, Expression, Expression] | None = None
    constraints: tuple[Expression, ...] = ()
    ptx_sha256: str | None = None
    programmatic: bool = False
    cooperative: bool = False

    def __repr__(self) -> str:
        if self.entry is None and not self.params:
            return "<Sidecar, empty>"
        return (
            f"<Sidecar of {self.entry}: {len(self.params)} parameters, {self.num_warps} warps, "
            f"{self.shared_bytes} bytes shared, {self.target}>"
        )

    @classmethod
    def read(cls, source: Sidecar | Mapping[str, Any] | str | Path | None) -> Sidecar:
        """Read a JSON file, by its path, JSON text, a mapping, or nothing.  Raises AbiError."""
        if source is None:
            return _EMPTY
        if isinstance(source, Sidecar):
            return source
        if isinstance(source, Mapping):
            return _parse(_dump(source))
        text = str(source)
        if isinstance(source, Path) or not text.lstrip().startswith("{"):
            try:
                text = read_regular(source).decode("utf-8")
            except (OSError, ValueError) as error:
                raise AbiError(f"sidecar {source}", f"cannot be read: {error}") from None
        return _parse(text)

    def declare(self, signature: Signature) -> Signature:
        """The signature with this sidecar's names, types and roles.  Raises AbiError."""
        if self.params:
            return signature.named([(p.name, p.type, p.role) for p in self.params])
        return signature.with_scratch([s.role for s in self.scratch])

    def to_mapping(self) -> dict[str, Any]:
        """The sidecar as its JSON has it: `Sidecar.read` of the result is this sidecar again."""
        fields: dict[str, Any] = {
            "name": self.entry,
            "num_warps": self.num_warps,
            "num_ctas": self.num_ctas,
            "num_stages": self.num_stages,
            "shared": self.shared_bytes,
            "target": self.target,
            "ptx_version": self.ptx_version and "{}.{}".format(*self.ptx_version),
            "tile": self.tile and dict(self.tile),
            "constants": self.constants and dict(self.constants),
            "grid": self.grid and [rule.text for rule in self.grid],
            "constraints": [rule.text for rule in self.constraints],
            "params": [p.to_mapping() for p in self.params],
            "ptx_sha256": self.ptx_sha256,
            "launch_pdl": self.programmatic or None,
            "launch_cooperative_grid": self.cooperative or None,
        }
        for scratch in self.scratch:
            fields |= {f"{scratch.role}_size": scratch.size, f"{scratch.role}_align": scratch.align}
        return {key: value for key, value in fields.items() if value not in (None, [])}

    def grid_for(self, sizes: Mapping[str, int]) -> tuple[int, ...] | None:
        """The grid (x, y, z) that the rule gives for these sizes; None where there is no rule."""
        if self.grid is None:
            return None
        values = {**(self.tile or {}), **sizes}
        return tuple(rule(values) for rule in self.grid)

    def check(self, code: str | Cubin, signature: Signature) -> None:
        """Compare with the PTX text, or the cubin, and its signature; AbiError names both sides."""
        for field, ours, theirs in (
            ("name", self.entry, signature.entry),
            ("target", self.target, signature.target),
            ("ptx_version", self.ptx_version, signature.ptx_version),
        ):
            # `sm_90` in Triton's metadata stands for the sm_90a that it writes into the PTX.
            same = ours == theirs or (field == "target" and f"{ours}a" == theirs)
            if ours is not None and theirs != _OF_MACHINE_CODE and not same:
                which = "PTX" if isinstance(code, str) else "cubin"
                raise AbiError(
                    field,
                    f"{_shown(theirs)}, as the {which} says",
                    f"{_shown(ours)} in the sidecar",
                    _OF_THIS_BUILD,
                )
        if self.num_warps is not None and signature.reqntid is not None:
            demanded = 1
            for extent in signature.reqntid:
                demanded *= extent
            if demanded != self.num_warps * 32:
                raise AbiError(
                    "num_warps",
                    f"{demanded} threads, as the PTX's .reqntid says",
                    f"{self.num_warps} ({self.num_warps * 32} threads) in the sidecar",
                    _OF_THIS_BUILD,
                )
        if not isinstance(code, str):
            return
        self._check_build(code)
        if self.ptx_sha256 is not None:
            digest = ptx_digest(code)
            if digest != self.ptx_sha256:
                raise AbiError(
                    "ptx_sha256",
                    f"{digest[:16]}…, this PTX's",
                    f"{self.ptx_sha256[:16]}… in the sidecar",
                    "one of the two is stale: rebuild both together",
                )

    def _check_build(self, text: str) -> None:
        comment = _BUILD_COMMENT.search(text)
        if comment is None:
            return
        build = read.load_json(comment[1], "the PTX's ferrum-build comment")
        mine = {
            "tile": self.tile,
            "constants": self.constants,
            "shared": self.shared_bytes,
            "num_stages": self.num_stages,
        }
        for key, built in build.items():
            said = mine.get(key)
            if said is not None and said != built:
                raise AbiError(
                    key,
                    f"{built}, with which the PTX was built",
                    f"{said} in the sidecar",
                    _OF_THIS_BUILD,
                )


_EMPTY = Sidecar()


def _shown(value: object) -> str:
    """A version as major.minor."""
    return ".".join(map(str, value)) if isinstance(value, tuple) else str(value)


def ptx_digest(text: str) -> str:
    """SHA-256 of PTX text, as sidecars state it."""
    return hashlib.sha256(text.encode()).hexdigest()


def _dump(mapping: Mapping[str, Any]) -> str:
    try:
        return json.dumps(mapping, sort_keys=True)
    except (TypeError, ValueError) as error:
        raise AbiError("sidecar", "JSON values", error) from None


@lru_cache(maxsize=128)
def _parse(text: str) -> Sidecar:
    fields = read.load_json(text, "sidecar")
    if "shared_mem" in fields:
        fields.setdefault("shared", fields["shared_mem"])
        if fields["shared"] != fields.pop("shared_mem"):
            raise AbiError(
                "shared",
                "the same number as shared_mem's",
                "another",
                "leave one of them out",
                where="sidecar",
            )
    if "params" in fields:
        unknown = sorted(fields.keys() - _OUR_KEYS)
        if unknown:
            raise AbiError(
                "sidecar",
                f"keys among {', '.join(sorted(_OUR_KEYS))}",
                f"unknown key {', '.join(unknown)}",
                code="sidecar-misspelt",
            )
    params = tuple(_declaration(i, p) for i, p in enumerate(read.sequence(fields, "params")))
    sidecar = Sidecar(
        entry=read.string(fields, "name"),
        num_warps=read.count(fields, "num_warps", 1, 32),
        num_ctas=read.count(fields, "num_ctas", 1, 16) or 1,
        num_stages=read.count(fields, "num_stages", 0, 64),
        shared_bytes=read.count(fields, "shared", 0, 2**31 - 1),
        target=read.target(fields.get("target")),
        ptx_version=read.ptx_version(fields.get("ptx_version")),
        scratch=_scratch(fields),
        params=params,
        tile=read.integers(fields, "tile"),
        constants=read.integers(fields, "constants"),
        grid=read.grid(read.sequence(fields, "grid")),
        constraints=tuple(map(read.expression_of, read.sequence(fields, "constraints"))),
        ptx_sha256=read.string(fields, "ptx_sha256"),
        programmatic=read.flag(fields, "launch_pdl"),
        cooperative=read.flag(fields, "launch_cooperative_grid"),
    )
    _check_names(sidecar)
    return sidecar


def _check_names(sidecar: Sidecar) -> None:
    """Check that every name in a rule is an integer parameter or a tile constant."""
    if not sidecar.params:
        return
    known = {p.name for p in sidecar.params if not p.type.startswith("*")} | (
        sidecar.tile or {}
    ).keys()
    nullable = {p.name for p in sidecar.params if p.nullable}
    rules = [*(sidecar.grid or ())]
    rules += [e for p in sidecar.params for e in (*p.shape, *p.strides)]
    rules += [p.nbytes for p in sidecar.params if p.nbytes is not None]
    for rule in [*rules, *sidecar.constraints]:
        unknown = rule.names - known
        if rule in sidecar.constraints:
            unknown -= nullable
        if unknown:
            raise AbiError(
                repr(rule.text),
                "names of integer parameters or of the tile",
                ", ".join(sorted(unknown)),
                where="sidecar",
                code="sidecar-misspelt",
            )


def _scratch(fields: Mapping[str, Any]) -> tuple[Scratch, ...]:
    """The scratch pointers in Triton's order; a kind whose size is not stated has no pointer."""
    scratch = []
    roles: tuple[Role, ...] = ("global_scratch", "profile_scratch")
    for role in roles:
        size = read.count(fields, f"{role}_size", 0, 2**31 - 1)
        align = read.count(fields, f"{role}_align", 1, 2**20)
        if size is not None:
            scratch.append(Scratch(role, size, align or 1))
    return tuple(scratch)


def _declaration(index: int, fields: object) -> Declaration:
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
    if type(nullable) is not bool or (nullable and (type_[:1] != "*" or role in SCRATCH_ROLES)):
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
    return Declaration(name, type_, role, shape, strides, align, nullable, nbytes)  # type: ignore[arg-type]
