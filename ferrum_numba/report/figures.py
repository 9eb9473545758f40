"""Pictures of a page: small PNG images as data URIs, and bars as SVG."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from .layer_diagnosis import DECADES, ErrorMap

LOWEST, HIGHEST = 0.05, 16.0
"""Quantisation steps between which the overview's colours run, logarithmically."""

_SHADES = 32
_NAN = (0.29, 0.18, 0.55, 1.0)  # a violet that neither colour map has


def size_image(errors: ErrorMap) -> str:
    """A map of sizes, one pixel an area: pale up to `LOWEST` steps, dark red from `HIGHEST` on."""
    sizes = np.array(errors.values, np.float64)
    with np.errstate(divide="ignore"):
        places = np.log(sizes / LOWEST) / math.log(HIGHEST / LOWEST)
    return _png(places, "YlOrRd")


def signed_image(errors: ErrorMap) -> str:
    """A map of signed errors: blue too small, white right, red too large, by the root of steps."""
    steps = np.array(errors.values, np.float64)
    places = 0.5 + 0.5 * np.sign(steps) * np.sqrt(np.abs(steps) / HIGHEST)
    return _png(places, "RdBu_r")


def _png(places: npt.NDArray[Any], name: str) -> str:
    """A data URI of places [rows, columns] on the colour map's way from 0 to 1."""
    from matplotlib import colormaps
    from matplotlib.image import imsave

    places = np.round(np.clip(places, 0, 1) * _SHADES) / _SHADES  # few shades make small files
    colours = colormaps[name](np.nan_to_num(places))
    colours[np.isnan(places)] = _NAN
    file = io.BytesIO()
    imsave(file, (colours * 255).round().astype(np.uint8), format="png", metadata={"Software": ""})
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def histogram_bars(counts: Sequence[int]) -> list[dict[str, Any]]:
    """Bars for an `LayerDiagnosis.histogram`: label, count, whether within the bound, height 0..1.

    Heights are logarithmic, so that one wrong element among millions is seen.
    """
    edges = [f"10{_superscript(decade)}" for decade in DECADES]
    ranges = [f"below {edges[0]}"]
    ranges += [f"{low} to {high}" for low, high in pairwise(edges)]
    ranges += [f"above {edges[-1]}"]
    labels = ["exact", *ranges, "NaN"]
    within = 1 + 1 + DECADES.index(0)  # exact, below the first edge, and the decades up to 1
    top = math.log10(max(counts) + 1) or 1.0
    return [
        {
            "label": label,
            "count": count,
            "good": place < within,
            "height": math.log10(count + 1) / top,
        }
        for place, (label, count) in enumerate(zip(labels, counts, strict=True))
    ]


def _superscript(number: int) -> str:
    return str(number).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
