"""Registers and memory of kernels, as `ptxas -v` writes them."""

from __future__ import annotations

import re
from dataclasses import replace

from ...devices.assembler import assemble
from ...devices.resources import Resources

_ENTRY = re.compile(r"Compiling entry function '([^']+)'")
_PROPERTIES = re.compile(r"Function properties for (\S+)")
_FRAME = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_USED = re.compile(r"Used (\d+) registers(.*)")


def assembled_resources(text: str, target: str) -> dict[str, Resources]:
    """Resources of each entry of a PTX, by `assemble`, which may raise DeviceError."""
    found = assemble(text, target)
    return read_log(found.log, found.by)


def read_log(log: str, source: str) -> dict[str, Resources]:
    """The resources of each entry, from what `ptxas -v` writes."""
    found: dict[str, Resources] = {}
    entry = properties = ""
    for line in log.splitlines():
        if match := _ENTRY.search(line):
            entry = match[1]
            found[entry] = Resources(source, shared_bytes=0)
        elif match := _PROPERTIES.search(line):
            properties = match[1]
        elif (match := _FRAME.search(line)) and properties in found:
            local, stores, loads = map(int, match.groups())
            found[properties] = replace(
                found[properties],
                local_bytes=local,
                spill_store_bytes=stores,
                spill_load_bytes=loads,
            )
        elif (match := _USED.search(line)) and entry in found:
            shared, constant = _memory(match[2])
            found[entry] = replace(
                found[entry],
                registers=int(match[1]),
                shared_bytes=shared,
                constant_bytes=constant,
            )
    return found


def _memory(text: str) -> tuple[int, int]:
    """Bytes static shared and constant; bank 0 holds the parameters, and every kernel has it."""
    shared = re.search(r"(\d+) bytes smem", text)
    constants = re.findall(r"(\d+) bytes cmem\[[1-9]\d*\]", text)
    return int(shared[1]) if shared else 0, sum(map(int, constants))
