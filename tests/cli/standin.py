"""A model that computes in NumPy, for commands: the reference, with the calls of `Model`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.models.reference import Reference


class ReferenceModel(Reference):
    @classmethod
    def load(
        cls, folder: Path, *, device: Any, dtype: str | None = None, progress: Any
    ) -> ReferenceModel:
        return cls(folder, dtype)

    def generate(
        self,
        ids: Sequence[int],
        max_new_tokens: int = 64,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int = 0,
    ) -> Iterator[int]:
        """Draws from all tokens, whatever top_k and top_p are."""
        rng, all_ids = np.random.default_rng(seed), list(ids)
        for _ in range(max_new_tokens):
            last = self.logits(np.array(all_ids))[0, -1]
            if temperature:
                last = last / temperature + rng.gumbel(size=last.size)
            all_ids.append(int(last.argmax()))
            yield all_ids[-1]
            if all_ids[-1] in self.config.eos:
                return
