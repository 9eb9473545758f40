"""The reference: a model in NumPy, float32, all positions at once, no cache.

It takes a model's configuration, names and rope from the package, and computes with the weights
that `Checkpoint.dense` dequantises; no kernel, no rounding to the model's dtype.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from ferrum_numba.gptq import Checkpoint, fused_experts
from ferrum_numba.models import Linear, ModelConfig, ModelNames
from ferrum_numba.models.names import ExpertsNames, FusedExperts, MlpNames

Array = npt.NDArray[np.float32]


class Reference:
    """The model in a directory, its weights float32."""

    def __init__(self, folder: Path, dtype: str | None = None) -> None:
        self.config = ModelConfig.load(folder, dtype)
        self.checkpoint = Checkpoint.open(folder)
        self.names = ModelNames.find(self.config, self.checkpoint)
        self._arrays: dict[str, Array] = {}

    def logits(self, ids: npt.NDArray[np.integer]) -> Array:
        """float32 [B, T, vocab] of ids [B, T]; ids [T] are taken as one sequence."""
        x = self.tensor(self.names.embedding)[np.atleast_2d(ids)]
        for number, names in enumerate(self.names.layers):
            x = x + self._attention(number, self._norm(x, names.input_norm))
            normed = self._norm(x, names.post_norm)
            mixed = isinstance(names.mlp, ExpertsNames)
            x = x + (self._mixture if mixed else self._mlp)(names.mlp, normed)
        x = self._norm(x, self.names.norm)
        head = self.names.head
        return (
            x @ self.tensor(self.names.embedding).T if head is None else self._linears((head,), x)
        )

    def greedy(self, prompt: npt.NDArray[np.integer], count: int) -> tuple[list[int], list[float]]:
        """(ids, margins: the best logit less the second) of `count` tokens after `prompt`."""
        ids, margins = [int(token) for token in prompt], []
        for _ in range(count):
            last = self.logits(np.array(ids))[0, -1]
            second, best = np.argsort(last, kind="stable")[-2:]
            ids.append(int(np.argmax(last)))
            margins.append(float(last[best] - last[second]))
        return ids[len(prompt) :], margins

    def tensor(self, name: str) -> Array:
        """A tensor that is not quantised."""
        if name not in self._arrays:
            self._arrays[name] = self.checkpoint.array(name).astype(np.float32)
        return self._arrays[name]

    def weight(self, name: str) -> Array:
        """[K, N] of a linear layer, quantised or not."""
        if name not in self._arrays:
            self._arrays[name] = self.checkpoint.dense(name, np.float32)
        return self._arrays[name]

    def _linears(self, linears: tuple[Linear, ...], x: Array) -> Array:
        """The outputs of `linears` side by side."""
        outputs = []
        for linear in linears:
            bias = self.tensor(f"{linear.name}.bias") if linear.bias else np.float32(0)
            outputs.append(x @ self.weight(linear.name) + bias)
        return np.concatenate(outputs, axis=-1)

    def _mlp(self, names: MlpNames, x: Array) -> Array:
        gate, up = np.split(self._linears(names.gate_up, x), 2, axis=-1)
        return self._linears((names.down,), gate / (1 + np.exp(-gate)) * up)

    def _mixture(self, names: ExpertsNames, x: Array) -> Array:
        spec = self.config.experts
        ids, weights = self.choose(names, x)
        total = np.zeros_like(x)
        for number in range(spec.count):
            weight = np.sum(weights * (ids == number), axis=-1, keepdims=True)
            mine = weight[..., 0] != 0
            total[mine] += weight[mine] * self._expert(names.experts, number, x[mine])
        if names.shared is not None:
            shared = self._mlp(names.shared, x)
            if spec.shared_gate:
                shared /= 1 + np.exp(-self._linears((names.shared_gate,), x))
            total += shared
        return total

    def _expert(self, names: object, number: int, x: Array) -> Array:
        if not isinstance(names, FusedExperts):
            gate, up, down = names[number]
            return self._mlp(MlpNames((gate, up), down), x)
        gate_up, down = (
            list(fused_experts(self.checkpoint, name))[number].dequantize(np.float32)
            for name in (names.gate_up, names.down)
        )
        gate, up = np.split(x @ gate_up, 2, axis=-1)
        return (gate / (1 + np.exp(-gate)) * up) @ down

    def choose(self, names: ExpertsNames, x: Array) -> tuple[npt.NDArray[np.intp], Array]:
        """(ids, weights), both [..., top_k], of the experts that each row of x goes to."""
        spec = self.config.experts
        scores = self._linears((names.router,), x)
        scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
        scores /= scores.sum(axis=-1, keepdims=True)
        ids = np.argsort(-scores, axis=-1, kind="stable")[..., : spec.top_k]
        weights = np.take_along_axis(scores, ids, -1)
        if spec.renormalise:
            weights /= weights.sum(axis=-1, keepdims=True)
        return ids, weights

    def _norm(self, x: Array, name: str) -> Array:
        mean = np.mean(np.square(x), axis=-1, keepdims=True)
        return x / np.sqrt(mean + np.float32(self.config.eps)) * self.tensor(name)

    def _attention(self, number: int, x: Array) -> Array:
        config, names = self.config, self.names.layers[number]
        batch, length, _ = x.shape
        qkv = self._linears(names.qkv, x)
        q, k, v = np.split(qkv, [config.q_width, config.q_width + config.kv_width], axis=-1)
        q, k, v = (
            part.reshape(batch, length, -1, config.head_dim).swapaxes(1, 2) for part in (q, k, v)
        )
        if names.q_norm is not None and names.k_norm is not None:
            q, k = self._norm(q, names.q_norm), self._norm(k, names.k_norm)
        q, k = self._turned(q), self._turned(k)
        k, v = (np.repeat(part, config.heads // config.kv_heads, axis=1) for part in (k, v))
        scores = q @ k.swapaxes(2, 3) / np.float32(np.sqrt(config.head_dim))
        before = np.arange(length)[:, None] - np.arange(length)
        window = config.windows[number] or length
        scores = np.where((before >= 0) & (before < window), scores, -np.inf)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        out = (weights @ v).swapaxes(1, 2).reshape(batch, length, config.q_width)
        return self._linears((names.o,), out)

    def _turned(self, x: Array) -> Array:
        """x [..., T, head_dim], its first r elements turned, the halves against each other."""
        length, half = x.shape[-2], self.config.rope.size // 2
        inverse, factor = self.config.rope.frequencies(length)
        angles = np.arange(length, dtype=np.float32)[:, None] * inverse
        cos, sin = np.cos(angles) * np.float32(factor), np.sin(angles) * np.float32(factor)
        first, second, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
        turned = [first * cos - second * sin, second * cos + first * sin, rest]
        return np.concatenate(turned, axis=-1)
