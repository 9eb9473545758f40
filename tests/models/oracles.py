"""Logits that transformers gives for the models of `tiny.KINDS`, which transformers.npz keeps.

    python -m venv .venv-hf && .venv-hf/bin/pip install torch transformers -e '.[test]'
    .venv-hf/bin/python -m tests.models.oracles

writes the file anew: dense models in float32, of the weights that `Checkpoint` dequantises.  Of
each kind, but for stacked experts, it has the last positions of two texts.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ferrum_numba.gptq import Checkpoint
from tests.models.tiny import KINDS, make_model

FILE = Path(__file__).parent / "transformers.npz"
IDS = np.random.default_rng(0).integers(0, 160, (2, 40))
LAST = 2  # positions of each text
COVERED = [kind for kind, own in KINDS.items() if own.get("expert_names") != ("mlp.", ())]

_TYPES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "MixtralForCausalLM": "mixtral",
    "Phi3ForCausalLM": "phi3",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen2MoeForCausalLM": "qwen2_moe",
    "Qwen3ForCausalLM": "qwen3",
    "Qwen3MoeForCausalLM": "qwen3_moe",
}
_MIXTRAL = {".mlp.": ".block_sparse_moe.", "gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"}
_FUSED = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}


def oracles() -> dict[str, npt.NDArray[np.float32]]:
    """float32 [2, LAST, vocab] by kind."""
    with np.load(FILE) as file:
        return dict(file)


def _tensors(folder: Path) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
    """Names and values of the weights as they were before they were quantised."""
    checkpoint = Checkpoint.open(folder)
    for name in checkpoint.tensors:
        layer, _, part = name.rpartition(".")
        if part == "qweight":
            yield f"{layer}.weight", checkpoint.dense(layer, np.float32).T
        elif part not in ("qzeros", "scales", "g_idx"):
            yield name, checkpoint.array(name).astype(np.float32)


def _as_on_the_hub(
    tensors: dict[str, npt.NDArray[np.float32]], model_type: str
) -> dict[str, npt.NDArray[np.float32]]:
    """The same tensors by the names, and in the pieces, that transformers reads."""
    found = {n.replace("model.language_model.", "model."): a for n, a in tensors.items()}
    for ours, theirs in _MIXTRAL.items() if model_type == "mixtral" else ():
        found = {n.replace(ours, theirs): a for n, a in found.items()}
    for whole, parts in _FUSED.items() if model_type == "phi3" else ():
        for name in [n for n in found if parts[0] in n]:
            own = [found.pop(name.replace(parts[0], part)) for part in parts]
            found[name.replace(parts[0], whole)] = np.concatenate(own)
    return found


def _logits(folder: Path) -> npt.NDArray[np.float32]:
    """Logits by transformers of a model of `make_model`."""
    import torch
    from safetensors.numpy import save_file
    from transformers import AutoModelForCausalLM

    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    config["model_type"] = _TYPES[config["architectures"][0]]
    tensors = _as_on_the_hub(dict(_tensors(folder)), config["model_type"])
    for key in ("quantization_config", "dtype", "torch_dtype"):
        config.pop(key, None)
    with tempfile.TemporaryDirectory() as dense:
        (Path(dense) / "config.json").write_text(json.dumps({"pad_token_id": 0, **config}))
        arrays = {n: np.ascontiguousarray(a) for n, a in tensors.items()}
        save_file(arrays, Path(dense) / "model.safetensors", metadata={"format": "pt"})
        model, info = AutoModelForCausalLM.from_pretrained(
            dense, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
        )
    left = {key: names for key, names in info.items() if names}
    if left:
        raise SystemExit(f"{folder.name}: expected each tensor in its place; found {left}")
    with torch.no_grad():
        return np.asarray(model(torch.tensor(IDS)).logits[:, -LAST:].numpy())


def main() -> None:
    """Write the file."""
    found = {}
    with tempfile.TemporaryDirectory() as scratch:
        for kind in COVERED:
            found[kind] = _logits(make_model(Path(scratch) / kind, **KINDS[kind]))
    np.savez_compressed(FILE, **found)


if __name__ == "__main__":
    main()
