"""Routing of choices to experts, in NumPy: what `moe_align` is compared with, and Humming given."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int32]


def aligned(ids: npt.NDArray[Any], experts: int, block: int) -> tuple[Ids, Ids]:
    """(sorted_token_ids, expert_ids) as vLLM's moe_align_block_size has them.

    ids: the expert of each choice, in one dimension; those that are none of `experts` go nowhere.
    """
    rows, owners = [], []
    for expert in range(experts):
        mine = np.flatnonzero(ids == expert)
        count = -(-len(mine) // block)
        rows.append(np.pad(mine, (0, count * block - len(mine)), constant_values=ids.size))
        owners += [expert] * count
    return np.concatenate(rows).astype(np.int32), np.array(owners, np.int32)
