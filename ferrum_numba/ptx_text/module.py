"""The declarations of a PTX module: entries, functions, variables, directives.

Source: PTX ISA, "Syntax", "Kernel and Function Directives", "State Spaces, Types, and Variables".
"""

from __future__ import annotations

import re
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache

from .text import without_comments

# PTX fundamental types that variables and parameters may have, and their size in bytes.
TYPE_NBYTES = {
    **dict.fromkeys(("b8", "u8", "s8"), 1),
    **dict.fromkeys(("b16", "u16", "s16", "f16"), 2),
    **dict.fromkeys(("b32", "u32", "s32", "f32"), 4),
    **dict.fromkeys(("b64", "u64", "s64", "f64"), 8),
}

_IDENTIFIER = r"[A-Za-z_$%][\w$]*(?![\w$])"
_WORD = re.compile(r"[\w$%]+")
_BRACE = re.compile(r"[{}]")
_HEAD = re.compile(r"\.(?P<kind>entry|func)\b(?P<head>[^{};]*)(?P<end>[{;]?)")
_NAMED = re.compile(
    rf"\s*(?:\((?P<result>[^()]*)\)\s*)?(?P<name>{_IDENTIFIER})"
    r"(?:\s*\((?P<params>[^()]*)\))?(?P<tail>[^()]*)"
)
_LONG_NUMBER = re.compile(r"[0-9]{65}")  # none has more digits than a 64-bit binary literal
_VERSION = re.compile(r"\.(version|target)\s+([^\n;]+)")
_DIRECTIVE = re.compile(
    r"\.(reqntid|maxntid|minnctapersm|maxnreg|reqnctapercluster|maxclusterrank)\s+"
    r"(\d+(?:\s*,\s*\d+)*)"
)
_FILE = re.compile(r"^[^\S\n]*\.file\s+([0-9]{1,9})\s+\"([^\"\n]*)\"", re.MULTILINE)
_VARIABLE = re.compile(
    rf"""\s*(?:\.(?:visible|extern|weak|common)\s+)*\.(?P<space>shared|local|global|const|param)\s+
    (?:\.align\s+(?P<align>\d+)\s+)?
    \.(?P<type>[busf]\d+)\s+
    (?P<pointer>\.ptr\b(?:\s*\.(?:global|shared|const|local|param))?
        (?:\s*\.align\s+\d+)?\s+)?
    (?P<name>{_IDENTIFIER})\s*
    (?P<dims>(?:\[\s*(?:\d+\s*)?\]\s*)*)(?:=(?P<content>[^=]*))?""",
    re.VERBOSE,
)
_OUTSIDE = re.compile(
    r"(?:^|;)[^\S\n]*(?P<text>(?:\.(?:visible|extern|weak|common)\s+){0,2}"
    r"\.(?:shared|global|const)\s[^;]*)",
    re.MULTILINE,
)


