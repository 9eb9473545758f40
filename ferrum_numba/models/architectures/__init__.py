"""The architectures that are computed here: a file each, which says what differs from Llama."""

from ...gptq.keys import Keys
from .llama import Llama
from .mistral import Mistral
from .mixtral import Mixtral
from .phi3 import Phi3
from .qwen2 import Qwen2
from .qwen3 import Qwen3
from .qwen_moe import Qwen2Moe, Qwen3Moe

_ALL = (Llama, Mistral, Qwen2, Qwen3, Phi3, Mixtral, Qwen2Moe, Qwen3Moe)
ARCHITECTURES = {own.name: own() for own in _ALL}
"""Architectures by their name in config.json."""


def find_architecture(keys: Keys) -> Llama:
    """The architecture that a config.json names. Raises CheckpointError for any other."""
    key, known = "architectures", ARCHITECTURES
    if keys[key] is None:  # very old files have the type alone
        key, known = "model_type", {own.model_type: own for own in ARCHITECTURES.values()}
    names = keys[key] if isinstance(keys[key], list) else [keys[key]]
    if len(names) != 1 or not isinstance(names[0], str) or names[0] not in known:
        raise keys.error(key, f"one of {', '.join(known)}", _REMEDY)
    return known[names[0]]


_REMEDY = "other models are not computed here; their layers can be, by GptqLinear"

__all__ = ["ARCHITECTURES", "Llama", "find_architecture"]
