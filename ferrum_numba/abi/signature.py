"""The signature of an entry, read from the PTX that declares it.

PTX is the contract: names, types and sizes of the parameters come from the `.entry` header and
from nowhere else.  A sidecar may add what PTX cannot say (the names in the kernel's source, what
each parameter is for); `Signature.named` checks that it contradicts nothing.

Source: PTX ISA, "Kernel and Function Directives" (.entry) and "Kernel Function Parameters".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

from ..errors import AbiError, PtxError
from ..machine_code import Cubin, CubinParameter
from ..notebook import table
from ..ptx_text import Head, PtxModule, not_ptx, read_module, read_variable, refuse

Role = Literal[
    "argument",
    "input",
    "output",
    "size",
    "stride",
    "workspace",
    "counters",
    "global_scratch",
    "profile_scratch",
    "derived",
    "tensor_map",
]
# What the launcher fills in, which the caller neither gives nor sees: the addresses of memory that
# it lends, and what it computes from the arguments.
SCRATCH_ROLES: tuple[Role, ...] = ("workspace", "counters", "global_scratch", "profile_scratch")
COMPUTED_ROLES: tuple[Role, ...] = ("derived", "tensor_map")
LAUNCHER_ROLES = (*SCRATCH_ROLES, *COMPUTED_ROLES)

MAP_TYPE, MAP_NBYTES, _MAP_ALIGN = "tensordesc", 128, 64  # of a tensor map by value

_MAX_PARAMETER_BYTES = 32764  # PTX ISA, "Kernel Function Parameters"


@dataclass(frozen=True)
class Parameter:
    """One parameter of an entry.

    offset, size and align are in bytes.  `pointer` is True where the PTX itself says `.ptr`;
    older compilers leave it out, so False means "not said".  `count` is the array length of a
    by-value aggregate (`.b8 name[128]`), else None.  `c_type` is the type in the kernel's own
    terms ("i32", "*fp16"), where a sidecar gives one.  `half` is "f16" or "bf16" where the entry's
    instructions read two bytes as that.
    """

    index: int
    name: str
    ptx_type: str
    offset: int
    size: int
    align: int
    pointer: bool = False
    count: int | None = None
    role: Role = "argument"
    c_type: str | None = None
    half: str | None = None

    @cached_property
    def may_be_half(self) -> bool:
        """True for two bytes or 16 bits whose type no sidecar states: so are half scalars."""
        return self.c_type is None and (self.ptx_type, self.count) in (("b8", 2), ("b16", None))

    @cached_property
    def is_pointer(self) -> bool:
        """True if PTX or sidecar says that this parameter holds an address."""
        return self.pointer or (self.c_type or "").startswith("*") or self.role in SCRATCH_ROLES

    @cached_property
    def integer_range(self) -> tuple[int, int]:
        """The integers that fit, by the kernel's own type where it is known, else by PTX's.

        Compilers declare integers of either sign as .u32 or .b32: these take both, in two's
        complement, where no sidecar states the sign.
        """
        bits = self.size * 8
        kind = self.c_type or self.ptx_type
        if kind in ("i1", "u1"):
            return 0, 1
        if kind[0] in "is" and not self.is_pointer:
            return -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
        unstated = self.c_type is None and not self.is_pointer
        return -(2 ** (bits - 1)) if unstated else 0, 2**bits - 1


@dataclass(frozen=True)
class Signature:
    """The contract of an entry: its parameters in order, and what the PTX says about its launch.

    nbytes: size of the parameter block in bytes.
    target: e.g. "sm_80".  ptx_version: (major, minor) of the PTX ISA; (0, 0) for machine
    code.
    reqntid: the block that the kernel demands, 1 to 3 numbers, or None.
    maxntid: likewise one that has as many threads as a block may have.
    cluster: the CTAs of a cluster that it demands (.reqnctapercluster), likewise.
    places: the offsets at which a launch hands the parameters over; None where they are PTX's.
    """

    entry: str
    params: tuple[Parameter, ...]
    nbytes: int
    target: str
    ptx_version: tuple[int, int]
    reqntid: tuple[int, ...] | None = None
    cluster: tuple[int, ...] | None = None
    maxntid: tuple[int, ...] | None = None
    places: tuple[int, ...] | None = None

    @classmethod
    def from_ptx(cls, text: str, entry: str | None = None) -> Signature:
        """Read the signature of `entry` (the only one, where it is left out) from PTX text.

        Raises PtxError for text that is not PTX or has no such entry, AbiError where `entry`
        is left out and the text declares several.
        """
        if not isinstance(text, str):
            raise PtxError("text", "PTX as str", type(text).__name__)
        module = read_module(text)
        if module.has_long_number:
            raise PtxError(
                "ptx", "numbers of at most 64 digits", "a longer one, so this is not PTX"
            )
        versions, targets = (module.header.get(name, []) for name in ("version", "target"))
        if not versions or not targets:
            missing = " and ".join(
                name for name in (".version", ".target") if name[1:] not in module.header
            )
            raise PtxError(
                "ptx", f"a {missing} directive", "none, so this is not PTX", not_ptx(text)
            )
        if len(versions) > 1:
            value, position = versions[1]
            told = "a second .version: two PTX modules in a text; split it"
            raise refuse(module.line(position), f".version {value}", told)
        entries = module.entries
        if not entries:
            if cut := module.cut_entry:
                told = "this .entry has no complete head and body"
                raise refuse(module.line(cut[0]), cut[1], told)
            raise PtxError("ptx", "a .entry", "none", "was it compiled as a device library?")
        if entry is None:
            if len(entries) > 1:
                raise AbiError(
                    "entry",
                    f"one of {', '.join(entries)}, which the PTX declares",
                    "none",
                    "name it",
                )
            entry = next(iter(entries))
        if entry not in entries:
            raise PtxError(
                "entry", f"one of those that the PTX declares ({', '.join(entries)})", repr(entry)
            )
        head = entries[entry]
        params, nbytes = _read_parameters(module, head)
        params = tuple(
            replace(p, half=_half(module, entry, p.name)) if p.may_be_half else p for p in params
        )
        return cls(
            entry=entry,
            params=params,
            nbytes=nbytes,
            target=targets[-1][0].split(",")[0].strip(),
            ptx_version=_read_version(versions[0][0]),
            reqntid=head.directives.get("reqntid"),
            cluster=head.directives.get("reqnctapercluster"),
            maxntid=head.directives.get("maxntid"),
        )

    @classmethod
    def of(cls, code: str | Cubin, entry: str | None = None) -> Signature:
        """The signature of an entry of PTX text, or of a cubin.

        A cubin has no names and no types: its parameters are bits of a size, and have the names
        that compilers write into PTX.  Raises as `from_ptx` does.
        """
        if isinstance(code, str):
            return cls.from_ptx(code, entry)
        if entry is None:
            if len(code.entries) > 1:
                raise AbiError("entry", f"one of {', '.join(code.entries)}", "none named")
            entry = next(iter(code.entries))
        if entry not in code.entries:
            raise PtxError("entry", f"one of the cubin's {', '.join(code.entries)}", repr(entry))
        found = code.entries[entry]
        return cls(
            entry=entry,
            params=tuple(_untyped(i, entry, p) for i, p in enumerate(found.params)),
            nbytes=max((p.offset + p.size for p in found.params), default=0),
            target=code.target,
            ptx_version=(0, 0),
            reqntid=found.required_threads,
            cluster=found.cluster,
            maxntid=found.max_threads,
        )

    def __hash__(self) -> int:
        return self._hash

    def __repr__(self) -> str:
        return (
            f"<Signature {self.entry}: {len(self.params)} parameters, {self.nbytes} bytes, "
            f"{self.target}>"
        )

    def _repr_html_(self) -> str:
        headers = ("offset", "size", "PTX type", "name", "role", "type")
        rows = (
            (p.offset, p.size, f".{p.ptx_type}", p.name, p.role, p.c_type or "")
            for p in self.params
        )
        return table(repr(self)[1:-1], headers, rows, len(self.params))

    @cached_property
    def _hash(self) -> int:
        return hash((self.entry, self.params, self.target))

    @staticmethod
    def entries(code: str | Cubin) -> list[str]:
        """The names of all entries of PTX text, or of a cubin."""
        return list(read_module(code).entries if isinstance(code, str) else code.entries)

    def __getitem__(self, name: str) -> Parameter:
        if name not in self._by_name:
            raise AbiError(
                "parameter", f"one of {self.entry}'s ({', '.join(self._by_name)})", repr(name)
            )
        return self._by_name[name]

    @cached_property
    def _by_name(self) -> dict[str, Parameter]:
        return {p.name: p for p in self.params}

    def unread(self, text: str) -> list[str]:
        """The pointers at the end, two at most, that the PTX text declares and never reads.

        So are Triton's scratch pointers where the kernel has no use for them.
        """
        names = []
        code = read_module(text).code(self.entry)
        for parameter in reversed(self.params[-2:]):
            word = rf"(?<![\w$]){re.escape(parameter.name)}(?![\w$])"
            if parameter.ptx_type not in ("u64", "b64") or re.search(word, code):
                break
            names.append(parameter.name)
        return names

    def full_name(self, name: str) -> str:
        """A parameter's name, given with or without the entry's before it (`param_0`).

        Raises AbiError where there is no such parameter.
        """
        longer = f"{self.entry}_{name}"
        return self[longer if longer in self._by_name else name].name

    @cached_property
    def handed_over(self) -> tuple[tuple[int, ...], int]:
        """The offsets at which a launch hands the parameters over, and the bytes of them all."""
        if self.places is None:
            return tuple(p.offset for p in self.params), self.nbytes
        ends = (at + p.size for at, p in zip(self.places, self.params, strict=True))
        return self.places, max(ends, default=0)

    @cached_property
    def arguments(self) -> tuple[Parameter, ...]:
        """The parameters that a caller gives: all but those that the launcher fills in."""
        return tuple(p for p in self.params if p.name not in self.filled_in)

    @cached_property
    def scratch(self) -> tuple[Parameter, ...]:
        """The pointers to memory that the launcher lends."""
        return tuple(p for p in self.params if p.role in SCRATCH_ROLES)

    @cached_property
    def runs(self) -> tuple[tuple[int, int], ...]:
        """Runs of bytes handed over that hold no scratch pointer: the first, and how many."""
        runs: list[tuple[int, int]] = []
        follows = False
        for place, p in zip(self.handed_over[0], self.params, strict=True):
            if p.role not in SCRATCH_ROLES:
                first = runs.pop()[0] if follows else place
                runs.append((first, place + p.size - first))
            follows = p.role not in SCRATCH_ROLES
        return tuple(runs)

    @cached_property
    def filled_in(self) -> frozenset[str]:
        """The names of the parameters that the launcher fills in."""
        return frozenset(p.name for p in self.params if p.role in LAUNCHER_ROLES)

    @cached_property
    def computed(self) -> tuple[str, ...]:
        """The names of the parameters that the launcher computes from the arguments."""
        return tuple(p.name for p in self.params if p.role in COMPUTED_ROLES)

    def named(self, declared: Sequence[tuple[str, str | None, Role]]) -> Signature:
        """This signature with (name, type in the kernel's terms, role) declared for each parameter.

        Raises AbiError where the declaration does not fit the PTX in number or type.
        """
        if len(declared) != len(self.params):
            raise AbiError(
                "params",
                f"the PTX's {len(self.params)} parameters "
                f"({', '.join('.' + p.ptx_type for p in self.params)})",
                f"{len(declared)} in the sidecar ({', '.join(name for name, _, _ in declared)})",
                "rebuild the sidecar",
                where=self.entry,
            )
        names = [name for name, _, _ in declared]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise AbiError(
                ", ".join(twice), "one declaration in the sidecar", "two", where=self.entry
            )
        params = []
        for parameter, (name, c_type, role) in zip(self.params, declared, strict=True):
            if c_type == MAP_TYPE:
                self._check_map(parameter, name)
            elif c_type is not None:
                _check_type(self.entry, parameter, name, c_type)
            params.append(replace(parameter, name=name, c_type=c_type, role=role))
        return replace(self, params=tuple(params))

    def _check_map(self, parameter: Parameter, name: str) -> None:
        """Check that a tensor map can lie in a parameter; a cubin does not state alignments."""
        aligned = parameter.align % _MAP_ALIGN == 0 or self.ptx_version == (0, 0)
        if parameter.count != MAP_NBYTES or parameter.size != MAP_NBYTES or not aligned:
            count = f"[{parameter.count}]" if parameter.count else ""
            raise AbiError(
                f"parameter {parameter.index} ({name})",
                f"a .param .align {_MAP_ALIGN} .b8[{MAP_NBYTES}] of the PTX for a {MAP_TYPE}",
                f".param .align {parameter.align} .{parameter.ptx_type}{count}",
                "the sidecar belongs to another build",
                where=self.entry,
            )

    def with_scratch(self, roles: Sequence[Role]) -> Signature:
        """This signature with its last parameters declared as scratch pointers, in order.

        Raises AbiError where the PTX has too few parameters or they cannot hold an address.
        """
        first = len(self.params) - len(roles)
        tail = self.params[max(first, 0) :]
        if first < 0 or any(p.size != 8 or p.count is not None for p in tail):
            raise AbiError(
                "params",
                f"{len(roles)} pointers at the PTX's end, for {' and '.join(roles)} of the sidecar",
                ", ".join("." + p.ptx_type for p in tail) or "no parameter",
                where=self.entry,
            )
        scratch = (replace(p, role=role) for p, role in zip(tail, roles, strict=True))
        return replace(self, params=(*self.params[:first], *scratch))


def _untyped(index: int, entry: str, parameter: CubinParameter) -> Parameter:
    size, offset = parameter.size, parameter.offset
    plain = size in (2, 4, 8)
    return Parameter(
        index=index,
        name=f"{entry}_param_{index}",
        ptx_type=f"b{8 * size}" if plain else "b8",
        offset=offset,
        size=size,
        align=size if plain else max(offset & -offset, 1),
        count=None if plain or size == 1 else size,
    )


# The PTX sizes that a type in Triton's terms may have.  Triton writes integers of either sign as
# `.u32`, so only the width can disagree.
_C_TYPE_NBYTES = {
    **dict.fromkeys(("i1", "u1", "i8", "u8"), 1),
    **dict.fromkeys(("i16", "u16", "fp16", "bf16"), 2),
    **dict.fromkeys(("i32", "u32", "fp32"), 4),
    **dict.fromkeys(("i64", "u64", "fp64"), 8),
}
FLOAT_TYPES = tuple(name for name in _C_TYPE_NBYTES if "fp" in name or name == "bf16")


def _check_type(entry: str, parameter: Parameter, name: str, c_type: str) -> None:
    pointer = c_type.startswith("*")
    if not pointer and c_type not in _C_TYPE_NBYTES:
        known = ", ".join((*_C_TYPE_NBYTES, MAP_TYPE))
        raise AbiError(f"parameter {name}", f"a type of {known}, *type", repr(c_type), where=entry)
    expected = 8 if pointer else _C_TYPE_NBYTES[c_type]
    if parameter.size != expected or (parameter.pointer and not pointer):
        raise AbiError(
            f"parameter {parameter.index} ({name})",
            f"the PTX's .{parameter.ptx_type}{' .ptr' if parameter.pointer else ''} "
            f"({parameter.size} bytes)",
            f"{c_type} ({expected} bytes) in the sidecar",
            "the sidecar belongs to another build",
            where=entry,
        )


def _read_version(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)\.(\d+)", text.strip())
    if match is None:
        raise PtxError(".version", "major.minor", f"{text.strip()!r}")
    return int(match[1]), int(match[2])


def _read_parameters(module: PtxModule, entry: Head) -> tuple[tuple[Parameter, ...], int]:
    params: list[Parameter] = []
    offset = 0
    for index, (position, declaration) in enumerate(entry.declarations()):
        found = read_variable(declaration)
        if found is None or found.space != "param" or len(found.dims) > 1 or None in found.dims:
            problem = f"{entry.name}: parameter {index}: cannot be read"
            raise refuse(module.line(position), declaration, problem)
        if found.align & (found.align - 1) or not found.align:
            problem = f"{entry.name}: parameter {index}: alignment {found.align} is no power of two"
            raise refuse(module.line(position), declaration, problem)
        offset = found.place(offset)
        params.append(
            Parameter(
                index=index,
                name=found.name,
                ptx_type=found.ptx_type,
                offset=offset,
                size=found.nbytes,
                align=found.align,
                pointer=found.pointer,
                count=found.dims[0] if found.dims else None,
            )
        )
        offset += found.nbytes
    if offset > _MAX_PARAMETER_BYTES:
        raise PtxError(entry.name, f"at most {_MAX_PARAMETER_BYTES} bytes of parameters", offset)
    return tuple(params), offset


_HALF = re.compile(r"\.(bf16|f16)(?:x2)?\b")


def _half(module: PtxModule, entry: str, name: str) -> str | None:
    """The type of half that an entry reads a parameter as; None where its PTX does not say."""
    if any(function.body is not None for function in module.functions.values()):
        return None  # which have registers of the same names
    code, kinds = module.code(entry), set()
    loaded = rf"ld\.param\.[bu]16\s+([\w$%]+)\s*,\s*\[\s*{re.escape(name)}\s*\]"
    for register in re.findall(loaded, code):
        reads = rf"([a-z][\w.]*)\s[^,;]*,[^;]*{re.escape(register)}(?![\w$])[^;]*;"
        for opcode in re.findall(reads, code):
            kinds.update(_HALF.findall(opcode)[-1:])
    return kinds.pop() if len(kinds) == 1 else None
