"""Layers of a checkpoint that are alike: the same kernels multiply them, in the same time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..gptq import Checkpoint, LayerSpec
from .reference import Dtype


@dataclass(frozen=True)
class LayerKind:
    """Kind of a layer: the choice of a kernel and its time depend on nothing else.

    K, N, ...  as in `LayerSpec`
    dtype      of x and y: that of the layer's scales
    symmetric  what the configuration says of a layer in activation order, whose kernels may then
               read no zeros; else None, since it makes no difference
    """

    K: int
    N: int
    bits: int
    group_size: int
    zero_format: str
    act_order: bool
    bias: bool
    dtype: Dtype
    symmetric: bool | None

    @classmethod
    def of(cls, spec: LayerSpec) -> LayerKind:
        """The kind of a layer, by its headers."""
        return cls(
            K=spec.K,
            N=spec.N,
            bits=spec.bits,
            group_size=spec.group_size,
            zero_format=spec.zero_format,
            act_order=spec.act_order,
            bias=spec.bias,
            dtype="bfloat16" if spec.scales_dtype == "bfloat16" else "float16",
            symmetric=spec.symmetric if spec.act_order else None,
        )


def layer_kinds(checkpoint: Checkpoint, names: Iterable[str]) -> dict[LayerKind, list[str]]:
    """The kinds of these layers, in the order in which they come first, and the layers of each.

    Layers that the checkpoint cannot read, its `problems`, are of no kind, and left out.
    """
    kinds: dict[LayerKind, list[str]] = {}
    for name in names:
        if name in checkpoint.layers:
            kinds.setdefault(LayerKind.of(checkpoint.layers[name]), []).append(name)
    return kinds
