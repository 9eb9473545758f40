r"""Regular expressions of a stranger, matched in time that they cannot choose.

Python's `re` goes back and tries again, 2^n times for a pattern such as `(a|a)*b`. Here all
patterns of a configuration become one automaton that reads a name once. Its states are made as
they are met, and how much work that may be is bounded.

What `re.match` says is said here too, for characters and their escapes, `.`, classes, groups, `|`,
the repeats `* + ? {m,n}` and their lazy forms, `^ $ \A \Z \b \B`, lookaheads, and the flags a, i
and s at the start. (Greed does not change whether a pattern matches.)
Backreferences, lookbehinds, conditionals, possessive repeats and atomic groups are refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import CheckpointError

_MAX_LENGTH, _MAX_TOTAL = 10_000, 1_000_000  # characters of a pattern, and of all
_MAX_DEPTH = 50  # groups inside each other
_MAX_STATES = 100_000  # of all patterns, repeats written out
# Threads looked at while states are made, at about a microsecond each.
_LEAST_WORK, _WORK_PER_CHARACTER, _MOST_WORK = 1_000_000, 10, 20_000_000
_MAX_KEPT, _STEP = 2_000_000, 8  # threads in states that are kept, 200 MB; a state takes as 8

_FLAGS = re.compile(r"\(\?([a-zA-Z]+)\)")
_REPEAT = re.compile(r"\{(?!\})([0-9]*)(,?)([0-9]*)\}")
_ESCAPE = re.compile(
    r"\\(?:x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|N\{[^}]*\}|0[0-7]{0,2}|[0-3][0-7]{2}|.)",
    re.DOTALL,
)
_CLASS = re.compile(r"\[\^?\]?(?:[^\\\]]|\\.)*\]", re.DOTALL)
_WIDE = re.compile(r"\\[xuUN0-7]|[^\x00-\x7f]")  # what can make `re` go through all of Unicode
_AT = {r"\A": "start", r"\Z": "end", r"\b": "edge", r"\B": "no edge", "^": "start", "$": "last"}
_GROUPS = {
    "(?<=": "a lookbehind",
    "(?<!": "a lookbehind",
    "(?P=": "a backreference",
    "(?(": "a conditional",
    "(?>": "an atomic group",
}

# A pattern taken apart: ("char", source), ("at", where), ("all", parts), ("any", parts),
# ("repeat", part, low, high or None), ("ahead", part, negative).
_Node = tuple[Any, ...]

# A thread is a state and the lookaheads that it depends on, each (negative, its own threads).
_Promises = frozenset[tuple[bool, Any]]
_Thread = tuple[int, _Promises]
_Run = frozenset[_Thread]
_NOTHING: _Promises = frozenset()


class _Refused(Exception):  # noqa: N818 - it says what is refused
    pass


class Patterns:
    """Patterns in an order; `first` finds the first of them that matches at a name's start."""

    def __init__(self, patterns: Sequence[tuple[str, str]]) -> None:
        """patterns: (regular expression, where it stands, for messages).

        Raises CheckpointError that names the place for one that does not compile, or is not among
        those that are read here.
        """
        self._states: list[_Node] = []  # ("char", source, next), ("any", nexts), ..., ("match",)
        self._tests: dict[tuple[str, int], re.Pattern[str]] = {}
        self._fitting: dict[tuple[re.Pattern[str], str], bool] = {}
        self._owner: list[int] = []  # of each state: its pattern's place
        self._read = self._work = self._kept = 0  # characters; threads looked at; threads kept
        self._where = patterns[0][1] if patterns else ""
        total = sum(len(pattern) for pattern, _ in patterns)
        if total > _MAX_TOTAL:
            raise CheckpointError(
                self._where,
                f"rules of at most {_MAX_TOTAL} characters",
                f"{total} in {len(patterns)} rules",
                "let fewer rules name the layers",
            )
        starts = []
        for place, (pattern, where) in enumerate(patterns):
            node, flags = _parsed(pattern, where)
            self._flags = flags
            try:
                starts.append((self._build(node, self._new(("match",))), _NOTHING))
            except _Refused as refused:
                raise _refusal(where, pattern, str(refused)) from refused
            self._owner += [place] * (len(self._states) - len(self._owner))
        self._count = len(patterns)
        self._has_edges = any(state[:2] == ("at", "edge") for state in self._states)
        self._known: dict[tuple[_Run, str, int], _Step] = {}
        self._start = self._step(frozenset(starts), "start", self._count)

    def first(self, name: str) -> int | None:
        """The place of the first pattern that matches at the start of `name`, as `re.match` does.

        Raises CheckpointError where the patterns ask for more work than is done for them.
        """
        self._read += len(name)
        step = self._start
        for symbol in _symbols(name):
            following = step.following.get(symbol)
            if following is None:
                following = step.following[symbol] = self._follow(step, symbol)
            step = following
            if not step.run:
                break
        return step.best if step.best < self._count else None

    def _new(self, state: _Node) -> int:
        if len(self._states) >= _MAX_STATES:
            raise _Refused("repeats that make it too long")
        self._states.append(state)
        return len(self._states) - 1

    def _build(self, node: _Node, following: int) -> int:
        """The first state of a part of a pattern that goes on at `following`."""
        kind = node[0]
        if kind == "char":
            key = (node[1], self._flags)
            if key not in self._tests:
                self._tests[key] = re.compile(*key)
            return self._new(("char", self._tests[key], following))
        if kind == "at":
            return self._new(("at", node[1], self._flags, following))
        if kind == "all":
            for part in reversed(node[1]):
                following = self._build(part, following)
            return following
        if kind == "any":
            return self._new(("any", [self._build(part, following) for part in node[1]]))
        if kind == "ahead":
            inner = self._build(node[1], self._new(("match",)))
            return self._new(("ahead", inner, node[2], following))
        _, part, low, high = node
        if high is None:
            ways: list[int] = []
            last = self._new(("any", ways))
            ways += [self._build(part, last), following]
        else:
            last = following
            for _ in range(high - low):
                last = self._new(("any", [self._build(part, last), following]))
        for _ in range(low):
            before, last = last, self._build(part, last)
            if last == before:  # a part of nothing, however often
                break
        return last

    def _step(self, run: _Run, before: str, best: int) -> _Step:
        key = (run, before, best)
        if key not in self._known:
            self._kept += len(run) + _STEP
            if self._kept > _MAX_KEPT:
                self._kept = 0
                self._known.clear()
                self._start.following.clear()
            self._known[key] = _Step(*key)
        return self._known[key]

    def _follow(self, step: _Step, symbol: str) -> _Step:
        accepted, run = self._advance(step.run, step.before, symbol)
        best = min([step.best, *accepted])
        run = frozenset(thread for thread in run if self._owner[thread[0]] < best)
        return self._step(run, self._kind(symbol[:1]), best)

    def _kind(self, character: str) -> str:
        """A character that stands before others as this one does: all that an edge asks for."""
        if not self._has_edges or not _is_word(character, 0):
            return "."
        return "a" if _is_word(character, re.ASCII) else "é"

    def _advance(self, run: _Run, before: str, symbol: str) -> tuple[set[int], _Run]:
        """(patterns that match before `symbol`, threads after it)."""
        accepted: set[int] = set()
        onward: set[_Thread] = set()
        for state, promises in self._reached(run, before, symbol):
            kept = self._open(promises, before, symbol) if promises else promises
            if kept is None:
                continue
            node = self._states[state]
            if node[0] == "match":
                if kept:
                    onward.add((state, kept))
                else:
                    accepted.add(self._owner[state])
            elif symbol and self._fits(node[1], symbol[:1]):
                onward.add((node[2], kept))
        return accepted, frozenset(onward)

    def _fits(self, test: re.Pattern[str], character: str) -> bool:
        key = (test, character)
        if key not in self._fitting:
            self._fitting[key] = test.fullmatch(character) is not None
        return self._fitting[key]

    def _reached(self, run: _Run, before: str, symbol: str) -> Iterator[_Thread]:
        """The threads that wait for a character or have matched, without reading any."""
        seen, waiting = set(run), list(run)
        while waiting:
            state, promises = thread = waiting.pop()
            self._work += 1 + len(promises)
            if self._work > min(_LEAST_WORK + _WORK_PER_CHARACTER * self._read, _MOST_WORK):
                raise CheckpointError(
                    self._where,
                    f"rules whose patterns are matched in {self._work - 1} steps",
                    "that they take more",
                    "let them name their layers more plainly",
                )
            node = self._states[state]
            if node[0] in ("char", "match"):
                yield thread
                continue
            if node[0] == "any":
                reached = [(way, promises) for way in node[1]]
            elif node[0] == "ahead":
                promise = (node[2], frozenset([(node[1], _NOTHING)]))
                reached = [(node[3], promises | {promise})]
            else:
                reached = [(node[3], promises)] if _is_at(node[1], node[2], before, symbol) else []
            waiting += [thread for thread in reached if thread not in seen]
            seen.update(reached)

    def _open(self, promises: _Promises, before: str, symbol: str) -> _Promises | None:
        """The lookaheads that are still open after `symbol`; None where one has failed."""
        kept = set()
        for negative, run in promises:
            accepted, onward = self._advance(run, before, symbol)
            if accepted or not onward:
                if bool(accepted) == negative:
                    return None
            else:
                kept.add((negative, onward))
        return frozenset(kept)


