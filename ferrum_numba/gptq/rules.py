"""Per-layer rules of a quantisation configuration: other bits or group size, or left out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import CheckpointError

_OVERRIDES = {"bits": int, "group_size": int, "sym": bool}
# A rule that changed one of these would change how a layer decodes; no producer writes such.
_REFUSED = ("format", "checkpoint_format", "method", "quant_method", "pack_dtype")
_UNQUANTISED_BITS = 16


@dataclass(frozen=True)
class LayerRule:
    """What applies to the layers whose name starts with a match of `pattern`.

    pattern     a regular expression, matched at the start of the name as GPTQModel does
    excluded    whether these layers are left unquantised
    bits, group_size, sym   the layer's own value, or None for the configuration's
    """

    pattern: re.Pattern[str]
    excluded: bool = False
    bits: int | None = None
    group_size: int | None = None
    sym: bool | None = None

    def matches(self, name: str) -> bool:
        """Whether the rule applies to the layer `name`."""
        return self.pattern.match(name) is not None


def read_rules(dynamic: object, extra_config: object, source: str) -> tuple[LayerRule, ...]:
    """Rules of GPTQModel's `dynamic` and of auto-round's `extra_config`, in the files' order.

    dynamic: {"[+:]pattern": overrides} or {"-:pattern": {}} (excluded); extra_config:
    {name or pattern: overrides}, of 16 bits and more if excluded. source names the files in
    messages. Raises CheckpointError for a rule that cannot be read.
    """
    rules = []
    for key, value in _mapping(dynamic, f"dynamic in {source}").items():
        where = f"dynamic[{key!r}] in {source}"
        if key.startswith("-:"):
            rules.append(LayerRule(_compile(key[2:], where), excluded=True))
        else:
            rules.append(_rule(_compile(key.removeprefix("+:"), where), value, where))
    for key, value in _mapping(extra_config, f"extra_config in {source}").items():
        where = f"extra_config[{key!r}] in {source}"
        is_name = re.fullmatch(r"[\w.-]+", key)
        pattern = rf"{re.escape(key)}\Z" if is_name else rf".*?(?:{key})"
        rules.append(_rule(_compile(pattern, where), value, where))
    return tuple(rules)


def _rule(pattern: re.Pattern[str], value: object, where: str) -> LayerRule:
    overrides = _mapping(value, where)
    for field in _REFUSED:
        if field in overrides:
            raise CheckpointError(
                f"{where}: expected no {field!r} for single layers, found {overrides[field]!r}; "
                "such layers are not read here"
            )
    values: dict[str, Any] = {}
    for field, expected in _OVERRIDES.items():
        if overrides.get(field) is None:
            continue
        if type(overrides[field]) is not expected:
            raise CheckpointError(
                f"{where}: expected {field} to be {expected.__name__}, found {overrides[field]!r}"
            )
        values[field] = overrides[field]
    if values.get("bits", 0) >= _UNQUANTISED_BITS:
        return LayerRule(pattern, excluded=True)
    return LayerRule(pattern, **values)


def _mapping(value: object, where: str) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise CheckpointError(f"{where}: expected a JSON object, found {value!r}")
    return value


def _compile(pattern: str, where: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise CheckpointError(
            f"{where}: expected a regular expression, found one that does not compile ({error})"
        ) from error
