"""examples/real_model.py, and what the model that it makes has to say.

The model itself comes out of a wheel of 93 MB, so the tests that need it want to be shown one:
FERRUM_EXAMPLE_MODEL=smollm2 pytest tests/examples.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import ferrum_numba as fe
from ferrum_numba.examples.real_model import GROUP_SIZE, halves, quantised
from ferrum_numba.gptq import quantize
from tests.models.reference import Reference

ROOT = Path(__file__).parents[2]
ORACLE = json.loads((ROOT / "tests" / "data" / "smollm2_oracle.json").read_text(encoding="utf-8"))


def test_its_scales_fit_better_than_those_of_the_whole_range() -> None:
    weight = np.random.default_rng(0).standard_normal((128, 64)).astype(np.float32)
    searched = quantised(weight)
    rounded = quantize(weight, group_size=GROUP_SIZE, symmetric=False)
    errors = [np.linalg.norm(t.dequantize(np.float32) - weight) for t in (searched, rounded)]
    assert errors[0] < 0.98 * errors[1]
    assert 1 <= searched.zeros().min() <= searched.zeros().max() <= 15


def test_heads_of_neighbouring_pairs_become_halves() -> None:
    """Turned by the halves' rule, the rows give what the pairs' rule gave before."""
    rows = np.arange(16, dtype=np.float32)[:, None]
    assert halves(rows, 2)[:, 0].tolist() == [
        *(0, 2, 4, 6, 1, 3, 5, 7),
        *(8, 10, 12, 14, 9, 11, 13, 15),
    ]


@pytest.fixture(scope="module")
def example() -> Path:
    """The directory that the script wrote."""
    if "FERRUM_EXAMPLE_MODEL" not in os.environ:
        pytest.skip("name examples/real_model.py's directory in FERRUM_EXAMPLE_MODEL")
    return Path(os.environ["FERRUM_EXAMPLE_MODEL"])


@pytest.fixture(scope="module")
def reference(example: Path) -> Reference:
    return Reference(example)


@pytest.mark.parametrize("said", ORACLE["prompts"], ids=lambda said: said["kind"])
def test_text_of_the_example(example: Path, said: dict[str, Any]) -> None:
    pytest.importorskip("tokenizers")
    tokenizer = fe.Tokenizer.load(example)
    read = tokenizer.chat if said["kind"] == "chat" else tokenizer.encode
    assert read(said["prompt"]) == said["input_ids"]
    stream, text = tokenizer.stream(after=said["input_ids"]), ""
    for token in said["greedy_ids"]:  # which go on after the end
        if token in tokenizer.eos:
            break
        text += stream.put(token)
    assert text + stream.end() == said["text"]


@pytest.mark.parametrize("said", ORACLE["prompts"], ids=lambda said: said["kind"])
def test_the_example_says_what_the_oracle_says(reference: Reference, said: dict[str, Any]) -> None:
    """Each greedy token, given those before it; margins as close as float32 is."""
    prompt, answer = said["input_ids"], said["greedy_ids"]
    logits = reference.logits(np.array(prompt + answer))[0, len(prompt) - 1 : -1]
    assert logits.argmax(axis=-1).tolist() == answer
    best = np.sort(logits, axis=-1)[:, -2:]
    np.testing.assert_allclose(best[:, 1] - best[:, 0], said["margins"], atol=2e-3)


def mean_log_probability(model: Any, ids: npt.NDArray[np.int64]) -> float:
    """Of each token, given those before it."""
    logits = model.logits(ids)[0, :-1].astype(np.float64)
    every = np.logaddexp.reduce(logits, axis=-1)
    return float((logits[np.arange(ids.size - 1), ids[1:]] - every).mean())


def test_how_likely_the_example_finds_a_text(reference: Reference) -> None:
    ids = np.array(ORACLE["fixed_text"]["ids"])
    expected = ORACLE["fixed_text"]["mean_logprob"]
    assert mean_log_probability(reference, ids) == pytest.approx(expected, abs=1e-4)


@pytest.fixture(scope="module")
def loaded() -> dict[str, fe.Model]:
    """The example on each device that was asked for."""
    return {}


@pytest.fixture
def model(device: fe.Device, example: Path, loaded: dict[str, fe.Model]) -> fe.Model:
    if device.name not in loaded:
        loaded[device.name] = fe.Model.load(example, device=device)
    return loaded[device.name]


@pytest.mark.parametrize("said", ORACLE["prompts"], ids=lambda said: said["kind"])
def test_a_device_says_what_the_oracle_says(model: fe.Model, said: dict[str, Any]) -> None:
    """Up to the end of the text, or to the first choice that is too close for float16."""
    answer, (end,) = said["greedy_ids"], model.config.eos
    if end in answer:
        answer = answer[: answer.index(end) + 1]
    found = list(model.generate(said["input_ids"], max_new_tokens=len(answer)))
    close = (i for i, margin in enumerate(said["margins"]) if margin < 0.05)
    clear = next(close, len(answer))
    assert found[:clear] == answer[:clear]


def test_how_likely_a_device_finds_a_text(model: fe.Model) -> None:
    ids = np.array(ORACLE["fixed_text"]["ids"])
    expected = ORACLE["fixed_text"]["mean_logprob"]
    assert mean_log_probability(model, ids) == pytest.approx(expected, abs=2e-3)
