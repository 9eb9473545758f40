"""Values of this package in JSON's own types."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any


def as_json(value: Any) -> Any:
    """`value` in JSON's own types: records as objects, NaN and the infinities as None."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: as_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: as_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_json(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
