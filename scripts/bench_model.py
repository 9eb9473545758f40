"""Cost of a token with a whole model: prefill and decode, beside the same model dense in torch.

    python scripts/bench_model.py [--like llama-3.1-8b] [--batch 1,16] [--torch]

Weights are random, of the shapes of a known model; layers share their contents, not their memory.
Times are of whole steps on the host's clock, the device's queue kept full, medians.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict
from typing import Any

import numpy as np

import ferrum_numba as fe
from ferrum_numba.gptq import MODELS
from ferrum_numba.models import Model, ModelConfig
from ferrum_numba.models.mlp import Mlp
from ferrum_numba.models.operations import Operations
from ferrum_numba.models.weights import DenseLinear, Layer, Weights
from ferrum_numba.report.model_timing import read_bytes, time_prefill, time_step

READ = 4.4e12  # bytes a second that an H200 reads


def config_like(name: str) -> dict[str, Any]:
    """The config.json of a known model's shapes."""
    return {
        **asdict(MODELS[name]),
        "architectures": ["LlamaForCausalLM"],
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "torch_dtype": "float16",
    }


def random_model(name: str, device: fe.Device) -> Model:
    """A model of these shapes whose weights are random."""
    config = ModelConfig.read(config_like(name))
    operations, random = Operations(config, device), np.random.default_rng(0)

    def gptq(k: int, n: int) -> fe.GptqTensors:
        return fe.GptqTensors(
            qweight=random.integers(-(2**31), 2**31, (k // 8, n), np.int32),
            qzeros=np.full((k // 128, n // 8), 0x77777777, np.int32),
            scales=np.full((k // 128, n), 0.1 / np.sqrt(k), np.float16),
            group_size=128,
            zero_format="v1",
        )

    h, i, q, kv = config.hidden, config.intermediate, config.q_width, config.kv_width
    tensors = [gptq(h, q + 2 * kv), gptq(q, h), gptq(h, 2 * i), gptq(i, h)]
    ones = np.ones(h, np.float32)
    layers = []
    for _ in range(config.layers):
        qkv, o, gate_up, down = (fe.GptqLinear(t, device=device) for t in tensors)
        norms = [device.to_device(ones.copy()) for _ in range(2)]
        layers.append(Layer(norms[0], qkv, (None, None), o, norms[1], Mlp(gate_up, down)))
    table = (random.standard_normal((config.vocab, h), np.float32) / np.sqrt(h)).astype(np.float16)
    embedding = device.to_device(table)
    head = DenseLinear(operations, device.to_device(table[::-1].copy()))
    nbytes = 2 * table.nbytes + config.layers * sum(
        t.qweight.nbytes + t.scales.nbytes + t.qzeros.nbytes for t in tensors
    )
    weights = Weights(embedding, tuple(layers), device.to_device(ones), head, nbytes)
    return Model(config, weights, operations)


def dense_in_torch(name: str, prompts: list[int], cells: list[tuple[int, int]]) -> None:
    """The same shapes dense in float16: transformers with SDPA, decode by a graph."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, StaticCache

    config = LlamaConfig(**{k: v for k, v in config_like(name).items() if k != "architectures"})
    config._attn_implementation = "sdpa"
    torch.set_default_dtype(torch.float16)
    with torch.device("cuda"):
        model = LlamaForCausalLM(config).eval()
    torch.set_default_dtype(torch.float32)
    with torch.inference_mode():
        for length in prompts:
            ids = (torch.arange(length, device="cuda") % config.vocab_size)[None]
            times = []
            for _ in range(4):
                torch.cuda.synchronize()
                start = time.perf_counter()
                model(ids, use_cache=True, logits_to_keep=1)
                torch.cuda.synchronize()
                times.append(time.perf_counter() - start)
            print(f"torch prefill {length:6}  {np.median(times[1:]) * 1e3:8.1f} ms")
        for batch, context in cells:
            cache = StaticCache(config=config, max_cache_len=context + 8)
            token = torch.ones((batch, 1), dtype=torch.long, device="cuda")
            place = torch.full((1,), context, dtype=torch.long, device="cuda")
            fields = {"past_key_values": cache, "cache_position": place, "use_cache": True}
            side = torch.cuda.Stream()
            with torch.cuda.stream(side):
                for _ in range(2):
                    model(token, **fields)
            torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                model(token, **fields)
            times = []
            for _ in range(20):
                torch.cuda.synchronize()
                start = time.perf_counter()
                graph.replay()
                torch.cuda.synchronize()
                times.append(time.perf_counter() - start)
            print(f"torch decode {batch:3} x {context:5}  {np.median(times) * 1e3:7.3f} ms a step")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--like", default="llama-3.1-8b", choices=list(MODELS))
    parser.add_argument("--batch", default="1,16,64")
    parser.add_argument("--context", default="512,2048")
    parser.add_argument("--prompt", default="2048,8192")
    parser.add_argument("--torch", action="store_true", help="the dense peer in the same run")
    arguments = parser.parse_args()
    device = fe.open_device()
    if device.name == "cpu":
        raise SystemExit("a model of these shapes needs a GPU")
    start = time.perf_counter()
    model = random_model(arguments.like, device)
    print(f"{model}, made in {time.perf_counter() - start:.1f} s")
    prompts = [int(length) for length in arguments.prompt.split(",")]
    cells = [
        (int(batch), int(context))
        for batch in arguments.batch.split(",")
        for context in arguments.context.split(",")
    ]
    if arguments.torch:
        dense_in_torch(arguments.like, prompts, cells[:2])
    for length in prompts:
        seconds = time_prefill(model, length)
        print(f"prefill {length:6}  {seconds * 1e3:8.1f} ms  {length / seconds:9.0f} tokens/s")
    for batch, context in cells:
        seconds = time_step(model, batch, context)
        share = read_bytes(model, batch, context) / READ / seconds
        print(
            f"decode {batch:3} x {context:5}  {seconds * 1e3:7.3f} ms a step  "
            f"{batch / seconds:8.0f} tokens/s  {share:.0%} of the reading speed"
        )


if __name__ == "__main__":
    main()
