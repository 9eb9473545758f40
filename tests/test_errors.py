"""Errors are data: their parts are what the message is made of, and what programs read."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest

import ferrum_numba as fe
from tests.cli.commands import run, run_json
from tests.ptx import IOTA

PARTS = {"field": "x", "expected": "2 rows", "found": "3", "remedy": "take fewer"}


def error() -> fe.AbiError:
    return fe.AbiError("x", "2 rows", 3, "take fewer", where=("step 1", "layer"), code="rows")


def test_the_message_is_made_of_the_parts() -> None:
    assert str(error()) == "step 1: layer: x: expected 2 rows, found 3; take fewer"
    assert {name: getattr(error(), name) for name in PARTS} == PARTS
    assert error().where == ("step 1", "layer")
    assert str(fe.AbiError("x", "2 rows", 3)) == "x: expected 2 rows, found 3"
    assert str(fe.AbiError("no sentence")) == "no sentence"
    problem = fe.AbiError("x", "given twice", remedy="leave one out", where="step 1")
    assert str(problem) == "step 1: x: given twice; leave one out"
    assert (problem.found, problem.expected, problem.remedy) == ("given twice", "", "leave one out")


def test_every_kind_has_a_code() -> None:
    kinds = [k for k in vars(fe).values() if isinstance(k, type) and issubclass(k, fe.FerrumError)]
    assert len({kind.code for kind in kinds}) == len(kinds) >= 8
    assert (error().code, fe.AbiError("x").code, fe.AbiError.code) == ("rows", "abi", "abi")


def test_places_and_names_are_added_to_text_and_parts_alike() -> None:
    found = fe.AbiError("a", "2 rows", 3)
    found.called("c", "out")
    found.called("a", "x, the kernel's a")
    assert str(found) == "x, the kernel's a: expected 2 rows, found 3"
    found.within("step 7")
    assert (str(found)[:9], found.where) == ("step 7: x", ("step 7",))
    assert found.without("step 7").startswith("x, the kernel's a")
    assert found.without("x") == str(found)
    part = fe.CheckpointError("qweight", "2 rows", 3)
    part.part_of("model.q_proj")
    assert str(part) == "model.q_proj.qweight: expected 2 rows, found 3"
    assert part.field == "model.q_proj.qweight"


@pytest.mark.parametrize("way", [copy.copy, lambda e: pickle.loads(pickle.dumps(e))])
def test_copies_are_whole(way) -> None:
    found = error()
    found.within("here")
    assert way(found).to_json() == found.to_json()
    assert type(way(found)) is fe.AbiError


def test_a_launch_says_as_data_what_is_wrong() -> None:
    kernel = fe.open_device("cpu").load_module(IOTA).get_kernel()
    with pytest.raises(fe.AbiError) as raised:
        kernel.launch(fe.LaunchConfig(1, (129,)), 0, 1)
    found = raised.value
    assert (found.field, found.found) == ("block", "129 (129, 1, 1)")
    assert found.expected == "at most 128 threads (the PTX's .maxntid)"


def test_the_command_line_prints_the_parts(tmp_path: Path) -> None:
    code, found = run_json("verify", tmp_path)
    assert (code, list(found)) == (2, ["error"])
    assert found["error"]["kind"] == "CheckpointError"
    assert found["error"]["code"] == "checkpoint-file-missing"
    assert found["error"]["field"] == str(tmp_path)
    assert found["error"]["expected"] == "*.safetensors files"
    result = run("verify", tmp_path)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.rstrip() == f"error: {found['error']['message']}"


def test_the_command_line_prints_what_is_wrong_with_its_use(tmp_path: Path) -> None:
    code, found = run_json("verify", tmp_path, "--seed", "x")
    assert (code, found["error"]["kind"], found["error"]["code"]) == (2, "UsageError", "usage")
    assert found["error"]["field"] == "--seed"
    code, found = run_json(
        "verify", tmp_path, "--resume", tmp_path / "a", "--jsonl", tmp_path / "b"
    )
    assert (code, found["error"]["code"]) == (2, "usage")
    assert found["error"]["message"].startswith("--jsonl: not with --resume")
