"""The cases of scripts/check_opcodes.py that have a model, a few hundred operands of each.

Every eighth of them, another one each time the seed below changes: the script runs them all.
"""

from __future__ import annotations

import numpy as np
import pytest

import ferrum_numba as fe
from tests.campaigns.opcode_cases import Case, catalogue
from tests.campaigns.opcode_cases.comparison import differing, run

CASES = [case for case in catalogue() if case.model is not None]
# All of what NumPy's own tests here do not have.
RARE = {"carry", "rounding", "warp", "atomic"}
CHOSEN = [
    case for i, case in enumerate(CASES) if case.family in RARE or "x2" in case.name or i % 16 == 0
]


@pytest.mark.parametrize("case", CHOSEN, ids=lambda case: f"{case.family} {case.name}")
def test_against_the_model(case: Case) -> None:
    n = 256
    inputs = case.inputs(n, 1)
    found = run(fe.open_device("cpu"), case, inputs, n)[0]
    assert case.model is not None
    expected = np.ascontiguousarray(case.model(*inputs))
    wrong, _, places = differing(found, expected.view(found.dtype), case.results[0][0], case.rule)
    assert not wrong, (found[places], expected.reshape(-1)[places])
