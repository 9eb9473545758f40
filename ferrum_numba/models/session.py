"""Sequences that a model continues token by token, side by side in a batch."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ..devices import Device
from ..errors import AbiError, DeviceError
from .cache import PagePool
from .choice import Choice
from .config import ModelConfig
from .forward import Forward, Rows, Workspace
from .ids import Ids, checked_ids
from .operations import Operations
from .reading import Prompt, Reading


class Decoder(Protocol):
    """The model behind a session, as far as it needs one: no import of `Model`, which makes it."""

    config: ModelConfig
    device: Device
    operations: Operations
    forward: Forward
    reading: Reading

    def pool(self, batch: int, length: int) -> PagePool: ...
    def turns(self, longest: int, length: int) -> tuple[Any, Any]: ...


class Session:
    """Up to `batch` sequences of up to `length` tokens, with a KV cache of their own.

    `prefill` reads prompts, each into a free row; every `step` draws one token for each sequence.
    `release` ends a sequence and frees its row and its pages, `close` all of them.  One thread at a
    time may use a session; sessions of one model may run in different threads.
    """

    def __init__(self, model: Decoder, batch: int, length: int, choice: Choice) -> None:
        """As `Model.session` makes it."""
        operations, config, device = model.operations, model.config, model.device
        self.batch, self.length = batch, length
        self._model, self._choice = model, choice
        self._pool = model.pool(batch, length)
        self._turns = model.turns(0, length)
        self._ids: list[list[int] | None] = [None] * batch
        self._held: list[list[int]] = [[] for _ in range(batch)]
        self._table = np.zeros((batch, -(-length // operations.page)), np.int32)
        self._where = np.full(batch, -1, np.int32)
        self.stream = device.create_stream()
        self._work = Workspace(operations, batch)
        self._tokens = device.to_device(np.zeros(batch, np.int32))
        self._positions = device.to_device(self._where.copy())
        self._pages = device.to_device(self._table.copy())
        self._sequences = device.to_device(np.arange(batch, dtype=np.int32))
        self._logits = device.empty((batch, config.vocab), np.float32)
        self._own = choice.arrays(device, batch)
        self._graphs: dict[tuple[bool, bool], Any] = {}
        self._behind = False  # whether tokens were drawn that did not pass the layers yet
        self._closed = False

    def prefill(self, prompts: Sequence[Any]) -> list[int]:
        """Read prompts, and return the row of each.

        prompts: lists of token ids, one a sequence; each takes the first row that is free.  Raises
        AbiError for a prompt that is empty, too long, or has ids that the model does not know, and
        where there are more prompts than free rows; DeviceError where the cache is full.  Nothing
        has changed then.
        """
        self._require_open()
        config = self._model.config
        read = [checked_ids(f"prompts[{i}]", ids, config.vocab) for i, ids in enumerate(prompts)]
        free = [row for row, ids in enumerate(self._ids) if ids is None]
        if len(read) > len(free):
            raise AbiError(
                "prompts",
                f"at most {len(free)}, the session's free rows",
                len(read),
                "release sequences, or open a session with a larger batch",
            )
        for number, ids in enumerate(read):
            if len(ids) > self.length:
                raise AbiError(
                    f"prompts[{number}]",
                    f"at most {self.length} tokens, the session's length",
                    len(ids),
                    "open a session with a larger length",
                )
        need = [-(-len(ids) // self._pool.page) for ids in read]
        pages = self._pool.take(sum(need))
        self.logits()  # of the tokens drawn last, before others join
        rows = free[: len(read)]
        for row, ids, count in zip(rows, read, need, strict=True):
            self._ids[row], self._held[row] = ids.tolist(), pages[:count]
            self._table[row, :count] = pages[:count]
            self._where[row] = len(ids) - 1
            del pages[:count]
        self._write()
        self._read(rows)
        return rows

    def _read(self, rows: Sequence[int]) -> None:
        """Pass all tokens of these rows through the layers; their logits are there then."""
        model = self._model
        self._set_turns(max(len(self.ids(row)) for row in rows))
        prompts = [Prompt(row, np.array(self._ids[row], np.int32)) for row in rows]
        arrays = (self._pages, self._turns, self._pool, self.stream)
        for work, parts in model.reading.chunks(prompts, *arrays):
            for part in parts:
                if part.ends:
                    row = part.prompt.sequence
                    normed = self._work.normed[row : row + 1]
                    model.forward.finish(work.rows(part.last - 1, part.last), normed, self.stream)
        self._head(self.stream)
        model.device.synchronize()

    def _head(self, stream: Any) -> None:
        """Logits of all rows, of what the last norm made of them."""
        self._model.forward.head(self._work.normed, self._logits, stream)

    def step(self) -> Ids:
        """Draw one token for each sequence: int32 [batch], -1 in rows without one.

        Raises AbiError where no sequence is there or one has reached the session's length,
        DeviceError where the cache is full.  Nothing has changed then.
        """
        self._require_open()
        active = [row for row, ids in enumerate(self._ids) if ids is not None]
        if not active:
            raise AbiError("step", "a sequence", "none", "prefill() a prompt first")
        for row in active:
            if self._where[row] + 2 > self.length:
                raise AbiError(
                    "step",
                    f"sequences shorter than {self.length}, the session's length",
                    f"row {row} of that length",
                    "release it, or open a longer session",
                )
        self._catch_up(active)
        self._run(forward=self._behind, draw=True)
        self._behind = True
        drawn = np.array(self._model.device.to_host(self._tokens), np.int32)
        for row in range(self.batch):
            ids = self._ids[row]
            if ids is None:
                drawn[row] = -1
            else:
                ids.append(int(drawn[row]))
                self._where[row] += 1
        return drawn

    def logits(self) -> npt.NDArray[np.float32]:
        """float32 [batch, vocab] that the next tokens are drawn from."""
        self._require_open()
        if self._behind:
            self._catch_up([row for row, ids in enumerate(self._ids) if ids is not None])
        if self._behind:
            self._run(forward=True, draw=False)
            self._behind = False
        return np.array(self._model.device.to_host(self._logits))

    def ids(self, row: int) -> list[int]:
        """The prompt and all tokens drawn of a row's sequence."""
        ids = self._ids[row]
        if ids is None:
            raise AbiError("row", "one with a sequence", f"{row}, which has none")
        return list(ids)

    def release(self, row: int) -> None:
        """End the sequence of a row, whose pages others may have then."""
        self.ids(row)
        self._model.device.synchronize()
        self._pool.give_back(self._held[row])
        self._held[row], self._ids[row], self._where[row] = [], None, -1
        self._write()

    def close(self) -> None:
        """End all sequences, and give the pages back."""
        if not self._closed:
            self._closed = True
            self._model.device.synchronize()
            for pages in self._held:
                self._pool.give_back(pages)
            self._held, self._ids = [], [None] * self.batch

    def _catch_up(self, active: Sequence[int]) -> None:
        """Make pages ready for the tokens that were drawn, and ropes that change with them."""
        if not self._behind:
            return
        need = [
            row for row in active if self._where[row] // self._pool.page >= len(self._held[row])
        ]
        for row, page in zip(need, self._pool.take(len(need)), strict=True):
            self._held[row].append(page)
            self._table[row, len(self._held[row]) - 1] = page
        if need:
            self._write()
        rope = self._model.config.rope
        crossed = any(self._where[row] >= rope.limit for row in active)
        if rope.kind == "longrope" and crossed and self._read_up_to <= rope.limit:
            self._read(active)  # all of it again, with the frequencies of long texts
            self._behind = False

    def _run(self, forward: bool, draw: bool) -> None:
        """Pass the tokens drawn through the layers, or draw, or both, as one graph."""
        if (forward, draw) not in self._graphs:
            with self._model.device.capture() as graph:
                self._launch(forward, draw, graph.stream)
            self._graphs[forward, draw] = graph
        self._graphs[forward, draw].launch(self.stream)

    def _launch(self, forward: bool, draw: bool, stream: Any) -> None:
        model, logits = self._model, self._logits
        if forward:
            rows = Rows(self._sequences, self._positions, self._pages, self._turns)
            model.forward(self._tokens, rows, self._pool.layers, self._work, stream)
            model.forward.finish(self._work, self._work.normed, stream)
            self._head(stream)
        if draw:
            if self._choice.leaves_out:
                model.operations.threshold(logits, self._own, self._positions, stream)
            model.operations.sample(logits, self._own, self._tokens, self._positions, stream)

    def _set_turns(self, longest: int) -> None:
        """Let positions turn as in a text of this length."""
        self._read_up_to = longest
        if self._model.config.rope.varies:
            for there, turns in zip(
                self._turns, self._model.config.rope.turns(longest, self.length), strict=True
            ):
                self._model.device.write(there, turns)

    def _write(self) -> None:
        """Bring pages and positions to the device."""
        self._model.device.write(self._pages, self._table)
        self._model.device.write(self._positions, self._where)

    def _require_open(self) -> None:
        if self._closed:
            raise DeviceError("session", "an open one", "one that is closed", "open another")

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if not getattr(self, "_closed", True):
            for pages in self._held:
                self._pool.give_back(pages)
