"""Writing down every launch of a process: `with fe.record("run.ferrum"): ...`."""

from __future__ import annotations

import atexit
import ctypes
import hashlib
import itertools
import json
import os
import platform
import sys
import threading
import time
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..abi import ArrayReference, Bound, LaunchConfig
from ..devices import Device, Invocation, Kernel, PreparedLaunch, driver, observer, streams
from ..errors import FerrumError, RecordingError
from .container import CAPTURED, GRAPH, ContainerWriter, npy
from .digest import ARRAYS as DIGESTED
from .digest import Digester, Extent
from .policy import Arrays, Policy

_KNOWN = 4096  # marshalled arguments that are told at once, until they are looked up anew
_now = time.perf_counter
FORMAT = {"format": "ferrum recording", "version": 1}


@contextmanager
def record(
    path: str | Path,
    *,
    arrays: Arrays = "contents",
    max_bytes: int = 64 << 20,
    every: int | None = None,
) -> Iterator[Recorder]:
    """Write every launch of this process within the block to one file (docs/recording.md).

    arrays, max_bytes, every: see `Policy`.  With contents each launch waits for the device, else
    none does.

    Raises RecordingError where the file cannot be written or a recording is already under way.
    """
    recorder = Recorder(Path(path), Policy(arrays, max_bytes, every))
    recorder.start()
    try:
        recorder._writer  # noqa: B018 - so that a path that cannot be written is refused here
        yield recorder
    finally:
        recorder.close()


def record_process(path: str | Path) -> None:
    """Record from now until the process ends: what $FERRUM_RECORD asks for.

    The file comes with the first launch.  One that is there already is left alone, for a process
    may start others: then it is run.1.ferrum instead of run.ferrum, and so on.
    """
    recorder = Recorder(_free(Path(path)), Policy())
    recorder.start()
    atexit.register(recorder.close)


def _free(path: Path) -> Path:
    names = (path.with_stem(f"{path.stem}.{n}") for n in itertools.count(1))
    return next(p for p in itertools.chain([path], names) if not p.exists())


def _forget() -> None:
    """In a forked process: the file belongs to the other one."""
    if isinstance(observer.current, Recorder):
        observer.current = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


