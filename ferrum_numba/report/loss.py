"""Loss by quantisation: of each layer's weight, and of outputs for some inputs."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import CheckpointError, FerrumError
from ..gptq import Checkpoint, DenseModel, LayerSpec
from ..gptq.safetensors_file import read_tensors
from ..gptq.safetensors_header import StoredTensor, read_header
from .layer_test import Verdict
from .tolerance import Float32Array

_ROWS = 1024  # of a weight that are in float32 at a time
_MOST = 4.0  # times the error of rounding: GPTQ stays below 2, another model's weights far above
_MOST_SHIFT = 0.25  # levels
_FLOATS = ("F16", "BF16", "F32")


@dataclass(frozen=True)
class Loss:
    """One quantised layer beside the dense one, W; all errors are relative, in Frobenius norms.

    rounding_error  what rounding to these scales makes: each weight off by up to half a scale
    weight_error    ||Wq - W|| / ||W||
    output_error    ||x Wq - x W|| / ||x W||
    max_abs_error   max |Wq - W|
    level_shift     mean of (Wq - W) / scale, 0 but for chance; 1 or -1 where zeros are read as
                    another format's
    worst_column    the output feature with the largest share of the outputs' error
    inputs          "random", or the name of the tensor that x is
    """

    layer: str
    K: int
    N: int
    bits: int
    group_size: int
    rounding_error: float = math.nan
    weight_error: float = math.nan
    output_error: float = math.nan
    max_abs_error: float = math.nan
    level_shift: float = math.nan
    worst_column: int = 0
    inputs: str = ""
    verdict: Verdict = "pass"
    reason: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class Inputs:
    """A .safetensors file of activations: <layer>.x or x_<K>, floats [rows, K]."""

    path: Path
    _tensors: dict[str, StoredTensor]

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Inputs:
        """Read the header. Raises CheckpointError, also for a file that holds none of these."""
        tensors, _ = read_header(Path(path))
        if not any(name.endswith(".x") or name.startswith("x_") for name in tensors):
            raise CheckpointError(
                str(path),
                "inputs, tensors named <layer>.x or x_<K>",
                f"none among {len(tensors)} tensors",
            )
        return cls(Path(path), tensors)

    def of(self, spec: LayerSpec) -> tuple[str, Float32Array] | None:
        """(name, x float32 [rows, K]) for a layer; None where the file has none for it."""
        for name in (f"{spec.name}.x", f"x_{spec.K}"):
            tensor = self._tensors.get(name)
            if tensor is None:
                continue
            shape = tensor.shape
            if tensor.dtype not in _FLOATS or len(shape) != 2 or shape[1] != spec.K or not shape[0]:
                raise CheckpointError(
                    name,
                    f"{' or '.join(_FLOATS)} [rows, {spec.K}]",
                    f"{tensor.dtype} {list(shape)}",
                    where=self.path.name,
                )
            ((_, x),) = read_tensors({name: tensor})
            if not np.isfinite(x).all():
                raise CheckpointError(
                    name, "finite numbers", "NaN or infinity", where=self.path.name
                )
            return name, x.astype(np.float32)
        return None


def measure_loss(
    checkpoint: Checkpoint,
    dense: DenseModel,
    names: Sequence[str],
    *,
    inputs: Inputs | None = None,
    m: int = 64,
    seed: int = 0,
    tolerance: float = 0.0,
) -> Iterator[Loss]:
    """Measure these layers, of any width, one after the other.

    inputs     x of the layers that it has; of the others x is standard normal, [m, K]
    tolerance  of the outputs' error; 0 lets pass what quantising this model can make: a weight
               error of up to four times that of rounding
    """
    for name in names:
        start = time.perf_counter()
        found = _guarded(checkpoint, dense, name, inputs, m, seed, tolerance)
        yield replace(found, seconds=time.perf_counter() - start)


def _guarded(
    checkpoint: Checkpoint,
    dense: DenseModel,
    name: str,
    inputs: Inputs | None,
    m: int,
    seed: int,
    tolerance: float,
) -> Loss:
    """`_measured`, whose errors become the verdict: the other layers are still to be measured."""
    spec = checkpoint.layers.get(name)
    if spec is None:
        return Loss(name, 0, 0, 0, 0, verdict="refused", reason=checkpoint.problems[name])
    base = Loss(name, spec.K, spec.N, spec.bits, spec.group_size)
    try:
        given = None if inputs is None else inputs.of(spec)
        if given is None:
            rng = np.random.default_rng(seed)
            given = "random", rng.standard_normal((m, spec.K), np.float32)
        weights = checkpoint.dense(name, np.float32), dense.weight(spec)
        scales = _scales(checkpoint, spec)
        return _measured(replace(base, inputs=given[0]), *weights, given[1], scales, tolerance)
    except FerrumError as error:
        reason = error.without(name)
        return replace(base, verdict="refused", reason=reason)
    except Exception as error:
        return replace(base, verdict="error", reason=f"{type(error).__name__}: {error}")


_Scales = tuple[Float32Array, npt.NDArray[Any]]


def _scales(checkpoint: Checkpoint, spec: LayerSpec) -> _Scales:
    """(the scales [groups, N], the group of each row [K])."""
    groups: npt.NDArray[Any] = np.arange(spec.K) // spec.group_size
    if spec.act_order:
        groups = checkpoint.array(f"{spec.name}.g_idx")
    return checkpoint.array(f"{spec.name}.scales").astype(np.float32), groups


def _measured(
    base: Loss,
    quantised: Float32Array,
    dense: npt.NDArray[Any],
    x: Float32Array,
    scales: _Scales,
    tolerance: float,
) -> Loss:
    """The figures of two weights [K, N]."""
    steps, groups = scales
    outputs = np.zeros((len(x), base.N), np.float32)
    lost = np.zeros_like(outputs)
    largest = squares = size = rounding = shift = 0.0
    for start in range(0, base.K, _ROWS):
        rows = slice(start, start + _ROWS)
        weight = np.ascontiguousarray(dense[rows], np.float32)
        difference = quantised[rows] - weight
        largest = max(largest, float(np.abs(difference).max()))
        squares += float(np.square(difference, dtype=np.float64).sum())
        size += float(np.square(weight, dtype=np.float64).sum())
        step = steps[groups[rows]]
        rounding += float(np.square(step, dtype=np.float64).sum()) / 12
        shift += float((difference / np.where(step == 0, np.inf, step)).sum(dtype=np.float64))
        outputs += x[:, rows] @ weight
        lost += x[:, rows] @ difference
    columns = np.square(lost, dtype=np.float64).sum(axis=0)
    found = replace(
        base,
        rounding_error=_ratio(rounding, size),
        weight_error=_ratio(squares, size),
        output_error=_ratio(
            float(columns.sum()), float(np.square(outputs, dtype=np.float64).sum())
        ),
        max_abs_error=largest,
        level_shift=shift / dense.size,
        worst_column=int(columns.argmax()),
    )
    reason = _reason(found, tolerance)
    return replace(found, verdict="mismatch" if reason else "pass", reason=reason)


def _ratio(squares: float, size: float) -> float:
    """The root of squares / size; 0 / 0, nothing lost of nothing, is 0."""
    if size:
        return math.sqrt(squares / size)  # NaN where the dense model has one
    return math.inf if squares else 0.0


def _reason(loss: Loss, tolerance: float) -> str:
    """Reason why a layer does not pass; NaN does not."""
    if tolerance:
        if loss.output_error <= tolerance:
            return ""
        return (
            f"expected outputs within {tolerance:.1e} of the dense model's, found them off by "
            f"{loss.output_error:.1e}, most in column {loss.worst_column}"
        )
    if not abs(loss.level_shift) <= _MOST_SHIFT:
        return (
            f"expected errors that even out, found weights off by {loss.level_shift:+.2f} levels "
            "on average: zeros are read as another format's, or were written so"
        )
    if not loss.weight_error <= _MOST * loss.rounding_error:
        return (
            f"expected weights within {_MOST:g} times the {loss.rounding_error:.1e} that rounding "
            f"to the layer's scales makes, found them off by {loss.weight_error:.1e}: it was not "
            "quantised from this weight, or is read or was written wrong"
        )
    return ""
