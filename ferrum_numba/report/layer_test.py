"""Testing layers: what a device computes, against the float32 reference on the host."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ..devices import Device
from ..errors import AbiError, CheckpointError, FerrumError, LaunchError
from ..gptq import Checkpoint, GptqLinear, GptqTensors

Float32Array = npt.NDArray[np.float32]

Verdict = Literal["pass", "mismatch", "refused"]
"""pass      all errors are within the tolerance
mismatch  the device computed something else, or broke the launch off
refused   nothing was computed: the layer is of a kind that is not read or not computed here"""

M_VALUES = (1, 16, 64)
"""Rows of x: a single token, a part of the kernel's tile, a whole tile."""

TOLERANCE = 1e-3
"""The relative Frobenius error up to which a layer passes.

The kernel accumulates in float32 and rounds once, to float16. That changes an element by at most
2^-11 of itself (IEEE 754 binary16, round to nearest), so the whole by at most 4.9e-4; a bias is
added in float16 and rounds once more. A wrong zero, scale or group is off by far more than 1e-3.
"""

_MAX_FLOAT16 = 65504


@dataclass(frozen=True)
class Measurement:
    """One call of a layer with M rows, x (M, K) float16.

    max_abs_error   max |y - y32| over all elements; NaN where an element of y is NaN
    relative_error  ||y - y32|| / ||y32||, Frobenius norms; NaN or infinite as y is
    seconds         wall time of the call after a warm-up call, device.synchronize() included
    """

    m: int
    max_abs_error: float
    relative_error: float
    seconds: float


@dataclass(frozen=True)
class LayerResult:
    """What came of testing one layer of a checkpoint.

    measurements  one for each M, in the order asked; empty for a layer that was refused
    reason        why it did not pass; empty where it did
    tolerance     of relative_error
    """

    layer: str
    K: int
    N: int
    bits: int
    group_size: int
    zero_format: str
    act_order: bool
    bias: bool
    measurements: tuple[Measurement, ...]
    verdict: Verdict
    reason: str
    tolerance: float

    @property
    def max_abs_error(self) -> float:
        """The worst over all M; NaN if any is, or if nothing was measured."""
        return _worst([measured.max_abs_error for measured in self.measurements])

    @property
    def relative_error(self) -> float:
        """The worst over all M; NaN if any is, or if nothing was measured."""
        return _worst([measured.relative_error for measured in self.measurements])


def verify_checkpoint(
    checkpoint: Checkpoint,
    device: Device,
    *,
    m_values: Sequence[int] = M_VALUES,
    layers: Sequence[str] = (),
    seed: int = 0,
) -> Iterator[LayerResult]:
    """Test the layers of a checkpoint that match one of the glob patterns `layers` (none: all).

    Layers are read, tested and let go one by one; one that fails does not stop the rest. Raises
    CheckpointError at once for a pattern that matches no layer, AbiError for an M below 1.
    """
    names = select_layers(checkpoint, layers)
    _check_m_values(m_values)
    return (verify_layer(checkpoint, n, device, m_values=m_values, seed=seed) for n in names)


def select_layers(checkpoint: Checkpoint, patterns: Sequence[str]) -> list[str]:
    """The names of the layers that match one of the glob patterns, or all where there is none.

    Raises CheckpointError for a pattern that matches no layer: it is most likely misspelt.
    """
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in checkpoint.layers):
            raise CheckpointError(
                f"layers: expected a glob pattern that matches a quantised layer of "
                f"{checkpoint.path}, found {pattern!r}; the first of its "
                f"{len(checkpoint.layers)} is {next(iter(checkpoint.layers))}"
            )
    return [
        name
        for name in checkpoint.layers
        if not patterns or any(fnmatchcase(name, pattern) for pattern in patterns)
    ]


