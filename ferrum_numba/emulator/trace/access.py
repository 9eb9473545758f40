"""One access of a warp to memory, and what it costs a GPU.

Global memory is moved in sectors of 32 bytes, four of them to a line of 128 (CUDA Programming
Guide, "Device Memory Accesses"): a warp access costs as many sectors as its lanes touch.

Shared memory has 32 banks of 4 bytes: one pass serves one word of each bank, to as many lanes as
ask for it (CUDA Programming Guide, "Shared Memory").  Lanes that ask for 8 or 16 bytes come in two
or four phases, of 16 or 8 lanes, one after another.  Loads of theirs take twice as many lanes to a
phase where pairs of lanes (i and i ^ 1 everywhere, or i and i ^ 2) ask for the same; and no fewer
passes than phases, though lanes be left out.  Source of these two: cycles measured on an H200 by
scripts/measure_banks.py; all of its 6,478 patterns of lanes and addresses take what is computed
here (tests/emulator/trace/data).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

SECTOR, LINE, BANKS, WORD = 32, 128, 32, 4
_LANES = 32


@dataclass(frozen=True, eq=False)
class Access:
    """Memory that the lanes of one warp touch with one instruction.

    space: "global" or "shared".  kind: "load", "store", "atomic", "ldmatrix" or "stmatrix".
    nbytes: of each lane.
    mask: the lanes that take part.  addresses: [32], uint64; in shared memory from its start.
    places: the same as on a GPU, where every array begins on a boundary of 256 bytes.
    """

    space: str
    kind: str
    nbytes: int
    mask: int
    addresses: NDArray[np.uint64]
    places: NDArray[np.uint64]

    @cached_property
    def lanes(self) -> tuple[int, ...]:
        """The lanes that take part."""
        return tuple(lane for lane in range(_LANES) if self.mask >> lane & 1)

    def units(self, size: int) -> NDArray[np.uint64]:
        """Units of `size` bytes that are touched: their numbers, each once, in order.

        Of arrays on a GPU; a stretch of 2**40 bytes for each array.
        """
        starts = self.places[list(self.lanes)]
        steps = np.arange(0, self.nbytes, min(size, self.nbytes), dtype=np.uint64)
        # A lane's last byte counts too, where an address is not aligned.
        steps = np.append(steps, np.uint64(self.nbytes - 1))
        return np.unique(np.add.outer(starts, steps) // np.uint64(size))

    @property
    def unique_bytes(self) -> int:
        """Bytes that are touched, each counted once."""
        return len(self.units(1))

    @property
    def sectors(self) -> int:
        """Sectors of global memory."""
        return len(self.units(SECTOR))

    @property
    def used(self) -> int:
        """Per cent of the bytes in moved sectors that are used."""
        return 100 * self.unique_bytes // (SECTOR * self.sectors)

    @property
    def lines(self) -> int:
        """Lines of global memory."""
        return len(self.units(LINE))

    def phases(self) -> Iterator[tuple[list[int], dict[int, list[int]]]]:
        """Phases of an access to shared memory: the lanes, and the words asked of each bank.

        The latter as words of four bytes, each once.
        """
        together = self._together
        for first in range(0, _LANES, together):
            lanes = [lane for lane in self.lanes if first <= lane < first + together]
            words: set[int] = set()
            for lane in lanes:
                start = int(self.places[lane])
                words.update(range(start // WORD, (start + self.nbytes - 1) // WORD + 1))
            if words:
                banks: dict[int, list[int]] = {}
                for word in sorted(words):
                    banks.setdefault(word % BANKS, []).append(word)
                yield lanes, banks

    @cached_property
    def _together(self) -> int:
        """Lanes of a phase."""
        together = {8: 16, 16: 8}.get(self.nbytes, _LANES)
        return 2 * together if self._is_wide_load and self._has_pairs else together

    @property
    def _is_wide_load(self) -> bool:
        return self.kind == "load" and self.nbytes > WORD

    @property
    def _has_pairs(self) -> bool:
        """True if each lane asks for the same as its neighbour, where both take part."""
        every = np.arange(_LANES)
        taking = np.isin(every, self.lanes)
        for step in (1, 2):
            other = every ^ step
            both = taking & taking[other]
            if np.array_equal(self.places[both], self.places[other][both]):
                return True
        return False

    @cached_property
    def degrees(self) -> tuple[int, ...]:
        """Words that the busiest bank is asked for in each phase: 1 is free of conflicts."""
        return tuple(max(map(len, banks.values())) for _, banks in self.phases())

    @property
    def conflict(self) -> int:
        """The worst n-way bank conflict among the phases; 1 where there is none."""
        return max(self.degrees, default=1)

    @property
    def cost(self) -> int:
        """Sectors in global memory, passes in shared memory."""
        return self.sectors if self.space == "global" else max(sum(self.degrees), self._least)

    @property
    def ideal(self) -> int:
        """Cost of the same bytes where they lie best."""
        if self.space == "global":
            return -(-self.unique_bytes // SECTOR)
        return self._least

    @property
    def _least(self) -> int:
        """Passes that it takes without any conflict."""
        return _LANES // self._together if self._is_wide_load else len(self.degrees)
