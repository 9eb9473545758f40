"""A whole GPTQ model on a device: from a directory to logits and tokens, without torch."""

from __future__ import annotations

import operator
import os
import threading
from collections import deque
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
from .cache import PagePool
from .choice import Choice
from .config import ModelConfig
from .forward import Forward
from .ids import checked_ids
from .names import ModelNames
from .operations import Operations
from .reading import CHUNK, Prompt, Reading
from .session import Seat, Session
from .weights import Layer, Progress, Weights, load_weights

_POOL = 8192  # tokens that the cache has room for, at the least
_HEAD_ROWS = 256  # whose logits are on the device at once


class Model(NotPickled):
    """A model on a device; made by `Model.load`.

        model = fe.Model.load("directory", device=fe.open_device())
        logits = model.logits([1, 2, 3])                    # float32 (1, 3, vocab)
        for token in model.generate([1, 2, 3], max_new_tokens=16):
            print(token)
        with model.session(batch=4, length=2048) as session:    # sequences side by side
            session.prefill([[1, 2, 3], [4, 5]])
            print(session.step())                           # int32 (4,)

    config: what it is.  device: where it is.  operations, forward, reading: how it computes.
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
        self.reading = Reading(self.forward)
        self._cache_tokens = cache_tokens
        self._pool: PagePool | None = None
        self._seats: dict[int, list[Seat]] = {}
        self._opening = threading.Lock()

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
        tensors that are missing or have no place.
        """
        device = given_or_open(device)
        config = ModelConfig.load(path, dtype)
        checkpoint = Checkpoint.open(path)
        names = ModelNames.find(config, checkpoint)
        operations = Operations(config, device)
        if operations.device.name != "cpu":  # compiled while the weights are read
            builds = needed(names, checkpoint, operations, (1, CHUNK))
            kernels.load_together(builds, operations.device, wait=False)
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
        pool = self.pool(1, length)
        held = pool.take(-(-length // pool.page))
        seat = self.lend_seat(1)
        stream = seat[0]
        try:
            pages = self.device.to_device(np.array([held], np.int32))
            turns = self.turns(length, length)
            for b in range(batch):
                for work, parts in self.reading.chunks(
                    [Prompt(0, ids[b])], pages, turns, pool, stream
                ):
                    self.forward.finish(work, work.normed, stream)
                    for first in range(0, work.m, _HEAD_ROWS):
                        last = min(first + _HEAD_ROWS, work.m)
                        at = parts[0].start + first
                        found[b, at : at + last - first] = self._head(
                            work.normed[first:last], stream
                        )
        finally:
            self.device.synchronize()
            pool.give_back(held)
            self.take_seat(seat)
        return found

    def _head(self, normed: Any, stream: Any) -> npt.NDArray[np.float32]:
        logits = self.device.empty((normed.shape[0], self.config.vocab), np.float32)
        self.forward.head(normed, logits, stream)
        return np.asarray(self.device.to_host(logits))

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
        ends: Sequence[Sequence[int]],
    ) -> Iterator[int]:
        last: deque[int] = deque(maxlen=max((len(end) for end in ends), default=1))
        with Session(self, 1, length, choice) as session:
            if count:
                session.prefill([ids])
            for left in reversed(range(count)):
                token = int(session.draw(more=left > 0)[0])
                yield token
                last.append(token)
                if any(tuple(last)[-len(end) :] == tuple(end) for end in ends):
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
        return Session(self, batch, length, Choice(temperature, top_k, top_p, seed))

    def pool(self, batch: int, length: int) -> PagePool:
        """The cache that all sessions share.

        Where nobody uses it yet, it has room for `batch` sequences of `length` tokens.
        """
        with self._opening:
            page = self.operations.page
            count = batch * -(-length // page)
            least = -(-(self._cache_tokens or _POOL) // page)
            count = least if self._cache_tokens else max(count, least)
            if self._pool is None or (self._pool.idle and self._pool.count < count):
                self._pool = None  # before the larger one is allocated
                self._pool = PagePool(self.config, self.device, page, count)
            return self._pool

    def lend_seat(self, batch: int) -> Seat:
        """A stream, and memory in which the host sees `batch` tokens as soon as they are drawn.

        Both are kept and lent again: giving host memory back waits for the device, and what a
        stream's launches need stays the stream's.
        """
        with self._opening:
            kept = self._seats.setdefault(batch, [])
            if kept:
                return kept.pop()
        return self.device.create_stream(), self.device.mapped(batch, np.int64)

    def take_seat(self, seat: Seat) -> None:
        """Take back what was lent."""
        self._seats[len(seat[1])].append(seat)

    def turns(self, longest: int, length: int) -> tuple[Any, Any]:
        """Cosines and sines on the device, see `RopeSpec.turns`."""
        cosines, sines = self.config.rope.turns(longest, length)
        return self.device.to_device(cosines), self.device.to_device(sines)

    def _require_length(self, name: str, length: int) -> None:
        limit = self.config.max_positions
        if length > limit and self.config.rope.kind != "dynamic":
            raise AbiError(
                name,
                f"at most {limit} tokens, the model's max_position_embeddings",
                length,
                "shorten them",
            )

    def __repr__(self) -> str:
        config = self.config
        return (
            f"<Model {config.architecture} of {config.layers} layers, hidden {config.hidden}, "
            f"vocab {config.vocab}, {self.nbytes / 1e6:.0f} MB on {self.device.name}>"
        )


def _count(name: str, value: object, least: int) -> int:
    """A number of things.  Raises AbiError for what is none, and for less than `least`."""
    try:
        count = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        count = least - 1
    if count < least:
        raise AbiError(name, f"an integer from {least} on", f"{value!r:.80}")
    return count


def _sequence(end: int | Sequence[int]) -> tuple[int, ...]:
    """Token ids that end a text.  Raises AbiError for what is none."""
    try:
        found = tuple(map(operator.index, end if isinstance(end, Iterable) else (end,)))
    except TypeError:
        found = ()
    if not found:
        raise AbiError(
            "stop",
            "token ids, or sequences of them",
            f"{end!r:.80}",
            "texts are for Tokenizer.stream",
        )
    return found
