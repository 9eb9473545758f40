"""Sequences that a model continues token by token, side by side in a batch."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt

from ..devices import LaunchGraph
from ..errors import AbiError, DeviceError, FerrumError
from ..pickling import NotPickled
from .choice import Choice
from .ids import Ids, checked_ids
from .shared import Shared
from .workspace import Rows, Workspace

_LOOKS = 100_000  # at a mailbox before the device is asked whether it still works


class Session(NotPickled):
    """Up to `batch` sequences of up to `length` tokens, with a KV cache of their own.

    `prefill` reads prompts, each into a free row; every `step` draws one token for each sequence.
    `release` ends a sequence and frees its row and its pages, `close` all of them.  One thread at a
    time may use a session; sessions of one model may run in different threads.
    """

    def __init__(self, shared: Shared, batch: int, length: int, choice: Choice) -> None:
        """Make a session; see `Model.session`."""
        self.batch, self.length = batch, length
        self._shared, self._choice, self._forward = shared, choice, shared.forward
        self._does = does = self._forward.operations
        self._device = device = does.device
        self._pool = shared.pool(batch, length)
        self._turns = does.turns(0, length)
        self._ids: list[list[int] | None] = [None] * batch
        self._held: list[list[int]] = [[] for _ in range(batch)]
        self._table = np.zeros((batch, -(-length // does.page)), np.int32)
        self._where = np.full(batch, -1, np.int32)
        self.stream, self._mail = shared.lend_seat(batch)
        self._work = Workspace(does.config, device, batch)
        self._tokens = device.to_device(np.zeros(batch, np.int32))
        self._positions = device.to_device(self._where.copy())
        self._pages = device.to_device(self._table.copy())
        self._sequences = device.to_device(np.arange(batch, dtype=np.int32))
        self._logits = device.empty((batch, does.config.vocab), np.float32)
        self._own = choice.arrays(device, batch)
        self._mail[...] = -1
        self._graphs: dict[str, LaunchGraph] = {}
        # A GPU passes what was drawn while the host looks at it; the CPU only if more is wanted.
        self._ahead = device.name != "cpu"
        self._read_up_to = 0  # tokens of the longest text when positions were last told to turn
        self._behind = False  # whether tokens were drawn that did not pass the layers yet
        self._closed = False

    def __repr__(self) -> str:
        busy = sum(ids is not None for ids in self._ids)
        state = "closed" if self._closed else f"{busy} of {self.batch} rows taken"
        return f"<Session of up to {self.length} tokens, {state}>"

    def prefill(self, prompts: Sequence[Any]) -> list[int]:
        """Read prompts, and return the row of each.

        prompts: lists of token ids, one a sequence; each takes the first row that is free.  Raises
        AbiError for a prompt that is empty, too long, or has ids that the model does not know, and
        where there are more prompts than free rows; DeviceError where the cache is full.  Nothing
        has changed then.
        """
        self._require_open()
        vocab = self._does.config.vocab
        read = [checked_ids(f"prompts[{i}]", ids, vocab) for i, ids in enumerate(prompts)]
        free = [row for row, ids in enumerate(self._ids) if ids is None]
        if len(read) > len(free):
            expected = f"at most {len(free)}, the session's free rows"
            remedy = "release sequences, or open a session with a larger batch"
            raise AbiError("prompts", expected, len(read), remedy)
        for number, ids in enumerate(read):
            if len(ids) > self.length:
                expected = f"at most {self.length} tokens, the session's length"
                remedy = "open a session with a larger length"
                raise AbiError(f"prompts[{number}]", expected, len(ids), remedy)
        # Tokens drawn last pass before others join, and what may be refused is refused by now.
        self._pass(self._active)
        rows = free[: len(read)]
        for row in rows:  # of a sequence whose end was broken off
            self._pool.give_back(self._held[row])
        counts = [-(-len(ids) // self._pool.page) for ids in read]
        self._pool.take([(self._held[row], n) for row, n in zip(rows, counts, strict=True)])
        try:
            for row, ids in zip(rows, read, strict=True):
                self._ids[row], self._where[row], self._mail[row] = ids.tolist(), len(ids) - 1, -1
            self._write()
            # A text that is so long that all turns otherwise has the others read again, too.
            active = self._active
            self._read(active if self._crosses(active) else rows)
        except BaseException:
            self._end(rows)
            raise
        return rows

    @property
    def _active(self) -> list[int]:
        """The rows that have a sequence."""
        return [row for row, ids in enumerate(self._ids) if ids is not None]

    def _read(self, rows: Sequence[int]) -> None:
        """Pass all tokens of these rows through the layers; their logits are there then."""
        rope = self._does.config.rope
        self._read_up_to = int(self._where.max(initial=-1)) + 1
        if rope.varies:
            turns = rope.turns(self._read_up_to, self.length)
            for there, host in zip(self._turns, turns, strict=True):
                self._device.write(there, host)
        prompts = [(row, np.array(self._ids[row], np.int32)) for row in rows]
        arrays = (self._pages, self._turns, self._pool, self.stream)
        for work, segments in self._shared.read(prompts, *arrays):
            for own in segments:
                if own.ends:
                    normed = self._work.normed[own.sequence : own.sequence + 1]
                    self._forward.finish(work.x[own.last - 1 : own.last], normed, self.stream)
        self._head(self.stream)
        self._device.synchronize()

    def _head(self, stream: Any) -> None:
        """Logits of all rows, of what the last norm made of them."""
        self._forward.head(self._work.normed, self._logits, stream)

    def step(self) -> Ids:
        """Draw one token for each sequence: int32 [batch], -1 in rows without one.

        Raises AbiError where no sequence is there or one has reached the session's length,
        DeviceError where the cache is full.  Nothing has changed then.
        """
        return self.draw(more=True)

    def draw(self, more: bool) -> Ids:
        """Like `step`; more: another token is wanted, so that its logits may be computed."""
        self._require_open()
        if not (active := self._active):
            raise AbiError("step", "a sequence", "none", "prefill() a prompt first")
        for row in active:
            if self._where[row] + 2 > self.length:
                expected = f"sequences shorter than {self.length}, the session's length"
                remedy = "release it, or open a longer session"
                raise AbiError("step", expected, f"row {row} of that length", remedy)
        self._pass(active)
        ahead = more and self._ahead and not self._crosses(active, 1)
        if ahead:
            try:
                self._provide(active, 1)
            except DeviceError:  # a step later this is an error, unless somebody gives pages back
                ahead = False
        try:
            self._run("draw and pass" if ahead else "draw")
            self._where[active] += 1
            self._behind = not ahead
            drawn = self._mailed(active)
            for row in active:
                self._ids[row].append(int(drawn[row]))  # type: ignore[union-attr]
        except BaseException:  # Ctrl-C amid a step: host and device no longer agree on the tokens
            self.close()
            raise
        return drawn

    def _mailed(self, active: Sequence[int]) -> Ids:
        """The tokens drawn, as soon as they are there; what else was launched goes on."""
        looks = 0
        while (self._mail[active] >> 32 != self._where[active]).any():
            looks += 1
            if looks % _LOOKS == 0:
                self._device.synchronize()  # raises what has gone wrong
            time.sleep(0)
        drawn = np.full(self.batch, -1, np.int32)
        drawn[active] = self._mail[active] & 0x7FFFFFFF
        return drawn

    def logits(self) -> npt.NDArray[np.float32]:
        """float32 [batch, vocab] that the next tokens are drawn from."""
        self._require_open()
        self._pass(self._active)
        return np.array(self._device.to_host(self._logits))

    def ids(self, row: int) -> list[int]:
        """The prompt and all tokens drawn of a row's sequence."""
        ids = self._ids[row]
        if ids is None:
            raise AbiError("row", "one with a sequence", f"{row}, which has none")
        return list(ids)

    def release(self, row: int) -> None:
        """End the sequence of a row, whose pages others may have then."""
        self.ids(row)
        self._end([row])

    def _end(self, rows: Sequence[int]) -> None:
        self._device.synchronize()
        for row in rows:
            self._ids[row], self._where[row] = None, -1
        self._write()
        for row in rows:
            self._pool.give_back(self._held[row])

    def close(self) -> None:
        """End all sequences, and give the pages back."""
        if not self._closed:
            self._device.synchronize()
            for pages in self._held:
                self._pool.give_back(pages)
            self._closed, self._ids = True, [None] * self.batch
            self._shared.take_seat((self.stream, self._mail))

    def _crosses(self, active: Sequence[int], more: int = 0) -> bool:
        """True if a text has become so long that all of it turns otherwise."""
        rope = self._does.config.rope
        longest = int(self._where[list(active)].max(initial=0)) + more
        return rope.kind == "longrope" and longest >= rope.limit >= self._read_up_to

    def _provide(self, active: Sequence[int], more: int) -> None:
        """Take pages for the newest tokens, or for the one `more` behind each, if there are any."""
        page = self._pool.page
        need = [r for r in active if (self._where[r] + more) // page >= len(self._held[r])]
        try:
            if need:
                self._pool.take([(self._held[row], 1) for row in need])
                self._write()
        except KeyboardInterrupt:  # the device may not know the pages
            self.close()
            raise

    def _pass(self, active: Sequence[int]) -> None:
        """Pass tokens through the layers that were drawn and have not been yet."""
        if not self._behind:
            return
        self._provide(active, 0)
        if self._crosses(active):
            self._read(active)  # all of it again, with the frequencies of long texts
        else:
            self._run("pass")
        self._behind = False

    def _run(self, what: str) -> None:
        """Launch a graph: "draw" tokens, "pass" them through the layers, or both."""
        if what not in self._graphs:
            with self._device.capture() as graph:
                self._launch(what, graph.stream)
            self._graphs[what] = graph
        self._graphs[what].launch(self.stream)

    def _launch(self, what: str, stream: Any) -> None:
        does, logits, own = self._does, self._logits, self._own
        if "draw" in what:
            if self._choice.leaves_out:
                does.threshold(logits, own, self._positions, stream)
            does.sample(logits, own, self._tokens, self._mail, self._positions, stream)
        if "pass" in what:
            rows = Rows(self._sequences, self._positions, self._pages, self._turns)
            self._forward(self._tokens, rows, self._pool.layers, self._work, stream)
            self._forward.finish(self._work.x, self._work.normed, stream)
            self._head(stream)

    def _write(self) -> None:
        """Bring pages and positions to the device."""
        for row, pages in enumerate(self._held):
            self._table[row, : len(pages)] = pages
        self._device.write(self._pages, self._table)
        self._device.write(self._positions, self._where)

    def _require_open(self) -> None:
        if self._closed:
            raise DeviceError("session", "an open one", "one that is closed", "open another")

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if not getattr(self, "_closed", True):
            with suppress(FerrumError):  # pages are kept rather than given away in use
                self.close()
