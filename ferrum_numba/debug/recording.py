"""A recording, read: its launches, each with all that is known of it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from ..abi import LaunchConfig, Sidecar, Signature, ptx_digest
from ..devices.launch_log import CAPTURED, GRAPH
from ..errors import RecordingError
from ..notebook import table
from ..pickling import NotPickled
from .container import FORMAT, ROW, Container

_DTYPES = frozenset(
    ("bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")
) | frozenset(("float16", "bfloat16", "float32", "float64"))
_MAX_DIMENSIONS = 32
_MAX_ELEMENT_BYTES = 1 << 40  # of an array's elements, one place in memory counted as often
_MAX_BLOCK_BYTES = 32764  # PTX ISA, "Kernel Function Parameters"


@dataclass(frozen=True)
class Layout:
    """Place of an array argument: shape in elements, strides in bytes (None: C order), extent
    in bytes."""

    address: int
    shape: tuple[int, ...]
    strides: tuple[int, ...] | None
    dtype: str
    nbytes: int

    def view(self, extent: NDArray[Any]) -> NDArray[Any]:
        """The array in its extent [nbytes / itemsize], which may have more bytes than it."""
        if self.strides is None or 0 in self.shape:
            return extent[: math.prod(self.shape)].reshape(self.shape)
        view: NDArray[Any] = np.ndarray(self.shape, extent.dtype, extent, 0, self.strides)
        return view


@dataclass(frozen=True, eq=False)
class Call:
    """The part that several launches may share: kernel, configuration, parameter block, layouts.

    written: arrays that may be other afterwards.  capability, driver: of a GPU.
    """

    ptx: str
    sidecar: Sidecar
    signature: Signature
    device: str
    config: LaunchConfig
    block: bytes
    arrays: Mapping[str, Layout]
    written: Sequence[str] = ()
    capability: tuple[int, int] | None = None
    driver: tuple[int, int] | None = None

    def __repr__(self) -> str:
        grid = self.config.grid
        return f"<Call of {self.signature.entry} on {self.device}, grid {grid}>"


@dataclass(eq=False)
class RecordedLaunch:
    """One launch.  before, after: of each array the SHA-256 (64 digits), or where the file does
    not hold its contents the digest (32 digits); after: of those that may have changed.

    seconds: of the launch, the device's work included; None where nothing waited for it.
    error: what it raised.  captured: into a graph, so that it ran later or never.  graph: a graph
    launched it.
    """

    number: int
    call: Call
    at: float
    captured: bool
    before: Mapping[str, str]
    after: Mapping[str, str] | None = None
    seconds: float | None = None
    error: str = ""
    graph: bool = False

    def __repr__(self) -> str:
        failed = f", failed: {self.error}" if self.error else ""
        return f"<RecordedLaunch {self.number}: {self.call!r}{failed}>"


@dataclass(frozen=True)
class Refused:
    """A launch whose arguments were refused, before it reached a device.

    cause, evidence: what its arguments showed, as `debug.causes` names it; empty for nothing.
    """

    error: str
    entry: str
    arguments: Mapping[str, str] = field(default_factory=dict)
    cause: str = ""
    evidence: str = ""


class Recording(NotPickled):
    """A recording's file, a sequence of its launches: len(), iteration, [number].

    launches: in order.  refused: those whose arguments were refused before they reached a device.
    complete: whether it was closed; one of a crash was not.

    Raises RecordingError for a file that is no recording or is damaged.
    """

    def __init__(self, path: str | Path) -> None:
        self._container = Container(Path(path))
        self.path = Path(path)
        self.complete = self._container.complete
        self.origin = self._object("recording.json")
        if any(self.origin.get(key) != value for key, value in FORMAT.items()):
            raise self._wrong(
                "recording.json",
                f"format {FORMAT['format']!r}, version {FORMAT['version']}",
                f"{self.origin.get('format')!r:.80}, version {self.origin.get('version')!r:.80}",
            )
        self.launches: list[RecordedLaunch] = []
        self.refused: list[Refused] = []
        self._calls: dict[int, Call] = {}
        self._found: dict[int, RecordedLaunch] = {}
        self._done: list[dict[str, Any]] = []
        self._slots: list[tuple[RecordedLaunch, list[int]]] = []
        self._digests: dict[tuple[str, int], list[str]] = {}
        self._read_launches()
        for launch, (before, after) in self._slots:
            launch.before = self._named(launch, list(launch.call.arrays), before)
            if after != before:
                launch.after = self._named(launch, launch.call.written, after) or None

    _instead = "send its path, and open Recording(path) there"

    def __len__(self) -> int:
        return len(self.launches)

    def __iter__(self) -> Iterator[RecordedLaunch]:
        return iter(self.launches)

    def __getitem__(self, number: int) -> RecordedLaunch:
        return self.launches[number]

    def __repr__(self) -> str:
        refused = f", {len(self.refused)} refused" if self.refused else ""
        cut = "" if self.complete else ", cut off by a crash"
        many = "es" * (len(self) != 1)
        return f"<Recording {self.path}: {len(self)} launch{many}{refused}{cut}>"

    def _repr_html_(self) -> str:
        headers = ("launch", "entry", "grid", "device", "ms", "error")
        rows = (
            (
                each.number,
                each.call.signature.entry,
                each.call.config.grid,
                each.call.device,
                "" if each.seconds is None else f"{each.seconds * 1e3:.3f}",
                each.error,
            )
            for each in self.launches
        )
        return table(repr(self)[1:-1], headers, rows, len(self))

    def _named(self, launch: RecordedLaunch, names: Sequence[str], slot: int) -> dict[str, str]:
        """The digests of a slot by array; none where a crash lost them."""
        return dict(zip(names, self._digests.get((launch.call.device, slot), []), strict=False))

    def holds(self, digest: str) -> bool:
        """True if the contents behind a digest are in the file."""
        return f"arrays/{digest}.npy" in self._container.members

    def contents(self, digest: str, layout: Layout) -> NDArray[Any]:
        """An array [nbytes / itemsize], from the first to the last byte of its extent.

        Raises RecordingError where the file holds its digest alone, or another number of bytes.
        """
        name = f"arrays/{digest}.npy"
        if not self.holds(digest):
            raise self._wrong(
                f"{digest[:16]}…", "its contents were not recorded, only their digest"
            )
        data = self._container.array(name).reshape(-1).view(np.uint8)
        if data.nbytes != layout.nbytes:
            raise self._wrong(name, f"{layout.nbytes} bytes", data.nbytes)
        return data.view(numpy_dtype(layout.dtype))

    def _read_launches(self) -> None:
        members = self._container.members
        runs = [name for name in members if name.startswith("launches/")]
        runs.sort(key=lambda name: int(name.split("/")[1].split(".")[0]))
        for name in runs:
            data, cut = self._container.text(name), members[name].crc is None
            try:
                if name.endswith(".rows"):
                    self._read_rows(data, cut)
                else:
                    self._read_lines(data, cut)
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                raise self._wrong(name, f"cannot be read: {error!s:.120}") from None
        try:
            self._put_in_order()
        except (ValueError, KeyError, TypeError) as error:
            raise self._wrong("launches", f"cannot be read: {error!s:.120}") from None

    def _read_rows(self, data: bytes, cut: bool) -> None:
        rest = len(data) % ROW.size
        if rest and not cut:
            raise ValueError(f"expected rows of {ROW.size} bytes, found {len(data)} bytes")
        for at, _, call, flags, number in ROW.iter_unpack(data[: len(data) - rest]):
            if number:
                if flags & ~(CAPTURED | GRAPH):
                    raise ValueError(f"launch {number - 1}: flags {flags:#x}")
                self._add(number - 1, call, at, bool(flags & CAPTURED), bool(flags & GRAPH))

    def _read_lines(self, data: bytes, cut: bool) -> None:
        lines = [line for line in data.split(b"\n") if line]
        for line in lines:
            try:
                self._read_line(_parse(line))
            except (ValueError, KeyError, TypeError, RecursionError):
                if cut and line is lines[-1]:  # which a crash, or a copy, has cut short
                    break
                raise

    def _add(
        self, number: int, call: int, at: float, captured: bool = False, graph: bool = False
    ) -> RecordedLaunch | None:
        """A launch; None where the file was cut off before what it refers to."""
        if number in self._found:
            raise ValueError(f"expected launch {number} once")
        if not self.complete and f"calls/{call}.json" not in self._container.members:
            return None
        launch = RecordedLaunch(number, self._call(call), at, captured, {}, graph=graph)
        self._found[number] = launch
        return launch

    def _put_in_order(self) -> None:
        """Rows and lines together; of a file that was cut off, up to the first that is missing."""
        for number in sorted(self._found):
            if number != len(self.launches):
                if not self.complete:
                    break
                raise ValueError(f"expected launch {len(self.launches)}, found {number}")
            self.launches.append(self._found[number])
        for line in self._done:
            if not self.complete and _integer(line["done"]) >= len(self.launches):
                continue
            launch = self.launches[_index(line["done"], len(self.launches))]
            launch.error = str(line.get("error", ""))
            launch.seconds = float(line["seconds"]) if "seconds" in line else None
            launch.after = _digests(line["after"]) if "after" in line else None

    def _read_line(self, line: dict[str, Any]) -> None:
        if "launch" in line:
            number, call = _integer(line["launch"]), _integer(line["call"])
            launch = self._add(number, call, float(line["at"]))
            if launch is not None:
                launch.before = _digests(line.get("before", {}))
                if "slots" in line:
                    self._slots.append((launch, [_integer(n) for n in line["slots"]]))
        elif "digests" in line:
            first = _integer(line["slots"])
            for slot, digests in enumerate(line["digests"], first):
                self._digests[str(line["device"]), slot] = [_hex(d) for d in digests]
        elif "done" in line:
            self._done.append(line)
        else:
            arguments = {str(k): str(v) for k, v in dict(line.get("arguments", {})).items()}
            refused, entry = str(line["refused"]), str(line.get("entry"))
            told = (str(line.get(key, "")) for key in ("cause", "evidence"))
            self.refused.append(Refused(refused, entry, arguments, *told))

    def _call(self, number: int) -> Call:
        if number not in self._calls:
            name = f"calls/{number}.json"
            fields = self._object(name)
            try:
                self._calls[number] = self._read_call(fields)
            except (ValueError, KeyError, TypeError, OverflowError) as error:
                raise self._wrong(name, f"cannot be read: {error!s:.120}") from None
        return self._calls[number]

    def _read_call(self, fields: dict[str, Any]) -> Call:
        ptx = self._text(f"ptx/{_hex(fields['ptx'])}.ptx")
        if ptx_digest(ptx) != fields["ptx"]:
            raise ValueError("the PTX is not the one that its name says")
        sidecar = Sidecar.read(self._object(f"sidecars/{_hex(fields['sidecar'])}.json"))
        signature = sidecar.declare(Signature.from_ptx(ptx, str(fields["entry"])))
        block = bytes.fromhex(fields["parameters"])
        if len(block) > _MAX_BLOCK_BYTES:
            raise ValueError(f"a parameter block of {len(block)} bytes")
        config = LaunchConfig(**{str(n): _tuple(v) for n, v in dict(fields["config"]).items()})
        arrays = {str(n): _read_layout(a) for n, a in dict(fields["arrays"]).items()}
        return Call(
            ptx=ptx,
            sidecar=sidecar,
            signature=signature,
            device=str(fields["device"]),
            config=config,
            block=block,
            arrays=arrays,
            written=[str(name) for name in fields["written"] if str(name) in arrays],
            capability=_version(fields.get("capability")),
            driver=_version(fields.get("driver")),
        )

    def _text(self, name: str) -> str:
        try:
            return self._container.text(name).decode("utf-8")
        except UnicodeDecodeError as error:
            raise self._wrong(name, "UTF-8", error.reason) from None

    def _object(self, name: str) -> dict[str, Any]:
        try:
            return _parse(self._container.text(name))
        except (ValueError, RecursionError) as error:
            raise self._wrong(name, f"cannot be read: {error!s:.120}") from None

    def _wrong(self, *parts: object) -> RecordingError:
        return RecordingError(*parts, where=self.path.name)


def numpy_dtype(name: str) -> np.dtype[Any]:
    """The NumPy dtype of a recorded name.  bfloat16 is ml_dtypes'."""
    return np.dtype(ml_dtypes.bfloat16) if name == "bfloat16" else np.dtype(name)


