"""Timing a checkpoint's layers: one of each kind, by the kernels that the catalogue chooses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from .. import kernels
from ..devices import Device
from ..errors import FerrumError, LaunchError
from ..gptq import Checkpoint, GptqLinear, GptqTensors
from .layer_kind import LayerKind, layer_kinds
from .layer_test import Measurement, Verdict, compared, mismatch
from .reference import NUMPY_DTYPES, Reference, make_reference
from .timing import cold_copies, device_seconds, host_seconds
from .tolerance import Bounds

_ROWS = 61  # of x, over and over; a prime, so that rows swapped by a tile's height are seen


@dataclass(frozen=True)
class Timing:
    """A layer that M rows are multiplied by; the seconds of its measurements are medians.

    own               by the catalogue's kernel
    canonical         by the canonical kernel, or that for activation order; `own` where it is it
    numpy_seconds     of NumPy's product by the weight in float32; on the CPU device alone
    bytes_per_second  of `own`: the layer's tensors, x and y
    flop_per_second   of `own`: 2 M N K
    """

    own: Measurement
    canonical: Measurement
    numpy_seconds: float | None
    bytes_per_second: float
    flop_per_second: float


@dataclass(frozen=True)
class KindResult:
    """Result of timing one layer of a kind.

    kind     None for a layer whose headers cannot be read
    layers   all layers of this kind; the first of them was timed
    timings  one for each M, in the order asked; empty for a layer that was refused
    verdict  "mismatch" where a timed result is wrong, or the launch was broken off
    reason   why it did not pass; empty where it did
    """

    kind: LayerKind | None
    layers: tuple[str, ...]
    timings: tuple[Timing, ...]
    verdict: Verdict
    reason: str


@dataclass(frozen=True)
class Step:
    """All layers that were timed, one after the other with M rows; the others cost nothing here.

    layers: how many they are.  Seconds are sums; numpy_seconds only on the CPU device.
    """

    m: int
    layers: int
    seconds: float
    steps_per_second: float
    canonical_seconds: float
    numpy_seconds: float | None


def time_layers(
    checkpoint: Checkpoint, names: Sequence[str], device: Device, m_values: Sequence[int]
) -> Iterator[KindResult]:
    """Time a layer of each kind among these; what it raises becomes the verdict."""
    for kind, layers in layer_kinds(checkpoint, names).items():
        yield _time_kind(checkpoint, kind, layers, device, m_values)
    for name in names:
        if name in checkpoint.problems:
            reason = checkpoint.errors[name].without(name)
            yield KindResult(None, (name,), (), "refused", reason)


def steps(results: Sequence[KindResult], m_values: Sequence[int]) -> list[Step]:
    """Time of all layers that were timed together, for each M."""
    return [_step(results, place, m) for place, m in enumerate(m_values)]


def _step(results: Sequence[KindResult], place: int, m: int) -> Step:
    timed = [(len(r.layers), r.timings[place]) for r in results if len(r.timings) > place]
    seconds = sum(count * timing.own.seconds for count, timing in timed)
    numpy = [count * t.numpy_seconds for count, t in timed if t.numpy_seconds is not None]
    return Step(
        m=m,
        layers=sum(count for count, _ in timed),
        seconds=seconds,
        steps_per_second=1 / seconds if seconds else 0.0,
        canonical_seconds=sum(count * timing.canonical.seconds for count, timing in timed),
        numpy_seconds=sum(numpy) if numpy else None,
    )


def _time_kind(
    checkpoint: Checkpoint,
    kind: LayerKind,
    layers: Sequence[str],
    device: Device,
    m_values: Sequence[int],
) -> KindResult:
    name = layers[0]
    timings: list[Timing] = []
    verdict: Verdict = "pass"
    reason = ""
    try:
        tensors = checkpoint.load(name)
        rows = min(max(m_values), _ROWS)
        reference = make_reference(name, tensors, rows, dtype=kind.dtype)
        stand = _Stand(tensors, reference, device)
        timings.extend(stand.time(m) for m in m_values)
        reason = _wrong(timings)
        verdict = "mismatch" if reason else "pass"
    except LaunchError as error:
        verdict, reason = "mismatch", str(error)
    except FerrumError as error:
        verdict, reason = "refused", error.without(name)
    return KindResult(kind, tuple(layers), tuple(timings), verdict, reason)


def _wrong(timings: Sequence[Timing]) -> str:
    """Describe the first timed result that is wrong, and whose it is; empty for none."""
    measured = [each for timing in timings for each in (timing.own, timing.canonical)]
    found = ((mismatch([each]), each.kernel) for each in measured)
    return next((f"{what}; by {kernel}" for what, kernel in found if what), "")


class _Stand:
    """One layer on a device, in as many places as it takes to find it cold."""

    def __init__(self, tensors: GptqTensors, reference: Reference, device: Device) -> None:
        self.tensors, self.reference, self.device = tensors, reference, device
        self.dtype = NUMPY_DTYPES[reference.dtype]
        self._own = self._layers(None)
        self._canonical: list[GptqLinear] = []
        self._weight = reference.weight.astype(np.float32) if device.name == "cpu" else None

    def _layers(self, kernel: str | None) -> list[GptqLinear]:
        return [
            GptqLinear(self.tensors, device=self.device, kernel=kernel, dtype=self.dtype)
            for _ in range(cold_copies(self.device, self.tensors.nbytes))
        ]

    def time(self, m: int) -> Timing:
        """Time M rows.  Raises what a launch raises."""
        x = np.resize(self.reference.x, (m, self.tensors.K))
        own = self._measure(self._own, x)
        canonical = own
        if own.kernel != self._canonical_name():
            self._canonical = self._canonical or self._layers(self._canonical_name())
            canonical = self._measure(self._canonical, x)
        numpy_seconds = None
        if self._weight is not None:
            rows, weight = x.astype(np.float32), self._weight
            numpy_seconds = host_seconds(lambda: rows @ weight)
        nbytes = self.tensors.nbytes + x.nbytes + m * self.tensors.N * self.dtype.itemsize
        flop = 2 * m * self.tensors.N * self.tensors.K
        seconds = own.seconds
        return Timing(own, canonical, numpy_seconds, nbytes / seconds, flop / seconds)

    def _canonical_name(self) -> str:
        choose = kernels.act_order if self.tensors.act_order else kernels.canonical
        return choose(self._own[0].weight.zero_bias, self.dtype.name).name

    def _measure(self, layers: Sequence[GptqLinear], x: Any) -> Measurement:
        """Time the layers in turn, each with an output of its own, and look at the first one's."""
        m, shape = len(x), (len(x), self.tensors.N)
        on_device = self.device.to_device(x)
        # NaN, so that an element which the kernel leaves out is seen.
        outs = [self.device.to_device(np.full(shape, np.nan, self.dtype))]
        outs += [self.device.empty(shape, self.dtype) for _ in layers[1:]]
        jobs = [
            partial(_call, layer, on_device, out) for layer, out in zip(layers, outs, strict=True)
        ]
        seconds = device_seconds(self.device, jobs)
        bounds = self.reference.bounds(min(m, len(self.reference.x)))
        expected = np.resize(self.reference.y, shape)
        difference = self.device.to_host(outs[0]).astype(np.float32) - expected
        over_and_over = Bounds(np.resize(bounds.elements, shape), bounds.relative)
        errors = compared(difference, expected, over_and_over)
        kernel = layers[0].artefact(m).name
        max_abs, relative, ratio, element = errors
        return Measurement(m, kernel, max_abs, relative, bounds.relative, ratio, element, seconds)


def _call(layer: GptqLinear, x: Any, out: Any, stream: Any) -> None:
    layer(x, out=out, stream=stream)
