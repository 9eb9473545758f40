"""The quantisation configuration of a checkpoint directory.

GPTQModel and AutoGPTQ write `quantize_config.json`, auto-round `quantization_config.json`, and
transformers the same under `quantization_config` in `config.json`, which for a model of several
parts stands in the part's own section (`text_config`, `thinker_config`). Where several exist they
must agree, since nothing else says which is right.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from .files import read_json
from .rules import LayerRule, Rules, read_rules
from .zeros import ZeroFormat

# The producers' own files. The order, with config.json last, decides which file's value is taken
# where only one has it, and whose `dynamic`: transformers sorts the keys of config.json, which
# loses the order of the patterns.
_OWN_FILES = ("quantize_config.json", "quantization_config.json")
_MODEL_FILE, _KEY = "config.json", "quantization_config"
_DEPTH = 3  # sections of config.json that are looked into, as thinker_config.text_config

# Field -> the names it goes by in files.
_NAMES: dict[str, tuple[str, ...]] = {
    "bits": ("bits",),
    "group_size": ("group_size",),
    "desc_act": ("desc_act",),
    "sym": ("sym",),
    "format": ("checkpoint_format", "format"),
}
_METHOD_NAMES = ("quant_method", "method")
_TYPES = {"bits": int, "group_size": int, "desc_act": bool, "sym": bool, "format": str}

_STORES_TRUE_ZERO = {"gptq": False, "gptq_v2": True, "gptq_p": True}  # gptq_p: v2 in four bits
# auto-round's own layouts, by `packing_format`: the ones that are GPTQ's on disk.
_AUTO_ROUND_FORMATS = {
    "auto_round:auto_gptq": "gptq",
    "auto_round:gptqmodel": "gptq_v2",
    "auto_round": "gptq_v2",
}
_REMEDY = "only GPTQ checkpoints (gptq, gptq_v2) and auto-round's in GPTQ layout are read here"


@dataclass(frozen=True)
class QuantConfig:
    """Configuration of the quantised layers.

    bits               bits of a weight, unless a rule says otherwise; None if no file says
    group_size         rows in a group; -1 is one group of all rows
    desc_act           the producer's flag; whether a layer is act-order only its g_idx tells
    sym                whether zeros are symmetric; None if no file says
    checkpoint_format  "gptq" (v1) or "gptq_v2" or "gptq_p"
    producer           such as "gptqmodel:7.6.0", or "unknown"
    zero_format        how this producer's zeros decode
    rules              per-layer overrides and exclusions; the first that matches a name counts
    lm_head            whether the output head is quantised
    pack_dtype         type of the packed words, "int32"
    source             the files that this was read from, for messages
    """

    bits: int | None
    group_size: int
    desc_act: bool
    sym: bool | None
    checkpoint_format: str
    producer: str
    zero_format: ZeroFormat
    rules: Rules
    lm_head: bool
    pack_dtype: str
    source: str

    @classmethod
    def read(cls, directory: Path, metadata: Mapping[str, str]) -> QuantConfig | None:
        """The configuration in `directory`, or None if no file there has one.

        metadata: of the safetensors files; AutoGPTQ leaves its name only there. Raises
        CheckpointError for files that cannot be read, contradict each other, or describe another
        quantisation method.
        """
        found = _read_files(directory)
        if not found:
            return None
        source = " and ".join(found)
        method = _method(found, source)  # first, since another's fields have other types
        fields = {field: _agreed(found, field, names) for field, names in _NAMES.items()}
        merged = {key: value for file in reversed(found) for key, value in found[file].items()}
        checkpoint_format = _checkpoint_format(method, fields, merged, source)
        for field in ("bits", "group_size"):
            if fields[field] is None:
                raise CheckpointError(
                    field,
                    f"in {source}",
                    "nothing",
                    "add it there as the producer set it",
                    code="configuration-missing",
                )
        pack_dtype = merged.get("pack_dtype") or "int32"
        if pack_dtype != "int32":
            raise CheckpointError(
                "pack_dtype",
                f"'int32' in {source}",
                f"{pack_dtype!r}",
                "quantise again with pack_dtype int32",
                code="configuration-wrong",
            )
        producer = _producer(merged, metadata)
        return cls(
            bits=fields["bits"],
            group_size=fields["group_size"],
            desc_act=bool(fields["desc_act"]),
            sym=fields["sym"],
            checkpoint_format=checkpoint_format,
            producer=producer,
            zero_format=_zero_format(checkpoint_format, producer),
            rules=read_rules(merged.get("dynamic"), merged.get("extra_config"), source),
            lm_head=bool(merged.get("lm_head")),
            pack_dtype=pack_dtype,
            source=source,
        )

    @classmethod
    def stated(cls, group_size: int, zero_format: ZeroFormat) -> QuantConfig:
        """Configuration by the caller, for files without one; the shapes give the bits."""
        return cls(
            bits=None,
            group_size=group_size,
            desc_act=False,
            sym=None,
            checkpoint_format="gptq_v2" if zero_format == "v2" else "gptq",
            producer="unknown",
            zero_format=zero_format,
            rules=Rules(),
            lm_head=False,
            pack_dtype="int32",
            source="Checkpoint.open's arguments",
        )

    def rule_for(self, name: str) -> LayerRule | None:
        """The first rule that matches the layer `name`, if any does."""
        return self.rules.first(name)


def config_file_names() -> str:
    """The places where a configuration is looked for, for messages."""
    return ", ".join([*_OWN_FILES, f"{_KEY} in {_MODEL_FILE}"])


def read_model_config(directory: Path) -> dict[str, Any]:
    """The content of config.json in `directory`; empty where there is none."""
    return _read_object(directory / _MODEL_FILE) or {}


def _read_files(directory: Path) -> dict[str, dict[str, Any]]:
    """Place -> quantisation configuration, a file's name or a section of config.json."""
    found = {}
    for file in _OWN_FILES:
        content = _read_object(directory / file)
        if content is not None:
            found[file] = content
    for place, content in _sections(read_model_config(directory), _MODEL_FILE, _DEPTH):
        if not isinstance(content, dict):
            raise CheckpointError(
                directory / _MODEL_FILE,
                f"a JSON object under {_KEY}",
                type(content).__name__,
                code="configuration-wrong",
            )
        found[place] = content
    return found


