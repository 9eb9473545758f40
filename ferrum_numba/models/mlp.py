"""An MLP, or a mixture of experts: the second half of a layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from ..gptq import GptqExperts
from .experts import ExpertsConfig
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

    spec: ExpertsConfig
    router: Linear
    experts: GptqExperts
    shared: Mlp | None
    shared_gate: Linear | None

    def idle_bytes(self, tokens: int) -> int:
        """Bytes of experts that so many tokens cannot touch."""
        idle = max(0, self.spec.count - tokens * self.spec.top_k)
        return self.experts.nbytes * idle // self.spec.count

    def __call__(self, does: Operations, work: Workspace, stream: Any) -> None:
        """work.x += the mixture of work.normed."""
        own, normed = work.choices, work.normed
        assert own is not None
        self.router.into(own.logits, normed, adds=False, stream=stream)
        does.choose(own.logits, own.weights, own.ids, self.spec, stream)
        tiles = self.experts.tiles(own.ids.shape[0])
        routing, room = own.room(tiles)
        does.align(own.ids, routing, tiles, self.spec, stream)
        self.experts(normed, routing, own.weights, room, stream)
        shared = gate = None
        if self.shared is not None:
            both, gated, shared = own.shared
            self.shared.inside(does, normed, both, gated, stream)
            self.shared.down(gated, out=shared, stream=stream)
        if self.shared_gate is not None:
            gate = own.shared_gate
            self.shared_gate.into(gate, normed, adds=False, stream=stream)
        does.sum(work.x, room.parts, shared, gate, self.spec, stream)