@dataclass(frozen=True)
class Variable:
    """A declaration of a variable or of a parameter.

    align: in bytes.  dims: the extents of an array, None for `[]`.  pointer: whether
    it says `.ptr`.  content: its initialiser.
    """

    space: str
    ptx_type: str
    name: str
    align: int
    dims: tuple[int | None, ...]
    pointer: bool
    extern: bool
    content: str | None

    @property
    def nbytes(self) -> int:
        """Size in bytes; of one element where it does not say how many there are."""
        size = TYPE_NBYTES[self.ptx_type]
        for extent in self.dims:
            size *= 1 if extent is None else extent
        return size

    def place(self, end: int) -> int:
        """The first offset from `end` on that its alignment allows."""
        align = max(self.align, 1)
        return -(-end // align) * align


@dataclass(frozen=True)
class Head:
    """The head of an entry or of a function: all before its body.

    result, params: the declarations in parentheses, None where it has no parentheses.
    params_position: where `params` begins.  tail: the directives behind the name.
    body: where the body begins, None where there is none.
    """

    kind: str
    name: str
    position: int
    result: str | None
    params: str | None
    params_position: int
    tail: str
    body: int | None

    @property
    def directives(self) -> dict[str, tuple[int, ...]]:
        """The directives about its launch, such as {"reqntid": (128,)}."""
        found = _DIRECTIVE.findall(self.tail)
        return {name: tuple(int(n) for n in numbers.split(",")) for name, numbers in found}

    def declarations(self) -> Iterator[tuple[int, str]]:
        """The texts of its parameters, each with its position."""
        position = self.params_position
        for part in (self.params or "").split(","):
            if declaration := part.strip():
                yield position + len(part) - len(part.lstrip()), declaration
            position += len(part) + 1


@lru_cache(maxsize=4)
def read_module(text: str) -> PtxModule:
    """The module that a PTX text is.  The last few are remembered."""
    return PtxModule(text)


class PtxModule:
    """A PTX text taken apart.  Positions are those in `text`, which has no comments or strings.

    files: the numbers of `.file` and their names.
    """

    def __init__(self, given: str) -> None:
        self.text = without_comments(given)
        self.files = {int(number): name for number, name in _FILE.findall(given)}
        self._ends: dict[int, int] = {}

    def line(self, position: int) -> int:
        """The line, from 1, of a position."""
        return bisect_left(self._newlines, position) + 1

    @cached_property
    def _newlines(self) -> array[int]:
        return array("Q", (match.start() for match in re.finditer("\n", self.text)))

    @cached_property
    def header(self) -> Mapping[str, list[tuple[str, int]]]:
        """The text and the position of every "version" and "target" directive."""
        found: dict[str, list[tuple[str, int]]] = {}
        for match in _VERSION.finditer(self.text):
            found.setdefault(match[1], []).append((match[2], match.start()))
        return found

    @cached_property
    def has_long_number(self) -> bool:
        """True if a number has more digits than any has that PTX allows."""
        return _LONG_NUMBER.search(self.text) is not None

    @cached_property
    def entries(self) -> Mapping[str, Head]:
        """The entries by name; of several of one name the first that has a body."""
        found: dict[str, Head] = {}
        for head in self._heads:
            if head.kind == "entry" and (
                head.name not in found or (found[head.name].body is None and head.body is not None)
            ):
                found[head.name] = head
        return found

    @cached_property
    def functions(self) -> Mapping[str, Head]:
        """The functions by name; those without a body are defined elsewhere."""
        found: dict[str, Head] = {}
        for head in self._heads:
            if head.kind == "func" and (head.name not in found or head.body is not None):
                found[head.name] = head
        return found

    @cached_property
    def cut_entry(self) -> tuple[int, str] | None:
        """The position and the first line of an `.entry` whose head is not complete."""
        match = re.search(r"\.entry\b[^\n]*", self.text)
        return (match.start(), match[0]) if match else None

    @cached_property
    def _heads(self) -> list[Head]:
        heads = []
        for match in _HEAD.finditer(self.text):
            named = _NAMED.fullmatch(match["head"]) if match["end"] else None
            if named is None or (match["kind"] == "entry" and named["result"] is not None):
                continue
            heads.append(
                Head(
                    match["kind"],
                    named["name"],
                    match.start(),
                    named["result"],
                    named["params"],
                    match.start("head") + max(named.start("params"), 0),
                    named["tail"],
                    match.end() if match["end"] == "{" else None,
                )
            )
        return heads

    def end(self, body: int) -> int:
        """The position of the brace that closes the body that begins there, else the text's end."""
        if body not in self._ends:
            depth, self._ends[body] = 1, len(self.text)
            for brace in _BRACE.finditer(self.text, body):
                depth += 1 if brace[0] == "{" else -1
                if not depth:
                    self._ends[body] = brace.start()
                    break
        return self._ends[body]

    @cached_property
    def _variables(self) -> list[tuple[str, int]]:
        """The texts of the variables that are declared in no body, and their positions."""
        spans, done = [], 0
        for head in self._heads:
            if head.body is not None and head.body >= done:
                spans.append((done, head.body))
                done = self.end(head.body)
        spans.append((done, len(self.text)))
        found = (match for span in spans for match in _OUTSIDE.finditer(self.text, *span))
        return [(match["text"], match.start("text")) for match in found]

    @cached_property
    def variables(self) -> Mapping[str, tuple[str, int]]:
        """The text and position of what declares a name outside all bodies."""
        return {
            name: found
            for found in self._variables
            for name in _WORD.findall(found[0].partition("=")[0].rpartition(".")[2])[1:]
            if not name[0].isdigit()  # but an extent
        }

    def shared(self, entry: Head) -> list[tuple[str, int]]:
        """The texts and positions of shared variables that lie in no body and that the entry, or a
        function, which it may call, names."""
        named = {self._shared[word] for word in self._words(entry) if word in self._shared}
        return sorted(named | self._shared_by_functions, key=lambda found: found[1])

    @cached_property
    def _shared(self) -> dict[str, tuple[str, int]]:
        return {n: found for n, found in self.variables.items() if ".shared" in found[0]}

    @cached_property
    def _shared_by_functions(self) -> frozenset[tuple[str, int]]:
        words = {word for head in self.functions.values() for word in self._words(head)}
        return frozenset(self._shared[word] for word in words if word in self._shared)

    def _words(self, head: Head) -> set[str]:
        return set(_WORD.findall(self._body(head)))

    def _body(self, head: Head) -> str:
        return "" if head.body is None else self.text[head.body : self.end(head.body)]

    def code(self, entry: str) -> str:
        """The text of an entry's body and of those of all functions, which it may call."""
        return "\n".join(map(self._body, (self.entries[entry], *self.functions.values())))


def read_variable(text: str) -> Variable | None:
    """Take a declaration apart; None for one that cannot be read."""
    match = _VARIABLE.fullmatch(text)
    if match is None or match["type"] not in TYPE_NBYTES:
        return None
    dims = tuple(int(n) if n.strip() else None for n in re.findall(r"\[([^\]]*)\]", match["dims"]))
    return Variable(
        match["space"],
        match["type"],
        match["name"],
        int(match["align"] or TYPE_NBYTES[match["type"]]),
        dims,
        match["pointer"] is not None,
        ".extern" in text[: match.start("space")],
        match["content"],
    )