class Recorder:
    """The observer that writes.  `launches`: how many it has seen."""

    def __init__(self, path: Path, policy: Policy) -> None:
        self.path = path
        self.policy = policy
        self.launches = 0
        self._written: set[str] = set()
        self._calls: dict[Hashable, _Call] = {}
        self._known: dict[int, tuple[Bound, _Call]] = {}  # by the id of what is repeated
        self._digesters: dict[str, Digester] = {}
        self._lock = threading.RLock()
        self._start = _now()

    @cached_property
    def _writer(self) -> ContainerWriter:
        """The file, from the first thing on that is written.  Raises RecordingError."""
        try:
            writer = ContainerWriter(self.path)
        except OSError as error:
            raise RecordingError(f"{self.path}: cannot be written: {error.strerror}") from None
        about = FORMAT | _origin() | {"policy": asdict(self.policy)}
        writer.add("recording.json", _json(about))
        return writer

    def start(self) -> None:
        """Become the observer of all launches.  Raises RecordingError where there is another."""
        if observer.current is not None:
            raise RecordingError(f"{self.path}: launches are already being recorded; end that one")
        observer.current = self

    def close(self) -> None:
        """End the recording; doing so twice is doing it once."""
        with self._lock:
            if observer.current is self:
                observer.current = None
                for digester in self._digesters.values():
                    self._read_digests(digester)
                if "_writer" in vars(self):
                    self._writer.close()

    def launch(self, kernel: Kernel, invocation: Invocation, stream: Any) -> None:
        """Write what is known before, launch, write what is known after."""
        with self._lock:
            device = kernel.module.device
            if observer.current is not self:
                kernel._enqueue(invocation, stream)
                return
            number, self.launches = self.launches, self.launches + 1
            call = self._call(kernel, invocation)
            captured = device.is_capturing(stream)
            at, handle = _now() - self._start, _handle(device, stream)
            if captured or call.others > 0:
                call.others -= not captured
                flags = CAPTURED if captured else 0
                self._writer.row(at, handle, call.number, flags, self.launches)
                self._enqueue(kernel, invocation, stream, number)
                return
            call.others = self.policy.period - 1
            line = f'{{"launch":{number},"call":{call.number},"at":{at:.7f}'
            line += f',"stream":{handle}' if handle else ""
            if self.policy.arrays == "contents":
                self._with_contents(kernel, invocation, stream, number, line)
            else:
                digester = self._digester(device)
                slot = digester.take(call.before, stream)
                self._writer.line(f'{line},"slots":[{slot},{slot + bool(call.after)}]}}')
                self._enqueue(kernel, invocation, stream, number)
                if call.after:
                    digester.take(call.after, stream)

    def passes(self, kernel: Kernel, invocation: Invocation, handle: int) -> int:
        """Write a launch of which there is nothing more to say, and leave it to the device."""
        with self._lock:
            if observer.current is not self:  # it has just ended
                return 0
            known = self._known.get(id(invocation.bound))
            call = known[1] if known is not None else self._call(kernel, invocation)
            if call.others <= 0 or driver.is_capturing(handle):
                return 0
            call.others -= 1
            self.launches = number = self.launches + 1
            self._writer.row(_now() - self._start, handle, call.number, 0, number)
            return number

    def all_pass(self, launches: Sequence[PreparedLaunch], handle: int, graph: bool = False) -> int:
        """Write launches of which there is nothing more to say, and leave them to the device."""
        with self._lock:
            if observer.current is not self:
                return 0
            calls = [self._call(launch.kernel, launch.invocation) for launch in launches]
            kept = self.policy.arrays == "contents" if graph else any(c.others <= 0 for c in calls)
            if kept or driver.is_capturing(handle):
                return 0
            first, at = self.launches + 1, _now() - self._start
            for number, call in enumerate(calls, first):
                call.others -= not graph
                self._writer.row(at, handle, call.number, GRAPH if graph else 0, number)
            self.launches += len(calls)
            return first

    def failed(self, number: int, error: Exception, count: int = 1) -> None:
        """Write what was refused of that."""
        with self._lock:
            if observer.current is self:
                self._write_failure(number - 1, error, count)

    def _with_contents(
        self, kernel: Kernel, invocation: Invocation, stream: Any, number: int, line: str
    ) -> None:
        device = kernel.module.device
        before = self._contents(device, invocation)
        self._writer.line(f'{line},"before":{_dumps(before)}}}')
        start = _now()
        self._enqueue(kernel, invocation, stream, number, wait=True)
        seconds = _now() - start
        after = self._contents(device, invocation)
        changed = {name: ref for name, ref in after.items() if before[name] != ref}
        self._writer.line(_dumps({"done": number, "seconds": round(seconds, 9), "after": changed}))

    def _enqueue(
        self, kernel: Kernel, invocation: Invocation, stream: Any, number: int, wait: bool = False
    ) -> None:
        try:
            kernel._enqueue(invocation, stream)
            if wait:
                kernel.module.device.synchronize()
        except BaseException as error:
            self._write_failure(number, error)
            raise

    def _write_failure(self, number: int, error: BaseException, count: int = 1) -> None:
        text = f"{type(error).__name__}: {error}"[:2000]
        for refused in range(number, number + count):
            self._writer.line(_dumps({"done": refused, "error": text}))
        if hasattr(error, "add_note"):  # since Python 3.11
            error.add_note(
                f"recorded: ferrum-numba explain {self.path} --launch {number} looks for the cause"
            )

    def _digester(self, device: Device) -> Digester:
        """The device's digester, with room for two more."""
        digester = self._digesters.get(device.name)
        if digester is None:
            digester = self._digesters[device.name] = Digester(device)
        if digester.room < 2:
            self._read_digests(digester)
        return digester

    def _read_digests(self, digester: Digester) -> None:
        """Write what digests have been computed; those of a device that failed are lost."""
        with suppress(FerrumError):
            first, digests = digester.read()
            device = digester.device.name
            self._writer.line(_dumps({"slots": first, "device": device, "digests": digests}))

    def refused(
        self,
        kernel: Kernel,
        config: LaunchConfig,
        positional: Sequence[object],
        named: Mapping[str, object],
        error: Exception,
    ) -> None:
        """Write that a launch was refused, and the arguments in words."""
        names = [p.name for p in kernel.signature.arguments]
        given = dict(zip(names, positional, strict=False)) | dict(named)
        with self._lock:
            self._writer.line(
                _dumps(
                    {
                        "refused": f"{type(error).__name__}: {error}"[:2000],
                        "entry": kernel.signature.entry,
                        "config": str(config)[:200],
                        "arguments": {name: _in_words(value) for name, value in given.items()},
                    }
                )
            )

    def _call(self, kernel: Kernel, invocation: Invocation) -> _Call:
        """The distinct call: kernel, configuration, block and arrays' layouts."""
        bound = invocation.bound
        known = self._known.get(id(bound))
        if known is not None:
            return known[1]
        block = _without_scratch(kernel, invocation)
        key = (kernel, bound.config, block, tuple(bound.arrays.items()))
        if key not in self._calls:
            call = self._calls[key] = _Call.of(len(self._calls), kernel, bound)
            arrays = self.policy.arrays
            if arrays == "none" or (arrays == "digest" and not call.before):
                call.others = sys.maxsize  # there is never more to say
            text = _dumps(self._describe(kernel, bound, block))
            self._writer.add(f"calls/{call.number}.json", text.encode(), pack=True)
        if len(self._known) >= _KNOWN:
            self._known.clear()
        self._known[id(bound)] = bound, self._calls[key]
        return self._calls[key]

    def _describe(self, kernel: Kernel, bound: Bound, block: bytes) -> dict[str, Any]:
        ptx, sidecar = kernel.module.text.encode(), _json(kernel.sidecar.to_mapping())
        return {
            "ptx": self._once("ptx/{}.ptx", ptx),
            "sidecar": self._once("sidecars/{}.json", sidecar),
            "entry": kernel.signature.entry,
            "device": kernel.module.device.name,
            "config": _stated(bound.config),
            "parameters": block.hex(),
            "arrays": {name: _layout(array) for name, array in bound.arrays.items()},
            "written": [n for n in bound.arrays if kernel.signature[n].role != "input"],
            **_generation(kernel.module.device),
        }

    def _once(self, name: str, data: bytes) -> str:
        """The SHA-256 of a text, which is a member of the file from now on."""
        digest = hashlib.sha256(data).hexdigest()
        name = name.format(digest)
        if name not in self._written:
            self._written.add(name)
            self._writer.add(name, data, pack=True)
        return digest

    def _contents(self, device: Device, invocation: Invocation) -> dict[str, str]:
        """A digest for each array, what it stands for being in the file where the policy says."""
        found = {}
        for name, array in invocation.bound.arrays.items():
            if array.available > self.policy.max_bytes:
                digester = self._digester(device)
                digester.take(((array.address, array.available),), None)
                found[name] = digester.read()[1][-1][0]
                continue
            data = _bytes_of(device, array)
            found[name] = hashlib.sha256(data.data).hexdigest()
            member = f"arrays/{found[name]}.npy"
            if member not in self._written:
                self._written.add(member)
                self._writer.add(member, npy(_typed(data, array)))
        return found


