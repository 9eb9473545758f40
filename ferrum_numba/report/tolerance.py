"""Distance allowed from the float32 reference: by theory, from K, dtype and the data.

    y[m, n] = sum over k of x[m, k] * w[k, n], then + bias[n],   w = scale * (level - zero)

u is the unit roundoff of the output: 2^-11 for float16, 2^-8 for bfloat16. Four roundings count:

rounding   of the sum to the output's dtype, and once more after a bias: at most u |y| each, plus
           half of the smallest subnormal (IEEE 754). Certain, so no factor is put on it.
weight     A kernel may round w to the dtype, as the reference does, or keep it whole: at most u |w|
           each, evenly spread, so of standard deviation u |w| / sqrt(3). Over a sum with random x
           that makes u ||x_m|| ||w_n|| / sqrt(3 K).
sum        in float32. The worst case, K 2^-24 sum |x w|, is never met: rounding errors are random,
           which leaves sqrt(K) 2^-24 sum |x w| (Higham and Mary, A New Approach to Probabilistic
           Rounding Error Analysis, SIAM J. Sci. Comput. 41(5), 2019). Tensor cores truncate every
           8 products or more (Fasi, Higham, Mikaitis, Pranesh, Numerical behavior of NVIDIA tensor
           cores, PeerJ Comput. Sci. 7:e330, 2021): a drift of K/8 2^-23 times the mean partial sum,
           0.53 ||x_m|| ||t_n|| / sqrt(K) for random x. That is sqrt(K)/8 2^-24 ||x_m|| ||t_n||,
           the law of both, with sum |x w| <= ||x_m|| ||t_n|| by Cauchy and Schwarz.
terms      t = scale * (level + zero), not w: a kernel may sum level and zero apart. It is bounded
           by ||t_n|| <= ||w_n|| + 2 ||(scale * zero)_n||.

The last two are of a size that is likely, so `SAFETY` stands on them, and on nothing else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Float32Array = npt.NDArray[np.float32]

SAFETY = 6.0
"""Standard deviations that are let pass: with 10^9 elements, fewer than one in a checkpoint."""

_ROUNDOFF = {"float16": 2.0**-11, "bfloat16": 2.0**-8}
_HALF_SUBNORMAL = {"float16": 2.0**-25, "bfloat16": 2.0**-134}
_FLOAT32 = 2.0**-24


@dataclass(frozen=True, eq=False)
class WeightNorms:
    """Euclidean norms of a weight's columns, float32 [N].

    weight  ||w_n||
    terms   at least ||t_n||, t = scale * (level + zero)
    """

    weight: Float32Array
    terms: Float32Array


@dataclass(frozen=True, eq=False)
class Bounds:
    """Bounds of what passes.

    elements  float32 [M, N]: the largest |y - y32| of each element
    relative  the largest ||y - y32|| / ||y32|| (Frobenius)
    """

    elements: Float32Array
    relative: float


def error_bounds(
    x: npt.NDArray[Any],
    y: Float32Array,
    norms: WeightNorms,
    bias: Float32Array | None,
    dtype: str = "float16",
) -> Bounds:
    """The bounds for y (M, N), x (M, K), bias (N); dtype: "float16" or "bfloat16", of the output.

    The elements' bounds add what each rounding can do. The relative one adds variances, a rounding
    counting a third of its square, plus `SAFETY` standard deviations of their sum,
    sqrt(2 sum v^2) for normal errors: it is the tighter of the two where all elements err a little,
    the elements' where a few err much.
    """
    u, tiny = _ROUNDOFF[dtype], _HALF_SUBNORMAL[dtype]
    K = x.shape[1]
    x_norms = np.linalg.norm(x.astype(np.float32), axis=1)[:, None]
    sums = np.sqrt(K) / 8 * _FLOAT32 * norms.terms
    weights = u / np.sqrt(3 * K) * norms.weight
    likely = x_norms * np.hypot(sums, weights)
    rounding = u * np.abs(y) + tiny
    elements = rounding + SAFETY * likely
    variance = rounding.astype(np.float64) ** 2 / 3 + likely.astype(np.float64) ** 2
    if bias is not None:
        before = u * np.abs(y - bias) + tiny
        elements += before
        variance += before.astype(np.float64) ** 2 / 3
    size = _frobenius(y)
    error = np.sqrt(variance.sum() + SAFETY * np.sqrt(2 * (variance**2).sum()))
    return Bounds(elements.astype(np.float32), float(error) / size if size else 0.0)


def relative_error(difference: Float32Array, expected: Float32Array) -> float:
    """||difference|| / ||expected||; 0 / 0, an exact zero, is 0."""
    error, size = _frobenius(difference), _frobenius(expected)
    if size:
        return error / size
    return math.inf if error else 0.0


def _frobenius(values: Float32Array) -> float:
    """||values||, summed in float64 by this thread alone.

    np.linalg.norm takes BLAS, whose threads go on to spin for a while beside the CPU device's.
    """
    return math.sqrt(np.square(values, dtype=np.float64).sum())
