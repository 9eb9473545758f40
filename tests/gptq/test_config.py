"""QuantConfig: what each producer's files say, and every refusal."""

import json

import pytest

from ferrum_numba.errors import CheckpointError
from ferrum_numba.gptq import QuantConfig
from tests.gptq.fixtures import FIXTURES, fixture

BASE = {"bits": 4, "group_size": 128, "desc_act": False, "sym": True, "quant_method": "gptq"}
GPTQMODEL = {"meta": {"quantizer": ["gptqmodel:7.6.0"]}}
AUTO_ROUND = {**BASE, "quant_method": "auto-round", "packing_format": "auto_round:auto_gptq"}


def read(folder, metadata=None, **files):
    """The configuration of `folder` after writing files: quantize_config=..., config=..."""
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / f"{name}.json").write_text(text)
    return QuantConfig.read(folder, metadata or {})


@pytest.mark.parametrize("name", FIXTURES)
def test_fixtures(name):
    metadata = {"auto_gptq_version": "0.7.1"} if name.startswith("ag_") else {}
    config = QuantConfig.read(fixture(name), metadata)
    maker, format_version = name.split("_")[:2]
    producers = {"gm": "gptqmodel:7.6.0", "ag": "auto_gptq:0.7.1", "ar": "auto-round:0.16.1"}
    v1 = {"gm": "v1_gptqmodel", "ag": "v1_autogptq", "ar": "v1"}
    assert config.producer == producers[maker]
    assert config.zero_format == ("v2" if format_version == "v2" else v1[maker])
    assert config.sym is ("_sym_" in name)
    assert config.desc_act is ("actorder" in name)
    assert config.bits == 4
    assert config.pack_dtype == "int32"
    assert not config.lm_head
    assert config.source.endswith("config.json and config.json")


def test_no_configuration_is_none(tmp_path):
    assert read(tmp_path) is None
    assert read(tmp_path, config={"model_type": "llama"}) is None  # an unquantised model


@pytest.mark.parametrize("file", ["quantize_config", "quantization_config", "config"])
def test_each_file_alone_suffices(tmp_path, file):
    content = {"quantization_config": BASE} if file == "config" else BASE
    config = read(tmp_path, **{file: content})
    assert (config.bits, config.group_size, config.zero_format) == (4, 128, "v1")
    assert config.source == f"{file}.json"


@pytest.mark.parametrize(
    ("extra", "metadata", "producer", "zero_format"),
    [
        ({}, {}, "unknown", "v1"),
        ({"checkpoint_format": "gptq"}, {}, "unknown", "v1"),
        ({"quant_method": None}, {}, "unknown", "v1"),  # early AutoGPTQ
        (GPTQMODEL, {}, "gptqmodel:7.6.0", "v1_gptqmodel"),
        ({"meta": {"quantizer": "gptqmodel:1.9"}}, {}, "gptqmodel:1.9", "v1_gptqmodel"),
        (
            {"meta": {"quantizer": ["optimum:1.24", "gptqmodel:2.2"]}},
            {},
            "gptqmodel:2.2",
            "v1_gptqmodel",
        ),
        ({**GPTQMODEL, "format": "gptq_v2"}, {}, "gptqmodel:7.6.0", "v2"),
        ({**GPTQMODEL, "format": "gptq_p"}, {}, "gptqmodel:7.6.0", "v2"),
        ({}, {"auto_gptq_version": "0.7.1"}, "auto_gptq:0.7.1", "v1_autogptq"),
        ({"autoround_version": "0.16.1"}, {}, "auto-round:0.16.1", "v1"),
        ({"provider": "auto-round"}, {}, "auto-round:unknown", "v1"),
        (GPTQMODEL, {"auto_gptq_version": "0.7.1"}, "gptqmodel:7.6.0", "v1_gptqmodel"),
        ({"is_marlin_format": False}, {}, "unknown", "v1"),
    ],
)
def test_the_producer_decides_the_zero_format(tmp_path, extra, metadata, producer, zero_format):
    config = read(tmp_path, metadata, quantize_config={**BASE, **extra})
    assert (config.producer, config.zero_format) == (producer, zero_format)


@pytest.mark.parametrize(
    ("packing_format", "zero_format"),
    [("auto_round:auto_gptq", "v1"), ("auto_round:gptqmodel", "v2"), ("auto_round", "v2")],
)
def test_auto_rounds_own_layouts(tmp_path, packing_format, zero_format):
    content = {**AUTO_ROUND, "packing_format": packing_format}
    assert read(tmp_path, quantization_config=content).zero_format == zero_format


def test_files_complete_each_other(tmp_path):
    config = read(
        tmp_path,
        quantize_config={"bits": 4, "group_size": 64},
        config={"quantization_config": {"bits": 4, "sym": False, "checkpoint_format": "gptq_v2"}},
    )
    assert (config.group_size, config.sym, config.zero_format) == (64, False, "v2")


def test_the_order_of_dynamic_comes_from_the_producers_file(tmp_path):
    first, second = {"bits": 8}, {"bits": 4}
    dynamic = {"z": first, ".*": second}
    alphabetic = dict(sorted(dynamic.items()))
    config = read(
        tmp_path,
        quantize_config={**BASE, "dynamic": dynamic},
        config={"quantization_config": {**BASE, "dynamic": alphabetic}},
    )
    assert config.rule_for("z_proj").bits == 8
    assert config.rule_for("a_proj").bits == 4


