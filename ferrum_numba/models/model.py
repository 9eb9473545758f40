"""A whole GPTQ model on a device: from a directory to logits and tokens, without torch."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import kernels
from ..devices import Device, given_or_open
from ..errors import AbiError
from ..gptq import Checkpoint
from ..pickling import NotPickled
from .builds import needed
from .choice import Choice
from .config import ModelConfig
from .forward import Forward
from .ids import checked_ids, integer
from .names import ModelNames
from .operations import Operations
from .session import Session
from .shared import CHUNK, Shared
from .weights import Layer, Progress, Weights, load_weights

_HEAD_ROWS = 256  # whose logits are on the device at once


class Model(NotPickled):
    """A model on a device; made by `Model.load`.

    config: what it is.  device: where it is.  operations, forward, shared: how it computes.
    """

    def __init__(
        self,
        config: ModelConfig,
        weights: Weights,
        operations: Operations,
        cache_tokens: int | None = None,
    ) -> None:
        self.config, self.device, self.operations = config, operations.device, operations
        self.forward = Forward(operations, weights)
        self.shared = Shared(self.forward, cache_tokens)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        device: Device | None = None,
        dtype: str | None = None,
        cache_tokens: int | None = None,
        progress: Progress = lambda done, total: None,
    ) -> Model:
        """The model in a directory: config.json, and a GPTQ checkpoint of any dialect.

        device        where it runs; left out, the GPU where one is usable, else the CPU
        dtype         of activations and cache, "float16" or "bfloat16"; left out, the file's
        cache_tokens  how many tokens all sessions together may hold; left out, as many as the
                      first session asks for, and at least 8192
        progress      called with (bytes read, bytes in all)

        Raises CheckpointError, before a weight is read, for what is not computed here and for
        tensors that are missing or have no place; DeviceError where a GPU has no room for them.
        """
        device = given_or_open(device)
        config = ModelConfig.load(path, dtype)
        checkpoint = Checkpoint.open(path)
        names = ModelNames.find(config, checkpoint)
        operations = Operations(config, device)
        if operations.device.name != "cpu":  # compiled while the weights are read
            builds = needed(names, checkpoint, operations, (1, CHUNK))
            kernels.load_together(builds, operations.device, wait=False)
            device.memory.require(names.nbytes(checkpoint), " of a model's weights")
        weights = load_weights(names, checkpoint, operations, progress)
        return cls(config, weights, operations, cache_tokens)

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The decoder layers, first to last."""
        return self.forward.weights.layers

    @property
    def nbytes(self) -> int:
        """Bytes that the weights take on the device."""
        return self.forward.weights.nbytes

    def logits(self, ids: Any) -> npt.NDArray[np.float32]:
        """float32 [B, T, vocab] of ids, int (T,) or (B, T): all positions at once.

        Raises AbiError for ids that the model does not know.
        """
        ids = np.atleast_2d(checked_ids("ids", ids, self.config.vocab, (1, 2)))
        batch, length = ids.shape
        self._require_length("ids", length)
        found = np.empty((batch, length, self.config.vocab), np.float32)
        pool = self.shared.pool(1, length)
        held: list[int] = []
        seat = self.shared.lend_seat(1)
        stream = seat[0]
        try:
            pool.take([(held, -(-length // pool.page))])
            pages = self.device.to_device(np.array([held], np.int32))
            turns = self.operations.turns(length, length)
            for b in range(batch):
                for work, (part,) in self.shared.read([(0, ids[b])], pages, turns, pool, stream):
                    self.forward.finish(work.x, work.normed, stream)
                    for first in range(0, work.m, _HEAD_ROWS):
                        normed = work.normed[first : first + _HEAD_ROWS]
                        shape = (normed.shape[0], self.config.vocab)
                        logits = self.device.empty(shape, np.float32)
                        self.forward.head(normed, logits, stream)
                        found[b, part.start + first :][: shape[0]] = self.device.to_host(logits)
        finally:
            self.device.synchronize()
            pool.give_back(held)
            self.shared.take_seat(seat)
        return found

    def generate(
        self,
        ids: Any,
        max_new_tokens: int = 64,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int = 0,
        stop: Iterable[int | Sequence[int]] = (),
    ) -> Iterator[int]:
        """The tokens that follow `ids`, one by one, as they are drawn.

        ids             the prompt, int (T,)
        max_new_tokens  at most so many; fewer where the model ends the text
        temperature, top_k, top_p, seed  see Choice
        stop            token ids, or sequences of them, that end the text beside the model's own;
                        what ends it is given out, too

        Raises AbiError for a prompt that is empty, too long or has unknown ids.
        """
        ids = checked_ids("ids", ids, self.config.vocab)
        choice = Choice(temperature, top_k, top_p, seed)
        ends = [(end,) for end in self.config.eos] + [_sequence(end) for end in stop]
        count = _count("max_new_tokens", max_new_tokens, 0)
        length = len(ids) + count
        self._require_length("ids and max_new_tokens", length)
        return self._generate(ids, count, length, choice, ends)

    def _generate(
        self,
        ids: npt.NDArray[np.int32],
        count: int,
        length: int,
        choice: Choice,
        ends: Sequence[tuple[int, ...]],
    ) -> Iterator[int]:
        drawn: list[int] = []
        with Session(self.shared, 1, length, choice) as session:
            if count:
                session.prefill([ids])
            for left in reversed(range(count)):
                token = int(session.draw(more=left > 0)[0])
                yield token
                drawn.append(token)
                if any(tuple(drawn[-len(end) :]) == end for end in ends):
                    return

    def session(
        self,
        batch: int = 1,
        length: int = 4096,
        *,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int = 0,
    ) -> Session:
        """Room for `batch` sequences of up to `length` tokens, prompts included.

        Raises AbiError for a length beyond what the model is made for, DeviceError where the
        device has no room.
        """
        batch, length = _count("batch", batch, 1), _count("length", length, 1)
        self._require_length("length", length)
        return Session(self.shared, batch, length, Choice(temperature, top_k, top_p, seed))

    def _require_length(self, name: str, length: int) -> None:
        limit = self.config.max_positions
        if length > limit and self.config.rope.kind != "dynamic":
            expected = f"at most {limit} tokens, the model's max_position_embeddings"
            raise AbiError(name, expected, length, "shorten them")

    def __repr__(self) -> str:
        config = self.config
        return (
            f"<Model {config.architecture} of {config.layers} layers, hidden {config.hidden}, "
            f"vocab {config.vocab}, {self.nbytes / 1e6:.0f} MB on {self.device.name}>"
        )


def _count(name: str, value: object, least: int) -> int:
    """A number of things.  Raises AbiError for what is none, and for less than `least`."""
    count = integer(value)
    if count is None or count < least:
        raise AbiError(name, f"an integer from {least} on", f"{value!r:.80}")
    return count


def _sequence(end: int | Sequence[int]) -> tuple[int, ...]:
    """Token ids that end a text.  Raises AbiError for what is none."""
    ids = tuple(map(integer, end if isinstance(end, Iterable) else (end,)))
    found = tuple(token for token in ids if token is not None)
    if not found or found != ids:
        expected, remedy = "token ids, or sequences of them", "texts are for Tokenizer.stream"
        raise AbiError("stop", expected, f"{end!r:.80}", remedy)
    return found
