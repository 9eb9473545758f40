"""Times of a whole model: prompts read, and steps of a batch."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..models import Model
from ..models.mlp import Mixture

_STEPS, _WARM = 32, 4  # of a batch: how many are timed, and how many before


@dataclass(frozen=True)
class ModelTiming:
    """A prompt of `context` tokens (batch None), or a step of `batch` sequences of that length.

    seconds: median, on the host's clock, of a prompt to the logits behind it, or of a step.
    nbytes: that a step has to read, of weights and of the cache; of a prompt, of weights.
    """

    batch: int | None
    context: int
    seconds: float
    nbytes: int

    @property
    def tokens_per_second(self) -> float:
        return (self.context if self.batch is None else self.batch) / self.seconds

    @property
    def bytes_per_second(self) -> float:
        return self.nbytes / self.seconds


def time_model(
    model: Model, batches: Sequence[int], contexts: Sequence[int]
) -> Iterator[ModelTiming]:
    """Prompts of each length, then steps of each batch at each length."""
    for context in contexts:
        yield ModelTiming(None, context, time_prefill(model, context), read_bytes(model, 0, 0))
    for batch in batches:
        for context in contexts:
            seconds = time_step(model, batch, context)
            yield ModelTiming(batch, context, seconds, read_bytes(model, batch, context))


def read_bytes(model: Model, batch: int, context: int) -> int:
    """Bytes of weights, less an embedding that only its rows are read of, and of the cache.

    Of experts as many as the tokens of a step can touch; all of them for a batch of 0.
    """
    config, embedding = model.config, model.forward.weights.embedding
    weights = model.nbytes - (0 if config.tied else embedding.nbytes)
    if batch and (spec := config.experts):
        idle = max(0, spec.count - batch * spec.top_k) / spec.count
        mixtures = (layer.mlp for layer in model.layers if isinstance(layer.mlp, Mixture))
        weights -= int(idle * sum(mixture.experts.nbytes for mixture in mixtures))
    return weights + batch * context * config.layers * config.kv_width * 4


def time_prefill(model: Model, length: int, repeats: int = 5) -> float:
    """Seconds from a prompt to the logits behind it, and so to a first token."""
    times = []
    with model.session(1, length) as session:
        for _ in range(repeats + 1):
            start = time.perf_counter()
            (row,) = session.prefill([_prompt(model, length)])  # waits for the device
            times.append(time.perf_counter() - start)
            session.release(row)
    return float(np.median(times[1:]))


def time_step(model: Model, batch: int, context: int) -> float:
    """Seconds a step of `batch` sequences of about `context` tokens."""
    first = max(1, context - _STEPS // 2)
    times = []
    with model.session(batch, first + _WARM + _STEPS + 1) as session:
        session.prefill([_prompt(model, first)] * batch)
        for _ in range(_WARM + _STEPS):
            start = time.perf_counter()
            session.step()
            times.append(time.perf_counter() - start)
    return float(np.median(times[_WARM:]))


def _prompt(model: Model, length: int) -> np.ndarray:
    return np.arange(length) % model.config.vocab
