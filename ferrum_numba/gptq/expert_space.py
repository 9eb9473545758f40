"""The memory in which all mixtures of a model compute their experts, one after the other."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..devices import Device
from ..kernels import MOST_ROWS, ExpertTiles
from .experts import ExpertRoom, Routing


class ExpertSpace:
    """Room for the experts of one layer at a time, of up to `choices` choices.

    experts, hidden, width: of a layer, as GptqExperts has them; dtype: T, of its activations.
    """

    def __init__(
        self,
        device: Device,
        choices: int,
        experts: int,
        hidden: int,
        width: int,
        dtype: np.dtype[Any],
    ) -> None:
        self._experts, self._sizes = experts, (hidden, width)
        rows = _most_rows(choices, experts)
        empty = device.empty
        # Columns are padded.  Zeros: what ExpertRoom says of rows behind the last block.
        own = (np.zeros(rows * (n + 31), dtype) for n in self._sizes)
        self._flat = [device.to_device(array) for array in own]
        self._flat.append(empty(choices * hidden, np.float32))
        self._numbers = [empty(n, np.int32) for n in (rows, choices + 1, 1, choices + 2)]
        self._made: tuple[Any, tuple[Routing, ExpertRoom]] | None = None

    @staticmethod
    def nbytes(choices: int, experts: int, hidden: int, width: int) -> int:
        """About what it takes."""
        return 4 * choices * hidden + 2 * _most_rows(choices, experts) * (hidden + width)

    def room(self, tiles: ExpertTiles, choices: int) -> tuple[Routing, ExpertRoom]:
        """Arrays of a launch with these builds: for the routing, and for the results."""
        if self._made is None or self._made[0] != (tiles, choices):
            blocks = tiles.blocks(choices, self._experts)
            sizes = (blocks * tiles.block, blocks, 1, blocks + 1)
            routing = Routing(*(a[:n] for a, n in zip(self._numbers, sizes, strict=True)))
            shapes = ExpertRoom.shapes(tiles, choices, self._experts, *self._sizes)
            arrays = (
                shape and array[: shape[0] * shape[1]].reshape(shape)
                for array, shape in zip(self._flat, shapes, strict=True)
            )
            self._made = (tiles, choices), (routing, ExpertRoom(*arrays))
        return self._made[1]


def _most_rows(choices: int, experts: int) -> int:
    """The most rows of blocks that so many choices fill."""
    return choices + min(choices, experts) * (MOST_ROWS - 1)
