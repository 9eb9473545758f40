"""The parameter block: the bytes that a launch hands to an entry, laid out as its PTX says."""

from __future__ import annotations

import ctypes
import math
import operator
import struct
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from ..errors import AbiError
from .signature import SCRATCH_ROLES, Parameter, Signature

_CTYPES: dict[str, type[ctypes._SimpleCData[int]] | type[ctypes._SimpleCData[float]]] = {
    "b8": ctypes.c_uint8,
    "u8": ctypes.c_uint8,
    "s8": ctypes.c_int8,
    "b16": ctypes.c_uint16,
    "u16": ctypes.c_uint16,
    "s16": ctypes.c_int16,
    "f16": ctypes.c_uint16,  # ctypes has no half: stored as bits
    "b32": ctypes.c_uint32,
    "u32": ctypes.c_uint32,
    "s32": ctypes.c_int32,
    "f32": ctypes.c_float,
    "b64": ctypes.c_uint64,
    "u64": ctypes.c_uint64,
    "s64": ctypes.c_int64,
    "f64": ctypes.c_double,
}
Raw = int | float | bytes  # a value as a field takes it
_FLOAT_CODES = {"f16": "<e", "f32": "<f", "f64": "<d"}  # struct's; it has no bf16
_FLOATS = {"fp16": "f16", "fp32": "f32", "fp64": "f64", "f16": "f16", "f32": "f32", "f64": "f64"}
_FLOATS |= {"bf16": "bf16"}
_UNTYPED = {"b32": "f32", "b64": "f64"}  # what a number that is no integer is, where bits are
_HALVES = {"float16": "f16", "bfloat16": "bf16"}  # by the dtype's name of a NumPy scalar


class ParameterBlock:
    """The block of one launch, a ctypes structure with one field a parameter.

    A field's place is the PTX's: natural alignment, or what `.align` demands; or another one that
    the signature's `places` give, in which case `to_bytes` puts it where the PTX has it.  `nbytes`
    are those at `address`.  Scratch pointers start as NULL; every other parameter has to be set
    before the bytes are read.  Addresses are integers here: this is the place where a launch is
    spelt out byte by byte.
    """

    def __init__(self, signature: Signature) -> None:
        self.signature = signature
        self._structure = _structure(signature)()
        self._base = ctypes.addressof(self._structure)
        places, self.nbytes = signature.handed_over
        self._places = dict(zip((p.name for p in signature.params), places, strict=True))
        self._fields = _field_names(signature)
        self._unset = {p.name for p in signature.params if p.role not in SCRATCH_ROLES}

    def __repr__(self) -> str:
        unset = f", {len(self._unset)} unset" if self._unset else ""
        return f"<ParameterBlock of {self.signature.entry}: {self.signature.nbytes} bytes{unset}>"

    def __reduce__(self) -> tuple[Callable[[Signature, bytes], ParameterBlock], tuple[Any, ...]]:
        return type(self).from_bytes, (self.signature, self.to_bytes())

    def set(self, *positional: object, **values: object) -> ParameterBlock:
        """Set parameters by position, by name, or both; returns the block itself.

        Pointers are addresses (int), integers and floats are checked against the parameter's
        type; an integer may be negative where nothing states its sign.  By-value aggregates are
        anything with a buffer of exactly their size.  Raises AbiError, and then changes nothing.
        """
        params = self.signature.params
        if len(positional) > len(params):
            raise AbiError(self.signature.entry, f"at most {len(params)} values", len(positional))
        named: dict[str, object] = {
            p.name: value for p, value in zip(params, positional, strict=False)
        }
        twice = sorted(named.keys() & values.keys())
        if twice:
            raise AbiError(", ".join(twice), "given by position and by name")
        encoded = {
            name: encode(self.signature[name], value) for name, value in (named | values).items()
        }
        self.write(encoded)
        return self

    @classmethod
    def from_bytes(cls, signature: Signature, data: bytes) -> ParameterBlock:
        """The block of these bytes.  Raises AbiError for any other number than the PTX demands."""
        if len(data) != signature.nbytes:
            left_out = [p.name for p in signature.params if p.offset + p.size > len(data)]
            end = f", so that it ends before {left_out[0]}" if left_out else ""
            raise AbiError(
                signature.entry,
                f"a parameter block of {signature.nbytes} bytes",
                f"{len(data)}{end}",
                "is it of another entry or build?",
            )
        block = cls(signature)
        for p in signature.params:
            part = data[p.offset : p.offset + p.size]
            ctypes.memmove(block._base + block._places[p.name], part, p.size)
        block._unset.clear()
        return block

    def values(self) -> dict[str, int | float | bytes]:
        """All values, as `set` takes them.  Raises AbiError while a parameter is unset."""
        data = self.to_bytes()
        return {
            p.name: decode(p, data[p.offset : p.offset + p.size]) for p in self.signature.params
        }

    def copy(self) -> ParameterBlock:
        """A block of its own with the same bytes."""
        twin = ParameterBlock(self.signature)
        ctypes.memmove(twin._base, self._base, self.nbytes)
        twin._unset = set(self._unset)
        return twin

    def write(self, encoded: Mapping[str, Raw]) -> None:
        """Put in values that `encode` has checked."""
        fields, structure = self._fields, self._structure
        for name, value in encoded.items():
            if isinstance(value, bytes):
                ctypes.memmove(self._base + self._places[name], value, len(value))
            else:
                setattr(structure, fields[name], value)
        if self._unset:
            self._unset -= encoded.keys()

    def follow(self, other: ParameterBlock) -> None:
        """Take over what another block of the signature holds, but for the scratch pointers."""
        for start, nbytes in self.signature.runs:
            ctypes.memmove(self._base + start, other._base + start, nbytes)

    def pointer(self, name: str) -> ctypes.c_uint64:
        """The field of a pointer, in place; valid as long as this object lives."""
        return ctypes.c_uint64.from_address(self.place(name))

    def place(self, name: str) -> int:
        """The address on the host of a parameter's bytes; valid as long as this object lives."""
        return self._base + self._places[name]

    def read(self, name: str) -> bytes:
        """A parameter's bytes."""
        return ctypes.string_at(self.place(name), self.signature[name].size)

    def _require_complete(self) -> None:
        if self._unset:
            missing = [p.name for p in self.signature.params if p.name in self._unset]
            raise AbiError(", ".join(missing), "a value", "none", where=self.signature.entry)

    def to_bytes(self) -> bytes:
        """The block's `signature.nbytes` bytes.  Raises AbiError while a parameter is unset."""
        if self._unset:
            self._require_complete()
        if self.signature.places is None:
            return ctypes.string_at(self._base, self.nbytes)
        data = bytearray(self.signature.nbytes)
        for p in self.signature.params:
            place = self._base + self._places[p.name]
            data[p.offset : p.offset + p.size] = ctypes.string_at(place, p.size)
        return bytes(data)

    @property
    def address(self) -> int:
        """Address of the block on the host; valid as long as this object lives."""
        self._require_complete()
        return self._base

    def kernel_params(self) -> ctypes.Array[ctypes.c_void_p]:
        """The `kernelParams` of cuLaunchKernel: one pointer a parameter, into this block.

        Valid as long as this object lives; later `set` calls show through.
        """
        self._require_complete()
        params = self.signature.params
        return (ctypes.c_void_p * len(params))(*(self._base + self._places[p.name] for p in params))


