"""The grouped GEMMs of experts, beside Humming's and a loop over our own GEMMs, in one process.

    python scripts/bench_moe.py [--m 1,4,16,64,256,2048] [--like qwen3-30b-a3b,...] [--json]

Times are microseconds of graphs, replayed by turns, medians.  Each launch of a graph has a routing
of its own, drawn at random, so that weights come from memory; all of a layer's exceed the cache.
Ours are what GptqExperts launches: for gate and up with the sort of activations, where it sorts
them, and silu(gate) * up; for down with the routers' weights.  Humming's multiply, no more.  floor:
the touched experts' bytes, or the products, at the rates of gemm_timing.py.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from gemm_timing import FLOP_PER_US, READ_BYTES_PER_US, weight_bytes

import ferrum_numba as fe
from ferrum_numba import kernels
from ferrum_numba.gptq import GptqExperts, Routing, StackedWeight
from tests.campaigns.routing import aligned

GROUP_SIZE = 128
ROUTINGS = {1: 16, 4: 12, 16: 6, 64: 4}  # of a graph, by the tokens; two of more tokens
LOOP_ROWS = 64  # beyond, a loop over experts in a graph takes long to capture
REPLAYS = 5
_LONG_ENOUGH = 2e-3  # seconds of a graph

Timed = tuple[Callable[[], float], int]
"""Seconds of a graph's replay, and how many times it does what is timed."""


@dataclass(frozen=True)
class Shape:
    """A layer's experts."""

    hidden: int
    width: int
    experts: int
    top_k: int


SHAPES = {
    "qwen3-30b-a3b": Shape(2048, 768, 128, 8),
    "mixtral-8x7b": Shape(4096, 14336, 8, 2),
}


