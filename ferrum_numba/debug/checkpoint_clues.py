"""Causes of a checkpoint that cannot be read, by the codes of the reader's errors."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, FerrumError
from ..gptq import Checkpoint
from .causes import CAUSES
from .explanation import Diagnosis, Suspect
from .hypothesis import Verdict

# Of what is wrong with all layers alike, it is the configuration.
_OF_ALL = ("tensor-shape", "tensor-values", "configuration-wrong")


def explain_checkpoint(path: str | Path) -> Diagnosis:
    """Name the likely cause of a checkpoint that cannot be read; all layers are read.

    Raises nothing for a damaged one: that is the answer.
    """
    start = time.perf_counter()
    refusals = list(_refusals(Path(path)))
    suspects = [_suspect(error) for error in refusals]
    if len(refusals) > 1 and all("symmetric" in error.data for error in refusals):
        told = f"{refusals[0]} (so it is for {len(refusals)} layers)"
        if not any(s.cause == "zero-convention" for s in suspects):
            suspects.insert(0, Suspect("configuration-wrong", "certain", told, 0.95))
    if not suspects:
        told = "every layer can be read, and its values are such as can be"
        suspects = [Suspect("none", "suspected", told, 0.5)]
    return Diagnosis(suspects, [], None, [], 0, time.perf_counter() - start)


def _refusals(path: Path) -> Iterator[FerrumError]:
    """The errors of the checkpoint and of each of its layers."""
    try:
        checkpoint = Checkpoint.open(path)
    except FerrumError as error:
        yield error
        return
    yield from checkpoint.errors.values()
    for name in checkpoint.layers:
        try:
            if not checkpoint.dense(name).any():
                yield CheckpointError(
                    name, "weights", "zeros alone: its scales are zero", code="tensor-values"
                )
        except CheckpointError as error:
            yield error


def _suspect(error: FerrumError) -> Suspect:
    cause = error.code if error.code in CAUSES else "unknown"
    if error.data.get("layers", 1) > 1 and cause in _OF_ALL:
        cause = _misshapen(error.data) if "qweight" in error.data else "configuration-wrong"
    verdict: Verdict = "suspected" if cause == "unknown" else "certain"
    return Suspect(cause, verdict, str(error), 0.95)


def _misshapen(data: Mapping[str, Any]) -> str:
    """Cause of a tensor that in all layers has another shape than the others ask for."""
    expected, found, (rows, columns) = data["expected"], data["found"], data["qweight"]
    bits, size = data["bits"], data["group_size"]
    if len(expected) != 2 or len(found) != 2:
        return "configuration-wrong"
    if bits and size > 0 and [columns * 32 // bits // size, rows * bits // 32] == found:
        return "operand-transposed"
    if expected[1] == found[1]:  # the rows depend on group_size alone
        return "configuration-wrong"
    alike = all(
        one and other and not max(one, other) % min(one, other)
        for one, other in zip(expected, found, strict=True)
    )
    return "configuration-wrong" if alike else "tensor-shape"
