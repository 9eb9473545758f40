"""Testing one layer: what a device computes, against the reference on the host."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ..devices import Device
from ..errors import AbiError, FerrumError, LaunchError
from ..gptq import Checkpoint, GptqLinear, GptqTensors, LayerSpec
from ..gptq.plausibility import implausible
from ..notebook import table
from .layer_diagnosis import LayerDiagnosis, diagnose_layer
from .oracle import Oracle
from .reference import NUMPY_DTYPES, OWN, Dtype, Reference, make_reference
from .tolerance import Bounds, Float32Array, relative_error

Verdict = Literal["pass", "mismatch", "refused", "error"]
"""pass      all errors are within the bounds
mismatch  the device computed something else, or broke the launch off
refused   nothing was computed: the layer is damaged, or of a kind that is not computed here
error     the test itself failed, as by lack of memory"""

M_VALUES = (1, 16, 64)
"""Rows of x: a single token, a part of the kernel's tile, a whole tile."""


@dataclass(frozen=True)
class Measurement:
    """One call of a layer with M rows.

    kernel          the artefact that multiplied
    max_abs_error   max |y - y32| over all elements; NaN where an element of y is NaN
    relative_error  ||y - y32|| / ||y32||, Frobenius norms; NaN or infinite as y is
    tolerance       of relative_error
    worst_ratio     max |y - y32| / bound over all elements; above 1, an element is wrong
    worst_element   (row, column) of that
    seconds         wall time of the call after a warm-up call, device.synchronize() included
    """

    m: int
    kernel: str
    max_abs_error: float
    relative_error: float
    tolerance: float
    worst_ratio: float
    worst_element: tuple[int, int]
    seconds: float

    @property
    def share(self) -> float:
        """The largest share of its bound that an error takes, the relative error's included."""
        return _worst([self.worst_ratio, self.relative_error / (self.tolerance or 1.0)])

    @property
    def passes(self) -> bool:
        """True if both errors are within their bounds; NaN is not."""
        return self.share <= 1


@dataclass(frozen=True)
class LayerResult:
    """Result of testing one layer of a checkpoint.

    K, N, ...     as in `LayerSpec`; 0 and empty where the headers cannot be read
    device        its name
    dtype         of x, y and the computation
    kernel        that was asked for; None: the catalogue's choice
    reference     "float32", or "oracle"; empty where there was none
    note          what else is to be said, such as that the oracle lacks this layer
    measurements  one for each M, in the order asked; empty for a layer that was refused
    reason        why it did not pass; empty where it did
    explanation   where the error lies, and its likely cause; None where nobody looked
    seconds       of the whole test
    warnings      what is implausible about its values, each "sign: what was found"; see `SIGNS`
    """

    layer: str
    K: int
    N: int
    bits: int
    group_size: int
    zero_format: str
    act_order: bool
    bias: bool
    device: str
    dtype: Dtype
    kernel: str | None
    reference: str
    note: str
    measurements: tuple[Measurement, ...]
    verdict: Verdict
    reason: str
    explanation: LayerDiagnosis | None
    seconds: float
    warnings: tuple[str, ...] = ()

    def __repr__(self) -> str:
        error = f", relative error {self.relative_error:.1e}" if self.measurements else ""
        return f"<LayerResult {self.layer} on {self.device}: {self.verdict}{error}>"

    def _repr_html_(self) -> str:
        headers = ("M", "kernel", "max abs error", "relative error", "of bound", "ms")
        rows = (
            (
                each.m,
                each.kernel,
                f"{each.max_abs_error:.1e}",
                f"{each.relative_error:.1e}",
                f"{each.share:.3g}",
                f"{each.seconds * 1e3:.2f}",
            )
            for each in self.measurements
        )
        title = f"{self.layer} on {self.device}: {self.verdict}"
        title += f": {self.reason}" if self.reason else ""
        return table(title, headers, rows, len(self.measurements))

    @property
    def max_abs_error(self) -> float:
        """The worst over all M; NaN if any is, or if nothing was measured."""
        return _worst([measured.max_abs_error for measured in self.measurements])

    @property
    def relative_error(self) -> float:
        """The worst over all M; NaN if any is, or if nothing was measured."""
        return _worst([measured.relative_error for measured in self.measurements])

    @property
    def worst_ratio(self) -> float:
        """The largest share of a bound that an error takes, over all elements and M."""
        return _worst([measured.share for measured in self.measurements])


