"""Comparing two checkpoints by their weights or results, or two devices by their results."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass, replace

import numpy as np

from ..devices import Device
from ..errors import FerrumError
from ..gptq import Checkpoint, GptqLinear, LayerSpec
from ..notebook import facts
from .layer_diagnosis import LayerDiagnosis, diagnose_difference
from .layer_test import Verdict
from .probe import outputs
from .reference import make_reference
from .tolerance import Float32Array, relative_error

_ROWS = 1024  # of a weight that are in float32 at a time
_Side = tuple[Checkpoint, Device]


@dataclass(frozen=True)
class Comparison:
    """One layer on both sides.

    K, N            of A's layer, or of B's where A has none; 0 where both are damaged
    format_a, _b    the zero formats; of a device pair both the same, empty for a missing layer
    equal           the part of the elements that are equal, 0..1
    max_abs_error   max |a - b| over all elements
    relative_error  ||a - b|| / ||a|| (Frobenius)
    tolerance       of relative_error
    worst_ratio     what is largest beside its bound; 0 for equal weights, infinite for others
                    where only equality passes
    explanation     how the weights differ; None where they do not, or cannot be told
    seconds         of the whole comparison
    """

    layer: str
    K: int
    N: int
    format_a: str
    format_b: str
    equal: float = math.nan
    max_abs_error: float = math.nan
    relative_error: float = math.nan
    tolerance: float = 0.0
    worst_ratio: float = math.nan
    verdict: Verdict = "pass"
    reason: str = ""
    explanation: LayerDiagnosis | None = None
    seconds: float = 0.0

    def _repr_html_(self) -> str:
        pairs = (
            ("K, N", f"{self.K}, {self.N}"),
            ("formats", f"{self.format_a}, {self.format_b}"),
            ("equal", f"{self.equal:.2%}"),
            ("max abs error", f"{self.max_abs_error:.1e}"),
            ("relative error", f"{self.relative_error:.1e}"),
            ("reason", self.reason),
        )
        return facts(f"{self.layer}: {self.verdict}", pairs)


def compare_checkpoints(
    a: Checkpoint, b: Checkpoint, names: Sequence[str], tolerance: float = 0.0
) -> Iterator[Comparison]:
    """Compare these layers' dequantised weights, float16 [K, N].

    tolerance: of the relative error; 0 asks for equal bits.
    """
    for name in names:
        start = time.perf_counter()
        found = _compare_layer(a, b, name, tolerance)
        yield replace(found, seconds=time.perf_counter() - start)


def all_layers(a: Checkpoint, b: Checkpoint) -> list[str]:
    """The names of both, A's order first; layers that either cannot read are among them."""
    return list(dict.fromkeys([*a.layers, *b.layers, *a.problems, *b.problems]))


def compare_results(
    a: Checkpoint, b: Checkpoint, names: Sequence[str], device: Device, m: int, seed: int = 0
) -> Iterator[Comparison]:
    """Compare the results of both checkpoints' layers on a device, for the same x (m, K).

    Each may differ from the true result by its bound, so two bounds pass between them.
    """
    for name in names:
        start = time.perf_counter()
        found = _matched(a, b, name)
        if found.verdict == "pass":
            sides = (a, device), (b, device)
            found = _guarded(found, sides, m, seed)
        yield replace(found, seconds=time.perf_counter() - start)


def _matched(a: Checkpoint, b: Checkpoint, name: str) -> Comparison:
    """A layer of which nothing is known but that both sides have it, of one shape; or why not."""
    specs = a.layers.get(name), b.layers.get(name)
    base = _base(name, *specs)
    for side, other, spec in (("A", a, specs[0]), ("B", b, specs[1])):
        if name in other.problems:
            return replace(base, verdict="refused", reason=f"{side}: {other.problems[name]}")
        if spec is None:
            return replace(base, verdict="mismatch", reason=f"{side} has no layer of this name")
    shapes = [(spec.K, spec.N) for spec in specs if spec is not None]
    if shapes[0] != shapes[1]:
        reason = f"expected the same shape [K, N], found {list(shapes[0])} and {list(shapes[1])}"
        return replace(base, verdict="mismatch", reason=reason)
    return base


def _compare_layer(a: Checkpoint, b: Checkpoint, name: str, tolerance: float) -> Comparison:
    base = _matched(a, b, name)
    if base.verdict != "pass":
        return base
    try:
        weights = a.dense(name), b.dense(name)
    except FerrumError as error:
        return replace(base, verdict="refused", reason=error.without(name))
    except Exception as error:  # the other layers are still to be compared
        return replace(base, verdict="error", reason=f"{type(error).__name__}: {error}")
    found = _differences(base, *weights, tolerance)
    if found.verdict == "pass" or not a.layers[name].bits == b.layers[name].bits == 4:
        return found
    return replace(found, explanation=diagnose_difference(a.load(name), *weights))