def _parse(text: bytes) -> dict[str, Any]:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError(f"expected a JSON object, found {type(value).__name__}")
    return value


def _integer(value: object) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"expected a number of at least 0, found {value!r:.40}")
    return value


def _index(value: object, count: int) -> int:
    if _integer(value) >= count:
        raise ValueError(f"expected a launch below {count}, found {value}")
    return _integer(value)


def _hex(value: object) -> str:
    if (
        not isinstance(value, str)
        or len(value) not in (32, 64)
        or set(value) - set("0123456789abcdef")
    ):
        raise ValueError(f"expected a SHA-256 or a digest, found {value!r:.80}")
    return value


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _version(value: Any) -> tuple[int, int] | None:
    return None if value is None else (_integer(value[0]), _integer(value[1]))


def _digests(value: object) -> dict[str, str]:
    return {str(name): _hex(digest) for name, digest in dict(value).items()}  # type: ignore[call-overload]


def _read_layout(fields: Mapping[str, Any]) -> Layout:
    shape = tuple(_integer(n) for n in fields["shape"])
    strides = fields["strides"]
    if strides is not None:
        strides = tuple(int(n) for n in strides)
    layout = Layout(
        _integer(fields["address"]), shape, strides, fields["dtype"], _integer(fields["nbytes"])
    )
    if layout.dtype not in _DTYPES or len(shape) > _MAX_DIMENSIONS:
        raise ValueError(f"an array of {layout.dtype!r:.40} in {len(shape)} dimensions")
    size = numpy_dtype(layout.dtype).itemsize
    if strides is None:
        strides = tuple(math.prod(shape[i + 1 :]) * size for i in range(len(shape)))
    if len(strides) != len(shape) or min(strides, default=0) < 0:
        raise ValueError(f"strides {list(strides)} for shape {list(shape)}")
    if math.prod(shape) * size > _MAX_ELEMENT_BYTES:  # with strides of 0 in a few bytes
        raise ValueError(f"an array of {math.prod(shape)} elements")
    reach = sum((n - 1) * s for n, s in zip(shape, strides, strict=True) if s > 0)
    if 0 not in shape and reach + size > layout.nbytes:
        raise ValueError(f"an array that reaches over {reach + size} of {layout.nbytes} bytes")
    return layout
