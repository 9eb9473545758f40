"""The parameter block with a meaning for each of its bytes: what a launch really hands over."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from ...abi.arrays import POINTEE_DTYPES, ArrayReference, reach
from ...abi.block import ParameterBlock, Raw, decode
from ...abi.declaration import Declaration
from ...abi.launch import LaunchConfig
from ...abi.sidecar import Sidecar
from ...abi.signature import Parameter, Signature
from ...errors import AbiError
from .notation import dtype_nbytes


@dataclass(frozen=True)
class Field:
    """One parameter's bytes, and what they say.

    value: in the kernel's own terms: an address or an integer, a number, an aggregate's bytes.
    owner, array: whose array the address lies in, and that array; None where none is known.
    needed: bytes from the address on that the kernel may touch, by the sidecar; None where it
    does not say.  nullable: whether NULL is allowed there.
    meaning: what an integer stands for, by the sidecar, such as "size of a[0], c[0]" (axes), and
    the rule of what the launcher computes; else empty.
    """

    parameter: Parameter
    data: bytes
    value: Raw
    owner: str | None = None
    array: ArrayReference | None = None
    needed: int | None = None
    nullable: bool = False
    meaning: str = ""

    @property
    def offset(self) -> int:
        """Offset of the bytes in the block."""
        return self.parameter.offset

    @property
    def address(self) -> int | None:
        """The value, where it is known to be an address."""
        known = self.parameter.is_pointer or self.array is not None
        return self.value if known and isinstance(self.value, int) else None

    @property
    def inside(self) -> int | None:
        """Bytes from the array's first element to where the address points."""
        if self.array is None or not isinstance(self.value, int):
            return None
        return self.value - self.array.address

    @property
    def slack(self) -> int | None:
        """Bytes of the array that are left beyond what the kernel may touch; negative: too few."""
        if self.array is None or self.inside is None or self.needed is None:
            return None
        return self.array.available - self.inside - self.needed


@dataclass(frozen=True, eq=False)
class AnnotatedBlock:
    """A whole block.

    arrays: those that the launch is known to use, by parameter name.
    filled: whether the launcher has put its scratch addresses in.
    """

    signature: Signature
    sidecar: Sidecar
    data: bytes
    fields: tuple[Field, ...]
    arrays: Mapping[str, ArrayReference]
    config: LaunchConfig | None = None
    filled: bool = True

    def __getitem__(self, name: str) -> Field:
        return self.fields[self.signature[name].index]

    @cached_property
    def sizes(self) -> dict[str, int]:
        """The names that the sidecar's rules read: the tile, and the integers of this block."""
        return {**(self.sidecar.tile or {}), **_integers(self.fields)}

    @cached_property
    def values(self) -> dict[str, Raw]:
        """All values, as `ParameterBlock.set` takes them."""
        return {field.parameter.name: field.value for field in self.fields}

    def parts(self) -> Iterator[tuple[int, bytes, Field | None]]:
        """The block from its first byte to its last: (offset, bytes, field; None for padding)."""
        end = 0
        for field in self.fields:
            if field.offset > end:
                yield end, self.data[end : field.offset], None
            yield field.offset, field.data, field
            end = field.offset + len(field.data)


def annotate(
    signature: Signature,
    data: bytes,
    sidecar: Sidecar | None = None,
    arrays: Mapping[str, ArrayReference] | None = None,
    config: LaunchConfig | None = None,
    *,
    filled: bool = True,
) -> AnnotatedBlock:
    """Say what the bytes of a block mean.

    signature: as `sidecar.declare` gives it, where there is a sidecar.
    arrays: where the launch's arrays lie, by parameter name; an address is looked up in all.
    filled: False for a block as the caller gives it, into which the launcher has yet to put the
    addresses of scratch memory.

    Raises AbiError for another number of bytes than the signature has.
    """
    ParameterBlock.from_bytes(signature, data)
    sidecar, arrays = sidecar or Sidecar(), arrays or {}
    plain = [
        Field(p, bits, decode(p, bits))
        for p in signature.params
        for bits in (data[p.offset : p.offset + p.size],)
    ]
    sizes = {**(sidecar.tile or {}), **_integers(plain)}
    declarations = {p.name: p for p in sidecar.params}
    fields = tuple(_with_meaning(f, declarations, sizes, arrays) for f in plain)
    return AnnotatedBlock(signature, sidecar, data, fields, arrays, config, filled)


