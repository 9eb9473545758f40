"""The architectures that are computed here: a file each, which says what differs from Llama."""

from ..keys import Keys
from .llama import Llama
from .mistral import Mistral
from .mixtral import Mixtral
from .phi3 import Phi3
from .qwen2 import Qwen2
from .qwen3 import Qwen3
from .qwen_moe import Qwen2Moe, Qwen3Moe

_DENSE = (Llama(), Mistral(), Qwen2(), Qwen3(), Phi3())
ARCHITECTURES = {own.name: own for own in (*_DENSE, Mixtral(), Qwen2Moe(), Qwen3Moe())}
"""By the name that config.json has them under."""


def find_architecture(keys: Keys) -> Llama:
    """The architecture that a config.json names. Raises CheckpointError for any other."""
    stated = keys["architectures"]
    if stated is None:  # very old files have the type alone
        types = {own.model_type: own for own in ARCHITECTURES.values()}
        if str(keys["model_type"]) not in types:
            raise keys.error("model_type", f"one of {', '.join(types)}", _REMEDY)
        return types[keys["model_type"]]
    names = stated if isinstance(stated, list) else [stated]
    found = ARCHITECTURES.get(names[0]) if len(names) == 1 and isinstance(names[0], str) else None
    if found is None:
        raise keys.error("architectures", f"one of {', '.join(ARCHITECTURES)}", _REMEDY)
    return found


_REMEDY = "other models are not computed here; their layers can be, by GptqLinear"

__all__ = ["ARCHITECTURES", "Llama", "find_architecture"]
