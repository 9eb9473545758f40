"""The NumPy reference against the oracles of real producers' models, and against itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.conftest import FIXTURES
from tests.models.reference import Reference
from tests.models.tiny import KINDS, make_model

MODELS = sorted(path.name for path in (FIXTURES / "models").iterdir())


@pytest.mark.parametrize("name", MODELS)
def test_logits_and_greedy_tokens_are_the_oracles(name: str) -> None:
    folder = FIXTURES / "models" / name
    oracle = load_file(folder / "oracle_model.safetensors")
    reference = Reference(folder)
    np.testing.assert_allclose(reference.logits(oracle["ids"]), oracle["logits_f32"], atol=1e-3)
    ids, margins = reference.greedy(oracle["greedy_prompt"], len(oracle["greedy_ids"]))
    assert ids == oracle["greedy_ids"].tolist()
    np.testing.assert_allclose(margins, oracle["greedy_margin"], atol=1e-3)


IDS = np.random.default_rng(0).integers(0, 160, 40)


def test_a_window_as_long_as_the_text_hides_nothing(tmp_path: Path) -> None:
    """And a shorter one changes what comes after its length, nothing before."""
    name = "MistralForCausalLM"
    whole, wide, narrow = (
        Reference(make_model(tmp_path / str(window), name, sliding_window=window)).logits(IDS)[0]
        for window in (None, 40, 16)
    )
    assert np.array_equal(whole, wide)
    assert np.array_equal(whole[:16], narrow[:16])
    assert (np.abs(whole[16:] - narrow[16:]).max(axis=1) > 1e-3).all()


def test_the_first_layers_of_qwen_see_everything(tmp_path: Path) -> None:
    """Layer types say the same as use_sliding_window with max_window_layers."""
    window = {"sliding_window": 8, "use_sliding_window": True}
    types = ["full_attention", "sliding_attention"]
    old, new, off = (
        Reference(make_model(tmp_path / str(number), "Qwen2ForCausalLM", **keys)).logits(IDS)
        for number, keys in enumerate(
            (
                {**window, "max_window_layers": 1},
                {**window, "layer_types": types},
                {**window, "use_sliding_window": False},
            )
        )
    )
    assert np.array_equal(old, new)
    assert np.array_equal(old[:, :8], off[:, :8])
    assert not np.allclose(old[:, 8:], off[:, 8:])


@pytest.mark.parametrize("kind", KINDS)
def test_models_of_each_kind(tmp_path: Path, kind: str) -> None:
    """Logits of the size that trained models have; and the same bytes each time."""
    folder, again = (make_model(tmp_path / name, **KINDS[kind]) for name in ("model", "again"))
    logits = Reference(folder).logits(IDS[None, :])
    assert logits.shape == (1, 40, 160)
    assert 1 < logits.std() < 10
    first, second = ((path / "model.safetensors").read_bytes() for path in (folder, again))
    assert first == second


def test_fused_layers_are_their_parts_side_by_side(tmp_path: Path) -> None:
    """A Phi-3 of split names, made of a fused one's columns, has the same logits."""
    dense = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")  # ends of the fused names, too
    fused, split = (
        Reference(make_model(tmp_path / str(fused), "Phi3ForCausalLM", fused=fused, dense=dense))
        for fused in (True, False)
    )
    assert [len(layer.qkv) for layer in (*fused.names.layers, *split.names.layers)] == [1, 1, 3, 3]
    for whole, parts in zip(fused.names.layers, split.names.layers, strict=True):
        for one, many in ((whole.qkv, parts.qkv), (whole.mlp.gate_up, parts.mlp.gate_up)):
            (fused_one,) = one
            columns = np.split(
                fused.weight(fused_one.name), np.cumsum([part.N for part in many])[:-1], axis=1
            )
            for part, weight in zip(many, columns, strict=True):
                split._arrays[part.name] = weight
    np.testing.assert_allclose(split.logits(IDS), fused.logits(IDS), atol=1e-4)