@dataclass
class _Call:
    """A distinct call; before, after: the extents of the arrays whose digests are taken; others:
    how many launches are to come before the next one whose arrays are kept."""

    number: int
    before: tuple[Extent, ...]
    after: tuple[Extent, ...]
    others: int = 0

    @classmethod
    def of(cls, number: int, kernel: Kernel, bound: Bound) -> _Call:
        arrays = list(bound.arrays.items())
        written = [a for n, a in arrays if kernel.signature[n].role != "input"]
        return cls(number, _extents([a for _, a in arrays]), _extents(written))


def _extents(arrays: Sequence[ArrayReference]) -> tuple[Extent, ...]:
    return tuple((array.address, array.available) for array in arrays[:DIGESTED])


class _Extent:
    """The bytes of an array on a GPU, from its first to its last, whatever its strides are."""

    def __init__(self, array: ArrayReference) -> None:
        self.__cuda_array_interface__ = {
            "shape": (array.available,),
            "typestr": "|u1",
            "data": (array.address, True),
            "strides": None,
            "version": 3,
        }


def _bytes_of(device: Device, array: ArrayReference) -> NDArray[np.uint8]:
    """The bytes of an array as they are now, [available]; a view on the CPU."""
    if not array.available:
        return np.zeros(0, np.uint8)
    if device.name != "cpu":
        data: NDArray[np.uint8] = device.to_host(_Extent(array))
        return data
    buffer = (ctypes.c_uint8 * array.available).from_address(array.address)
    return np.ctypeslib.as_array(buffer)


def _typed(data: NDArray[np.uint8], array: ArrayReference) -> NDArray[Any]:
    """Bytes as the array's numbers, in its shape where they lie in C order; bfloat16 as uint16."""
    dtype = np.dtype(np.uint16 if array.dtype == "bfloat16" else array.dtype)
    values = data.view(dtype)
    return values.reshape(array.shape) if array.contiguous and 0 not in array.shape else values


def _layout(array: ArrayReference) -> dict[str, Any]:
    return {
        "address": array.address,
        "shape": array.shape,
        "strides": array.strides,
        "dtype": array.dtype,
        "nbytes": array.available,
    }


def _origin() -> dict[str, Any]:
    from .. import __version__

    return {
        "ferrum_numba": __version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "began": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _handle(device: Device, stream: Any) -> int:
    """What tells the streams of a device apart; the default one is 0."""
    if device.name != "cpu":
        return streams.stream_handle(stream)
    return 0 if stream is None else id(stream)


def _without_scratch(kernel: Kernel, invocation: Invocation) -> bytes:
    """The parameter block, its scratch pointers NULL: an earlier launch may have left some."""
    block = bytearray(invocation.block.to_bytes())
    for p in kernel.signature.scratch:
        block[p.offset : p.offset + p.size] = bytes(p.size)
    return bytes(block)


def _stated(config: LaunchConfig) -> dict[str, Any]:
    """A configuration without what is left at its default."""
    default = LaunchConfig(config.grid, config.block)
    found = {f.name: getattr(config, f.name) for f in fields(config)}
    always = ("grid", "block")
    return {n: v for n, v in found.items() if n in always or v != getattr(default, n)}


def _generation(device: Device) -> dict[str, Any]:
    """What decides which PTX a device takes, where it is a GPU."""
    if device.name == "cpu":
        return {}
    return {"capability": device.capability, "driver": driver.version()}  # type: ignore[attr-defined]


def _in_words(value: object) -> str:
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if shape is not None:
        return f"{dtype} {tuple(shape)} ({type(value).__name__})"
    return f"{value!r:.80}"


def _dumps(value: Mapping[str, Any]) -> str:
    return json.dumps(value, separators=(",", ":"))


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, indent=1).encode()
