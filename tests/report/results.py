"""Results as a run gives them, and others made up from them."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache

import ferrum_numba as fe
from ferrum_numba.report import LayerResult, Plan, verify_layer
from tests.gptq.fixtures import Q_PROJ, fixture
from tests.report.faulty import FaultyCpu

HOSTILE = "a.<script>alert(1)</script>&\"'\x00\x1b"


@lru_cache
def passing() -> LayerResult:
    """A layer that passes and was looked into."""
    checkpoint = fe.Checkpoint.open(fixture("gm_v1_sym_g128"))
    return verify_layer(checkpoint, Q_PROJ, fe.open_device("cpu"), Plan((1, 4), explain=True))


@lru_cache
def failing() -> LayerResult:
    """The same layer on a device that computes wrong results."""
    checkpoint = fe.Checkpoint.open(fixture("gm_v1_sym_g128"))
    return verify_layer(checkpoint, Q_PROJ, FaultyCpu(), Plan((1, 4)))


def unwritten() -> LayerResult:
    """A layer whose errors are NaN."""
    measured = replace(
        failing().measurements[0],
        max_abs_error=math.nan,
        relative_error=math.nan,
        worst_ratio=math.nan,
    )
    return replace(failing(), layer="b.unwritten", measurements=(measured,))


def refused() -> LayerResult:
    """A layer of which not even the headers can be read."""
    return replace(
        passing(),
        layer=HOSTILE,
        K=0,
        N=0,
        bits=0,
        verdict="refused",
        reason=f"{HOSTILE}: damaged",
        measurements=(),
        explanation=None,
    )


def broken() -> LayerResult:
    """A layer whose test failed."""
    return replace(refused(), layer="c.broken", verdict="error", reason="MemoryError: no room")


def one_of_each() -> list[LayerResult]:
    """All of them."""
    return [passing(), failing(), unwritten(), refused(), broken()]


def many(count: int, *layers: LayerResult) -> list[LayerResult]:
    """As many layers, with the names of a large model's."""
    return [
        replace(layers[i % len(layers)], layer=f"model.layers.{i // 7}.mlp.part_{i % 7}_proj")
        for i in range(count)
    ]
