"""A few mutants of each class of the canonical kernel; scripts/mutate.py runs them all."""

from __future__ import annotations

import pytest

from tests.campaigns.mutants.mutations import Mutant, mutants
from tests.campaigns.mutants.subjects import Subject, canonical, multiply, persistent, shipped
from tests.campaigns.mutants.trial import ALL, Trial


@pytest.fixture(scope="module")
def trial() -> Trial:
    return Trial(canonical())


def chosen(subject: Subject) -> list[Mutant]:
    """Of each class the middle one."""
    classes: dict[str, list[Mutant]] = {}
    for mutant in mutants(subject):
        classes.setdefault(mutant.kind, []).append(mutant)
    return [group[len(group) // 2] for group in classes.values()]


@pytest.mark.parametrize("mutant", chosen(canonical()), ids=lambda mutant: mutant.kind)
def test_mutants_that_do_harm_are_found(trial: Trial, mutant: Mutant) -> None:
    outcome = trial.judge(mutant)
    assert not outcome.missed, outcome


def test_barriers(trial: Trial) -> None:
    """The first and the last barrier of the loop: found although the results may be right."""
    deleted = [m for m in mutants(canonical()) if m.kind == "barrier deleted"]
    for mutant in (deleted[0], deleted[6]):
        assert "race" in trial.judge(mutant).found


def test_the_gemm_of_mma() -> None:
    """Launches only, as below: another text takes seconds to compile."""
    _judge_launches(Trial(multiply()))


def test_the_gemm_of_wgmma() -> None:
    trial = Trial(persistent())
    _judge_launches(trial)
    # Parts of a sum that other CTAs have stored are read once they have said so.
    relaxed = trial.subject.text.replace("atom.global.gpu.acq_rel", "atom.global.gpu.relaxed")
    findings, _ = trial.run(Mutant("order", "relaxed", relaxed), ALL)
    assert "cta-race" in {f.kind for f in findings}


def _judge_launches(trial: Trial) -> None:
    for mutant in chosen(trial.subject):
        if mutant.text is None:
            outcome = trial.judge(mutant)
            assert not outcome.missed, outcome


def test_mutants_are_made_of_what_a_kernel_has() -> None:
    kinds = {mutant.kind for mutant in mutants(shipped("add_bias.sm_80", M=3, N=600))}
    assert "mask of a store dropped" in kinds
    assert "barrier deleted" not in kinds
