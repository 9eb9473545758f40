"""Synthetic checkpoints: random layers of any size, in the dialect of any producer.

Every tensor has its own random numbers, drawn from the seed and its name, and is written before
the next is made: memory is that of one tensor, whatever the size of the model.
"""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .files import new_folder, write_json
from .packing import WORD_BITS, pack_columns
from .recipe import Linear, Producer, Recipe
from .safetensors_file import write_file
from .safetensors_header import NUMPY_DTYPES
from .syllables import tokenizer_configuration, tokenizer_file
from .tensors import effective_group_size
from .zeros import symmetric_words, word_of_ones

Array = npt.NDArray[Any]
Make = Callable[["np.random.Generator"], Iterator[Array]]  # NumPy loads np.random when it is used

_CHUNK = 1 << 24  # elements of a dense tensor that are drawn at a time


@dataclass(frozen=True)
class _Tensor:
    """A tensor to be written: its values come in one or several arrays."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    make: Make

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * NUMPY_DTYPES[self.dtype].itemsize


def make_checkpoint(
    folder: str | os.PathLike[str],
    recipe: Recipe,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> int:
    """Write the checkpoint that `recipe` describes into `folder`, new or empty.

    progress: called with the bytes written and their total. Returns the bytes of the tensor files.
    The same recipe gives the same bytes. Raises CheckpointError for a folder that is not empty.
    """
    with new_folder(folder) as path:
        return _write(path, recipe, progress)


def _write(folder: Path, recipe: Recipe, progress: Callable[[int, int], None]) -> int:
    tensors = list(_tensors(recipe))
    total = sum(tensor.nbytes for tensor in tensors)
    done = 0

    def arrays(part: list[_Tensor]) -> Iterator[Array]:
        nonlocal done
        for tensor in part:
            rng = np.random.default_rng([recipe.seed, zlib.crc32(tensor.name.encode())])
            for array in tensor.make(rng):
                yield array
                done += array.nbytes
                progress(done, total)

    weight_map: dict[str, str] = {}
    nbytes = 0
    for file, part in _files(tensors, total, recipe):
        header = {tensor.name: (tensor.dtype, tensor.shape) for tensor in part}
        nbytes += write_file(folder / file, header, arrays(part), recipe.metadata())
        weight_map |= dict.fromkeys(header, file)
    if recipe.shards > 1:
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        write_json(folder / f"{recipe.file_stem()}.safetensors.index.json", index)
    name, configuration = recipe.configuration()
    write_json(folder / name, configuration)
    write_json(folder / "config.json", recipe.model_configuration())
    if not recipe.layers_only:
        write_json(folder / "tokenizer.json", tokenizer_file(recipe.shape.vocab_size))
        write_json(folder / "tokenizer_config.json", tokenizer_configuration())
    return nbytes


def _files(
    tensors: list[_Tensor], total: int, recipe: Recipe
) -> Iterator[tuple[str, list[_Tensor]]]:
    """(file name, its tensors), of about equal bytes; a layer's tensors may lie in two."""
    count = min(recipe.shards, len(tensors))
    if count == 1:
        yield f"{recipe.file_stem()}.safetensors", tensors
        return
    start = done = 0
    for number in range(1, count + 1):
        stop = start
        most = len(tensors) - (count - number)  # at least one for each of the rest
        while stop < most and (stop == start or done < total * number // count):
            done += tensors[stop].nbytes
            stop += 1
        yield f"{recipe.file_stem()}-{number:05}-of-{count:05}.safetensors", tensors[start:stop]
        start = stop


def _tensors(recipe: Recipe) -> Iterator[_Tensor]:
    """Every tensor of the checkpoint, in the model's order."""
    shape, dtype = recipe.shape, _stored_dtype(recipe)
    whole = not recipe.layers_only
    vocabulary = (shape.vocab_size, shape.hidden_size)
    if whole:
        yield _Tensor("model.embed_tokens.weight", dtype, vocabulary, _dense(vocabulary, dtype))
    for linear in recipe.linears():
        if whole and linear.name.endswith(".self_attn.q_proj"):
            before = linear.name.removesuffix("self_attn.q_proj")
            for norm in ("input_layernorm", "post_attention_layernorm"):
                yield _norm(f"{before}{norm}.weight", shape.hidden_size, dtype)
        yield from _layer(linear, recipe)
    if whole:
        yield _norm("model.norm.weight", shape.hidden_size, dtype)
        if not recipe.lm_head:
            yield _Tensor("lm_head.weight", dtype, vocabulary, _dense(vocabulary, dtype))


def _stored_dtype(recipe: Recipe) -> str:
    return "F16" if recipe.dtype == "float16" else "BF16"


def _norm(name: str, size: int, dtype: str) -> _Tensor:
    return _Tensor(name, dtype, (size,), lambda rng: iter([np.ones(size, NUMPY_DTYPES[dtype])]))


def _dense(shape: tuple[int, int], dtype: str) -> Make:
    """Values of variance 1 / columns, so that inputs of unit variance give such outputs."""
    rows, columns = shape
    step = max(1, _CHUNK // columns)

    def make(rng: np.random.Generator) -> Iterator[Array]:
        for start in range(0, rows, step):
            size = (min(step, rows - start), columns)
            values = rng.random(size, np.float32)
            values -= np.float32(0.5)
            values *= np.float32(math.sqrt(12 / columns))  # a uniform's variance is 1/12
            yield values.astype(NUMPY_DTYPES[dtype])

    return make


def _layer(linear: Linear, recipe: Recipe) -> Iterator[_Tensor]:
    K, N, bits = linear.K, linear.N, linear.bits
    group_size = effective_group_size(recipe.group_size, K)
    groups, dtype = -(-K // group_size), _stored_dtype(recipe)
    floats = NUMPY_DTYPES[dtype]
    words, zeros = (K * bits // WORD_BITS, N), (groups, N * bits // WORD_BITS)
    # Standard deviation of level - zero, both uniform over 2^bits values unless zero is fixed.
    spread = (1 << bits) / math.sqrt(12 if recipe.symmetric else 6)
    size = 1 / (spread * math.sqrt(K))

    def make_words(rng: np.random.Generator) -> Iterator[Array]:
        yield rng.integers(0, 1 << 32, words, dtype=np.uint32).view(np.int32)

    def make_zeros(rng: np.random.Generator) -> Iterator[Array]:
        if recipe.symmetric:
            yield symmetric_words(zeros, recipe.format == "v2", bits)
        else:
            true_zeros = rng.integers(0, 1 << bits, (groups, N), dtype=np.uint8)
            yield written_zeros(true_zeros, recipe.producer, recipe.format == "v2", bits)

    def make_scales(rng: np.random.Generator) -> Iterator[Array]:
        yield (rng.uniform(0.5, 1.5, (groups, N)) * size).astype(floats)

    def make_g_idx(rng: np.random.Generator) -> Iterator[Array]:
        g_idx = np.arange(K, dtype=np.int32) // np.int32(group_size)
        yield rng.permutation(g_idx) if recipe.act_order else g_idx

    def make_bias(rng: np.random.Generator) -> Iterator[Array]:
        yield (rng.standard_normal(N) * recipe.bias).astype(floats)

    yield _Tensor(f"{linear.name}.qweight", "I32", words, make_words)
    yield _Tensor(f"{linear.name}.qzeros", "I32", zeros, make_zeros)
    yield _Tensor(f"{linear.name}.scales", dtype, (groups, N), make_scales)
    yield _Tensor(f"{linear.name}.g_idx", "I32", (K,), make_g_idx)
    if recipe.bias or recipe.producer == "autogptq":
        yield _Tensor(f"{linear.name}.bias", dtype, (N,), make_bias)


def written_zeros(
    zeros: npt.NDArray[np.uint8], producer: Producer, stores_true_zero: bool, bits: int
) -> npt.NDArray[np.int32]:
    """`qzeros`, int32 [groups, N*bits/32], as `producer` writes the true zeros, uint8 [groups, N].

    In v1 a zero of 0 comes out as that producer's own: a borrow from the next level, higher levels
    of the word destroyed, or a zero of 1.
    """
    if stores_true_zero:
        return pack_columns(zeros, bits)
    less = zeros - np.uint8(1)  # 0 wraps to 255
    highest = np.uint8((1 << bits) - 1)
    if producer == "auto-round":
        return pack_columns(np.where(zeros == 0, np.uint8(0), less), bits)
    if bits == 3:  # level by level, whoever writes them
        return pack_columns(less & highest, bits)
    if producer == "gptqmodel":
        words = pack_columns(zeros, bits)
        words.view(np.uint32)[:] -= np.uint32(word_of_ones(bits))
        return words
    # AutoGPTQ shifts -1 as 32 bits into its place: what lies above it in the word is all ones.
    per_word = WORD_BITS // bits
    wrapped = np.logical_or.accumulate((zeros == 0).reshape(len(zeros), -1, per_word), axis=2)
    levels = np.where(wrapped.reshape(zeros.shape), highest, less & highest)
    return pack_columns(levels, bits)