def verify_layer(
    checkpoint: Checkpoint,
    name: str,
    device: Device,
    *,
    m_values: Sequence[int] = M_VALUES,
    seed: int = 0,
) -> LayerResult:
    """Test the layer `name` of a checkpoint on a device; what it raises becomes the verdict."""
    spec = checkpoint.layers[name]
    measurements: tuple[Measurement, ...] = ()
    verdict: Verdict
    try:
        tensors = checkpoint.load(name)
        measurements = measure_layer(tensors, device, m_values=m_values, seed=seed)
    except LaunchError as error:  # the layer was accepted, and then not computed
        verdict, reason = "mismatch", str(error)
    except FerrumError as error:
        verdict, reason = "refused", str(error).removeprefix(f"{name}: ")
    else:
        reason = _mismatch(measurements)
        verdict = "mismatch" if reason else "pass"
    return LayerResult(
        layer=name,
        K=spec.K,
        N=spec.N,
        bits=spec.bits,
        group_size=spec.group_size,
        zero_format=spec.zero_format,
        act_order=spec.act_order,
        bias=spec.bias,
        measurements=measurements,
        verdict=verdict,
        reason=reason,
        tolerance=TOLERANCE,
    )


def measure_layer(
    tensors: GptqTensors,
    device: Device,
    *,
    m_values: Sequence[int] = M_VALUES,
    seed: int = 0,
) -> tuple[Measurement, ...]:
    """Run a layer on a device once for each M and compare with y32 = x32 @ W32 + bias32.

    x is standard normal, rounded to float16; a smaller M takes the first rows of a larger one's.
    W32 is tensors.dequantize(), the rounded weight that the kernel multiplies by.

    Raises what GptqLinear does, and CheckpointError for outputs that float16 cannot hold.
    """
    _check_m_values(m_values)
    layer = GptqLinear(tensors, device=device)  # first, since it refuses without any work
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((max(m_values), tensors.K), np.float32).astype(np.float16)
    expected = _reference(tensors, x)
    return tuple(_measure(layer, x[:m], expected[:m]) for m in m_values)


def _check_m_values(m_values: Sequence[int]) -> None:
    if not m_values or min(m_values) < 1:
        raise AbiError(f"m_values: expected numbers of rows, at least 1, found {list(m_values)}")


def _reference(tensors: GptqTensors, x: npt.NDArray[np.float16]) -> Float32Array:
    """x @ W + bias in float32, (M, N)."""
    expected: Float32Array = x.astype(np.float32) @ tensors.dequantize().astype(np.float32)
    if tensors.bias is not None:
        expected += tensors.bias.astype(np.float32)
    largest = float(np.abs(expected).max())
    if largest > _MAX_FLOAT16:
        raise CheckpointError(
            f"scales: expected outputs within float16 ({_MAX_FLOAT16}) for x of unit variance, "
            f"found {largest:.3g}; the scales are not those of a float16 model"
        )
    return expected


def _measure(layer: GptqLinear, x: npt.NDArray[np.float16], expected: Float32Array) -> Measurement:
    """Call twice, the first time to warm up, and compare the result of both calls."""
    on_device = layer.device.to_device(x)
    differences = []
    seconds = math.nan
    for _ in range(2):
        # NaN, so that an element which the kernel leaves out is seen.
        out = layer.device.to_device(np.full(expected.shape, np.nan, np.float16))
        layer.device.synchronize()
        start = time.perf_counter()
        layer(on_device, out=out)
        layer.device.synchronize()
        seconds = time.perf_counter() - start
        differences.append(layer.device.to_host(out).astype(np.float32) - expected)
    return Measurement(
        m=len(x),
        max_abs_error=_worst([np.abs(difference).max() for difference in differences]),
        relative_error=_worst([_relative(difference, expected) for difference in differences]),
        seconds=seconds,
    )


def _relative(difference: Float32Array, expected: Float32Array) -> float:
    """||difference|| / ||expected||; 0 / 0, an exact zero, is 0."""
    error = float(np.linalg.norm(difference.astype(np.float64)))
    size = float(np.linalg.norm(expected.astype(np.float64)))
    if size:
        return error / size
    return math.inf if error else 0.0


def _mismatch(measurements: Sequence[Measurement]) -> str:
    """What is wrong with the first measurement that is beyond the tolerance; else nothing."""
    for measured in measurements:
        if not math.isfinite(measured.relative_error):
            return (
                f"M = {measured.m}: expected finite outputs, found NaN or infinity; the output was "
                "filled with NaN before, so elements may never have been written"
            )
        if measured.relative_error > TOLERANCE:
            return (
                f"M = {measured.m}: expected a relative error of at most {TOLERANCE:.0e}, found "
                f"{measured.relative_error:.1e}"
            )
    return ""


def _worst(errors: Sequence[Any]) -> float:
    """The largest, where NaN counts as larger than everything."""
    return float(np.max(errors)) if errors else math.nan
