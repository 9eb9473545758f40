"""Specification of one quantised layer, read before its weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from ..errors import CheckpointError
from ..notebook import facts
from .config import QuantConfig
from .packing import NIBBLES, WIDTHS, WORD_BITS, period
from .rules import LayerRule
from .safetensors_header import StoredTensor
from .shards import Shards
from .tensors import effective_group_size, is_act_order

_PLANAR_WIDTHS = (5, 6, 7)  # only format gptq_p has them
_FLOATS = {"F16": "float16", "BF16": "bfloat16", "F32": "float32"}
_CHECK = "correct bits or group_size if they are wrong"
_OTHER_LAYOUT = "this is not GPTQ's layout"
_ROUND = "convert the scales to F16"
_REQUIRED = ("qweight", "qzeros", "scales")
_MARKS = ("qweight", "qzeros", "g_idx")  # a layer that lost one tensor is still seen

GroupIndex = Literal["file", "ignore"]
"""Source of the group of a row.

file    g_idx, where the layer has one; else row k is in group k // group_size
ignore  row k is in group k // group_size, for files whose g_idx was never filled in
"""


@dataclass(frozen=True)
class LayerSpec:
    """One quantised layer: weight [K, N], K input and N output features.

    name          such as "model.layers.0.self_attn.q_proj"
    bits          of a weight; 4 is loaded, other widths are dequantised when asked
    group_size    rows in a group, at least 1: a configured -1 stands here as K
    groups        ceil(K / group_size)
    act_order     whether the values of g_idx differ from k // group_size
    bias          whether the file has one, all zeros or not
    zero_format   which format the zeros are stored in: v1 (zero - 1) or v2
    scales_dtype  "float16" or "bfloat16"
    symmetric     what the configuration says; None if it says nothing
    nbytes        bytes of the layer's tensors on disk
    indexed       whether the index names it; true where there is none
    """

    name: str
    K: int
    N: int
    bits: int
    group_size: int
    groups: int
    act_order: bool
    bias: bool
    zero_format: Literal["v1", "v2"]
    scales_dtype: str
    symmetric: bool | None
    nbytes: int
    indexed: bool = True

    def _repr_html_(self) -> str:
        pairs = {**vars(self)}
        return facts(pairs.pop("name"), pairs.items())


def read_layer_specs(
    shards: Shards, config: QuantConfig, *, g_idx: GroupIndex = "file", unindexed: bool = False
) -> tuple[dict[str, LayerSpec], dict[str, CheckpointError]]:
    """Every quantised layer of `shards`, checked against `config`, in the order of the names.

    g_idx      see `GroupIndex`
    unindexed  whether layers that an index passes over are read too

    Returns by name the layers whose headers agree, and of the others what is wrong: one damaged
    layer does not stop the rest. Layers that only an index names are among these. Reads the
    headers, and the values of g_idx.
    """
    layers: dict[str, LayerSpec] = {}
    problems: dict[str, CheckpointError] = {}
    passed_over = set(unindexed_layers(shards))
    alike: dict[object, LayerSpec] = {}  # a checkpoint has few kinds of layers, checked once each
    for name in _layer_names([*shards.tensors, *shards.missing]):
        if name in passed_over and not unindexed:
            continue
        try:
            stored, rule = _stored(name, shards, config, g_idx), config.rule_for(name)
            kind = (rule, *((part, t.dtype, t.shape) for part, t in stored.items()))
            if kind not in alike:
                alike[kind] = _layer_spec(name, stored, config, rule)
            layers[name] = replace(alike[kind], name=name, indexed=name not in passed_over)
        except CheckpointError as error:
            problems[name] = error
    if g_idx == "file":
        names = (f"{name}.g_idx" for name in layers)
        present = [name for name in names if name in shards.tensors]
        for tensor, values in shards.read(present):  # one at a time: all of them can be much
            spec = layers[tensor.removesuffix(".g_idx")]
            if is_act_order(values, spec.group_size):
                layers[spec.name] = replace(spec, act_order=True)
    return layers, problems


def unindexed_layers(shards: Shards) -> list[str]:
    """Layers in the files of a folder that its index does not name, while it names others.

    An index of the dense model, which no quantised layer is in, says nothing about them.
    """
    if not shards.whole:
        return []
    stored, index = _layer_names(shards.tensors), _layer_names(shards.index)
    unnamed = [name for name in stored if name not in index]
    return unnamed if len(unnamed) < len(stored) else []


def _layer_names(tensors: Iterable[str]) -> dict[str, None]:
    """Owners of tensors that quantised layers alone have, in the order of the tensors."""
    owners = (tensor.rpartition(".") for tensor in tensors)
    return {layer: None for layer, _, part in owners if part in _MARKS}


def _stored(
    name: str, shards: Shards, config: QuantConfig, g_idx: GroupIndex
) -> dict[str, StoredTensor]:
    """The tensors of a layer by part; CheckpointError names one that is missing."""
    stored = {part: shards.find(f"{name}.{part}") for part in _REQUIRED}
    for part in ("g_idx", "bias"):
        if f"{name}.{part}" in shards.tensors:
            stored[part] = shards.tensors[f"{name}.{part}"]
    if config.desc_act and "g_idx" not in stored and g_idx == "file":
        raise CheckpointError(
            f"{name}.g_idx",
            f"one, as desc_act is true in {config.source}",
            f"none{shards.placed(f'{name}.g_idx')}: the order of the rows is lost",
            "get the whole checkpoint, or correct desc_act if the rows are in order",
            code="tensor-missing",
        )
    return stored


def _layer_spec(
    name: str,
    stored: Mapping[str, StoredTensor],
    config: QuantConfig,
    rule: LayerRule | None,
) -> LayerSpec:
    """Specification by shapes and types, checked against the configuration and the layer's rule."""
    _check_types(name, stored)
    bits, configured_group_size, symmetric = _configured(name, config, rule, stored)
    rows, N = stored["qweight"].shape
    K = rows * WORD_BITS // bits
    try:
        group_size = effective_group_size(configured_group_size, K)
    except CheckpointError as error:
        raise CheckpointError(
            error.field,
            error.expected,
            error.found,
            f"correct it in {config.source}",
            where=name,
            code=error.code,
        ) from error
    _check_shapes(name, stored, config, bits, K, N, group_size)
    return LayerSpec(
        name=name,
        K=K,
        N=N,
        bits=bits,
        group_size=group_size,
        groups=-(-K // group_size),
        act_order=False,  # g_idx is read afterwards
        bias="bias" in stored,
        zero_format="v2" if config.zero_format == "v2" else "v1",
        scales_dtype=_FLOATS[stored["scales"].dtype],
        symmetric=symmetric,
        nbytes=sum(tensor.nbytes for tensor in stored.values()),
    )


def _check_types(name: str, stored: Mapping[str, StoredTensor]) -> None:
    expected = {
        "qweight": (("I32",), 2),
        "qzeros": (("I32",), 2),
        "scales": (("F16", "BF16"), 2),
        "g_idx": (("I32",), 1),
        "bias": (("F16", "BF16", "F32"), 1),
    }
    for part, tensor in stored.items():
        dtypes, ndim = expected[part]
        if tensor.dtype not in dtypes or len(tensor.shape) != ndim or 0 in tensor.shape:
            raise CheckpointError(
                f"{name}.{part}",
                f"{' or '.join(dtypes)} with {ndim} dimension{'s' if ndim > 1 else ''}, "
                "none of them 0",
                f"{tensor.dtype} {list(tensor.shape)} in {tensor.file.name}",
                _ROUND if part == "scales" and tensor.dtype == "F32" else _OTHER_LAYOUT,
                code="tensor-type",
            )


def _configured(
    name: str,
    config: QuantConfig,
    rule: LayerRule | None,
    stored: Mapping[str, StoredTensor],
) -> tuple[int, int, bool | None]:
    """(bits, group_size, symmetric) of a layer, by its rule or else by the configuration."""
    if rule is not None and rule.excluded:
        raise CheckpointError(
            f"{name}.qweight",
            f"no quantised layer of this name, as the rule {rule.pattern!r} in {config.source} "
            "excludes it",
            f"one in {stored['qweight'].file.name}",
            "correct the rule",
            code="configuration-wrong",
        )
    bits = rule.bits if rule and rule.bits is not None else config.bits
    if bits is None:  # no configuration: a row of qzeros holds one zero for each of N columns
        bits = stored["qzeros"].shape[1] * WORD_BITS // stored["qweight"].shape[1]
    widths = WIDTHS + (_PLANAR_WIDTHS if config.checkpoint_format == "gptq_p" else ())
    if bits not in widths:
        raise CheckpointError(
            name,
            f"bits to be one of {', '.join(map(str, widths))}",
            f"{bits} ({config.source})",
            "correct bits",
            code="configuration-wrong",
        )
    group_size = rule.group_size if rule and rule.group_size is not None else config.group_size
    symmetric = rule.sym if rule and rule.sym is not None else config.sym
    return bits, group_size, symmetric


def _check_shapes(
    name: str,
    stored: Mapping[str, StoredTensor],
    config: QuantConfig,
    bits: int,
    K: int,
    N: int,
    group_size: int,
) -> None:
    rows = stored["qweight"].shape[0]
    _check_packing(name, stored, bits, K, N, group_size)
    if rows * WORD_BITS % bits or N * bits % WORD_BITS:
        raise CheckpointError(
            f"{name}.qweight",
            f"shape [K*{bits}/32, N] with whole words along K and N",
            f"{list(stored['qweight'].shape)} ({config.source})",
            _advice(stored, bits),
            code="tensor-shape",
        )
    groups = -(-K // group_size)
    expected = {
        "qzeros": (groups, N * bits // WORD_BITS),
        "scales": (groups, N),
        "g_idx": (K,),
        "bias": (N,),
    }
    for part, shape in expected.items():
        if part in stored and stored[part].shape != shape:
            raise CheckpointError(
                f"{name}.{part}",
                (
                    f"shape {list(shape)}, as {name}.qweight {list(stored['qweight'].shape)} with "
                    f"bits={bits} and group_size={group_size} ({config.source}) asks"
                ),
                f"{list(stored[part].shape)} in {stored[part].file.name}",
                _advice(stored, bits),
                code="tensor-shape",
                data={
                    "expected": list(shape),
                    "found": list(stored[part].shape),
                    "qweight": list(stored["qweight"].shape),
                    "bits": bits,
                    "group_size": group_size,
                },
            )


def _check_packing(
    name: str, stored: Mapping[str, StoredTensor], bits: int, K: int, N: int, group_size: int
) -> None:
    """Refuse words that hold less than the layer has: g_idx tells its rows, qweight its columns.

    Producers pack whole words, and some drop what does not fill the last one.
    """
    words, columns = stored["qzeros"].shape[1], stored["scales"].shape[1]
    if columns != N or words != N * bits // WORD_BITS:
        return  # another layout, or other bits: not for want of words
    if "g_idx" in stored:
        rows, groups = stored["g_idx"].shape[0], stored["scales"].shape[0]
        whole = rows // period(bits)[0] * period(bits)[0]
        dropped = whole < rows and K in (whole, rows // WORD_BITS * WORD_BITS)
        if dropped or groups == -(-rows // group_size) != -(-K // group_size):
            found = f"{stored['qweight'].shape[0]} in {stored['qweight'].file.name}, which hold {K}"
            remedy = "the tensor is damaged: get the whole checkpoint"
            if dropped:
                found += f": packing dropped the last {rows - K} rows, whose weights are in no file"
                remedy = f"pad the layer to a multiple of {WORD_BITS} rows and quantise it again"
            raise CheckpointError(
                f"{name}.qweight",
                f"{-(-rows * bits // WORD_BITS)} rows of words for the {rows} rows that "
                f"{name}.g_idx [{rows}] has and {name}.scales has {groups} groups for",
                found,
                remedy,
                code="tensor-shape",
            )
    if N * bits % WORD_BITS:
        raise CheckpointError(
            f"{name}.qzeros",
            (
                f"zeros for {N} columns, as {name}.qweight {list(stored['qweight'].shape)} and "
                f"{name}.scales have"
            ),
            (
                f"{words} words in {stored['qzeros'].file.name}, which hold "
                f"{words * WORD_BITS // bits}: packing dropped the zeros of the last columns"
            ),
            f"pad the layer to a multiple of {WORD_BITS} columns and quantise it again",
            code="tensor-shape",
        )


def _advice(stored: Mapping[str, StoredTensor], bits: int) -> str:
    """Remedy: the number of bits on which all shapes agree where that is not `bits`."""
    (rows, columns), (zero_rows, words) = stored["qweight"].shape, stored["qzeros"].shape
    groups, N = stored["scales"].shape
    if zero_rows != groups:
        return _CHECK
    if columns == words and columns * NIBBLES == N:
        return "these are the shapes of AWQ's layout, whose words lie along N: not read here"
    found = words * WORD_BITS // N
    if columns != N or found not in WIDTHS or found * N != words * WORD_BITS:
        return _CHECK
    K = rows * WORD_BITS // found
    rest = {part: stored[part].shape[0] for part in ("g_idx", "bias") if part in stored}
    if rest != {part: size for part, size in (("g_idx", K), ("bias", N)) if part in rest}:
        return _CHECK if found != bits else "the tensor is damaged"
    group_size = 1 << (-(-K // groups) - 1).bit_length()  # mostly a power of two
    if groups == 1:
        group_size = -1
    elif -(-K // group_size) != groups:
        group_size = -(-K // groups)
    return f"the shapes fit bits={found} and group_size={group_size}: correct what is wrong"