def random_stack(device: fe.Device, random: Any, experts: int, K: int, N: int) -> StackedWeight:
    """The same layer of all experts, with random weights."""
    groups = K // GROUP_SIZE
    words = random.integers(-(2**62), 2**62, experts * K * N // 16, np.int64).view(np.int32)
    scales = random.uniform(0.5, 1.5, (experts, groups, N)).astype(np.float16) / np.float16(K**0.5)
    zeros = words[: experts * groups * N // 8].reshape(experts, groups, N // 8)
    to_device = device.to_device
    qweight = to_device(words.reshape(experts, K // 8, N))
    return StackedWeight(qweight, to_device(scales), to_device(zeros.copy()), GROUP_SIZE, 1)


class Case:
    """The experts of one shape and their routings, ours and as Humming wants them."""

    def __init__(self, device: fe.Device, shape: Shape) -> None:
        self.device, self.shape = device, shape
        random = np.random.default_rng(0)
        h, i, e = shape.hidden, shape.width, shape.experts
        sizes = ((h, i), (h, i), (i, h))
        stacks = [random_stack(device, random, e, K, N) for K, N in sizes]
        self.experts = GptqExperts(*stacks, device=device)

    def choices(self, m: int) -> list[np.ndarray]:
        """Experts of M tokens [M, top_k], as often as a graph takes others."""
        random = np.random.default_rng(m)
        drawn = random.random((ROUTINGS.get(m, 2), m, self.shape.experts))
        return [*np.argsort(drawn, axis=2)[:, :, : self.shape.top_k].astype(np.int32)]

    def floor_us(self, half: str, m: int) -> float:
        """A launch of a half takes at the least."""
        h, i = self.shape.hidden, self.shape.width
        N, K = (2 * i, h) if half == "gate_up" else (h, i)
        touched = statistics.mean(len(np.unique(ids)) for ids in self.choices(m))
        read = touched * weight_bytes(N, K, GROUP_SIZE) / READ_BYTES_PER_US
        return max(read, 2 * m * self.shape.top_k * N * K / FLOP_PER_US)

    def ours(self, half: str, m: int) -> Timed:
        """Launches of the catalogue's choice."""
        device, shape, own = self.device, self.shape, self.experts
        count = m * shape.top_k
        tiles = own.tiles(count)
        blocks = tiles.blocks(count, shape.experts)
        rows = blocks * tiles.block
        align = kernels.find(kernel="moe_align", target="sm_80")
        random = np.random.default_rng(m)
        x = device.to_device(random.standard_normal((m, shape.hidden)).astype(np.float16))
        weights = device.to_device(random.random(count, np.float32))
        room = own.room(count)
        device.write(room.gated, random.standard_normal(room.gated.shape).astype(np.float16))
        jobs: list[Callable[[Any], None]] = []
        for ids in self.choices(m):
            sizes = (rows, blocks, 1, blocks + 1)
            routing = Routing(*(device.empty(size, np.int32) for size in sizes))
            numbers = {"T": count, "E": shape.experts, "block": tiles.block, "blocks": blocks}
            arrays = {"topk_ids": device.to_device(ids.ravel()), **vars(routing)}
            launch = kernels.launches_on(device)
            launch(align, None, {**numbers, "span": tiles.span}, arrays)
            if half == "gate_up":
                jobs.append(lambda s, r=routing: own.into_gated(x, r, room, s))
            else:
                jobs.append(lambda s, r=routing: own.into_parts(r, weights, room, s))
        return self._graph(jobs)

    def loop(self, half: str, m: int) -> Timed | None:
        """A GEMM of ours for each expert that is touched, on rows that are gathered already."""
        if m > LOOP_ROWS and self.shape.experts > 8:
            return None
        own, device = self.experts, self.device
        stacks = (own.gate, own.up) if half == "gate_up" else (own.down,)
        jobs: list[Callable[[Any], None]] = []
        for ids in self.choices(m):
            experts, counts = np.unique(ids, return_counts=True)
            for expert, rows in zip(experts.tolist(), counts.tolist(), strict=True):
                for stack in stacks:
                    arrays = (stack.qweight[expert], stack.scales[expert], stack.qzeros[expert])
                    K, N = stack.K, stack.N
                    weight = fe.W4A16Weight(*arrays, K, N, GROUP_SIZE, 1)
                    build = kernels.choose(device, rows, N, K, GROUP_SIZE, 1)
                    a, c = (device.empty((rows, n), np.float16) for n in (K, N))
                    call = kernels.prepare_w4a16_gptq(build.kernel(device), a, weight, c, rows)
                    jobs.append(call)
        seconds, count = self._graph(jobs)
        return seconds, count * len(self.choices(m)) // len(jobs)

    def _graph(self, jobs: list[Callable[[Any], None]]) -> Timed:
        jobs[0](None)
        self.device.synchronize()
        rounds = 1
        while True:
            with self.device.capture() as graph:
                for _ in range(rounds):
                    for job in jobs:
                        job(graph.stream)
            once = min(graph.seconds(2))
            if once >= _LONG_ENOUGH or rounds >= 32:
                return lambda: graph.seconds(1)[0], rounds * len(jobs)
            rounds = min(32, max(2 * rounds, int(rounds * _LONG_ENOUGH / once)))


class Humming:
    """Humming's grouped GEMM of one half, on weights of its own layout."""

    def __init__(self, case: Case, half: str) -> None:
        import torch
        from humming.layer import HummingLayer

        self.torch, self.shape, self.half, self.case = torch, case.shape, half, case
        h, i, e = case.shape.hidden, case.shape.width, case.shape.experts
        self.N, self.K = (2 * i, h) if half == "gate_up" else (h, i)
        config = {"quant_method": "gptq", "bits": 4, "group_size": GROUP_SIZE, "sym": True}
        sizes = {"shape_n": self.N, "shape_k": self.K, "num_experts": e}
        self.layer = HummingLayer(weight_config=config, torch_dtype=torch.float16, **sizes).cuda()
        groups, fields = self.K // GROUP_SIZE, {"dtype": torch.int32, "device": "cuda"}
        tensors = {
            "qweight": torch.randint(-(2**31), 2**31 - 1, (e, self.K // 8, self.N), **fields),
            "qzeros": torch.full((e, groups, self.N // 8), 0x77777777, **fields),
            "scales": torch.rand((e, groups, self.N), device="cuda").half() / self.K**0.5,
            "g_idx": (torch.arange(self.K, **fields) // GROUP_SIZE).expand(e, -1).contiguous(),
        }
        self.layer.load_from_tensors(tensors)
        self.layer.transform()

    def timed(self, m: int) -> Timed:
        """Launches of the configuration that it finds best, alignment not counted."""
        from humming.tune import get_heuristics_config

        torch, top_k = self.torch, self.shape.top_k
        config = get_heuristics_config(
            self.layer.humming_config, shape_m=m * top_k, gemm_type="indexed"
        )
        block, first = config["block_shape"][0], self.half == "gate_up"
        x = torch.randn((m if first else m * top_k, self.K), device="cuda").half()
        calls = []
        for ids in self.case.choices(m):
            rows, owners = aligned(ids.ravel(), self.shape.experts, block)
            count = torch.tensor(len(rows), dtype=torch.int32, device="cuda")
            calls.append(
                {
                    "outputs": torch.empty((m * top_k, self.N), device="cuda").half(),
                    "sorted_ids": torch.from_numpy(rows).cuda(),
                    "expert_ids": torch.from_numpy(owners).cuda(),
                    "num_tokens_padded": count,
                    "top_k": top_k if first else 1,
                    "compute_config": {"gemm_type": "indexed"},
                    "tuning_config": config,
                }
            )
        self._round(x, calls, 1)()
        once = self._round(x, calls, 1)()
        rounds = max(1, min(32, int(_LONG_ENOUGH / once)))
        return self._round(x, calls, rounds), rounds * len(calls)

    def _round(self, x: Any, calls: list[dict[str, Any]], rounds: int) -> Callable[[], float]:
        torch = self.torch
        for call in calls:
            self.layer(x, **call)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(rounds):
                for call in calls:
                    self.layer(x, **call)
        marks = [torch.cuda.Event(enable_timing=True) for _ in range(2)]

        def seconds() -> float:
            marks[0].record()
            graph.replay()
            marks[1].record()
            marks[1].synchronize()
            return float(marks[0].elapsed_time(marks[1])) / 1e3

        return seconds


def cells(device: fe.Device, names: list[str], ms: list[int]) -> Iterator[dict[str, Any]]:
    """A row for each shape, half and number of tokens."""
    for name in names:
        case = Case(device, SHAPES[name])
        for half in ("gate_up", "down"):
            try:
                humming = Humming(case, half)
            except ImportError:
                humming = None
            for m in ms:
                timed = {"ours": case.ours(half, m), "loop": case.loop(half, m)}
                timed["humming"] = humming and humming.timed(m)
                found: dict[str, list[float]] = {n: [] for n, own in timed.items() if own}
                for _ in range(REPLAYS):
                    for who, times in found.items():
                        seconds, count = timed[who]  # type: ignore[misc]
                        times.append(seconds() / count * 1e6)
                row = {n: statistics.median(times) for n, times in found.items()}
                floor = case.floor_us(half, m)
                yield {"shape": name, "half": half, "M": m, "floor": floor, **row}
                del timed
        del case, humming


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--m", default="1,4,16,64,256,2048", help="tokens")
    parser.add_argument("--like", default=",".join(SHAPES), help=f"of {', '.join(SHAPES)}")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    device = fe.open_device("cuda")
    rows = []
    # What is collected while torch captures would break its capture.
    gc.disable()
    for row in cells(device, arguments.like.split(","), [int(m) for m in arguments.m.split(",")]):
        rows.append(row)
        gc.collect()
        if not arguments.json:
            who = [name for name in ("floor", "ours", "humming", "loop") if name in row]
            times = "  ".join(f"{name} {row[name]:9.2f}" for name in who)
            ratio = f"  ours/humming {row['ours'] / row['humming']:.3f}" if "humming" in row else ""
            print(f"{row['shape']:14} {row['half']:8} {row['M']:5}  {times}{ratio}", flush=True)
    if arguments.json:
        print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
