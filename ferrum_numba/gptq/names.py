"""Names that the same layer has in files of different makers."""

from __future__ import annotations

import re
from collections.abc import Iterator

# The text model, alone or in a multimodal one: versions of transformers put it into other places.
_TEXT_MODELS = (
    "model.language_model.",
    "language_model.model.",
    "model.text_model.",
    "thinker.model.",
    "llm.model.",
    "model.",
)
# Mixtral's experts, in its own files and in those of GPTQModel on transformers 5.
_MIXTRAL = re.compile(r"\.block_sparse_moe\.experts\.(\d+)\.(w1|w2|w3)$")
_EXPERT = re.compile(r"\.mlp\.experts\.(\d+)\.(gate_proj|down_proj|up_proj)$")
_PROJECTIONS = {"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}
_SHORT = {long: short for short, long in _PROJECTIONS.items()}


def spellings(name: str) -> Iterator[str]:
    """The name of a layer, and then those that files of other makers can have for it."""
    for expert in dict.fromkeys([name, _other_expert(name)]):
        yield from text_spellings(expert)


def text_spellings(name: str) -> Iterator[str]:
    """The name of a layer, and then those with its text model in other places."""
    yield name
    prefix = next((text for text in _TEXT_MODELS if name.startswith(f"{text}layers.")), None)
    if prefix is not None:
        rest = name.removeprefix(prefix)
        yield from (f"{other}{rest}" for other in _TEXT_MODELS if other != prefix)


def _other_expert(name: str) -> str:
    if found := _MIXTRAL.search(name):
        return f"{name[: found.start()]}.mlp.experts.{found[1]}.{_PROJECTIONS[found[2]]}"
    if found := _EXPERT.search(name):
        return f"{name[: found.start()]}.block_sparse_moe.experts.{found[1]}.{_SHORT[found[2]]}"
    return name