@dataclass(eq=False, slots=True)
class _Step:
    """A state of the automaton.

    run        the threads that are alive
    before     the character before, "start" at the name's start
    best       the first pattern that has matched so far; their number where none has
    following  symbol -> the next state, as far as known
    """

    run: _Run
    before: str
    best: int
    following: dict[str, _Step] = field(default_factory=dict)


_LAST_NEWLINE = "\n$"


def _symbols(name: str) -> Iterator[str]:
    """The characters, a newline at the end told from others, and "" for the end."""
    if name.endswith("\n"):
        yield from name[:-1]
        yield _LAST_NEWLINE
    else:
        yield from name
    yield ""


def _is_at(where: str, flags: int, before: str, symbol: str) -> bool:
    if where == "start":
        return before == "start"
    if where == "end":
        return not symbol
    if where == "last":
        return symbol in ("", _LAST_NEWLINE)
    edge = _is_word(before, flags) != _is_word(symbol[:1], flags)
    if where == "edge":
        return edge
    return not edge and not (before == "start" and not symbol)  # `re` has no \B in an empty name


def _is_word(character: str, flags: int) -> bool:
    return re.fullmatch(r"\w", character, flags & re.ASCII) is not None


def _refusal(where: str, pattern: str, what: str) -> CheckpointError:
    shown = pattern if len(pattern) <= 200 else f"{pattern[:200]}…"
    return CheckpointError(
        where,
        "a regular expression that can be matched in linear time",
        f"{what} in {shown!r}",
        "name the layers without it",
    )


