"""The sidecar: what a launcher must know about a PTX and the PTX does not say.

One format, read leniently at one end and strictly at the other.  Triton's own metadata JSON
(`name`, `num_warps`, `shared`, scratch sizes, ...) is a sidecar as it is.  Ours adds the parameter
list, the tile, the grid rule, constraints and digests; with a parameter list, an unknown key is an
error, since it is most likely a misspelt check.

A parameter is an object of that list (`abi.declaration`).

An expression (`abi.expression`) reads the integer parameters and the names of the tile; a
constraint also the addresses of nullable arrays, 0 for one that is left out.  A tensor map has its
array's declared shape and strides; that of an array that is left out is zeros.  Workspace and
counters belong to one stream: launches on a stream use the same ones, one after the other.  So a
kernel that is launched with `launch_pdl` touches them only after `griddepcontrol.wait`.

`Sidecar.check` compares a sidecar with its PTX and names both sides of every disagreement.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Set
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from ..digest import sha256
from ..errors import AbiError
from ..machine_code import Cubin
from ..regular_file import read_regular
from . import sidecar_fields as read
from .declaration import Declaration, MapRule, read_declaration
from .expression import Expression
from .map_form import STEP
from .signature import FLOAT_TYPES, LAUNCHER_ROLES, MAP_TYPE, Role, Signature

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
_OF_THIS_BUILD = "take the sidecar of this build"


@dataclass(frozen=True)
class Scratch:
    """One scratch buffer that the launcher owes: `size` bytes a CTA, aligned to `align` bytes."""

    role: Role
    size: int
    align: int


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
        numbers = self.numbers_for(sizes)
        return tuple(rule(numbers) for rule in self.grid)

    @cached_property
    def _derivations(self) -> tuple[Declaration, ...]:
        """The derived integers, in the order in which they are computed."""
        return tuple(p for p in self.params if p.value is not None)

    def derived(self, sizes: Mapping[str, int]) -> dict[str, int]:
        """The derived integers by name, as far as these sizes and the tile tell them.

        Raises AbiError for one that its type does not hold.
        """
        found: dict[str, int] = {}
        values = {**(self.tile or {}), **sizes} if self._derivations else {}
        for declaration in self._derivations:
            if declaration.value is not None and declaration.value.names <= values.keys():
                value = found[declaration.name] = declaration.derive(values)
                values[declaration.name] = value
        return found

    def numbers_for(self, sizes: Mapping[str, int]) -> dict[str, int]:
        """The numbers that rules read: the tile, these sizes, and what is derived from both.

        Raises AbiError as `derived` does.
        """
        return {**(self.tile or {}), **sizes, **self.derived(sizes)}

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
    return sha256(text.encode()).hexdigest()


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
    params = tuple(read_declaration(i, p) for i, p in enumerate(read.sequence(fields, "params")))
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
    tile = frozenset(sidecar.tile or ())
    others = (*FLOAT_TYPES, MAP_TYPE)
    integers = {p.name for p in sidecar.params if p.type[:1] != "*" and p.type not in others}
    known = integers | tile
    nullable = {p.name for p in sidecar.params if p.nullable}
    rules = [*(sidecar.grid or ())]
    rules += [e for p in sidecar.params for e in (*p.shape, *p.strides)]
    rules += [p.nbytes for p in sidecar.params if p.nbytes is not None]
    what = "names of integer parameters or of the tile"
    for rule in rules:
        _require_known(rule, known, what)
    for rule in sidecar.constraints:
        _require_known(rule, known | nullable, what)
    later = {p.name for p in sidecar._derivations}
    for derived in sidecar._derivations:
        assert derived.value is not None
        _require_known(derived.value, known - later, f"{what}, derived ones ahead of it")
        later.remove(derived.name)
    for declaration in sidecar.params:
        if declaration.map is not None:
            _check_map(sidecar, declaration.name, declaration.map)
            for rule in declaration.map.box:
                _require_known(rule, tile, "names of the tile")


def _require_known(rule: Expression, known: Set[str], what: str) -> None:
    unknown = rule.names - known
    if unknown:
        raise AbiError(
            repr(rule.text),
            what,
            ", ".join(sorted(unknown)),
            where="sidecar",
            code="sidecar-misspelt",
        )


def _check_map(sidecar: Sidecar, name: str, rule: MapRule) -> None:
    """Check that a tensor map's array is one of which there can be a map."""
    given = (p for p in sidecar.params if p.type[:1] == "*" and p.role not in LAUNCHER_ROLES)
    array = next((p for p in given if p.name == rule.of), None)
    if array is None or not array.shape or (array.align or 1) % STEP:
        raise AbiError(
            "of",
            f"an array that the caller gives, with shape, strides and an align that {STEP} divides",
            f"{rule.of!r}",
            where=f"sidecar: {name}",
            code="sidecar-misspelt",
        )
    if len(rule.box) != len(array.shape):
        raise AbiError(
            "box",
            f"{len(array.shape)} expressions, one a dimension of {rule.of}",
            len(rule.box),
            where=f"sidecar: {name}",
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
