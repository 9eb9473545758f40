"""Running a recording again, here or on another device, and where the two part."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..abi import ParameterBlock
from ..devices import Device
from ..errors import FerrumError, RecordingError
from .digest import digest as digest_of
from .recording import Layout, RecordedLaunch, Recording, numpy_dtype

Verdict = Literal["equal", "close", "differs", "ran", "fails", "left out"]

# Of a sum that is rounded once: beyond it two devices do not merely add in another order.
TOLERANCES = {"float16": 2.0**-9, "bfloat16": 2.0**-6, "float32": 2.0**-18, "float64": 2.0**-40}


class _NotRecordedError(RecordingError):
    """Raised for a launch of which something was not written down."""


@dataclass(frozen=True)
class Difference:
    """Difference of an array's two results: the number of elements, and the first that is beyond
    the tolerance, or else the first of all.

    index: in the array's shape.  size: the largest difference over the largest recorded value.
    """

    array: str
    count: int
    elements: int
    index: tuple[int, ...]
    recorded: float
    replayed: float
    size: float
    tolerance: float

    def __str__(self) -> str:
        at = ", ".join(map(str, self.index))
        return (
            f"{self.array}[{at}] was {self.recorded:.9g}, is {self.replayed:.9g}; "
            f"{self.count} of {self.elements} elements differ, by at most {self.size:.2g} of the "
            f"largest value (tolerance {self.tolerance:.2g})"
        )


@dataclass(frozen=True)
class LaunchReplay:
    """One launch, run again.

    verdict  "equal": every bit; "close": within the tolerance; "differs"; "ran": the recording
             does not say what came of it; "fails": it raised; "left out": it could not be run
    reason   why it was left out, what it raised, or what could not be compared
    """

    number: int
    entry: str
    verdict: Verdict
    reason: str = ""
    differences: Sequence[Difference] = ()
    findings: Sequence[Any] = field(default=())


def replay(
    recording: Recording, device: Device, *, tolerance: float | None = None
) -> Iterator[LaunchReplay]:
    """Run the launches again on `device`, in order; what each left is compared with the recording.

    Each starts from its own recorded arrays, so that one that differs spoils no other.  An array
    whose contents were not recorded is taken from what an earlier launch left at its address,
    where its digest agrees.
    tolerance: of |replayed - recorded| over the largest recorded value; 0 asks for equal bits, left
    out it is one rounding of the array's dtype, four times over.
    """
    left: dict[tuple[int, int], NDArray[np.uint8]] = {}
    for launch in recording.launches:
        yield _replay(recording, launch, device, tolerance, left)


def _replay(
    recording: Recording,
    launch: RecordedLaunch,
    device: Device,
    tolerance: float | None,
    left: dict[tuple[int, int], NDArray[np.uint8]],
) -> LaunchReplay:
    call = launch.call
    entry = call.signature.entry
    if launch.captured:
        return LaunchReplay(launch.number, entry, "left out", "it was captured into a graph")
    try:
        arrays = _arrays(recording, launch, left)
        integers = _integers(launch)
    except _NotRecordedError as error:
        return LaunchReplay(launch.number, entry, "left out", str(error))
    findings: list[Any] = []
    collect = getattr(device, "collect", None)
    try:
        on_device = {name: _put(device, array, call.arrays[name]) for name, array in arrays.items()}
        arguments = integers | {name: view for name, (_, view) in on_device.items()}
        kernel = device.load_module(call.ptx, call.sidecar).get_kernel(entry)
        with collect() if collect else nullcontext(findings) as found:
            kernel.launch(call.config, **arguments)
            device.synchronize()
        findings = list(found)
        results = {n: device.to_host(whole).view(np.uint8) for n, (whole, _) in on_device.items()}
    except FerrumError as error:
        same = bool(launch.error)
        reason = f"{type(error).__name__}: {error}"
        return LaunchReplay(
            launch.number, entry, "equal" if same else "fails", reason, (), findings
        )
    for name, data in results.items():
        left[_place(call.arrays[name])] = data
    return _compare(recording, launch, results, tolerance, findings)


def _arrays(
    recording: Recording, launch: RecordedLaunch, left: Mapping[tuple[int, int], NDArray[np.uint8]]
) -> dict[str, NDArray[np.uint8]]:
    """The bytes of each array before the launch.  Raises _NotRecordedError."""
    found = {}
    for name, layout in launch.call.arrays.items():
        digest = launch.before.get(name)
        earlier = left.get(_place(layout))
        if digest is not None and recording.holds(digest):
            found[name] = recording.contents(digest, layout).view(np.uint8)
        elif earlier is not None and digest in (None, _digest_like(digest, earlier)):
            found[name] = earlier
        elif launch.call.signature[name].role == "output":
            found[name] = np.zeros(layout.nbytes, np.uint8)
        else:
            how = "neither its contents nor a digest" if digest is None else "its digest alone"
            raise _NotRecordedError(f"{name}: the recording has {how}")
    return found


def _digest_like(digest: str | None, data: NDArray[np.uint8]) -> str:
    """The digest of bytes, of the kind of another: SHA-256, or that which devices compute."""
    return digest_of(data) if len(digest or "") == 32 else hashlib.sha256(data.data).hexdigest()


def _place(layout: Layout) -> tuple[int, int]:
    return layout.address, layout.nbytes


def _put(device: Device, data: NDArray[np.uint8], layout: Layout) -> tuple[Any, Any]:
    """The whole extent on the device, and the array in it with the recorded shape and strides."""
    values = data.copy().view(numpy_dtype(layout.dtype))
    whole = device.to_device(values)
    if isinstance(whole, np.ndarray):
        return whole, layout.view(whole)
    if layout.strides is None or 0 in layout.shape:
        return whole, whole[: math.prod(layout.shape)].reshape(layout.shape)
    return whole, _Strided(whole, layout)


class _Strided:
    """Part of an array on a GPU, with strides of its own."""

    def __init__(self, whole: Any, layout: Layout) -> None:
        self.__cuda_array_interface__ = {
            **whole.__cuda_array_interface__,
            "shape": layout.shape,
            "strides": layout.strides,
        }
        self._whole = whole


def _integers(launch: RecordedLaunch) -> dict[str, Any]:
    """The arguments that are no arrays, from the parameter block."""
    call = launch.call
    values = ParameterBlock.from_bytes(call.signature, call.block).values()
    found = {}
    for p in call.signature.arguments:
        if p.name in call.arrays:
            continue
        if p.is_pointer and values[p.name]:
            raise _NotRecordedError(
                f"{p.name}: the launch was given an address, not an array, so nobody knows what "
                "lay there"
            )
        found[p.name] = None if p.is_pointer else values[p.name]
    return found


def _compare(
    recording: Recording,
    launch: RecordedLaunch,
    results: Mapping[str, NDArray[np.uint8]],
    tolerance: float | None,
    findings: Sequence[Any],
) -> LaunchReplay:
    call, differences, reasons = launch.call, [], []
    entry = call.signature.entry
    if launch.after is None:
        reason = launch.error or "the recording does not say what came of it"
        return LaunchReplay(launch.number, entry, "ran", reason, (), findings)
    for name, data in results.items():
        digest = launch.after.get(name, launch.before.get(name))
        if digest is None or _digest_like(digest, data) == digest:
            continue
        if not recording.holds(digest):
            reasons.append(f"{name}: other bits; recorded by digest, so not where")
            continue
        layout = call.arrays[name]
        recorded = recording.contents(digest, layout)
        difference = _difference(name, recorded, data.view(recorded.dtype), layout, tolerance)
        if difference is not None:
            differences.append(difference)
    beyond = [d for d in differences if not d.size <= d.tolerance]
    verdict: Verdict = "differs" if beyond or reasons else "close" if differences else "equal"
    return LaunchReplay(
        launch.number, entry, verdict, "; ".join(reasons), beyond or differences, findings
    )


def _difference(
    name: str,
    recorded: NDArray[Any],
    replayed: NDArray[Any],
    layout: Layout,
    tolerance: float | None,
) -> Difference | None:
    """Compare two extents; None where only bits between the elements do."""
    recorded, replayed = layout.view(recorded), layout.view(replayed)
    bits = np.dtype(f"u{recorded.dtype.itemsize}")
    unequal = np.ascontiguousarray(recorded).view(bits) != np.ascontiguousarray(replayed).view(bits)
    if not unequal.any():
        return None
    before, after = (a.astype(np.float64) for a in (recorded, replayed))
    finite = np.isfinite(before)
    largest = float(np.abs(before[finite]).max()) if finite.any() else 0.0
    with np.errstate(invalid="ignore"):
        sizes = np.where(unequal, np.abs(after - before) / (largest or 1.0), 0.0)
    sizes[unequal & ~(np.isfinite(before) & np.isfinite(after))] = np.inf
    allowed = TOLERANCES.get(layout.dtype, 0.0) if tolerance is None else tolerance
    beyond = sizes > allowed
    index = tuple(int(i) for i in np.argwhere(beyond if beyond.any() else unequal)[0])
    return Difference(
        array=name,
        count=int(unequal.sum()),
        elements=unequal.size,
        index=index,
        recorded=float(before[index]),
        replayed=float(after[index]),
        size=float(sizes.max()),
        tolerance=allowed,
    )
