"""The right integers of a launch, by its arrays and the sidecar's declarations."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from .case import Case

_NAME = re.compile(r"[A-Za-z_]\w*")
_QUOTIENT = re.compile(r"([A-Za-z_]\w*)\s*//\s*(\d+)")
_GROUPS = re.compile(r"cdiv\((\w+), (\w+)\)")


@dataclass(frozen=True)
class Vote:
    """Vote of one array on one integer, by an axis of its shape or of its strides."""

    value: int
    array: str
    where: str


@dataclass(frozen=True)
class Truth:
    """The integers that most arrays agree on, and what else arrays say."""

    values: dict[str, int]
    votes: dict[str, list[Vote]]

    def dissent(self) -> dict[str, list[str]]:
        """Arrays that say otherwise than most: (array, names of the integers)."""
        found: dict[str, list[str]] = {}
        for name, votes in self.votes.items():
            for vote in votes:
                if vote.value != self.values[name]:
                    found.setdefault(vote.array, []).append(name)
        return found

    def source(self, name: str) -> str:
        """The array and axis that show a value: `shape[1] of a`."""
        votes = self.votes.get(name, [])
        return next((f"{v.where} of {v.array}" for v in votes if v.value == self.values[name]), "")


def truth(case: Case) -> Truth:
    """Integers that shapes and strides of declared arrays tell; the majority counts.

    Where arrays disagree and none has the majority, the block's own value decides.
    """
    found = Truth({}, {})
    for name, vote in _votes(case):
        found.votes.setdefault(name, []).append(vote)
    _decide(case, found, list(found.votes))
    for name, vote in _group_sizes(case, found.values):
        found.votes.setdefault(name, []).append(vote)
    _decide(case, found, [name for name in found.votes if name not in found.values])
    return found


def _decide(case: Case, found: Truth, names: list[str]) -> None:
    for name in names:
        counts = Counter(vote.value for vote in found.votes[name])
        own = case.values.get(name)
        found.values[name] = max(counts, key=lambda value: (counts[value], value == own))


def _votes(case: Case) -> Iterator[tuple[str, Vote]]:
    for declaration in case.declared.params:
        array = case.arrays.get(declaration.name)
        if array is None or len(declaration.shape) != array.values.ndim:
            continue
        for axis, rule in enumerate(declaration.shape):
            extent = array.values.shape[axis]
            quotient = _QUOTIENT.fullmatch(rule.text)
            where = f"shape[{axis}]"
            if _NAME.fullmatch(rule.text):
                yield rule.text, Vote(extent, declaration.name, where)
            elif quotient:
                factor = int(quotient[2])
                yield quotient[1], Vote(extent * factor, declaration.name, f"{where} * {factor}")
        for axis, rule in enumerate(declaration.strides):
            if _NAME.fullmatch(rule.text):
                stride = array.strides[axis]
                yield rule.text, Vote(stride, declaration.name, f"strides[{axis}]")


def _group_sizes(case: Case, values: dict[str, int]) -> Iterator[tuple[str, Vote]]:
    """The size of groups, where a number of them and what they divide are known."""
    for declaration in case.declared.params:
        array = case.arrays.get(declaration.name)
        if array is None or len(declaration.shape) != array.values.ndim or not declaration.shape:
            continue
        match = _GROUPS.fullmatch(declaration.shape[0].text)
        if match is None or match[1] not in values or match[2] in values:
            continue
        whole, groups = values[match[1]], array.values.shape[0]
        if groups and whole % groups == 0:
            yield match[2], Vote(whole // groups, declaration.name, f"{match[1]} / {groups} rows")