@dataclass(frozen=True)
class Plan:
    """Plan of a test of layers.

    m_values  rows of x, one measurement each
    dtype     of x and y: "float16" or "bfloat16"
    kernel    the artefact to use; None: the catalogue chooses
    oracle    stored results, in place of the own reference where it has them
    seed      of x, where it is random
    explain   whether layers that pass are looked into too
    """

    m_values: tuple[int, ...] = M_VALUES
    dtype: Dtype = "float16"
    kernel: str | None = None
    oracle: Oracle | None = None
    seed: int = 0
    explain: bool = False

    def __post_init__(self) -> None:
        if not self.m_values or min(self.m_values) < 1:
            raise AbiError("m_values", "numbers of rows, at least 1", list(self.m_values))


@dataclass(frozen=True, eq=False)
class Prepared:
    """The host's part of a test, done before a device is needed.

    spec: None where not even the headers can be read.
    outcome: the tensors and the reference, or the exception that stood against them.
    warnings, note: as in `LayerResult`.
    """

    name: str
    spec: LayerSpec | None
    outcome: tuple[GptqTensors, Reference] | Exception
    seconds: float
    warnings: tuple[str, ...] = ()
    note: str = ""


def prepare_layer(checkpoint: Checkpoint, name: str, plan: Plan) -> Prepared:
    """Read a layer and make its reference; what that raises is kept for the result."""
    start = time.perf_counter()
    outcome: tuple[GptqTensors, Reference] | Exception
    spec, warnings = checkpoint.layers.get(name), dict[str, str]()
    try:
        tensors = checkpoint.load(name)
        warnings = implausible(tensors, checkpoint.layers[name].symmetric)
        reference = make_reference(
            name, tensors, max(plan.m_values), seed=plan.seed, oracle=plan.oracle, dtype=plan.dtype
        )
        outcome = tensors, reference
    except Exception as error:  # whatever it is, the other layers are still to be tested
        outcome = error
    said = tuple(f"{sign}: {found}" for sign, found in warnings.items())
    note = "" if spec is None or spec.indexed else "the index does not name it"
    return Prepared(name, spec, outcome, time.perf_counter() - start, said, note)


def verify_layer(
    checkpoint: Checkpoint, name: str, device: Device, plan: Plan | None = None
) -> LayerResult:
    """Test the layer `name` of a checkpoint on a device; what it raises becomes the verdict."""
    plan = plan or Plan()
    return run_prepared(prepare_layer(checkpoint, name, plan), device, plan)


def run_prepared(prepared: Prepared, device: Device, plan: Plan) -> LayerResult:
    """The device's part of `verify_layer`."""
    start = time.perf_counter()
    name, spec = prepared.name, prepared.spec
    measurements: tuple[Measurement, ...] = ()
    explanation, source, note = None, "", ""
    verdict: Verdict = "pass"
    reason = ""
    try:
        if isinstance(prepared.outcome, Exception):
            raise prepared.outcome
        tensors, reference = prepared.outcome
        source = reference.source
        dtype = NUMPY_DTYPES[plan.dtype]
        layer = GptqLinear(tensors, device=device, kernel=plan.kernel, dtype=dtype)
        measurements = measure(layer, reference, plan.m_values)
        reason = mismatch(measurements)
        verdict = "mismatch" if reason else "pass"
        if reason or plan.explain:
            explanation, note = _look_into(layer, tensors, reference, measurements)
    except LaunchError as error:  # the layer was accepted, and then not computed
        verdict, reason = "mismatch", str(error)
    except FerrumError as error:
        verdict, reason = "refused", error.without(name)
    except Exception as error:
        verdict, reason = "error", f"{type(error).__name__}: {error}"
    return LayerResult(
        layer=name,
        K=spec.K if spec else 0,
        N=spec.N if spec else 0,
        bits=spec.bits if spec else 0,
        group_size=spec.group_size if spec else 0,
        zero_format=spec.zero_format if spec else "",
        act_order=bool(spec and spec.act_order),
        bias=bool(spec and spec.bias),
        device=device.name,
        dtype=plan.dtype,
        kernel=plan.kernel,
        reference=source,
        note=note or prepared.note or _oracle_note(plan, source),
        measurements=measurements,
        verdict=verdict,
        reason=reason,
        explanation=explanation,
        seconds=prepared.seconds + time.perf_counter() - start,
        warnings=prepared.warnings,
    )


