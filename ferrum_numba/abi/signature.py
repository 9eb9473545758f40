"""The signature of an entry, read from the PTX that declares it.

PTX is the contract: names, types and sizes of the parameters come from the `.entry` header and
from nowhere else.  A sidecar may add what PTX cannot say (the names in the kernel's source, what
each parameter is for); `Signature.named` checks that it contradicts nothing.

Source: PTX ISA, "Kernel and Function Directives" (.entry) and "Kernel Function Parameters".
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

from ..errors import AbiError, PtxError
from .ptx_text import line_of, not_ptx, refuse, without_comments

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
]
# What the launcher provides: the caller neither gives nor sees it.
SCRATCH_ROLES: tuple[Role, ...] = ("workspace", "counters", "global_scratch", "profile_scratch")

# PTX fundamental types that may stand in a parameter list, and their size in bytes.
TYPE_NBYTES = {
    **dict.fromkeys(("b8", "u8", "s8"), 1),
    **dict.fromkeys(("b16", "u16", "s16", "f16"), 2),
    **dict.fromkeys(("b32", "u32", "s32", "f32"), 4),
    **dict.fromkeys(("b64", "u64", "s64", "f64"), 8),
}

_MAX_PARAMETER_BYTES = 32764  # PTX ISA, "Kernel Function Parameters"

_IDENTIFIER = r"[A-Za-z_$%][\w$]*"
_ENTRY = re.compile(
    rf"\.entry\s+({_IDENTIFIER})(?![\w$])(?:\s*\((?P<params>[^)]*)\))?(?P<tail>[^{{;]*)[{{;]"
)
_PARAMETER = re.compile(
    rf"""\.param\s+
    (?:\.align\s+(?P<align>\d+)\s+)?
    \.(?P<type>[a-z]+\d+)\s+
    (?P<pointer>\.ptr\b(?:\s*\.(?:global|shared|const|local|param))?
        (?:\s*\.align\s+(?P<points_to>\d+))?\s+)?
    (?P<name>{_IDENTIFIER})\s*
    (?:\[\s*(?P<count>\d+)\s*\])?\s*$""",
    re.VERBOSE,
)
_DIRECTIVE = re.compile(r"\.(reqntid|maxntid|reqnctapercluster)\s+(\d+(?:\s*,\s*\d+)*)")
_LONG_NUMBER = re.compile(r"[0-9]{65}")  # none has more digits than a 64-bit binary literal
_HEADER = re.compile(r"\.(version|target)\s+([^\n;]+)")


@dataclass(frozen=True)
class Parameter:
    """One parameter of an entry.

    offset, size and align are in bytes.  `pointer` is True where the PTX itself says `.ptr`;
    older compilers leave it out, so False means "not said".  `count` is the array length of a
    by-value aggregate (`.b8 name[128]`), else None.  `c_type` is the type in the kernel's own
    terms ("i32", "*fp16"), where a sidecar gives one.
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

    @cached_property
    def is_pointer(self) -> bool:
        """Whether PTX or sidecar says that this parameter holds an address."""
        return self.pointer or (self.c_type or "").startswith("*") or self.role in SCRATCH_ROLES

    @cached_property
    def integer_range(self) -> tuple[int, int]:
        """The integers that fit, by the kernel's own type where it is known, else by PTX's."""
        bits = self.size * 8
        kind = self.c_type or self.ptx_type
        if kind in ("i1", "u1"):
            return 0, 1
        if kind[0] in "is" and not self.is_pointer:
            return -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
        return 0, 2**bits - 1