def _read_object(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        content = read_json(path)
    except CheckpointError as error:
        error.code = "configuration-wrong"
        raise
    except OSError as error:
        raise CheckpointError(
            path,
            "JSON",
            f"what cannot be read ({error})",
            "download the file again",
            code="configuration-wrong",
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(
            path, "a JSON object", type(content).__name__, code="configuration-wrong"
        )
    return content


def _sections(content: Mapping[str, Any], place: str, depth: int) -> Iterator[tuple[str, Any]]:
    """(place, value) of every quantization_config of a model's configuration, the outer first."""
    if content.get(_KEY) is not None:  # null in an unquantised model's
        yield place, content[_KEY]
    for name, section in content.items():
        if depth and name != _KEY and isinstance(section, dict):
            yield from _sections(section, f"{name} of {place}", depth - 1)


def _agreed(found: Mapping[str, dict[str, Any]], field: str, names: tuple[str, ...]) -> Any:
    """The value of `field`, which may stand under several names and in several files."""
    first: tuple[str, Any] | None = None
    for file, content in found.items():
        for name in names:
            value = content.get(name)
            if value is None:
                continue
            expected = _TYPES.get(field, str)
            if type(value) is not expected:
                raise CheckpointError(
                    f"{name} in {file}", expected.__name__, f"{value!r}", code="configuration-wrong"
                )
            if first is not None and value != first[1]:
                raise CheckpointError(
                    field,
                    f"{first[0]} says {first[1]!r}, {name} in {file} says {value!r}",
                    remedy="correct whichever is wrong",
                    code="configuration-wrong",
                )
            first = first or (f"{name} in {file}", value)
    return first[1] if first else None


def _method(found: Mapping[str, dict[str, Any]], source: str) -> str:
    """ "gptq" or "auto-round"; other methods are refused."""
    stated = _agreed(found, "method", _METHOD_NAMES) or "gptq"  # old AutoGPTQ names none
    method = str(stated).lower().replace("_", "-").removeprefix("intel/")
    if method not in ("gptq", "auto-round"):
        raise CheckpointError(
            "quant_method",
            f"'gptq' or 'auto-round' in {source}",
            f"{stated!r}",
            _REMEDY,
            code="configuration-wrong",
        )
    return method


def _checkpoint_format(
    method: str, fields: Mapping[str, Any], merged: Mapping[str, Any], source: str
) -> str:
    if method == "auto-round":
        packing = merged.get("packing_format")
        if packing not in _AUTO_ROUND_FORMATS:
            raise CheckpointError(
                "packing_format",
                f"one of {', '.join(_AUTO_ROUND_FORMATS)} in {source}",
                f"{packing!r}",
                "export again with format='auto_gptq'",
                code="configuration-wrong",
            )
        return _AUTO_ROUND_FORMATS[packing]
    name = "marlin" if merged.get("is_marlin_format") else fields["format"] or "gptq"
    if name not in _STORES_TRUE_ZERO:
        raise CheckpointError(
            "checkpoint_format",
            f"one of {', '.join(_STORES_TRUE_ZERO)} in {source}",
            f"{name!r}",
            _REMEDY,
            code="configuration-wrong",
        )
    return str(name)


def _producer(merged: Mapping[str, Any], metadata: Mapping[str, str]) -> str:
    """Producer of the tensors, as "name:version" where the version is known."""
    meta = merged.get("meta")
    quantizer = meta.get("quantizer") if isinstance(meta, dict) else None
    stamps = [str(stamp) for stamp in (quantizer if isinstance(quantizer, list) else [quantizer])]
    for name in ("gptqmodel", "auto[-_]?round", "auto[-_]?gptq"):
        for stamp in stamps:  # transformers adds its own stamp beside the quantizer's
            if re.search(name, stamp, re.IGNORECASE):
                return stamp
    if "autoround_version" in merged or "auto-round" in str(merged.get("provider")):
        return f"auto-round:{merged.get('autoround_version', 'unknown')}"
    if "auto_gptq_version" in metadata:
        return f"auto_gptq:{metadata['auto_gptq_version']}"
    return "unknown"


def _zero_format(checkpoint_format: str, producer: str) -> ZeroFormat:
    if _STORES_TRUE_ZERO[checkpoint_format]:
        return "v2"
    if re.search("gptqmodel", producer, re.IGNORECASE):
        return "v1_gptqmodel"
    if re.search("auto[-_]?gptq", producer, re.IGNORECASE):
        return "v1_autogptq"
    return "v1"