def _look_into(
    layer: GptqLinear,
    tensors: GptqTensors,
    reference: Reference,
    measurements: Sequence[Measurement],
) -> tuple[LayerDiagnosis | None, str]:
    """Diagnosis for the first M that fails, or the largest; a note where there is none."""
    failing = [measured.m for measured in measurements if not measured.passes]
    m = failing[0] if failing else max(measured.m for measured in measurements)
    try:
        return diagnose_layer(layer, tensors, reference, m, failed=bool(failing)), ""
    except Exception as error:  # the verdict stands, whatever has kept us from its cause
        return None, f"the layer could not be looked into: {type(error).__name__}: {error}"


def _oracle_note(plan: Plan, source: str) -> str:
    if plan.oracle is not None and source == OWN:
        return f"{plan.oracle.path.name} has no entry: compared with the own float32 reference"
    return ""


def measure(
    layer: GptqLinear, reference: Reference, m_values: Sequence[int]
) -> tuple[Measurement, ...]:
    """Run a layer once for each M, on the first M rows of the reference, and compare."""
    return tuple(_measure(layer, reference, m) for m in m_values)


def _measure(layer: GptqLinear, reference: Reference, m: int) -> Measurement:
    """Call twice, the first time to warm up, and compare the result of both calls."""
    expected, bounds = reference.y[:m], reference.bounds(m)
    on_device = layer.device.to_device(reference.x[:m])
    found = []
    for _ in range(2):
        # NaN, so that an element which the kernel leaves out is seen.
        out = layer.device.to_device(np.full(expected.shape, np.nan, layer.dtype))
        layer.device.synchronize()
        start = time.perf_counter()
        layer(on_device, out=out)
        layer.device.synchronize()
        seconds = time.perf_counter() - start
        difference = layer.device.to_host(out).astype(np.float32) - expected
        found.append(compared(difference, expected, bounds))
    worst = max(found, key=lambda errors: math.inf if math.isnan(errors[2]) else errors[2])
    return Measurement(
        m=m,
        kernel=layer.artefact(m).name,
        max_abs_error=_worst([errors[0] for errors in found]),
        relative_error=_worst([errors[1] for errors in found]),
        tolerance=bounds.relative,
        worst_ratio=worst[2],
        worst_element=worst[3],
        seconds=seconds,
    )


def compared(
    difference: Float32Array, expected: Float32Array, bounds: Bounds
) -> tuple[float, float, float, tuple[int, int]]:
    """(max |difference|, relative error, largest share of a bound, where that is)."""
    sizes = np.abs(difference)
    shares = sizes / bounds.elements
    row, column = np.unravel_index(int(np.argmax(shares)), shares.shape)  # NaN counts as largest
    worst = float(shares[row, column])
    return float(sizes.max()), relative_error(difference, expected), worst, (int(row), int(column))


def mismatch(measurements: Sequence[Measurement]) -> str:
    """Describe the first measurement that is beyond its bounds; empty for none."""
    for measured in measurements:
        where = "row {}, column {}".format(*measured.worst_element)
        if not math.isfinite(measured.relative_error):
            return (
                f"M = {measured.m}: expected finite outputs, found NaN or infinity, as in {where}; "
                "the output was filled with NaN before, so elements may never have been written"
            )
        if measured.relative_error > measured.tolerance:
            return (
                f"M = {measured.m}: expected a relative error of at most "
                f"{measured.tolerance:.1e}, found {measured.relative_error:.1e}; "
                f"the worst element is {where}"
            )
        if measured.worst_ratio > 1:
            return (
                f"M = {measured.m}: expected every element within its rounding errors, found one "
                f"that is off by {measured.worst_ratio:.3g} times its bound, in {where}"
            )
    return ""


def _worst(errors: Sequence[Any]) -> float:
    """The largest, where NaN counts as larger than everything."""
    return float(np.max(errors)) if errors else math.nan