def encode(parameter: Parameter, value: object) -> Raw:
    """`value` as the parameter's field takes it.  Raises AbiError where it does not fit."""
    kind = _float_kind(parameter, value)
    if kind is not None and not (parameter.count and isinstance(value, bytes)):
        return _encode_float(parameter, kind, value)
    if parameter.count is not None:
        return _encode_bytes(parameter, value)
    if _is_truth(value) and _takes_truth(parameter):
        return int(bool(value))
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        wanted = "an address (int)" if parameter.is_pointer else "an integer"
        remedy = _half_remedy(parameter, value)
        if _is_truth(value):
            remedy = "write 1 or 0"
        raise AbiError(
            parameter.name,
            f"{wanted} for {_type_name(parameter)}",
            f"{value!s:.80} ({type(value).__name__})",
            *([remedy] if remedy else []),
        ) from None
    low, high = parameter.integer_range
    if not low <= number <= high:
        raise AbiError(parameter.name, f"{low} to {high} ({_type_name(parameter)})", number)
    # The field's ctypes type may be unsigned where the kernel's integer is signed (Triton writes
    # i32 as .u32); ctypes keeps the two's complement bits either way.
    return number


def decode(parameter: Parameter, data: bytes) -> Raw:
    """The value whose field these `parameter.size` bytes are, in the kernel's own terms.

    An integer whose sign nothing states is read as unsigned.
    """
    if parameter.count is not None:
        return data
    kind = parameter.c_type or parameter.ptx_type
    if kind in _FLOATS:
        return _unpack(_FLOATS[kind], data)
    signed = not parameter.is_pointer and kind not in ("i1", "u1") and kind[0] in "is"
    return int.from_bytes(data, "little", signed=signed)


def _float_kind(parameter: Parameter, value: object) -> str | None:
    """Float type that a parameter takes, or None.

    PTX declares half and bfloat16 scalars as two bytes or 16 bits.  Which of them it is, the
    sidecar states; else the entry's instructions say, and else a NumPy scalar.
    """
    if parameter.is_pointer:
        return None
    if parameter.may_be_half:
        given = _HALVES.get(_dtype_name(value))
        number = given or _is_real(value) or (parameter.count and type(value) is int)
        return (parameter.half or given) if number else None
    if parameter.c_type is None and _is_real(value):
        return _UNTYPED.get(parameter.ptx_type) or _FLOATS.get(parameter.ptx_type)
    return _FLOATS.get(parameter.c_type or parameter.ptx_type)


