"""A few mutants of each class of the canonical kernel; scripts/mutate.py runs them all."""

from __future__ import annotations

import pytest

from .mutations import Mutant, mutants
from .subjects import canonical, shipped
from .trial import Trial


@pytest.fixture(scope="module")
def trial() -> Trial:
    return Trial(canonical())


def chosen() -> list[Mutant]:
    """Of each class the middle one."""
    classes: dict[str, list[Mutant]] = {}
    for mutant in mutants(canonical()):
        classes.setdefault(mutant.kind, []).append(mutant)
    return [group[len(group) // 2] for group in classes.values()]


@pytest.mark.parametrize("mutant", chosen(), ids=lambda mutant: mutant.kind)
def test_mutants_that_do_harm_are_found(trial: Trial, mutant: Mutant) -> None:
    outcome = trial.judge(mutant)
    assert not outcome.missed, outcome


def test_barriers(trial: Trial) -> None:
    """The first and the last barrier of the loop: found although the results may be right."""
    deleted = [m for m in mutants(canonical()) if m.kind == "barrier deleted"]
    for mutant in (deleted[0], deleted[6]):
        assert "race" in trial.judge(mutant).found


def test_mutants_are_made_of_what_a_kernel_has() -> None:
    kinds = {mutant.kind for mutant in mutants(shipped("add_bias.sm_80", M=3, N=600))}
    assert "mask of a store dropped" in kinds
    assert "barrier deleted" not in kinds
