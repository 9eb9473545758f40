"""Reading of prompts, in chunks of rows: a long one needs no more workspace than a short one."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .cache import PagePool
from .forward import Forward
from .ids import Ids
from .workspace import Rows, Segment, Workspace

CHUNK = 2048  # rows at once


@dataclass(frozen=True)
class Prompt:
    """New tokens of a sequence, from position 0 on.  sequence: its row of the page table."""

    sequence: int
    ids: Ids


@dataclass(frozen=True)
class Part:
    """Rows first to last - 1 of a chunk that was read: tokens of `prompt` from `start` on."""

    prompt: Prompt
    first: int
    last: int
    start: int

    @property
    def ends(self) -> bool:
        """True if the prompt's last token is here."""
        return self.start + self.last - self.first == len(self.prompt.ids)


class Reading:
    """Reader of prompts that all sessions of a model share, one at a time."""

    def __init__(self, forward: Forward) -> None:
        self.forward = forward
        self._work: Workspace | None = None
        self._stream: Any = None
        self._reading = threading.RLock()

    def chunks(
        self,
        prompts: Sequence[Prompt],
        pages: Any,
        turns: tuple[Any, Any],
        pool: PagePool,
        stream: Any,
    ) -> Iterator[tuple[Workspace, list[Part]]]:
        """Pass all tokens through the layers; after each chunk its workspace and its parts.

        pages: int32 [B, S] on the device.  What is launched between two chunks on `stream` finds
        the workspace as the first of them left it.
        """
        device = self.forward.operations.device
        with self._reading:
            if self._stream is not None and self._stream is not stream:
                device.order(before=self._stream, after=stream)
            self._stream = stream
            for parts in _split(prompts):
                m = parts[-1].last
                work = self._workspace(m)
                numbers = [
                    np.concatenate(column)
                    for column in zip(*(_columns(part) for part in parts), strict=True)
                ]
                ids, sequences, positions = (device.to_device(column) for column in numbers)
                segments = [
                    Segment(part.first, part.last, part.start, pages[part.prompt.sequence])
                    for part in parts
                ]
                rows = Rows(sequences, positions, pages, turns)
                self.forward(ids, rows, pool.layers, work, stream, segments)
                yield work, parts

    def _workspace(self, m: int) -> Workspace:
        if self._work is None or self._work.m < m:
            self._work = None  # before the larger one is allocated
            operations = self.forward.operations
            self._work = Workspace(operations.config, operations.device, m)
        return self._work if self._work.m == m else self._work.rows(0, m)


def _columns(part: Part) -> tuple[Ids, Ids, Ids]:
    """Ids, sequences and positions of a part's rows."""
    positions = np.arange(part.start, part.start + part.last - part.first, dtype=np.int32)
    ids = part.prompt.ids[part.start : part.start + len(positions)]
    return ids, np.full_like(positions, part.prompt.sequence), positions


def _split(prompts: Sequence[Prompt]) -> Iterator[list[Part]]:
    """The prompts' tokens in chunks of at most CHUNK rows, several prompts side by side."""
    parts: list[Part] = []
    used = 0
    for prompt in prompts:
        start = 0
        while start < len(prompt.ids):
            count = min(CHUNK - used, len(prompt.ids) - start)
            parts.append(Part(prompt, used, used + count, start))
            start, used = start + count, used + count
            if used == CHUNK:
                yield parts
                parts, used = [], 0
    if parts:
        yield parts
