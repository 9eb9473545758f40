"""Writing down every launch of a process: `with fe.record("run.ferrum"): ...`."""

from __future__ import annotations

import atexit
import ctypes
import hashlib
import itertools
import json
import os
import platform
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..abi import ArrayReference
from ..devices import Device, Invocation, Launchable, launch_log, observer
from ..devices.cuda import streams
from ..devices.launch_log import CAPTURED, LaunchLog
from ..devices.observer import Markable, RefusedLaunch, Repeated
from ..errors import FerrumError, RecordingError
from ..version import __version__
from .calls import Call, Calls
from .container import FORMAT, npy
from .digest import Digester
from .notes import likely_cause
from .policy import DIGEST_SHARE, Arrays, Policy
from .safe_writer import SafeWriter

_now = time.perf_counter
_KNOWN = 256  # blocks of a repeated launch whose calls are known at once


@contextmanager
def record(
    path: str | Path,
    *,
    arrays: Arrays = "contents",
    max_bytes: int = 64 << 20,
    every: int | None = None,
) -> Iterator[Recorder]:
    """Write every launch of this process within the block to one file.

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
    recorder = Recorder(_free(Path(path)), Policy(), strict=False)
    recorder.start()
    atexit.register(recorder.close)


def _free(path: Path) -> Path:
    names = (path.with_stem(f"{path.stem}.{n}") for n in itertools.count(1))
    return next(p for p in itertools.chain([path], names) if not p.exists())


def _forget() -> None:
    """Stop recording in a forked process: the file belongs to the other one."""
    if isinstance(observer.current, Recorder):
        observer.end(observer.current)
        launch_log.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


class Recorder:
    """A recording under way, as `fe.record` gives it: `launches` so far, the file's `path`."""

    span = None  # a recording does not tell what belongs together

    def __init__(self, path: Path, policy: Policy, *, strict: bool = True) -> None:
        """strict: whether a file that cannot be begun raises RecordingError, or warns."""
        self.path, self._strict = path, strict
        self.policy = policy
        self._written: set[str] = set()
        self._calls = Calls(policy, self._once)
        self._log = LaunchLog()
        self._digesters: dict[str, Digester] = {}
        self._spent = 0.0  # seconds of the host, for what native code did not log
        self._lock = threading.RLock()

    @property
    def launches(self) -> int:
        """The number of launches it has seen."""
        return self._log.count

    @cached_property
    def _writer(self) -> SafeWriter:
        """The file, from the first thing on that is written."""
        about = FORMAT | _origin() | {"policy": asdict(self.policy)}
        writer = SafeWriter(self.path, self._stop)
        begin = writer.begin if self._strict else writer.try_to_begin
        begin(json.dumps(about, indent=1).encode())
        return writer

    def _stop(self) -> None:
        """Record nothing more."""
        observer.end(self)

    def start(self) -> None:
        """Become the observer of all launches.  Raises RecordingError where there is another."""
        if observer.current is not None:
            raise RecordingError(
                str(self.path), "launches are already being recorded", remedy="end that one"
            )
        observer.begin(self)

    def close(self) -> None:
        """End the recording; doing so twice is doing it once."""
        with self._lock:
            stopped = "_writer" in vars(self) and self._writer.stopped
            if observer.current is self or stopped:
                self._stop()
                for digester in self._digesters.values():
                    self._read_digests(digester)
                self._log.end_rows()
                self._calls.forget()
                if "_writer" in vars(self):
                    self._writer.close()

    def launch(self, kernel: Launchable, invocation: Invocation, stream: Any) -> None:
        """Write what is known before, launch, write what is known after."""
        with self._lock:
            device = kernel.module.device
            if observer.current is not self:
                kernel._enqueue(invocation, stream)
                return
            call = self._calls.of(kernel, invocation)
            captured = device.is_capturing(stream)
            began, handle = _now(), _handle(device, stream)
            at = began - self._log.start
            if captured or not self._keeps(call):
                call.others -= not captured
                number = self._row(at, handle, call.number, CAPTURED if captured else 0)
                self._enqueue(kernel, invocation, stream, number)
            else:
                call.kept, call.others = True, self.policy.period - 1
                with self._log.paused():
                    self._with_arrays(kernel, invocation, stream, call, at, handle)
            if device.name != "cpu":  # native code leaves to us those with digests
                self._spent += _now() - began

    def _keeps(self, call: Call) -> bool:
        """True if a call's arrays are to be kept now; they may have been put off by a period."""
        if call.others > 0:
            return False
        if self.policy.sparing and call.kept:
            spent = self._spent + sum(digester.seconds for digester in self._digesters.values())
            if spent > DIGEST_SHARE * (_now() - self._log.start):
                call.others = self.policy.period
                return False
        return True

    def _number(self) -> int:
        while (number := self._log.take()) is None:
            self._next_rows()
        return number

    def _next_rows(self) -> None:
        self._log.end_rows()
        self._log.begin_rows(*self._writer.next_rows())

    def _row(self, at: float, handle: int, call: int, flags: int) -> int:
        """Write a launch of which there is no more to say; its number."""
        if not self._log.has_rows:
            self._next_rows()
        number = self._number()
        self._writer.row(self._log.index(number), at, handle, call, flags, number + 1)
        return number

    def admits(self, launch: Repeated, record: Markable, graph: bool) -> bool:
        """Let native code log launches of which only a row is written."""
        with self._lock:
            if observer.current is not self or self._log.is_paused:
                return False
            key = self._log.recording, record.block.to_bytes()
            call = record.calls.get(key)
            if call is None:
                if len(record.calls) >= _KNOWN:
                    record.calls.clear()
                call = record.calls[key] = self._calls.of(launch.kernel, launch.invocation)
            if self.policy.arrays == "contents" if graph else self._keeps(call):
                return False
            record.mark(call.address, self._log.recording)
            if self._log.is_full:
                self._next_rows()
            return True

    def failed(self, number: int, error: Exception) -> None:
        """Record that the driver refused a launch."""
        with self._lock:
            if observer.current is self:
                self._write_failure(number - 1, error)

    def _with_arrays(
        self,
        kernel: Launchable,
        invocation: Invocation,
        stream: Any,
        call: Call,
        at: float,
        handle: int,
    ) -> None:
        device, number = kernel.module.device, self._number()
        line = f'{{"launch":{number},"call":{call.number},"at":{at:.7f}'
        line += f',"stream":{handle}' if handle else ""
        if self.policy.arrays == "contents":
            self._with_contents(kernel, invocation, stream, number, line)
            return
        digester = self._digester(device)
        slot = digester.take(call.before, stream, invocation.arguments)
        self._writer.line(f'{line},"slots":[{slot},{slot + bool(call.after)}]}}')
        self._enqueue(kernel, invocation, stream, number)
        if call.after:
            digester.take(call.after, stream, invocation.arguments)

    def _with_contents(
        self, kernel: Launchable, invocation: Invocation, stream: Any, number: int, line: str
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
        self,
        kernel: Launchable,
        invocation: Invocation,
        stream: Any,
        number: int,
        wait: bool = False,
    ) -> None:
        try:
            kernel._enqueue(invocation, stream)
            if wait:
                kernel.module.device.synchronize()
        except BaseException as error:
            self._write_failure(number, error)
            raise

    def _write_failure(self, number: int, error: BaseException) -> None:
        text = f"{type(error).__name__}: {error}"[:2000]
        self._writer.line(_dumps({"done": number, "error": text}))
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

    def refused(self, launch: RefusedLaunch) -> None:
        """Write that a launch was refused, and the arguments in words."""
        kernel, config, positional, named, error = launch
        names = [p.name for p in kernel.signature.arguments]
        given = dict(zip(names, positional, strict=False)) | dict(named)
        found = likely_cause(launch)
        with self._lock:
            self._writer.line(
                _dumps(
                    {
                        "refused": f"{type(error).__name__}: {error}"[:2000],
                        "entry": kernel.signature.entry,
                        "config": str(config)[:200],
                        "arguments": {name: _in_words(value) for name, value in given.items()},
                    }
                    | ({"cause": found[0], "evidence": found[1][:2000]} if found else {})
                )
            )

    def _once(self, name: str, data: bytes) -> None:
        """Make a text a member of the file, unless it is one."""
        if name not in self._written:
            self._written.add(name)
            self._writer.add(name, data, pack=True)

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
        data: NDArray[np.uint8] = device.to_host(_Extent(array), copy=False)
        return data
    buffer = (ctypes.c_uint8 * array.available).from_address(array.address)
    return np.ctypeslib.as_array(buffer)


def _typed(data: NDArray[np.uint8], array: ArrayReference) -> NDArray[Any]:
    """Bytes as the array's numbers, in its shape where they lie in C order; bfloat16 as uint16."""
    dtype = np.dtype(np.uint16 if array.dtype == "bfloat16" else array.dtype)
    values = data.view(dtype)
    return values.reshape(array.shape) if array.contiguous and 0 not in array.shape else values


def _origin() -> dict[str, Any]:
    return {
        "ferrum_numba": __version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "began": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _handle(device: Device, stream: Any) -> int:
    """Key of a stream among those of its device; the default one is 0."""
    if device.name != "cpu":
        return streams.stream_handle(stream)
    return 0 if stream is None else id(stream)


def _in_words(value: object) -> str:
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if shape is not None:
        return f"{dtype} {tuple(shape)} ({type(value).__name__})"
    return f"{value!r:.80}"


def _dumps(value: Mapping[str, Any]) -> str:
    return json.dumps(value, separators=(",", ":"))
