"""Calls: the part that several launches share, described in the file once."""

from __future__ import annotations

import ctypes
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from ctypes import c_int64
from dataclasses import dataclass, fields
from typing import Any

from ..abi import ArrayReference, Bound, LaunchConfig
from ..devices import Device, Invocation, Launchable
from ..devices.cuda import driver
from ..devices.launch_log import CALL_WORDS, PASSES
from .digest import ARRAYS as DIGESTED
from .digest import Extent
from .policy import Policy

_KNOWN = 4096  # marshalled arguments that are told at once, until they are looked up anew
_FOREVER = 1 << 62


@dataclass
class Call:
    """A distinct call: kernel, configuration, block and arrays' layouts.

    before, after: the extents of the arrays whose digests are taken.  kept: whether those of a
    launch have been.
    """

    number: int
    before: tuple[Extent, ...]
    after: tuple[Extent, ...]
    kept: bool = False

    def __post_init__(self) -> None:
        self._words = (c_int64 * CALL_WORDS)(self.number)
        self.address = ctypes.addressof(self._words)  # what a mark refers to

    @property
    def others(self) -> int:
        """Launches that are to come before the next one whose arrays are kept.

        Native code counts them, too.
        """
        return self._words[PASSES]

    @others.setter
    def others(self, count: int) -> None:
        self._words[PASSES] = count


class Calls:
    """The distinct calls of a recording."""

    def __init__(self, policy: Policy, write: Callable[[str, bytes], object]) -> None:
        """write: makes bytes a member of the file, unless there is one of that name."""
        self._arrays = policy.arrays
        self._write = write
        self._count = 0
        # Of the same kernel and block.  To hash arrays' layouts takes longer than to compare them,
        # as most are the same objects.
        self._alike: dict[tuple[Launchable, bytes], list[tuple[Bound, Call]]] = {}
        self._known: dict[int, tuple[Bound, Call]] = {}  # by the id of what is repeated

    def of(self, kernel: Launchable, invocation: Invocation) -> Call:
        """The call of a launch, which is in the file from now on."""
        bound = invocation.bound
        known = self._known.get(id(bound))
        if known is not None:
            return known[1]
        block = _without_scratch(kernel, invocation)
        alike = self._alike.setdefault((kernel, block), [])
        same = (c for b, c in alike if b.config == bound.config and b.arrays == bound.arrays)
        call = next(same, None)
        if call is None:
            call = self._new(kernel, bound, block)
            alike.append((bound, call))
        if len(self._known) >= _KNOWN:
            self._known.clear()
        self._known[id(bound)] = bound, call
        return call

    def forget(self) -> None:
        """Let go of kernels and arguments."""
        self._alike.clear()
        self._known.clear()

    def _new(self, kernel: Launchable, bound: Bound, block: bytes) -> Call:
        written = [n for n in bound.arrays if kernel.signature[n].role != "input"]
        before = _extents(list(bound.arrays.values()))
        call = Call(self._count, before, _extents([bound.arrays[n] for n in written]))
        self._count += 1
        if self._arrays == "none" or (self._arrays == "digest" and not before):
            call.others = _FOREVER  # there is never more to say
        described = {
            "ptx": self._text("ptx/{}.ptx", kernel.module.text),
            "sidecar": self._text("sidecars/{}.json", _indented(kernel.sidecar.to_mapping())),
            "entry": kernel.signature.entry,
            "device": kernel.module.device.name,
            "config": _stated(bound.config),
            "parameters": block.hex(),
            "arrays": {name: _layout(array) for name, array in bound.arrays.items()},
            "written": written,
            **_generation(kernel.module.device),
        }
        text = json.dumps(described, separators=(",", ":"))
        self._write(f"calls/{call.number}.json", text.encode())
        return call

    def _text(self, name: str, text: str) -> str:
        """The SHA-256 of a text, which is a member of the file from now on."""
        data = text.encode()
        digest = hashlib.sha256(data).hexdigest()
        self._write(name.format(digest), data)
        return digest


def _extents(arrays: Sequence[ArrayReference]) -> tuple[Extent, ...]:
    return tuple((array.address, array.available) for array in arrays[:DIGESTED])


def _layout(array: ArrayReference) -> dict[str, Any]:
    return {
        "address": array.address,
        "shape": array.shape,
        "strides": array.strides,
        "dtype": array.dtype,
        "nbytes": array.available,
    }


def _without_scratch(kernel: Launchable, invocation: Invocation) -> bytes:
    """The parameter block, its scratch pointers NULL: an earlier launch may have left some."""
    block = invocation.block.to_bytes()
    for p in kernel.signature.scratch:
        start, end = p.offset, p.offset + p.size
        if any(block[start:end]):
            block = block[:start] + bytes(p.size) + block[end:]
    return block


def _stated(config: LaunchConfig) -> dict[str, Any]:
    """A configuration without what is left at its default."""
    default = LaunchConfig(config.grid, config.block)
    found = {f.name: getattr(config, f.name) for f in fields(config)}
    always = ("grid", "block")
    return {n: v for n, v in found.items() if n in always or v != getattr(default, n)}


def _generation(device: Device) -> dict[str, Any]:
    """The properties of a GPU that decide which PTX it takes."""
    if device.name == "cpu":
        return {}
    return {"capability": device.capability, "driver": driver.version()}  # type: ignore[attr-defined]


def _indented(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=1)
