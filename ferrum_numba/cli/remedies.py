"""Remedies of messages, which name Python's arguments, as the options of a command."""

from __future__ import annotations

import re
from collections.abc import Collection

import click

_VALUE = r'"?([\w.:-]+)"?'
_ARGUMENT = re.compile(rf"\b(\w+)={_VALUE}")
_OPEN = re.compile(r"(?:with )?Checkpoint\.open\(path, ((?:\w+=[^,()]+(?:, )?)+)\)")
_KEYWORD = re.compile(r'\bwith (\w+)="([\w.]+)"(?: or "([\w.]+)")?')
_LAYER = re.compile(r'\btake the layer as GptqLinear\(tensors, dtype="(\w+)"\)')
_CHECK = re.compile(r'\bthe check "(\w+)"')
_DEVICE = re.compile(r'\bopen_device\("([\w:]+)"\)')


def options_of(command: click.Command | None) -> set[str]:
    """The options that a command has, such as "--zero-format"."""
    params = command.params if command is not None else []
    return {option for param in params for option in param.opts if option.startswith("--")}


def as_options(text: str, known: Collection[str]) -> str:
    """A message with `Checkpoint.open(path, zero_format="v2")` and its like as known options."""

    def option(name: str, value: str) -> str:
        flag = f"--{name.replace('_', '-')}"
        return flag if value == "True" else f"{flag} {value}"

    def replaced(found: re.Match[str], names: Collection[str], options: str) -> str:
        flags = {f"--{name.replace('_', '-')}" for name in names}
        return options if flags <= set(known) else found[0]

    def opened(found: re.Match[str]) -> str:
        arguments = _ARGUMENT.findall(found[1])
        options = " ".join(option(*argument) for argument in arguments)
        before = "with " if found[0].startswith("with ") else ""
        return replaced(found, [name for name, _ in arguments], f"{before}{options}")

    def keyword(found: re.Match[str]) -> str:
        name, value, other = found.groups()
        options = option(name, value) + (f" or {other}" if other else "")
        return replaced(found, [name], f"with {options}")

    def device(found: re.Match[str]) -> str:
        return replaced(found, ["device"], option("device", found[1]))

    def dtype(found: re.Match[str]) -> str:
        return replaced(found, ["dtype"], f"pass {option('dtype', found[1])}")

    def check(found: re.Match[str]) -> str:
        return replaced(found, ["checks"], option("checks", found[1]))

    text = _LAYER.sub(dtype, text)
    text = _CHECK.sub(check, text)
    text = _OPEN.sub(opened, text)
    text = _KEYWORD.sub(keyword, text)
    return _DEVICE.sub(device, text)
