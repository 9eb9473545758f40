"""Others' GEMMs for the same layers, as CUDA graphs that can be replayed by turns with ours.

cuBLAS (float16), torch's int4 matmul (tinygemm, bfloat16), and Humming, where those are installed.
"""

from __future__ import annotations

import copy
import gc
import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

GROUP_SIZE = 128
INT4_ROWS = 8  # torch's int4 matmul is made for few rows; beyond, it is far behind
_POOL = 2**28  # numbers in float16 that dense weights are cut from


class TorchGraph:
    """Calls captured by torch, whose allocator has to know of the capture."""

    def __init__(self, torch: Any, calls: list[Callable[[], Any]], rounds: int) -> None:
        self._torch, self._calls = torch, calls  # whose arrays the graph reads
        for call in calls[:2]:
            call()
        torch.cuda.synchronize()
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            for _ in range(rounds):
                for call in calls:
                    call()

    def seconds(self, replays: int) -> list[float]:
        """Replay it so many times in a row: the seconds of each, by the device's clock."""
        marks = [self._torch.cuda.Event(enable_timing=True) for _ in range(replays + 1)]
        marks[0].record()
        for mark in marks[1:]:
            self._graph.replay()
            mark.record()
        marks[-1].synchronize()
        return [before.elapsed_time(after) / 1e3 for before, after in pairwise(marks)]


class Peers:
    """The peers that are installed, for layers with groups of 128.

    Each method gives calls on `count` layers that lie in different places.
    """

    def __init__(self, device: str) -> None:
        import torch

        gc.freeze()  # `capturing` collects often; torch alone would take it 0.1 s each time
        torch.set_grad_enabled(False)
        self.torch, self.device = torch, device
        generator = torch.Generator(device).manual_seed(20261130)
        self._dense = torch.empty(_POOL, dtype=torch.float16, device=device)
        self._dense.normal_(generator=generator)
        self._humming: dict[tuple[int, int], list[Any]] = {}

    def names(self, m: int) -> Iterator[str]:
        """The names of those worth measuring at so many rows."""
        yield "cuBLAS"
        if m <= INT4_ROWS:
            yield "tinygemm"
        if importlib.util.find_spec("humming"):
            yield "Humming"

    def calls(self, name: str, m: int, n: int, k: int, copies: int) -> list[Callable[[], Any]]:
        """y = x @ w for so many copies of the layer, by the peer of this name."""
        of = {"cuBLAS": self._cublas, "tinygemm": self._tinygemm, "Humming": self._of_humming}
        return of[name](m, n, k, copies)

    def graph(self, calls: list[Callable[[], Any]], rounds: int) -> TorchGraph:
        return TorchGraph(self.torch, calls, rounds)

    def _cublas(self, m: int, n: int, k: int, copies: int) -> list[Callable[[], Any]]:
        x = self._random(m, k)
        size = n * k
        if size * copies > _POOL:
            copies = max(2, min(copies, _POOL // size))
        step = (_POOL - size) // max(copies - 1, 1) // 64 * 64
        weights = [self._dense[i * step : i * step + size].view(n, k) for i in range(copies)]
        outs = [self._empty(m, n) for _ in weights]
        mm = self.torch.mm
        return [lambda w=w, o=o: mm(x, w.t(), out=o) for w, o in zip(weights, outs, strict=True)]

    def _tinygemm(self, m: int, n: int, k: int, copies: int) -> list[Callable[[], Any]]:
        torch = self.torch
        x = self._random(m, k).bfloat16()
        packed = torch.randint(0, 256, (n, k // 2), dtype=torch.uint8, device=self.device)
        first = torch._convert_weight_to_int4pack(packed, 8)
        scales = self._random(k // GROUP_SIZE, n, 2).bfloat16()
        layers = [(first.clone(), scales.clone()) for _ in range(copies)]
        return [lambda w=w, s=s: torch._weight_int4pack_mm(x, w, GROUP_SIZE, s) for w, s in layers]

    def _of_humming(self, m: int, n: int, k: int, copies: int) -> list[Callable[[], Any]]:
        x = self._random(m, k)
        layers = self._layers(n, k)
        while len(layers) < copies:  # a copy costs less than repacking anew
            layers.append(copy.deepcopy(layers[0]) if layers else self._layer(n, k))
        outs = [self._empty(m, n) for _ in range(copies)]
        return [
            lambda layer=layer, o=o: layer(x, outputs=o)
            for layer, o in zip(layers, outs, strict=False)
        ]

    def _layers(self, n: int, k: int) -> list[Any]:
        """Humming's layers of this shape; those of the last one go."""
        if (n, k) not in self._humming:
            self._humming = {(n, k): []}
        return self._humming[n, k]

    def _layer(self, n: int, k: int) -> Any:
        from humming.layer import HummingLayer

        torch = self.torch
        config = {"quant_method": "gptq", "bits": 4, "group_size": GROUP_SIZE, "sym": True}
        layer = HummingLayer(
            shape_n=n, shape_k=k, weight_config=config, torch_dtype=torch.float16
        ).to(self.device)
        for parameter in layer.parameters():
            if parameter.dtype.is_floating_point:
                parameter.uniform_(1e-3, 3e-3)
            else:
                parameter.random_()
        layer.transform()
        return layer

    def _random(self, *shape: int) -> Any:
        return self.torch.randn(*shape, device=self.device).half()

    def _empty(self, *shape: int) -> Any:
        return self.torch.empty(*shape, device=self.device, dtype=self.torch.float16)

    @contextmanager
    def capturing(self) -> Iterator[None]:
        """While torch captures, nothing of ours may be freed: cuMemFree breaks a capture."""
        from numba import cuda

        gc.collect()
        gc.disable()
        try:
            with cuda.defer_cleanup():
                yield
        finally:
            gc.enable()