def _is_real(value: object) -> bool:
    """True for a number that is no integer; arrays are neither."""
    return hasattr(value, "__float__") and not hasattr(value, "__index__")


def _half_remedy(parameter: Parameter, value: object) -> str | None:
    if parameter.may_be_half and (_is_real(value) or type(value) is int):
        return "say which half it is: np.float16(x), ml_dtypes.bfloat16(x), or a sidecar's type"
    return None


def _dtype_name(value: object) -> str:
    return str(getattr(getattr(value, "dtype", None), "name", ""))


def _is_truth(value: object) -> bool:
    return isinstance(value, bool) or (
        _dtype_name(value) == "bool" and not hasattr(value, "__len__")
    )


def _takes_truth(parameter: Parameter) -> bool:
    """True for an i1, which PTX declares as one byte."""
    if parameter.c_type is None:
        return parameter.size == 1
    return parameter.c_type in ("i1", "u1")


def _encode_bytes(parameter: Parameter, value: object) -> bytes:
    # NumPy lends no buffer of bfloat16 and its like, and tobytes is C order for all.
    read = getattr(value, "tobytes", None)
    try:
        data = read() if read is not None else memoryview(value).tobytes()  # type: ignore[arg-type]
    except TypeError:
        data = None
    if data is not None and len(data) == parameter.size:
        return bytes(data)
    size, declared = f"{parameter.size} bytes", f".{parameter.ptx_type}[{parameter.count}]"
    raise AbiError(
        parameter.name,
        f"{size} for {declared}" if data is None else size,
        f"{value!s:.80} ({type(value).__name__})" if data is None else len(data),
        _half_remedy(parameter, value)
        or "pass bytes, or what has a buffer of that size: a ctypes structure, a NumPy scalar",
    )


def _encode_float(parameter: Parameter, kind: str, value: object) -> Raw:
    if isinstance(value, bool) or not (hasattr(value, "__float__") or hasattr(value, "__index__")):
        raise AbiError(parameter.name, "a number", type(value).__name__)
    number = float(value)  # type: ignore[arg-type]
    try:
        data = _pack(kind, number)
    except OverflowError:
        raise AbiError(parameter.name, f"{number} does not fit {_type_name(parameter)}") from None
    if parameter.count is not None:
        return data
    if _CTYPES[parameter.ptx_type] in (ctypes.c_float, ctypes.c_double):
        return number
    return int.from_bytes(data, "little")


def _pack(kind: str, number: float) -> bytes:
    """A float's bytes, rounded to nearest even.  Raises OverflowError for one that is too large."""
    if kind != "bf16":
        return struct.pack(_FLOAT_CODES[kind], number)
    if number != number:
        return b"\xc0\x7f"
    (bits,) = struct.unpack("<I", struct.pack("<f", number))
    half = bits + 0x7FFF + (bits >> 16 & 1) >> 16
    if half & 0x7FFF == 0x7F80 and not math.isinf(number):
        raise OverflowError
    return int(half).to_bytes(2, "little")


def _unpack(kind: str, data: bytes) -> float:
    code, whole = ("<f", b"\0\0" + data) if kind == "bf16" else (_FLOAT_CODES[kind], data)
    number: float = struct.unpack(code, whole)[0]
    return number


def _type_name(parameter: Parameter) -> str:
    unnamed = "a pointer" if parameter.is_pointer else f".{parameter.ptx_type}"
    return parameter.c_type or unnamed


@lru_cache(maxsize=256)
def _field_names(signature: Signature) -> dict[str, str]:
    """Field of the structure by parameter: names from PTX may be anything."""
    return {p.name: f"p{p.index}" for p in signature.params}


@lru_cache(maxsize=256)
def _structure(signature: Signature) -> type[ctypes.Structure]:
    """A structure class whose fields lie where a launch hands the parameters over."""
    fields: list[
        tuple[str, type[ctypes._SimpleCData[int]] | type[ctypes.Array[ctypes.c_uint8]]]
    ] = []
    end = 0
    places, nbytes = signature.handed_over
    for p, place in zip(signature.params, places, strict=True):
        if place > end:
            fields.append((f"pad{p.index}", ctypes.c_uint8 * (place - end)))
        scalar = _CTYPES[p.ptx_type]
        fields.append((f"p{p.index}", scalar if p.count is None else scalar * p.count))  # type: ignore[arg-type]
        end = place + p.size
    # Offsets come from PTX, so padding is spelt out and the compiler's own is switched off.
    namespace = {"_pack_": 1, "_layout_": "ms", "_fields_": fields}
    structure = type(f"{signature.entry}_block", (ctypes.Structure,), namespace)
    if ctypes.sizeof(structure) != nbytes:
        raise AssertionError(f"{ctypes.sizeof(structure)} != {nbytes}")
    return structure
