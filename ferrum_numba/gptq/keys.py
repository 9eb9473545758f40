"""The keys of a JSON object in a model's directory, each read with its type."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from .files import read_json

_REMEDY = "take the model's own file"


class Keys:
    """The object `where` of a model's files. A key that is null reads as one that is missing.

    `otherwise` is the value of a missing key; without one the key has to be there. What has the
    wrong type or range raises CheckpointError with the key, what was expected and what was found.
    """

    def __init__(self, values: Mapping[str, Any], where: str = "config.json") -> None:
        self.values, self.where = values, where

    @classmethod
    def load(cls, file: Path, *, optional: bool = False) -> Keys:
        """The object in `file`; an empty one where it is optional and not there."""
        content = {} if optional and not file.exists() else read_json(file)
        if not isinstance(content, dict):
            raise CheckpointError(file, "a JSON object", type(content).__name__, _REMEDY)
        return cls(content, file.name)

    def __getitem__(self, key: str) -> Any:
        """The value as it is, or None."""
        return self.values.get(key)

    @property
    def stated(self) -> dict[str, Any]:
        """All that is not null."""
        return {key: value for key, value in self.values.items() if value is not None}

    def object(self, key: str) -> Keys | None:
        """The JSON object under `key`, or None where it is null, missing or empty."""
        value = self[key]
        if value is not None and not isinstance(value, dict):
            raise self.error(key, "a JSON object")
        return Keys(value, f"{key} of {self.where}") if value else None

    def error(self, key: str, expected: str, remedy: str = _REMEDY) -> CheckpointError:
        """The refusal of the value of `key`."""
        found = repr(self[key]) if key in self.values else "nothing"
        return CheckpointError(f"{key} in {self.where}", expected, found[:200], remedy)

    def count(self, key: str, otherwise: int | None = None, *, least: int = 1) -> int:
        """A whole number of at least `least`."""
        value = self[key] if self[key] is not None else otherwise
        if type(value) is not int or value < least:
            raise self.error(key, f"a whole number of at least {least}")
        return value

    def number(self, key: str, otherwise: float | None = None, *, above: float = 0.0) -> float:
        """A finite number above `above`."""
        value: Any = self[key] if self[key] is not None else otherwise
        if type(value) not in (int, float) or not above < value < math.inf:  # nan fails, too
            raise self.error(key, f"a finite number above {above:g}")
        return float(value)

    def flag(self, key: str, otherwise: bool | None = None) -> bool:
        """true or false."""
        value = self[key] if self[key] is not None else otherwise
        if type(value) is not bool:
            raise self.error(key, "true or false")
        return value

    def numbers(self, key: str, size: int) -> tuple[float, ...]:
        """A list of `size` finite numbers above 0."""
        value = self[key]
        if not isinstance(value, list) or len(value) != size:
            raise self.error(key, f"a list of {size} numbers")
        each = Keys({f"{key}[{place}]": part for place, part in enumerate(value)}, self.where)
        return tuple(map(each.number, each.values))

    def token_ids(self, key: str) -> tuple[int, ...]:
        """One id, a list of them, or null: none."""
        value = self[key]
        ids = value if isinstance(value, list) else [] if value is None else [value]
        if not all(type(token) is int and token >= 0 for token in ids):
            raise self.error(key, "a token id or a list of them")
        return tuple(ids)
