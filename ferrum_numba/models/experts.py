"""A mixture of experts, as a config.json describes it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ExpertsConfig:
    """The MLPs among which a router chooses for each token.

    count        experts
    top_k        that a token goes to, of `count`
    width        of an expert's MLP
    renormalise  whether the weights of a token's experts are divided by their sum
    shared       width of an MLP that all tokens go to besides; 0: none
    shared_gate  whether that is multiplied by sigmoid(x · gate)
    """

    count: int
    top_k: int
    width: int
    renormalise: bool
    shared: int = 0
    shared_gate: bool = False
