"""Fields of a sidecar's JSON, each of the type that it has to have.

Each function takes a field, or the object and the field's key, and raises AbiError for another type
or a number out of range.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import AbiError
from .expression import Expression, expression

_GPU_TARGET = re.compile(r"GPUTarget\(backend='cuda', arch=(\d+)\b.*\)")  # Triton's, as text


def load_json(text: str, what: str) -> dict[str, Any]:
    """The JSON object in a text; what: its name for the message."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        what_else = "this is PTX, its sidecar is the .json" if ".version" in text[:4096] else ""
        raise AbiError(what, f"not JSON: {error}", remedy=what_else) from None
    if not isinstance(value, dict):
        raise AbiError(what, "a JSON object", type(value).__name__)
    return value


def string(fields: Mapping[str, Any], key: str) -> str | None:
    """A string, or None where there is none."""
    value = fields.get(key)
    if value is not None and not isinstance(value, str):
        raise AbiError(key, "a string", f"{value!r}", where="sidecar")
    return value


def count(fields: Mapping[str, Any], key: str, low: int, high: int) -> int | None:
    """An integer from `low` to `high`, or None where there is none."""
    value = fields.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise AbiError(key, f"an integer from {low} to {high}", f"{value!r}", where="sidecar")
    return value


def flag(fields: Mapping[str, Any], key: str) -> bool:
    """True or false, which is the default."""
    value = fields.get(key, False)
    if not isinstance(value, bool):
        raise AbiError(key, "true or false", f"{value!r}", where="sidecar")
    return value


def sequence(fields: Mapping[str, Any], key: str) -> Sequence[Any]:
    """A list, by default an empty one."""
    value = fields.get(key, [])
    if not isinstance(value, list):
        raise AbiError(key, "a list", f"{value!r}", where="sidecar")
    return value


def integers(fields: Mapping[str, Any], key: str) -> Mapping[str, int] | None:
    """Integers by name, or None where there are none."""
    value = fields.get(key)
    if value is None:
        return None
    if not isinstance(value, dict) or any(type(n) is not int for n in value.values()):
        raise AbiError(key, "names with integers", f"{value!r}", where="sidecar")
    return value


def expression_of(text: object) -> Expression:
    """An expression out of its text."""
    if not isinstance(text, str):
        raise AbiError("sidecar", "an expression as a string", f"{text!r}")
    return expression(text)


def grid(rules: Sequence[Any]) -> tuple[Expression, Expression, Expression] | None:
    """The grid rule out of three expressions, or None for none."""
    if not rules:
        return None
    if len(rules) != 3:
        raise AbiError("grid", "three expressions (x, y, z)", list(rules), where="sidecar")
    x, y, z = map(expression_of, rules)
    return x, y, z


def target(value: object) -> str | None:
    """The architecture, "sm_80", out of its name or of Triton's description."""
    if isinstance(value, str) and (arch := _GPU_TARGET.fullmatch(value)):
        return f"sm_{arch[1]}"
    if value is None or isinstance(value, str):
        return value
    if (
        isinstance(value, dict)
        and value.get("backend") == "cuda"
        and type(value.get("arch")) is int
    ):
        return f"sm_{value['arch']}"
    raise AbiError("target", '"sm_XY" or a CUDA target of Triton', f"{value!r}", where="sidecar")


def ptx_version(value: object) -> tuple[int, int] | None:
    """(major, minor) out of "7.0" or 70."""
    if value is None:
        return None
    if type(value) is int:
        return divmod(value, 10)
    match = re.fullmatch(r"(\d+)\.(\d)", value) if isinstance(value, str) else None
    if match is None:
        raise AbiError("ptx_version", '"7.0" or 70', f"{value!r}", where="sidecar")
    return int(match[1]), int(match[2])
