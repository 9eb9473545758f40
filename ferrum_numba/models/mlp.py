"""An MLP, or a mixture of experts: the second half of a layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from ..gptq import GptqExperts
from .operations import Operations
from .workspace import Workspace


class Linear(Protocol):
    """A linear layer, quantised or not."""

    def __call__(self, x: Any, *, out: Any, stream: Any) -> Any: ...
    def into(self, total: Any, x: Any, *, adds: bool, stream: Any) -> None: ...


@dataclass(frozen=True)
class Mlp:
    """down(silu(gate(x)) * up(x)).  gate_up: gate's columns, then up's."""

    gate_up: Linear
    down: Linear

    def __call__(self, does: Operations, work: Workspace, stream: Any) -> None:
        """work.x += the MLP of work.normed."""
        self.inside(does, work.normed, work.both, work.gated, stream)
        self.down.into(work.x, work.gated, adds=True, stream=stream)

    def inside(self, does: Operations, x: Any, both: Any, gated: Any, stream: Any) -> None:
        """gated = silu(gate(x)) * up(x), by way of `both`."""
        self.gate_up(x, out=both, stream=stream)
        does.gate(both, gated, stream)


@dataclass(frozen=True)
class Mixture:
    """The experts that a router chooses for each token, and an MLP that all tokens go to, or None.

    shared_gate: of that MLP; None where it counts in full.
    """

    router: Linear
    experts: GptqExperts
    shared: Mlp | None
    shared_gate: Linear | None

    def __call__(self, does: Operations, work: Workspace, stream: Any) -> None:
        """work.x += the mixture of work.normed."""
        assert work.space is not None
        normed, choices = work.normed, work.ids.shape[0] * work.ids.shape[1]
        ids, counts = (array.reshape((choices,)) for array in (work.ids, work.counts))
        self.router.into(work.scores, normed, adds=False, stream=stream)
        does.choose(work.scores, counts, ids, stream)
        tiles = self.experts.tiles(choices)
        routing, room = work.space.room(tiles, choices)
        does.align(ids, routing, tiles, stream)
        self.experts(normed, routing, counts, room, stream)
        shared = gate = None
        if self.shared is not None:
            shared = work.shared
            self.shared.inside(does, normed, work.shared_both, work.shared_gated, stream)
            self.shared.down(work.shared_gated, out=shared, stream=stream)
        if self.shared_gate is not None:
            gate = work.shared_gate
            self.shared_gate.into(gate, normed, adds=False, stream=stream)
        does.sum(work.x, room.parts, shared, gate, stream)
