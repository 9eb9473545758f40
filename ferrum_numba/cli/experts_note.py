"""Notes of experts that a checkpoint has otherwise than the others, or not at all."""

from __future__ import annotations

from collections.abc import Mapping

from .console import one_line, standard_error


def mention_experts(problems: Mapping[str, str]) -> None:
    """Say which, on standard error; problems: as `gptq.expert_problems` finds them."""
    for name, found in problems.items():
        standard_error().print(f"note: {one_line(name)}: {found}")
