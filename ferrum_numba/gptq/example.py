"""Checkpoint to try things on: made on the spot, gone when the process ends."""

from __future__ import annotations

import atexit
import shutil
from pathlib import Path
from typing import Any

from .recipe import Recipe
from .synthesis import make_checkpoint


def example_checkpoint(**options: Any) -> Path:
    """Directory of a small Llama model with random 4-bit weights, and a tokenizer.

    2 decoder layers of 7 quantised layers, hidden size 256, 512 tokens: 1.5 MB, in 30 ms. The
    directory is temporary, and removed when the process ends; `ferrum-numba make DIR` writes the
    same one to stay. The same options give the same bytes.

    options: fields of `ferrum_numba.gptq.Recipe`, such as act_order=True, format="v2" or seed=1.
    Raises CheckpointError for values that no producer writes.
    """
    import tempfile

    recipe = Recipe(**options)
    parent = Path(tempfile.mkdtemp(prefix="ferrum-numba-"))
    atexit.register(shutil.rmtree, parent, ignore_errors=True)
    make_checkpoint(parent / "example", recipe)
    return parent / "example"
