"""Checkpoints made by ferrum_numba, read by the producers' own readers, compared weight by weight.

Each producer pins its own transformers, so each has its own environment; none of them belongs into
the project's. From the repository's root:

    python -m venv .venv-gptqmodel && .venv-gptqmodel/bin/pip install torch gptqmodel==7.6.0 -e .
    .venv-gptqmodel/bin/python scripts/roundtrip_producers.py gptqmodel

    python -m venv .venv-auto-round && .venv-auto-round/bin/pip install torch auto-round==0.16.1 \\
        gptqmodel==7.6.0 -e .
    .venv-auto-round/bin/python scripts/roundtrip_producers.py auto-round

    python -m venv .venv-autogptq && .venv-autogptq/bin/pip install torch numpy setuptools wheel
    BUILD_CUDA_EXT=0 .venv-autogptq/bin/pip install --no-build-isolation auto-gptq==0.7.1 \\
        transformers==4.46.3 peft==0.13.2 accelerate==1.1.1 datasets==3.1.0 -e .
    .venv-autogptq/bin/python scripts/roundtrip_producers.py autogptq

Everything runs on the CPU and writes to a temporary directory. For every quantised layer, the
reader's weight (its own dequantisation, or its forward pass on the identity matrix where it has
none) is compared with `Checkpoint.dense`, bit for bit. The other way round, the words that the
producer's own packing writes for random levels and zeros, zeros of 0 included, are compared with
the ones written here. Exits with 1 if any differs.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ["CUDA_VISIBLE_DEVICES"] = ""  # before any of them looks
os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np

from ferrum_numba.gptq import Checkpoint, Recipe, make_checkpoint, quantize_checkpoint
from ferrum_numba.gptq.packing import pack_rows
from ferrum_numba.gptq.synthesis import written_zeros

Weights = Iterator[tuple[str, Any]]

RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    "gptqmodel": {
        "symmetric": {},
        "asymmetric v1, zeros of 0": {"symmetric": False, "group_size": 32},
        "asymmetric v2, act-order, bias": {
            "symmetric": False,
            "format": "v2",
            "act_order": True,
            "bias": True,
            "group_size": 64,
        },
        "act-order, bias": {"act_order": True, "bias": True, "group_size": 64},
        "v2": {"format": "v2"},
        "one group": {"group_size": -1},
        "three shards": {"shards": 3},
        "8-bit down_proj and head": {
            "mixed": True,
            "lm_head": True,
            "symmetric": False,
            "group_size": 64,
        },
        "2 bits": {"bits": 2, "symmetric": False, "group_size": 32},
        "3 bits": {"bits": 3, "symmetric": False, "group_size": 32},
        "8 bits": {"bits": 8, "symmetric": False},
        "bfloat16, asymmetric": {"dtype": "bfloat16", "symmetric": False, "group_size": 64},
    },
    "autogptq": {
        "symmetric": {"group_size": 64},
        "asymmetric, zeros of 0": {"group_size": 64, "symmetric": False},
        "act-order, bias": {"group_size": 64, "bias": True, "act_order": True},
        "one group": {"group_size": -1},
        "2 bits": {"bits": 2, "symmetric": False, "group_size": 64},
        "8 bits": {"bits": 8, "symmetric": False},
        "bfloat16": {"dtype": "bfloat16", "group_size": 64},
    },
    "auto-round": {  # whose own readers take v1 symmetric alone on the CPU
        "symmetric": {},
        "one group": {"group_size": -1},
        "bias": {"bias": True, "group_size": 64},
        "8 bits": {"bits": 8},
    },
}


def main() -> int:
    """Make, read and compare every recipe of one producer."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("producer", choices=RECIPES)
    producer = parser.parse_args().producer
    read = {"gptqmodel": _gptqmodel, "autogptq": _autogptq, "auto-round": _auto_round}[producer]
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        for number, (title, options) in enumerate(RECIPES[producer].items()):
            path = Path(folder) / str(number)
            make_checkpoint(path, Recipe(producer=producer, seed=number, **options))
            failed += _compare(f"{producer}: {title}", path, options, read)
        failed += _compare_writers(producer)
        if producer == "gptqmodel":
            for zero_format in ("v1", "v2"):
                path = Path(folder) / f"quantised-{zero_format}"
                _quantised(Path(folder), path, zero_format)
                failed += _compare(f"{producer}: quantised, {zero_format}", path, {}, read)
    return 1 if failed else 0


def _compare(
    title: str, path: Path, options: dict[str, Any], read: Callable[[Path, str], Weights]
) -> bool:
    """Print how many layers are equal; True if any is not."""
    dtype = options.get("dtype", "float16")
    _write_tokenizer(path)
    checkpoint = Checkpoint.open(path)
    equal, found = 0, set()
    for name, weight in read(path, dtype):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # nobody told who wrote auto-round's zeros
            expected = checkpoint.dense(name, _numpy_dtype(dtype))
        equal += np.array_equal(weight, expected.astype(np.float32))
        found.add(name)
    passed = found == set(checkpoint.layers) and equal == len(found)
    verdict = "equal" if passed else "DIFFERENT"
    print(f"{verdict}: {title}: {equal} of {len(checkpoint.layers)} layers", flush=True)
    return not passed


