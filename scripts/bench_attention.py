"""Time attention alone on a GPU, of a step and of a prompt, beside torch's in the same process.

    python scripts/bench_attention.py [--like llama-3.1-8b]

Steps are graphs of 32 launches over caches that together pass the GPU's own cache, of both; the
peer is scaled_dot_product_attention by its flash backend and by the one that it chooses itself.
The time is a launch's, on the host's clock.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from bench_model import READ, config_like
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

import ferrum_numba as fe
from ferrum_numba.gptq import MODELS
from ferrum_numba.models import ModelConfig
from ferrum_numba.models.operations import Operations
from ferrum_numba.models.workspace import Rows, Segment

_LAUNCHES = 32
STEPS = [(1, 512, 40), (1, 2048, 12), (1, 8192, 4), (16, 2048, 2), (16, 8192, 1), (64, 2048, 1)]
"""Sequences, tokens of each, and how many caches take turns."""
PROMPTS = [2048, 8192]


def floats(*shape: int, dtype: Any = torch.float16) -> Any:
    """Random numbers on the GPU."""
    return torch.randn(*shape, dtype=dtype, device="cuda")


def microseconds(run: Callable[[], object], launches: int, replays: int) -> float:
    """Time of one of the launches that `run` makes, median of five turns."""
    times = []
    for _ in range(6):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(replays):
            run()
        torch.cuda.synchronize()
        times.append((time.perf_counter() - start) / replays / launches)
    return float(np.median(times[1:])) * 1e6


def flash(q: Any, pairs: Sequence[tuple[Any, Any]]) -> Callable[[], None]:
    """A graph of torch's own attention over these keys and values in turn."""
    graph = torch.cuda.CUDAGraph()
    with sdpa_kernel([SDPBackend.FLASH_ATTENTION]):
        scaled_dot_product_attention(q, *pairs[0], enable_gqa=True)
        torch.cuda.synchronize()
        with torch.cuda.graph(graph):
            for i in range(_LAUNCHES):
                scaled_dot_product_attention(q, *pairs[i % len(pairs)], enable_gqa=True)
    return graph.replay


def show_step(operations: Operations, batch: int, length: int, copies: int) -> None:
    """One new token of each of `batch` sequences that are `length` tokens long with it."""
    config, device, page = operations.config, operations.device, operations.page
    width, heads, d = -(-length // page), config.kv_heads, config.head_dim
    caches = [
        (floats(batch * width, heads, page, d), floats(batch * width, heads, page, d))
        for _ in range(copies)
    ]
    work: Any = SimpleNamespace(
        m=batch,
        qkv=floats(batch, config.q_width + 2 * config.kv_width, dtype=torch.float32),
        attended=torch.empty(batch, config.q_width, dtype=torch.float16, device="cuda"),
    )
    half = config.rope.size // 2
    turns = torch.ones(length, half, device="cuda"), torch.zeros(length, half, device="cuda")
    positions = torch.full((batch,), length - 1, dtype=torch.int32, device="cuda")
    pages = torch.randperm(batch * width, device="cuda").to(torch.int32).reshape(batch, width)
    rows = Rows(None, positions, pages, turns)
    with device.capture() as graph:
        for i in range(_LAUNCHES):
            cache = caches[i % copies]
            operations.attend_one(work, (None, None), rows, cache, None, graph.stream)
    stream = device.create_stream()
    ours = microseconds(lambda: graph.launch(stream), _LAUNCHES, 20)
    pairs = [
        (
            keys.view(batch, heads, -1, d)[:, :, :length],
            values.view(batch, heads, -1, d)[:, :, :length],
        )
        for keys, values in caches
    ]
    theirs = microseconds(flash(floats(batch, config.heads, 1, d), pairs), _LAUNCHES, 20)
    floor = batch * length * config.kv_width * 4 / READ * 1e6
    print(
        f"step   {batch:3} x {length:5}  {ours:8.2f} us, {floor / ours:4.0%} of the reading speed  "
        f"torch {theirs:8.2f} us, {floor / theirs:4.0%}"
    )


def show_prompt(operations: Operations, length: int) -> None:
    """All tokens of a prompt, causally."""
    config, device, page, launches = operations.config, operations.device, operations.page, 4
    count = -(-length // page)
    cache = tuple(floats(count, config.kv_heads, page, config.head_dim) for _ in range(2))
    q = floats(length, config.q_width)
    work: Any = SimpleNamespace(q=q, attended=torch.empty_like(q))
    pages = torch.arange(count, dtype=torch.int32, device="cuda")
    part = Segment(0, np.zeros(length, np.int32), 0, 0, pages, ends=True)
    with device.capture() as graph:
        for _ in range(launches):
            operations.attend_many(work, part, (cache[0], cache[1]), None, graph.stream)
    stream = device.create_stream()
    ours = microseconds(lambda: graph.launch(stream), launches, 5)
    counts = (config.heads, config.kv_heads, config.kv_heads)
    arrays = [floats(1, heads, length, config.head_dim) for heads in counts]

    def peer() -> None:
        for _ in range(launches):
            scaled_dot_product_attention(*arrays, is_causal=True, enable_gqa=True)

    with sdpa_kernel([SDPBackend.FLASH_ATTENTION]):
        theirs = microseconds(peer, launches, 5)
    chosen = microseconds(peer, launches, 5)
    print(
        f"prompt       {length:5}  {ours:8.0f} us  torch's flash {theirs:8.0f} us, "
        f"its own choice {chosen:8.0f} us"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--like", default="llama-3.1-8b", choices=MODELS)
    arguments = parser.parse_args()
    config = ModelConfig.read(config_like(arguments.like))
    operations = Operations(config, fe.open_device("cuda"))
    for cell in STEPS:
        show_step(operations, *cell)
    for length in PROMPTS:
        show_prompt(operations, length)


if __name__ == "__main__":
    main()