@dataclass(frozen=True)
class Signature:
    """What an entry expects: its parameters in order, and what the PTX says about its launch.

    nbytes: size of the parameter block in bytes.
    target: e.g. "sm_80".  ptx_version: (major, minor) of the PTX ISA.
    reqntid: the block that the kernel demands, 1 to 3 numbers, or None.
    maxntid: likewise one that has as many threads as a block may have.
    cluster: the CTAs of a cluster that it demands (.reqnctapercluster), likewise.
    """

    entry: str
    params: tuple[Parameter, ...]
    nbytes: int
    target: str
    ptx_version: tuple[int, int]
    reqntid: tuple[int, ...] | None = None
    cluster: tuple[int, ...] | None = None
    maxntid: tuple[int, ...] | None = None

    @classmethod
    def from_ptx(cls, text: str, entry: str | None = None) -> Signature:
        """Read the signature of `entry` (the only one, where it is left out) from PTX text.

        Raises PtxError for text that is not PTX or has no such entry, AbiError where `entry`
        is left out and the text declares several.
        """
        if not isinstance(text, str):
            raise PtxError(f"text: expected PTX as str, found {type(text).__name__}")
        given, text = text, without_comments(text)
        if _LONG_NUMBER.search(text):
            raise PtxError("not PTX: it has a number of more than 64 digits")
        headers = _HEADER.findall(text)
        header = dict(headers)
        if "version" not in header or "target" not in header:
            missing = " and ".join(f".{k}" for k in ("version", "target") if k not in header)
            raise PtxError(f"not PTX: it has no {missing} directive; {not_ptx(given)}")
        if sum(name == "version" for name, _ in headers) > 1:
            second = [m for m in _HEADER.finditer(text) if m[1] == "version"][1]
            line = line_of(text, second.start())
            raise refuse(line, second[0], "a second .version: two PTX modules in a text; split it")
        found = {m[1]: m for m in _ENTRY.finditer(text)}
        if not found:
            if cut := re.search(r"\.entry\b[^\n]*", text):
                line = line_of(text, cut.start())
                raise refuse(line, cut[0], "this .entry has no complete head and body")
            raise PtxError("the PTX declares no .entry; was it compiled as a device library?")
        if entry is None:
            if len(found) > 1:
                raise AbiError(f"entry: the PTX declares {', '.join(found)}; name one of them")
            entry = next(iter(found))
        if entry not in found:
            raise PtxError(f"entry {entry!r}: not in the PTX, which declares {', '.join(found)}")
        match = found[entry]
        params, nbytes = _read_parameters(text, match)
        directives = {
            name: tuple(int(n) for n in numbers.split(","))
            for name, numbers in _DIRECTIVE.findall(match["tail"])
        }
        return cls(
            entry=entry,
            params=params,
            nbytes=nbytes,
            target=header["target"].split(",")[0].strip(),
            ptx_version=_read_version(header["version"]),
            reqntid=directives.get("reqntid"),
            cluster=directives.get("reqnctapercluster"),
            maxntid=directives.get("maxntid"),
        )

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash((self.entry, self.params, self.target))

    @staticmethod
    def entries(text: str) -> list[str]:
        """The names of all entries that PTX text declares."""
        return [match[1] for match in _ENTRY.finditer(without_comments(text))]

    def __getitem__(self, name: str) -> Parameter:
        if name not in self._by_name:
            raise AbiError(
                f"parameter {name!r}: {self.entry} has no such parameter; "
                f"it has {', '.join(self._by_name)}"
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
        for parameter in reversed(self.params[-2:]):
            word = rf"(?<![\w$]){re.escape(parameter.name)}(?![\w$])"
            if parameter.ptx_type not in ("u64", "b64") or len(re.findall(word, text)) != 1:
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
    def arguments(self) -> tuple[Parameter, ...]:
        """The parameters that a caller gives: all but the scratch pointers."""
        return tuple(p for p in self.params if p.role not in SCRATCH_ROLES)

    @cached_property
    def scratch(self) -> tuple[Parameter, ...]:
        """The parameters that the launcher fills in."""
        return tuple(p for p in self.params if p.role in SCRATCH_ROLES)

    def named(self, declared: Sequence[tuple[str, str | None, Role]]) -> Signature:
        """This signature with (name, type in the kernel's terms, role) declared for each parameter.

        Raises AbiError where the declaration does not fit the PTX in number or type.
        """
        if len(declared) != len(self.params):
            raise AbiError(
                f"{self.entry}: the sidecar declares {len(declared)} parameters "
                f"({', '.join(name for name, _, _ in declared)}), the PTX has {len(self.params)} "
                f"({', '.join('.' + p.ptx_type for p in self.params)}); rebuild the sidecar"
            )
        names = [name for name, _, _ in declared]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise AbiError(f"{self.entry}: the sidecar declares {', '.join(twice)} twice")
        params = []
        for parameter, (name, c_type, role) in zip(self.params, declared, strict=True):
            if c_type is not None:
                _check_type(self.entry, parameter, name, c_type)
            params.append(replace(parameter, name=name, c_type=c_type, role=role))
        return replace(self, params=tuple(params))

    def with_scratch(self, roles: Sequence[Role]) -> Signature:
        """This signature with its last parameters declared as scratch pointers, in order.

        Raises AbiError where the PTX has too few parameters or they cannot hold an address.
        """
        first = len(self.params) - len(roles)
        tail = self.params[max(first, 0) :]
        if first < 0 or any(p.size != 8 or p.count is not None for p in tail):
            raise AbiError(
                f"{self.entry}: the sidecar states {' and '.join(roles)}, so the last "
                f"{len(roles)} parameters should be pointers; the PTX ends with "
                f"{', '.join('.' + p.ptx_type for p in tail) or 'no parameter'}"
            )
        scratch = (replace(p, role=role) for p, role in zip(tail, roles, strict=True))
        return replace(self, params=(*self.params[:first], *scratch))


# The PTX sizes that a type in Triton's terms may have.  Triton writes integers of either sign as
# `.u32`, so only the width can disagree.
_C_TYPE_NBYTES = {
    **dict.fromkeys(("i1", "u1", "i8", "u8"), 1),
    **dict.fromkeys(("i16", "u16", "fp16", "bf16"), 2),
    **dict.fromkeys(("i32", "u32", "fp32"), 4),
    **dict.fromkeys(("i64", "u64", "fp64"), 8),
}


def _check_type(entry: str, parameter: Parameter, name: str, c_type: str) -> None:
    pointer = c_type.startswith("*")
    if not pointer and c_type not in _C_TYPE_NBYTES:
        known = ", ".join(_C_TYPE_NBYTES)
        raise AbiError(f"{entry}: parameter {name}: unknown type {c_type!r}; one of {known}, *type")
    expected = 8 if pointer else _C_TYPE_NBYTES[c_type]
    if parameter.size != expected or (parameter.pointer and not pointer):
        raise AbiError(
            f"{entry}: parameter {parameter.index} ({name}): the sidecar declares {c_type} "
            f"({expected} bytes), the PTX .{parameter.ptx_type}"
            f"{' .ptr' if parameter.pointer else ''} ({parameter.size} bytes); "
            "the sidecar belongs to another build"
        )


def _read_version(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)\.(\d+)", text.strip())
    if match is None:
        raise PtxError(f".version: expected major.minor, found {text.strip()!r}")
    return int(match[1]), int(match[2])


def _read_parameters(text: str, entry: re.Match[str]) -> tuple[tuple[Parameter, ...], int]:
    params: list[Parameter] = []
    offset = 0
    for index, (line, declaration) in enumerate(_declarations(text, entry)):
        match = _PARAMETER.match(declaration)
        if match is None or match["type"] not in TYPE_NBYTES:
            raise refuse(line, declaration, f"{entry[1]}: parameter {index}: cannot be read")
        element = TYPE_NBYTES[match["type"]]
        count = int(match["count"]) if match["count"] else None
        align = int(match["align"] or element)
        if align & (align - 1) or not align:
            problem = f"{entry[1]}: parameter {index}: alignment {align} is no power of two"
            raise refuse(line, declaration, problem)
        offset = -(-offset // align) * align
        size = element * (1 if count is None else count)
        params.append(
            Parameter(
                index=index,
                name=match["name"],
                ptx_type=match["type"],
                offset=offset,
                size=size,
                align=align,
                pointer=match["pointer"] is not None,
                count=count,
            )
        )
        offset += size
    if offset > _MAX_PARAMETER_BYTES:
        raise PtxError(
            f"{entry[1]}: expected at most {_MAX_PARAMETER_BYTES} bytes of parameters, "
            f"found {offset}"
        )
    return tuple(params), offset


def _declarations(text: str, entry: re.Match[str]) -> Iterator[tuple[int, str]]:
    """The parameter declarations of an entry, each with its line."""
    if entry["params"] is None:
        return
    for match in re.finditer(r"[^,]+", entry["params"]):
        if declaration := match[0].strip():
            before = len(match[0]) - len(match[0].lstrip())
            yield line_of(text, entry.start("params") + match.start() + before), declaration
