"""The kernels that a model needs, before a weight is read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from .. import kernels
from ..gptq import Checkpoint
from ..kernels import Artefact
from .names import Linear, MlpNames, ModelNames
from .operations import Operations


def needed(
    names: ModelNames, checkpoint: Checkpoint, operations: Operations, rows: Iterable[int]
) -> set[Artefact]:
    """The builds that compute with so many rows at a time: 1 for a step, more for prompts.

    What values alone decide, such as a layer whose zeros are all 8, may take others, and experts
    have kernels of their own: these are loaded when they are first launched.
    """
    layer, counts = names.layers[0], tuple(rows)
    groups = [layer.qkv, (layer.o,), *([(names.head,)] if names.head else [])]
    if isinstance(layer.mlp, MlpNames):
        groups += [layer.mlp.gate_up, (layer.mlp.down,)]
    found = set(operations.builds())
    for parts in groups:
        found.update(_of_linear(parts, checkpoint, operations, counts))
    if names.head is None or not names.head.quantised:
        found.add(operations.dense_build(1, wide=True))
    return found


def _of_linear(
    parts: tuple[Linear, ...], checkpoint: Checkpoint, operations: Operations, rows: tuple[int, ...]
) -> Iterator[Artefact]:
    """The GEMMs of layers that are computed as one."""
    specs = [checkpoint.layers[part.name] for part in parts if part.quantised]
    if len(specs) < len(parts) or any(spec.bits != 4 for spec in specs):
        yield from (operations.dense_build(m, wide=wide) for m in rows for wide in (False, True))
        return
    first, columns = specs[0], sum(spec.N for spec in specs)
    zero_bias = 0 if first.zero_format == "v2" else 1
    dtype = operations.config.dtype
    for m in rows:
        shape = (operations.device, m, columns, first.K)
        if first.act_order:
            yield kernels.choose_act_order(
                *shape, first.groups, zero_bias, dtype, bool(first.symmetric)
            )
            continue
        for wide in (False, True):
            yield kernels.choose(*shape, first.group_size, zero_bias, dtype, wide)