def _parsed(pattern: str, where: str) -> tuple[_Node, int]:
    """The parts of a pattern, and its flags."""
    if len(pattern) > _MAX_LENGTH:
        raise _refusal(where, pattern, f"{len(pattern)} characters, more than {_MAX_LENGTH},")
    try:
        node = _Reader(pattern).alternatives(0)
        flags = re.compile(pattern).flags  # after, since this alone can take long
    except _Refused as refused:
        raise _refusal(where, pattern, str(refused)) from refused
    except (re.error, OverflowError, RecursionError) as error:
        raise CheckpointError(
            where, "a regular expression", f"one that does not compile ({error})"
        ) from error
    return node, flags & (re.ASCII | re.IGNORECASE | re.DOTALL)


class _Reader:
    """Takes a pattern apart. What is no pattern at all is left to `re` to say."""

    def __init__(self, pattern: str) -> None:
        self._text = pattern
        self._at = 0
        flags = _FLAGS.match(pattern)
        self._ignores_case = False
        if flags is not None:
            if others := set(flags[1]) - set("aisu"):
                raise _Refused(f"the flag {min(others)}")
            self._ignores_case = "i" in flags[1]
            self._at = flags.end()

    def alternatives(self, depth: int) -> _Node:
        if depth > _MAX_DEPTH:
            raise _Refused(f"groups more than {_MAX_DEPTH} deep")
        ways = [self._sequence(depth)]
        while self._takes("|"):
            ways.append(self._sequence(depth))
        return ways[0] if len(ways) == 1 else ("any", ways)

    def _takes(self, text: str) -> bool:
        found = self._text.startswith(text, self._at)
        self._at += len(text) * found
        return found

    def _sequence(self, depth: int) -> _Node:
        parts: list[_Node] = []
        while self._at < len(self._text) and self._text[self._at] not in "|)":
            parts.append(self._repeated(self._part(depth)))
        return ("all", parts)

    def _repeated(self, part: _Node) -> _Node:
        high: int | None
        number = _REPEAT.match(self._text, self._at)
        if self._takes("*"):
            low, high = 0, None
        elif self._takes("+"):
            low, high = 1, None
        elif self._takes("?"):
            low, high = 0, 1
        elif number is not None:
            self._at = number.end()
            low = int(number[1] or 0)
            high = low if not number[2] else int(number[3]) if number[3] else None
        else:
            return part
        if self._takes("+"):
            raise _Refused("a possessive repeat")
        self._takes("?")  # lazy
        return ("repeat", part, low, high)

    def _part(self, depth: int) -> _Node:
        text, start = self._text, self._at
        if text[start] == "(":
            return self._group(depth)
        if text[start] == "[":
            found = _CLASS.match(text, start)
        elif text[start] == "\\":
            found = _ESCAPE.match(text, start)
            if re.match(r"\\[1-9](?![0-7]{2})", text[start : start + 4]):
                raise _Refused("a backreference")
        else:
            found = None
        self._at = found.end() if found is not None else start + 1
        source = text[start : self._at]
        if source in _AT:
            return ("at", _AT[source])
        if self._ignores_case and source[0] == "[" and _WIDE.search(source):
            raise _Refused("a class beyond plain characters where case is ignored")
        plain = len(source) == 1 and source != "."
        return ("char", re.escape(source) if plain else source)

    def _group(self, depth: int) -> _Node:
        rest = self._text[self._at : self._at + 4]
        for begins, what in _GROUPS.items():
            if rest.startswith(begins):
                raise _Refused(what)
        if rest.startswith("(?#"):
            end = self._text.find(")", self._at)
            self._at = len(self._text) if end < 0 else end + 1
            return ("all", [])
        negative = rest.startswith("(?!")
        ahead = negative or rest.startswith("(?=")
        named = re.compile(r"\(\?P<\w+>").match(self._text, self._at)
        if named is not None:
            self._at = named.end()
        elif ahead or rest.startswith("(?:"):
            self._at += 3
        elif re.match(r"\(\?[aiLmsux-]", rest):
            raise _Refused("flags inside a pattern")
        else:
            self._at += 1
        node = self.alternatives(depth + 1)
        self._takes(")")
        return ("ahead", node, negative) if ahead else node
