"""Per-layer rules of a quantisation configuration: other bits or group size, or left out."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ..errors import CheckpointError
from .names import text_spellings
from .patterns import Patterns

_OVERRIDES = {"bits": int, "group_size": int, "sym": bool}
# A rule that changed one of these would change how a layer decodes; no producer writes such.
_REFUSED = ("format", "checkpoint_format", "method", "quant_method", "pack_dtype")
_UNQUANTISED_BITS = 16


@dataclass(frozen=True)
class LayerRule:
    """Settings that apply to some layers.

    pattern     a regular expression, matched at the start of the name as GPTQModel does
    exact       whether `pattern` is a layer's whole name instead
    where       where the rule stands, for messages
    excluded    whether these layers are left unquantised
    bits, group_size, sym   the layer's own value, or None for the configuration's
    """

    pattern: str
    where: str
    exact: bool = False
    excluded: bool = False
    bits: int | None = None
    group_size: int | None = None
    sym: bool | None = None


@dataclass(frozen=True)
class Rules:
    """Rules in an order: the first that matches a name counts.

    Raises CheckpointError for a pattern that `Patterns` refuses.
    """

    rules: tuple[LayerRule, ...] = ()
    _exact: dict[str, int] = field(init=False, repr=False, compare=False)
    _places: list[int] = field(init=False, repr=False, compare=False)
    _patterns: Patterns = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        exact: dict[str, int] = {}
        for place, rule in enumerate(self.rules):
            if rule.exact:
                exact.setdefault(rule.pattern, place)
        places = [place for place, rule in enumerate(self.rules) if not rule.exact]
        found = [(self.rules[place].pattern, self.rules[place].where) for place in places]
        object.__setattr__(self, "_exact", exact)
        object.__setattr__(self, "_places", places)
        object.__setattr__(self, "_patterns", Patterns(found))

    def __iter__(self) -> Iterator[LayerRule]:
        return iter(self.rules)

    def first(self, name: str) -> LayerRule | None:
        """The rule for the quantised layer `name`, if there is one.

        Where no rule matches the name of a layer in a text model, its names in other versions
        count, but for exclusions: that the layer is quantised says that they meant others.
        """
        if not self.rules:
            return None
        for spelling in text_spellings(name):
            places = [self._exact.get(spelling)]
            pattern = self._patterns.first(spelling)
            places.append(None if pattern is None else self._places[pattern])
            found = [place for place in places if place is not None]
            if found and (spelling == name or not self.rules[min(found)].excluded):
                return self.rules[min(found)]
        return None


def read_rules(dynamic: object, extra_config: object, source: str) -> Rules:
    """Rules of GPTQModel's `dynamic` and of auto-round's `extra_config`, in the files' order.

    dynamic: {"[+:]pattern": overrides} or {"-:pattern": {}} (excluded); extra_config:
    {name or pattern: overrides}, of 16 bits and more if excluded. source names the files in
    messages. Raises CheckpointError for a rule that cannot be read.
    """
    rules = []
    for key, value in _mapping(dynamic, f"dynamic in {source}").items():
        where = f"dynamic[{_shown(key)}] in {source}"
        if key.startswith("-:"):
            rules.append(LayerRule(key[2:], where, excluded=True))
        else:
            rules.append(_rule(LayerRule(key.removeprefix("+:"), where), value))
    for key, value in _mapping(extra_config, f"extra_config in {source}").items():
        where = f"extra_config[{_shown(key)}] in {source}"
        exact = re.fullmatch(r"[\w.-]+", key) is not None
        pattern = key if exact else rf".*?(?:{key})"
        rules.append(_rule(LayerRule(pattern, where, exact), value))
    return Rules(tuple(rules))


def _shown(key: str) -> str:
    return repr(key if len(key) <= 200 else f"{key[:200]}…")


def _rule(rule: LayerRule, value: object) -> LayerRule:
    """`rule` with the values that a file gives it."""
    overrides = _mapping(value, rule.where)
    for name in _REFUSED:
        if name in overrides:
            raise CheckpointError(
                rule.where,
                f"no {name!r} for single layers",
                f"{overrides[name]!r}",
                "such layers are not read here",
                code="configuration-wrong",
            )
    values: dict[str, Any] = {}
    for name, expected in _OVERRIDES.items():
        if overrides.get(name) is None:
            continue
        if type(overrides[name]) is not expected:
            raise CheckpointError(
                rule.where,
                f"{name} to be {expected.__name__}",
                f"{overrides[name]!r}",
                code="configuration-wrong",
            )
        values[name] = overrides[name]
    if values.get("bits", 0) >= _UNQUANTISED_BITS:
        values = {"excluded": True}
    return replace(rule, **values)


def _mapping(value: object, where: str) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise CheckpointError(where, "a JSON object", f"{value!r}", code="configuration-wrong")
    return value