def _base(name: str, a: LayerSpec | None, b: LayerSpec | None) -> Comparison:
    known = a or b
    return Comparison(
        layer=name,
        K=known.K if known else 0,
        N=known.N if known else 0,
        format_a=_format(a),
        format_b=_format(b),
    )


def _format(spec: LayerSpec | None) -> str:
    if spec is None:
        return ""
    return spec.zero_format if spec.bits == 4 else f"{spec.bits} bits"


def _differences(
    base: Comparison,
    a: np.ndarray[tuple[int, ...], np.dtype[np.float16]],
    b: np.ndarray[tuple[int, ...], np.dtype[np.float16]],
    tolerance: float,
) -> Comparison:
    """The figures of two weights [K, N] of the same shape."""
    largest = squares = size = 0.0
    for start in range(0, len(a), _ROWS):
        rows = a[start : start + _ROWS].astype(np.float32)
        difference = rows - b[start : start + _ROWS].astype(np.float32)
        largest = max(largest, float(np.abs(difference).max()))
        squares += float(np.square(difference, dtype=np.float64).sum())
        size += float(np.square(rows, dtype=np.float64).sum())
    equal = float((a == b).mean())
    relative = math.sqrt(squares / size) if size else math.inf if squares else 0.0
    reason = ""
    if relative > tolerance:
        asked = (
            f"a relative difference of at most {tolerance:.1e}" if tolerance else "equal weights"
        )
        reason = f"expected {asked}, found {1 - equal:.2%} that differ, by {relative:.1e} in all"
    return replace(
        base,
        equal=equal,
        max_abs_error=largest,
        relative_error=relative,
        tolerance=tolerance,
        worst_ratio=relative / tolerance if tolerance else math.inf if relative else 0.0,
        verdict="mismatch" if reason else "pass",
        reason=reason,
    )


def compare_devices(
    checkpoint: Checkpoint,
    names: Sequence[str],
    devices: tuple[Device, Device],
    m: int,
    seed: int = 0,
) -> Iterator[Comparison]:
    """Compare the results of these layers on two devices, for the same x (m, K).

    Each may differ from the true result by its bound, so two bounds pass between them.
    """
    for name in names:
        start = time.perf_counter()
        base = _base(name, checkpoint.layers.get(name), None)
        base = replace(base, format_b=base.format_a)
        found = _guarded(base, [(checkpoint, device) for device in devices], m, seed)
        yield replace(found, seconds=time.perf_counter() - start)


def _guarded(base: Comparison, sides: Sequence[_Side], m: int, seed: int) -> Comparison:
    """`_compare_results`, whose errors become the verdict: the other layers are still to come."""
    try:
        return _compare_results(base, sides, m, seed)
    except FerrumError as error:
        return replace(base, verdict="refused", reason=error.without(base.layer))
    except Exception as error:
        return replace(base, verdict="error", reason=f"{type(error).__name__}: {error}")


def _compare_results(base: Comparison, sides: Sequence[_Side], m: int, seed: int) -> Comparison:
    tensors = {}  # loaded once where both sides are of one checkpoint
    for checkpoint in dict.fromkeys(checkpoint for checkpoint, _ in sides):
        if base.layer in checkpoint.problems:
            raise copy(checkpoint.errors[base.layer])
        tensors[checkpoint] = checkpoint.load(base.layer)
    reference = make_reference(base.layer, tensors[sides[0][0]], m, seed=seed)
    bounds = reference.bounds(m)
    results: list[Float32Array] = [
        outputs(GptqLinear(tensors[checkpoint], device=device), reference.x, m)
        for checkpoint, device in sides
    ]
    difference = results[0] - results[1]
    relative = relative_error(difference, results[0])
    shares = np.abs(difference) / (2 * bounds.elements)
    share = float(np.max([shares.max(), relative / (2 * bounds.relative or 1.0)]))
    passes = share <= 1
    reason = (
        ""
        if passes
        else f"expected results within two bounds of each other, found {share:.3g} of "
        f"that, a relative difference of {relative:.1e}"
    )
    return replace(
        base,
        equal=float((results[0] == results[1]).mean()),
        max_abs_error=float(np.abs(difference).max()),
        relative_error=relative,
        tolerance=2 * bounds.relative,
        worst_ratio=share,
        verdict="pass" if passes else "mismatch",
        reason=reason,
    )
