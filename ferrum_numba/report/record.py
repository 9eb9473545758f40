"""Results, back from what `as_json` makes of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from .layer_diagnosis import ErrorMap, LayerDiagnosis
from .layer_fault import LayerFault
from .layer_test import LayerResult, Measurement


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