DISAGREEMENTS = [
    ({"bits": 8}, r"bits: bits in quantize_config.json says 4, bits in config.json says 8"),
    ({"group_size": 64}, r"group_size: .*quantize_config.json says 128, .*config.json says 64"),
    ({"desc_act": True}, r"desc_act: .*quantize_config.json says False, .*config.json says True"),
    ({"sym": False}, r"sym: .*quantize_config.json says True, .*config.json says False; correct"),
    (
        {"format": "gptq_v2"},
        r"format: checkpoint_format in quantize_config.json says 'gptq', "
        r"format in config.json says 'gptq_v2'",
    ),
    ({"quant_method": "awq"}, r"method: .*says 'gptq', .*config.json says 'awq'"),
]


@pytest.mark.parametrize(("change", "message"), DISAGREEMENTS)
def test_disagreements_name_both_files(tmp_path, change, message):
    with pytest.raises(CheckpointError, match=message):
        read(
            tmp_path,
            quantize_config={**BASE, "checkpoint_format": "gptq"},
            config={"quantization_config": {**BASE, **change}},
        )


REFUSALS = {
    "awq": ({"quant_method": "awq"}, r"quant_method: expected 'gptq' or .*found 'awq'; only GPTQ"),
    "fp8": ({"quant_method": "fp8"}, r"quant_method: .*found 'fp8'"),
    "compressed-tensors": (
        {"quant_method": "compressed-tensors"},
        r"quant_method: .*in quantize_config.json, found 'compressed-tensors'",
    ),
    "EXL2, whose bits are no integer": (
        {"quant_method": "exl2", "bits": 4.25},
        r"quant_method: expected 'gptq' or .*found 'exl2'",
    ),
    "marlin": ({"checkpoint_format": "marlin"}, r"checkpoint_format: .*found 'marlin'; only GPTQ"),
    "AutoGPTQ's marlin": ({"is_marlin_format": True}, r"checkpoint_format: .*found 'marlin'"),
    "names at odds": (
        {"checkpoint_format": "gptq", "format": "gptq_v2"},
        r"format: checkpoint_format in quantize_config.json says 'gptq', "
        r"format in quantize_config.json says 'gptq_v2'",
    ),
    "auto-round's AWQ": (
        {"quant_method": "auto-round", "packing_format": "auto_round:auto_awq"},
        r"packing_format: expected one of .*found 'auto_round:auto_awq'; export again",
    ),
    "auto-round without packing": (
        {"quant_method": "auto-round"},
        r"packing_format: expected one of auto_round:auto_gptq, .*found None",
    ),
    "pack_dtype": ({"pack_dtype": "int16"}, r"pack_dtype: expected 'int32' .*found 'int16'"),
    "no bits": ({"bits": None}, r"bits: expected in quantize_config.json, found nothing"),
    "no group_size": ({"group_size": None}, r"group_size: expected in .*found nothing; add"),
    "bits a text": ({"bits": "4"}, r"bits in quantize_config.json: expected int, found '4'"),
    "group_size a bool": ({"group_size": True}, r"group_size in .*: expected int, found True"),
    "sym a number": ({"sym": 1}, r"sym in quantize_config.json: expected bool, found 1"),
    "dynamic a list": ({"dynamic": [1]}, r"dynamic in .*: expected a JSON object, found \[1\]"),
    "dynamic values": ({"dynamic": {"a": 4}}, r"dynamic\['a'\] in .*: expected a JSON object"),
    "dynamic bits": (
        {"dynamic": {"a": {"bits": "8"}}},
        r"dynamic\['a'\] in quantize_config.json: expected bits to be int, found '8'",
    ),
    "dynamic pattern": (
        {"dynamic": {"-:(": {}}},
        r"dynamic\['-:\('\] in quantize_config.json: expected a regular expression",
    ),
    "dynamic repetition": (
        {"dynamic": {"-:a{99999999999}": {}}},
        r"dynamic\[.* in quantize_config.json: expected a regular expression, .*too large",
    ),
    "dynamic format": (
        {"dynamic": {"a": {"format": "gptq_v2"}}},
        r"dynamic\['a'\] in .*: expected no 'format' for single layers, found 'gptq_v2'",
    ),
}


@pytest.mark.parametrize("fault", REFUSALS)
def test_refusals(tmp_path, fault):
    change, message = REFUSALS[fault]
    with pytest.raises(CheckpointError, match=message):
        read(tmp_path, quantize_config={**BASE, **change})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"quantize_config.json: expected JSON, found what cannot be read .*download"),
        ("[1]", r"quantize_config.json: expected a JSON object, found list"),
        ("[" * 200_000, r"quantize_config.json: expected JSON, found what cannot be read"),
    ],
)
def test_unreadable_files(tmp_path, text, message):
    with pytest.raises(CheckpointError, match=message):
        read(tmp_path, quantize_config=text)


def test_not_utf8(tmp_path):
    (tmp_path / "quantize_config.json").write_bytes(b'{"bits": "\xff"}')
    with pytest.raises(CheckpointError, match=r"quantize_config.json: expected JSON"):
        read(tmp_path)


def test_a_quantization_config_that_is_no_object(tmp_path):
    with pytest.raises(CheckpointError, match="JSON object under quantization_config, found int"):
        read(tmp_path, config={"quantization_config": 4})
