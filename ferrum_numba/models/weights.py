"""A model's weights on a device: each tensor is read once, and laid as its launches read it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import kernels
from ..dtypes import dtype_named
from ..errors import CheckpointError
from ..gptq import Checkpoint, GptqExperts, GptqLinear, GptqTensors, StackedWeight, fused_experts
from ..gptq.checkpoint import PARTS
from ..gptq.dequantise import rounded
from ..gptq.fusion import fuse
from ..gptq.loading import at_a_time
from .mlp import Mixture, Mlp
from .names import ExpertsNames, FusedExperts, Linear, MlpNames, ModelNames
from .operations import Operations

Progress = Callable[[int, int], None]

_AT_A_TIME = 2  # decoder layers that are read, each of which takes memory where parts are joined


class DenseLinear:
    """y = x @ weight^T + bias. weight T [N, K], bias T [N] or None, arrays of the device."""

    def __init__(self, operations: Operations, weight: Any, bias: Any = None) -> None:
        self.weight, self.bias, self._operations = weight, bias, operations

    def __call__(self, x: Any, *, out: Any, stream: Any) -> None:
        """x T [M, K]; out T [M, N]."""
        self._operations.dense(x, self.weight, self.bias, out, stream, wide=False, adds=False)

    def into(self, total: Any, x: Any, *, adds: bool, stream: Any) -> None:
        """total float32 [M, N], set to the result or added to; x T [M, K]."""
        self._operations.dense(x, self.weight, self.bias, total, stream, wide=True, adds=adds)


@dataclass(frozen=True)
class Layer:
    """A decoder layer. Norms float32 [hidden], q's and k's float32 [head_dim] or None."""

    input_norm: Any
    qkv: GptqLinear | DenseLinear
    head_norms: tuple[Any, Any]
    o: GptqLinear | DenseLinear
    post_norm: Any
    mlp: Mlp | Mixture


@dataclass(frozen=True)
class Weights:
    """A whole model. norm float32 [hidden]; nbytes: on the device.

    embedding: float16 or bfloat16 [vocab, hidden], as the file has it; else float16, the finer one.
    """

    embedding: Any
    layers: tuple[Layer, ...]
    norm: Any
    head: GptqLinear | DenseLinear
    nbytes: int


class _Reader:
    """Reads a checkpoint's tensors onto a device, and counts their bytes."""

    def __init__(
        self, names: ModelNames, checkpoint: Checkpoint, operations: Operations, progress: Progress
    ) -> None:
        self.names, self.checkpoint, self.operations = names, checkpoint, operations
        self.device, self.dtype = operations.device, dtype_named(operations.config.dtype)
        self.nbytes = self._read = 0
        self._counting = threading.Lock()  # layers are read side by side
        self._progress = progress
        self._total = sum(checkpoint.tensors[name].nbytes for name in names.tensors)

    def _count(self, names: Iterable[str]) -> None:
        tensors = self.checkpoint.tensors
        nbytes = sum(tensors[name].nbytes for name in names if name in tensors)
        with self._counting:
            self._read += nbytes
            self._progress(self._read, self._total)

    def _count_layer(self, name: str) -> None:
        self._count(f"{name}.{part}" for part in PARTS)

    def _placed(self, nbytes: int) -> None:
        with self._counting:
            self.nbytes += nbytes

    def norm(self, name: str | None) -> Any:
        """A norm's weights, float32, or None."""
        return name and self._place(self._host(name, np.dtype(np.float32)))

    def embedding(self, name: str) -> Any:
        """The rows of token ids."""
        stored = self.checkpoint.tensors[name].dtype
        is_half = stored in ("float16", "bfloat16")
        return self._place(self._host(name, dtype_named(stored if is_half else "float16")))

    def _host(self, name: str, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
        array = self.checkpoint.array(name, mapped=True)
        self._count([name])
        return array if array.dtype == dtype else rounded(name, array, dtype)

    def _place(self, array: npt.NDArray[Any]) -> Any:
        self._placed(array.nbytes)
        return self.device.to_device(array, copy=False, align=kernels.ALIGN)

    def head(self, embedding: Any) -> GptqLinear | DenseLinear:
        """The head, which may be the embedding."""
        if self.names.head:
            return self.linear((self.names.head,))
        if embedding.dtype != self.dtype:  # its bytes are counted already
            name = self.names.embedding
            embedding = self._place(rounded(name, self.checkpoint.array(name), self.dtype))
        return DenseLinear(self.operations, embedding)

    def linear(self, parts: tuple[Linear, ...]) -> GptqLinear | DenseLinear:
        """Layers of one input as one: quantised where all are in one way, else dense."""
        layer = self._quantised(parts)
        if layer is None:
            weights = [self._rows(part) for part in parts]
            weight = self._place(weights[0] if len(parts) == 1 else np.concatenate(weights))
            biased = any(part.bias for part in parts)
            bias = np.concatenate([self._bias(part) for part in parts]) if biased else None
            return DenseLinear(self.operations, weight, None if bias is None else self._place(bias))
        for part in parts:
            self._count_layer(part.name)
        self._placed(layer.nbytes)
        return layer

    def _quantised(self, parts: tuple[Linear, ...]) -> GptqLinear | None:
        if not all(p.quantised and self.checkpoint.layers[p.name].bits == 4 for p in parts):
            return None
        tensors = [self.checkpoint.load(part.name, mapped=True) for part in parts]
        try:
            whole = fuse(tensors) if len(parts) > 1 else tensors[0]
        except CheckpointError:  # they do not share their groups
            return None
        layer = GptqLinear(whole, device=self.device, dtype=self.dtype)
        return layer if layer.gives_wide else None

    def _bias(self, part: Linear) -> npt.NDArray[Any]:
        """The bias [N] of a layer, zeros where it has none."""
        name = f"{part.name}.bias"
        return self._host(name, self.dtype) if part.bias else np.zeros(part.N, self.dtype)

    def _rows(self, part: Linear) -> npt.NDArray[Any]:
        """The weight [N, K] of a layer."""
        if not part.quantised:
            return self._host(f"{part.name}.weight", self.dtype)
        weight = self.checkpoint.dense(part.name, self.dtype).T
        self._count_layer(part.name)
        return np.ascontiguousarray(weight)

    def announce(self, number: int) -> None:
        """Have the system read a decoder layer's tensors ahead, if there is one of this number."""
        for layer in self.names.layers[number : number + 1]:
            start = layer.input_norm.removesuffix("input_layernorm.weight")
            self.checkpoint.announce(n for n in self.names.tensors if n.startswith(start))

    def layer(self, number: int) -> Layer:
        """A decoder layer; those that are read next are announced."""
        self.announce(number + _AT_A_TIME)
        names = self.names.layers[number]
        return Layer(
            input_norm=self.norm(names.input_norm),
            qkv=self.linear(names.qkv),
            head_norms=(self.norm(names.q_norm), self.norm(names.k_norm)),
            o=self.linear((names.o,)),
            post_norm=self.norm(names.post_norm),
            mlp=self.mlp(names.mlp) if isinstance(names.mlp, MlpNames) else self.mixture(names.mlp),
        )

    def mlp(self, names: MlpNames) -> Mlp:
        """An MLP."""
        return Mlp(self.linear(names.gate_up), self.linear((names.down,)))

    def mixture(self, names: ExpertsNames) -> Mixture:
        """A mixture of experts, each expert's tensors read into their place."""
        spec = self.operations.config.experts
        assert spec is not None
        stacks = [
            StackedWeight.of(its, spec.count, self.device, self.dtype)
            for its in self._experts(names.experts, spec.width)
        ]
        experts = GptqExperts(*stacks, device=self.device, dtype=self.dtype)
        self._placed(experts.nbytes)
        return Mixture(
            self.linear((names.router,)),
            experts,
            self.mlp(names.shared) if names.shared else None,
            self.linear((names.shared_gate,)) if names.shared_gate else None,
        )

    def _experts(
        self, names: Sequence[tuple[Linear, ...]] | FusedExperts, width: int
    ) -> Iterator[Iterable[GptqTensors]]:
        """Gate of all experts, then up, then down, each expert's read when it is its turn."""
        if not isinstance(names, FusedExperts):
            yield from (map(self._expert, its) for its in zip(*names, strict=True))
            return
        yield fused_experts(self.checkpoint, names.gate_up, 0, width)
        yield fused_experts(self.checkpoint, names.gate_up, width)
        self._count_layer(names.gate_up)
        yield fused_experts(self.checkpoint, names.down)
        self._count_layer(names.down)

    def _expert(self, part: Linear) -> GptqTensors:
        self._count_layer(part.name)
        return self.checkpoint.load(part.name)


def load_weights(
    names: ModelNames,
    checkpoint: Checkpoint,
    operations: Operations,
    progress: Progress = lambda done, total: None,
) -> Weights:
    """All weights of a model. progress(bytes read, bytes in all) is called after each tensor, from
    one thread at a time.

    Raises CheckpointError for what a checkpoint cannot have, and for values that the model's
    dtype cannot hold.
    """
    reader = _Reader(names, checkpoint, operations, progress)
    embedding = reader.embedding(names.embedding)
    for number in range(_AT_A_TIME):
        reader.announce(number)
    layers = tuple(at_a_time(reader.layer, range(len(names.layers)), _AT_A_TIME))
    norm, head = reader.norm(names.norm), reader.head(embedding)
    return Weights(embedding, layers, norm, head, reader.nbytes)
