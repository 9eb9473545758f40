"""Files of a checkpoint: regular ones alone are opened, and JSON in any UTF is read."""

import json
import os

import pytest

from ferrum_numba.gptq import Checkpoint
from ferrum_numba.gptq import files as files_module
from tests.gptq.fixtures import refused

CONFIGS = ("config.json", "quantize_config.json")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("name", [*CONFIGS, "model.safetensors.index.json"])
def test_a_byte_order_mark_is_read(sharded, name, encoding):
    expected = Checkpoint.open(sharded)
    file = sharded / name
    file.write_bytes(file.read_text(encoding="utf-8").encode(encoding))
    found = Checkpoint.open(sharded)
    assert (found.config, found.quantization) == (expected.config, expected.quantization)
    assert not found.problems


@pytest.mark.parametrize("name", CONFIGS)
def test_a_pipe_in_place_of_a_configuration(plain, name):
    (plain / name).unlink()
    os.mkfifo(plain / name)
    with refused(rf"{name}: expected a regular file, found a device or pipe"):
        Checkpoint.open(plain)


def test_a_device_in_place_of_a_configuration(plain):
    (plain / "config.json").unlink()
    (plain / "config.json").symlink_to("/dev/zero")
    with refused(r"config\.json: expected a regular file, found a device or pipe"):
        Checkpoint.open(plain)


def test_a_pipe_in_place_of_an_index_is_a_problem(sharded):
    name = "model.safetensors.index.json"
    (sharded / name).unlink()
    os.mkfifo(sharded / name)
    checkpoint = Checkpoint.open(sharded)
    assert len(checkpoint.layers) == 14
    assert "expected a regular file, found a device or pipe" in checkpoint.problems[name]


def test_a_pipe_that_takes_a_files_place_in_between(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "a.json")
    monkeypatch.setattr("pathlib.Path.is_file", lambda path: True)
    with refused(r"a\.json: expected a regular file, found one that has just been replaced"):
        files_module.read_json(tmp_path / "a.json")


def test_json_of_gigabytes_is_refused_unread(plain):
    with (plain / "config.json").open("r+b") as file:
        file.truncate(10 << 30)
    with refused(r"config\.json: expected at most 100000000 bytes of JSON, found 10737418240"):
        Checkpoint.open(plain)


@pytest.mark.parametrize(
    "sections",
    [("text_config",), ("llm_config",), ("language_config",), ("thinker_config", "text_config")],
)
def test_a_configuration_in_a_section_of_the_models(plain, sections):
    expected = Checkpoint.open(plain).layers
    (plain / "quantize_config.json").unlink()
    file = plain / "config.json"
    content = {"model_type": "any", "vision_config": {"depth": 2}}
    section = content
    for name in sections:
        section[name] = {"hidden_size": 256}
        section = section[name]
    section["quantization_config"] = json.loads(file.read_text())["quantization_config"]
    file.write_text(json.dumps(content))
    checkpoint = Checkpoint.open(plain)
    assert dict(checkpoint.layers) == dict(expected)
    place = " of ".join([*reversed(sections), "config.json"])
    assert checkpoint.quantization.source == place


def test_sections_that_contradict_each_other(plain):
    file = plain / "config.json"
    content = json.loads(file.read_text())
    content["talker_config"] = {
        "quantization_config": {**content["quantization_config"], "group_size": 32}
    }
    file.write_text(json.dumps(content))
    with refused(r"group_size: .* says 128, group_size in talker_config of config\.json says 32"):
        Checkpoint.open(plain)