@dataclass(frozen=True)
class Difference:
    """A parameter of two blocks of one signature."""

    a: Field
    b: Field

    @property
    def name(self) -> str:
        """The parameter."""
        return self.a.parameter.name


def differences(a: AnnotatedBlock, b: AnnotatedBlock) -> list[Difference]:
    """The parameters whose bytes differ.  Raises AbiError where the signatures do."""
    if [p.ptx_type for p in a.signature.params] != [p.ptx_type for p in b.signature.params]:
        raise AbiError(
            "block",
            f"one of {a.signature.entry}'s parameters",
            f"one of {b.signature.entry}'s, whose signature is another",
        )
    return [Difference(x, y) for x, y in zip(a.fields, b.fields, strict=True) if x.data != y.data]


def _integers(fields: tuple[Field, ...] | list[Field]) -> dict[str, int]:
    return {
        f.parameter.name: f.value
        for f in fields
        if type(f.value) is int and not f.parameter.is_pointer
    }


def _with_meaning(
    field: Field,
    declarations: Mapping[str, Declaration],
    sizes: Mapping[str, int],
    arrays: Mapping[str, ArrayReference],
) -> Field:
    p = field.parameter
    integer = p.role in ("size", "stride", "derived")
    if p.size == 8 and isinstance(field.value, int) and not integer:
        owner = _owner(p.name, field.value, arrays)
        declaration = declarations.get(p.name)
        return Field(
            p,
            field.data,
            field.value,
            owner=owner,
            array=arrays[owner] if owner is not None else None,
            needed=_needed(declaration, sizes),
            nullable=declaration is not None and declaration.nullable,
        )
    return Field(p, field.data, field.value, meaning=_meaning(p.name, declarations))


def _owner(name: str, address: int, arrays: Mapping[str, ArrayReference]) -> str | None:
    """Parameter whose array holds an address; its own where several share the memory."""
    for candidate in (name, *arrays):
        array = arrays.get(candidate)
        if array and 0 <= address - array.address < max(array.available, 1):
            return candidate
    return None


def _needed(declaration: Declaration | None, sizes: Mapping[str, int]) -> int | None:
    """Bytes that a parameter needs; None where a broken block or strides backwards give none."""
    if declaration is None:
        return None
    try:
        if declaration.nbytes is not None:
            return max(declaration.nbytes(sizes), 0)
        dtype = POINTEE_DTYPES.get(declaration.type)
        if dtype is None or not declaration.shape:
            return None
        extents = [rule(sizes) for rule in declaration.shape]
        strides = [rule(sizes) for rule in declaration.strides]
    except AbiError:
        return None
    if any(extent > 1 and stride < 0 for extent, stride in zip(extents, strides, strict=True)):
        return None
    return reach(extents, strides, dtype_nbytes(dtype))


def _meaning(name: str, declarations: Mapping[str, Declaration]) -> str:
    """Meaning of what is no array: "size of a[0], c[0]; K // 8: size of b[0]; stride of a[1]"."""
    found: dict[str, list[str]] = {}
    for what, rules in (("size of", "shape"), ("stride of", "strides")):
        for declaration in declarations.values():
            for axis, rule in enumerate(getattr(declaration, rules)):
                if name in rule.names:
                    derived = "" if rule.text == name else f"{rule.text}: "
                    place = f"{declaration.name}[{axis}]"
                    found.setdefault(f"{derived}{what}", []).append(place)
    meanings = [f"{what} {', '.join(places)}" for what, places in found.items()]
    own = declarations.get(name)
    if own is not None and own.rule:
        meanings.insert(0, f"{own.role.replace('_', ' ')} {own.rule}")
    return "; ".join(meanings)
