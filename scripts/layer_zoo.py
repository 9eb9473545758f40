"""Linear layers of public models, and the rows they are multiplied by: what GEMMs are timed on.

Half of the layers are for tuning, the other half is held out: no choice and no constant may come
from it.  Sorted by size, they go to the halves by turns, so that both have all kinds.
"""

from __future__ import annotations

from typing import NamedTuple


class Layer(NamedTuple):
    """y[M, N] = x[M, K] @ w[K, N].  name: model, its shard, and which of its layers."""

    name: str
    N: int
    K: int


# Neither only powers of two, nor only multiples of a tile.
ROWS = (1, 2, 4, 7, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048,
        3000, 4096)  # fmt: skip

ZOO = (
    Layer("Qwen2.5-0.5B qkv", 1152, 896),
    Layer("Qwen2.5-0.5B o", 896, 896),
    Layer("Qwen2.5-0.5B gate+up", 9728, 896),
    Layer("Qwen2.5-0.5B down", 896, 4864),
    Layer("Qwen2.5-1.5B qkv", 2048, 1536),
    Layer("Qwen2.5-1.5B gate", 8960, 1536),
    Layer("Qwen2.5-1.5B gate+up", 17920, 1536),
    Layer("Qwen2.5-1.5B down", 1536, 8960),
    Layer("Qwen2.5-3B qkv", 2560, 2048),
    Layer("Qwen2.5-3B down", 2048, 11008),
    Layer("Qwen2.5-7B qkv", 4608, 3584),
    Layer("Qwen2.5-7B k", 512, 3584),
    Layer("Qwen2.5-7B o", 3584, 3584),
    Layer("Qwen2.5-7B gate+up", 37888, 3584),
    Layer("Qwen2.5-7B down", 3584, 18944),
    Layer("Qwen2.5-14B qkv", 7168, 5120),
    Layer("Qwen2.5-14B o", 5120, 5120),
    Layer("Qwen2.5-14B gate", 13824, 5120),
    Layer("Qwen2.5-14B gate+up", 27648, 5120),
    Layer("Qwen2.5-14B down", 5120, 13824),
    Layer("Qwen2.5-32B gate+up", 55296, 5120),
    Layer("Qwen2.5-32B 1/2 down", 5120, 13824),
    Layer("Qwen2.5-32B 1/4 qkv", 1792, 5120),
    Layer("Qwen2.5-32B 1/4 o", 5120, 1280),
    Layer("Qwen2.5-72B gate+up", 59136, 8192),
    Layer("Llama-3.2-1B qkv", 3072, 2048),
    Layer("Llama-3.2-1B gate+up", 16384, 2048),
    Layer("Llama-3.2-1B down", 2048, 8192),
    Layer("Llama-3.2-3B qkv", 5120, 3072),
    Layer("Llama-3.2-3B o", 3072, 3072),
    Layer("Llama-3.2-3B gate+up", 16384, 3072),
    Layer("Llama-3.2-3B down", 3072, 8192),
    Layer("Llama-3.1-8B k", 1024, 4096),
    Layer("Llama-3.1-8B qkv", 6144, 4096),
    Layer("Llama-3.1-8B o", 4096, 4096),
    Layer("Llama-3.1-8B gate", 14336, 4096),
    Layer("Llama-3.1-8B gate+up", 28672, 4096),
    Layer("Llama-3.1-8B down", 4096, 14336),
    Layer("Llama-3.1-8B 1/8 o", 4096, 512),
    Layer("Llama-3.1-8B 1/8 gate+up", 3584, 4096),
    Layer("Llama-3.1-70B qkv", 10240, 8192),
    Layer("Llama-3.1-70B o", 8192, 8192),
    Layer("Llama-3.1-70B gate+up", 57344, 8192),
    Layer("Llama-3.1-70B down", 8192, 28672),
    Layer("Llama-3.1-70B 1/2 qkv", 5120, 8192),
    Layer("Llama-3.1-70B 1/2 o", 8192, 4096),
    Layer("Llama-3.1-70B 1/4 gate+up", 14336, 8192),
    Layer("Llama-3.1-70B 1/4 down", 8192, 7168),
    Layer("Llama-3.1-70B 1/8 qkv", 1280, 8192),
    Layer("Llama-3.1-70B 1/8 gate+up", 7168, 8192),
    Layer("Llama-3.1-70B 1/8 down", 8192, 3584),
    Layer("Llama-2-7B gate", 11008, 4096),
    Layer("Llama-2-7B down", 4096, 11008),
    Layer("Mistral-Small-24B qkv", 6144, 5120),
    Layer("Mistral-Small-24B o", 5120, 4096),
    Layer("Mistral-Small-24B 1/2 gate+up", 32768, 5120),
    Layer("Phi-3-mini qkv", 9216, 3072),
    Layer("Gemma-2-2B o", 2304, 2048),
    Layer("Gemma-2-2B gate+up", 18432, 2304),
    Layer("Gemma-2-9B qkv", 8192, 3584),
    Layer("Gemma-2-9B o", 3584, 4096),
    Layer("Gemma-2-9B down", 3584, 14336),
    Layer("Yi-34B qkv", 9216, 7168),
    Layer("Yi-34B down", 7168, 20480),
)
_BY_SIZE = tuple(
    {(layer.N, layer.K): layer for layer in sorted(ZOO, key=lambda x: (x.N * x.K, x.N))}.values()
)
TUNING = _BY_SIZE[::2]
HELD_OUT = _BY_SIZE[1::2]