def _compare_writers(producer: str) -> int:
    """Pack random levels by the producer's code and by ours; how many widths differ."""
    import torch

    pack = {
        "gptqmodel": _pack_gptqmodel,
        "autogptq": _pack_autogptq,
        "auto-round": _pack_auto_round,
    }
    K, N, group_size, failed = 128, 64, 32, 0
    for bits in (2, 3, 4, 8):
        rng = np.random.default_rng(bits)
        levels = rng.integers(0, 1 << bits, (K, N), dtype=np.uint8)
        zeros = rng.integers(0, 1 << bits, (K // group_size, N), dtype=np.uint8)
        if producer == "autogptq" and bits == 3:  # whose -1 spills into more than one word there
            zeros = np.maximum(zeros, 1)
        groups = np.arange(K) // group_size
        # A scale of 1: the layer's weights are level - zero, which float32 holds.
        linear = torch.nn.Linear(K, N, bias=False)
        linear.weight.data = torch.from_numpy((levels.astype("f4") - zeros[groups]).T.copy())
        scales = torch.ones(N, K // group_size)
        module = pack[producer](
            bits,
            group_size,
            linear,
            scales,
            torch.from_numpy(zeros.astype("f4").T.copy()),
            torch.from_numpy(groups.astype("i4")),
        )
        ours = pack_rows(levels, bits), written_zeros(zeros, producer, False, bits)
        equal = [
            np.array_equal(theirs.numpy(), words)
            for theirs, words in zip((module.qweight, module.qzeros), ours, strict=True)
        ]
        failed += not all(equal)
        verdict = "equal" if all(equal) else "DIFFERENT"
        print(f"{verdict}: {producer} writes {bits} bits: qweight {equal[0]}, qzeros {equal[1]}")
    return failed


def _pack_gptqmodel(bits: int, group_size: int, linear: Any, *values: Any) -> Any:
    from gptqmodel.nn_modules.qlinear.torch import TorchLinear
    from gptqmodel.quantization.config import QuantizeConfig
    from gptqmodel.utils.model import convert_gptq_v2_to_v1_format_module

    K, N = linear.in_features, linear.out_features
    module = TorchLinear(
        bits, group_size, False, False, K, N, pack_dtype=values[-1].dtype, register_buffers=True
    )
    module.pack(linear, *values)
    convert_gptq_v2_to_v1_format_module(module, QuantizeConfig(bits=bits, group_size=group_size))
    return module


def _pack_autogptq(bits: int, group_size: int, linear: Any, *values: Any) -> Any:
    import torch
    from auto_gptq.nn_modules.qlinear.qlinear_cuda_old import QuantLinear

    K, N = linear.in_features, linear.out_features
    module = QuantLinear(bits, group_size, K, N, False, weight_dtype=torch.float32)
    module.pack(linear, *values)
    return module


def _pack_auto_round(bits: int, group_size: int, linear: Any, *values: Any) -> Any:
    from auto_round_extension.torch.qlinear_torch_zp import QuantLinear

    module = QuantLinear(bits, group_size, linear.in_features, linear.out_features, False)
    module.pack(linear, *values[:2])
    return module


def _quantised(folder: Path, path: Path, zero_format: str) -> None:
    """A dense model of the same shapes, quantised here."""
    import torch
    import transformers

    config = transformers.LlamaConfig(
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=512,
    )
    torch.manual_seed(0)
    dense = folder / f"dense-{zero_format}"
    transformers.LlamaForCausalLM(config).half().save_pretrained(dense)
    symmetric = zero_format == "v1"  # GPTQModel takes asymmetric v1 from itself alone
    quantize_checkpoint(dense, path, symmetric=symmetric, group_size=64, zero_format=zero_format)


def _gptqmodel(path: Path, dtype: str) -> Weights:
    import torch
    from gptqmodel import BACKEND, GPTQModel

    loaded = GPTQModel.load(
        str(path), device="cpu", backend=BACKEND.TORCH, dtype=getattr(torch, dtype)
    )
    for name, module in loaded.model.named_modules():
        if hasattr(module, "qweight"):
            yield name, module.dequantize_weight().float().numpy()


def _auto_round(path: Path, dtype: str) -> Weights:
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(
        path,
        device_map="cpu",
        dtype=getattr(torch, dtype),
        quantization_config=transformers.AutoRoundConfig(),  # its reader, whatever the file says
    )
    for name, module in model.named_modules():
        if hasattr(module, "qweight"):
            yield name, _by_identity(module, dtype)


def _autogptq(path: Path, dtype: str) -> Weights:
    import torch
    from auto_gptq import AutoGPTQForCausalLM

    model = AutoGPTQForCausalLM.from_quantized(
        str(path), device="cpu", torch_dtype=getattr(torch, dtype), use_safetensors=True
    )
    for name, module in model.model.named_modules():
        if hasattr(module, "qweight"):
            yield name, _by_identity(module, dtype)


def _by_identity(module: Any, dtype: str) -> Any:
    """x @ weight for x the identity: sums of one product each, which round nothing more."""
    import torch

    module.bias = None
    identity = torch.eye(module.infeatures, dtype=getattr(torch, dtype))
    with torch.no_grad(), torch.backends.mkldnn.flags(enabled=False):  # some CPUs trap in its bf16
        return module(identity).float().numpy()


def _numpy_dtype(name: str) -> Any:
    import ml_dtypes

    return ml_dtypes.bfloat16 if name == "bfloat16" else np.float16


def _write_tokenizer(path: Path) -> None:
    """A tokenizer of one word, as the readers load none without."""
    import tokenizers
    import transformers

    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"<unk>": 0}, unk_token="<unk>"))
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>").save_pretrained(
        path
    )


if __name__ == "__main__":
    sys.exit(main())
