"""Results as JSON has them, and back."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from .layer_diagnosis import ErrorMap, LayerDiagnosis
from .layer_fault import LayerFault
from .layer_test import LayerResult, Measurement


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


def layer_result(value: Mapping[str, Any]) -> LayerResult:
    """The result of `as_json`; None counts as NaN.  Raises KeyError, TypeError or ValueError."""
    fields = dict(value)
    fields["warnings"] = tuple(map(str, fields.get("warnings", ())))
    fields["measurements"] = tuple(_measurement(item) for item in fields["measurements"])
    if fields["explanation"] is not None:
        fields["explanation"] = _explanation(fields["explanation"])
    return LayerResult(**fields)


def _measurement(value: Mapping[str, Any]) -> Measurement:
    errors = ("max_abs_error", "relative_error", "tolerance", "worst_ratio", "seconds")
    numbers = {name: _number(value[name]) for name in errors}
    row, column = value["worst_element"]
    return Measurement(**{**value, **numbers, "worst_element": (int(row), int(column))})


def _explanation(value: Mapping[str, Any]) -> LayerDiagnosis:
    return LayerDiagnosis(
        m=value["m"],
        cause=LayerFault(**value["cause"]),
        histogram=tuple(value["histogram"]),
        overview=_map(value["overview"]),
        zoom=_map(value["zoom"]),
    )


def _map(value: Mapping[str, Any]) -> ErrorMap:
    rows = tuple(tuple(_number(number) for number in row) for row in value["values"])
    return ErrorMap(rows, tuple(value["k"]), tuple(value["n"]))


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
