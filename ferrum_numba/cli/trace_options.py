"""The options of `trace` that choose CTAs, warps, lanes and lines, as numbers."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import click

from ..emulator.parse import parse_entry
from ..emulator.ptx import Instruction, registers_of
from ..emulator.trace.sites import full_name
from ..errors import DeviceError
from .options import Decorator

_LANES = _WARPS = 32


def read_lanes(text: str) -> tuple[int, ...]:
    """`0-3,8` or `all`."""
    return tuple(range(_LANES)) if text == "all" else _numbers(text, _LANES, "lanes")


def read_warps(text: str) -> tuple[int, ...] | None:
    """`1`, `0-3` or `all`."""
    return None if text == "all" else _numbers(text, _WARPS, "warp")


def read_cta(text: str) -> tuple[int, ...] | None:
    """`0,0,0` or `all`."""
    if text == "all":
        return None
    if not re.fullmatch(r"\d+(,\d+){0,2}", text):
        raise DeviceError("cta", "x,y,z or all", f"{text!r}")
    return tuple(int(part) for part in text.split(","))


def chosen_option(
    flag: str, name: str, metavar: str, read: Callable[[str], Any], default: str, help: str
) -> Decorator:
    """An option whose text `read` takes; its errors are errors of usage."""

    def callback(ctx: click.Context, param: click.Parameter, value: str) -> Any:
        try:
            return read(value)
        except DeviceError as error:
            raise click.BadParameter(str(error), ctx, param) from None

    return click.option(
        flag,
        name,
        metavar=metavar,
        callback=callback,
        default=default,
        show_default=True,
        help=help,
    )


def read_lines(texts: Sequence[str], ptx: str, entry: str) -> frozenset[int]:
    """Lines of the PTX: `120`, `120-140`, or those of the source lines `:45`, `kernel.py:45-50`.

    Raises DeviceError for those that have no instruction.
    """
    if not texts:
        return frozenset()
    body = parse_entry(ptx, entry)
    instructions = [s for s in body.statements if isinstance(s, Instruction)]
    found: set[int] = set()
    for text in texts:
        match = re.fullmatch(r"(?:(?P<file>[^\s:]*):)?(?P<first>\d+)(?:-(?P<last>\d+))?", text)
        if match is None:
            raise DeviceError("--line", "120, 120-140 or :45", f"{text!r}")
        lines = range(int(match["first"]), int(match["last"] or match["first"]) + 1)
        if match["file"] is None:
            chosen = {i.line for i in instructions if i.line in lines}
        else:
            chosen = {
                i.line
                for i in instructions
                if i.loc
                and i.loc[1] in lines
                and body.files.get(i.loc[0], "").endswith(match["file"])
            }
        if not chosen:
            raise DeviceError(f"--line {text}", f"no instruction of {entry} is there")
        found |= chosen
    return frozenset(found)


def read_registers(texts: Sequence[str], ptx: str, entry: str) -> list[str]:
    """Names of registers, with their %.  Raises DeviceError for those that no instruction has."""
    names = [text if text.startswith("%") else f"%{text}" for text in texts]
    if names:
        body = parse_entry(ptx, entry)
        instructions = [s for s in body.statements if isinstance(s, Instruction)]
        known = {full_name(r) for i in instructions for o in i.operands for r in registers_of(o)}
        unknown = [name for name in names if name not in known]
        if unknown:
            raise DeviceError("--register", f"{entry} has no {', '.join(unknown)}")
    return names


def _numbers(text: str, limit: int, what: str) -> tuple[int, ...]:
    found: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:\s*-\s*(\d+))?\s*", part)
        if match is None:
            raise DeviceError(what, "numbers such as 0-3,8 or all", f"{text!r}")
        found.update(range(int(match[1]), int(match[2] or match[1]) + 1))
    if not found or max(found) >= limit:
        raise DeviceError(what, f"0 to {limit - 1}", f"{text!r}")
    return tuple(sorted(found))
