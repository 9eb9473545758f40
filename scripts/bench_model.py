"""Cost of a token with a whole model: prefill and decode, beside the same model dense in torch.

    python scripts/bench_model.py [--like llama-3.1-8b] [--batch 1,16] [--torch] [--launches]

Weights are random, of the shapes of a known model; layers share their contents, not their memory.
Times are of whole steps on the host's clock, the device's queue kept full, medians.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Any

import numpy as np

import ferrum_numba as fe
from ferrum_numba.gptq import MODELS, GptqExperts, StackedWeight
from ferrum_numba.models import Model, ModelConfig
from ferrum_numba.models.mlp import Mixture, Mlp
from ferrum_numba.models.operations import Operations
from ferrum_numba.models.weights import DenseLinear, Layer, Weights
from ferrum_numba.report.model_timing import read_bytes, time_prefill, time_step

READ = 4.4e12  # bytes a second that an H200 reads
MIXTURES: dict[str, dict[str, Any]] = {
    "qwen3-30b-a3b": {
        "architectures": ["Qwen3MoeForCausalLM"],
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "num_hidden_layers": 48,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "head_dim": 128,
        "vocab_size": 151936,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": 768,
        "norm_topk_prob": True,
        "rope_theta": 1e6,
    },
    "mixtral-8x7b": {
        "architectures": ["MixtralForCausalLM"],
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 32000,
    },
}


def config_like(name: str) -> dict[str, Any]:
    """The config.json of a known model's shapes."""
    known = MIXTURES.get(name) or {**asdict(MODELS[name]), "architectures": ["LlamaForCausalLM"]}
    others = {"max_position_embeddings": 131072, "rms_norm_eps": 1e-5, "torch_dtype": "float16"}
    return {**known, **others}


def random_mixture(
    config: ModelConfig, operations: Operations, random: np.random.Generator
) -> Callable[[], Mixture]:
    """Mixtures of experts of a model's shapes, alike but for where they lie."""
    spec, device = config.experts, operations.device
    assert spec is not None
    h, i, e = config.hidden, spec.width, spec.count
    hosts = []
    for k, n in ((h, i), (h, i), (i, h)):
        words = random.integers(-(2**62), 2**62, e * k * n // 16, np.int64).view(np.int32)
        scales = np.full((e, k // 128, n), 0.1 / np.sqrt(k), np.float16)
        zeros = np.full((e, k // 128, n // 8), 0x77777777, np.int32)
        hosts.append((words.reshape(e, k // 8, n), scales, zeros))
    router = random.standard_normal((e, h), np.float32).astype(np.float16)

    def make() -> Mixture:
        stacks = [StackedWeight(*map(device.to_device, own), 128, 1) for own in hosts]
        experts = GptqExperts(*stacks, device=device)
        dense = DenseLinear(operations, device.to_device(router.copy()))
        return Mixture(dense, experts, None, None)

    return make


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
    mixture = random_mixture(config, operations, random) if config.experts else None
    shapes = [(h, q + 2 * kv), (q, h), *([] if mixture else [(h, 2 * i), (i, h)])]
    tensors = [gptq(*shape) for shape in shapes]
    ones, head = np.ones(h, np.float32), np.ones(config.head_dim, np.float32)
    layers, nbytes = [], 0
    for _ in range(config.layers):
        qkv, o, *rest = (fe.GptqLinear(t, device=device) for t in tensors)
        mlp = mixture() if mixture else Mlp(*rest)
        experts = mlp.experts.nbytes if isinstance(mlp, Mixture) else 0
        nbytes += sum(layer.nbytes for layer in (qkv, o, *rest)) + experts
        norms = [device.to_device(ones.copy()) for _ in range(2)]
        head_norms = [device.to_device(head.copy()) if config.qk_norm else None for _ in range(2)]
        layers.append(Layer(norms[0], qkv, (head_norms[0], head_norms[1]), o, norms[1], mlp))
    some = random.standard_normal((1024, h), np.float32) / np.sqrt(h)
    table = np.resize(some.astype(np.float16), (config.vocab, h))
    embedding = device.to_device(table)
    out = DenseLinear(operations, device.to_device(table[::-1].copy()))
    nbytes += 2 * table.nbytes
    weights = Weights(embedding, tuple(layers), device.to_device(ones), out, nbytes)
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


def shares(events: Iterable[tuple[float, float, str]]) -> dict[tuple[str, str, str], list[float]]:
    """Microseconds from the end of the launch before to a launch's own, as dependent ones begin
    early; by the names of the one before, of itself, and of the one behind.

    events: begin, end and name of each.
    """
    found = defaultdict(list)
    ordered = sorted(events)
    for (_, done, before), (_, end, name), (_, _, behind) in zip(
        ordered, ordered[1:], ordered[2:], strict=False
    ):
        found[before, name, behind].append(end - done)
    return found


def show_launches(model: Model, context: int) -> None:
    """Each kind of launch of a step of one sequence, as torch's profiler sees it: that makes a
    step a few percent longer."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    torch.zeros(1, device="cuda")
    steps = 4
    with model.session(1, context + 2 * steps + 1) as session:
        session.prefill([np.arange(context) % model.config.vocab])
        for _ in range(steps):
            session.step()
        with profile(activities=[ProfilerActivity.CUDA]) as seen:
            for _ in range(steps):
                session.step()
            model.device.synchronize()
    found = shares(
        (event.time_range.start, event.time_range.end, event.name)
        for event in seen.events()
        if "cuda" in str(event.device_type).lower()
    )
    for (before, name, behind), its in sorted(found.items(), key=lambda row: -sum(row[1])):
        print(
            f"{np.mean(its):7.2f} us, {len(its) / steps:4.1f} a step: {name}, {before} to {behind}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--like", default="llama-3.1-8b", choices=[*MODELS, *MIXTURES])
    parser.add_argument("--batch", default="1,16,64")
    parser.add_argument("--context", default="512,2048")
    parser.add_argument("--prompt", default="2048,8192")
    parser.add_argument("--torch", action="store_true", help="the dense peer in the same run")
    parser.add_argument(
        "--launches", action="store_true", help="the launches of a step, one by one"
    )
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
    if arguments.launches:
        show_launches(model, cells[0][1])


if __name__ == "__main__":
    main()
