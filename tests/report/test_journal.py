"""JSON lines: what is written is read back, and only what fits is taken."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import pytest

import ferrum_numba as fe
from ferrum_numba.json_values import as_json
from ferrum_numba.report import Journal, Plan, settings_of
from ferrum_numba.report.record import layer_result
from tests.gptq.fixtures import copy_of, fixture
from tests.report.results import failing, one_of_each, passing, unwritten

SETTINGS = {"cpu": {"seed": 0, "m_values": (1, 4)}}


def started(path, settings=SETTINGS, again=False):
    journal = Journal(path, settings)
    journal.start(again=again)
    return journal


@pytest.mark.parametrize("number", range(5))
def test_a_result_comes_back_from_json(number):
    result = one_of_each()[number]
    text = json.dumps(as_json(result), allow_nan=False)
    assert repr(layer_result(json.loads(text))) == repr(result).replace("inf", "nan")


def test_what_is_appended_is_there_for_the_next_run(tmp_path):
    path = tmp_path / "run.jsonl"
    journal = started(path)
    for result in (passing(), unwritten()):
        journal.append(result)
    assert len(path.read_bytes().splitlines()) == 2
    done = started(path).done
    assert list(done) == [(passing().layer, None), ("b.unwritten", None)]
    assert repr(done[passing().layer, None]) == repr(passing())


def test_the_last_of_two_results_counts(tmp_path):
    path = tmp_path / "run.jsonl"
    journal = started(path)
    journal.append(failing())
    journal.append(passing())
    assert started(path).done[passing().layer, None].verdict == "pass"


@pytest.mark.parametrize("settings", [{"cpu": {"seed": 1, "m_values": (1, 4)}}, {"cuda:0": {}}])
def test_results_of_other_settings_are_left_alone(tmp_path, settings):
    path = tmp_path / "run.jsonl"
    started(path).append(passing())
    assert started(path, settings).done == {}
    assert len(path.read_bytes().splitlines()) == 1


def test_a_line_that_was_cut_off_is_cut_away(tmp_path):
    path = tmp_path / "run.jsonl"
    started(path).append(passing())
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:100])
    journal = started(path)
    assert len(journal.done) == 1
    assert path.read_bytes() == whole
    journal.append(failing())
    assert len(started(path).done) == 1


def test_to_begin_anew(tmp_path):
    path = tmp_path / "run.jsonl"
    started(path).append(passing())
    assert started(path, again=True).done == {}
    assert path.read_bytes() == b""


@pytest.mark.parametrize("line", ["no JSON", "{}", "[1]", '{"settings": {}, "result": {}}'])
def test_another_file_is_refused(tmp_path, line):
    path = tmp_path / "other.txt"
    path.write_text(f"{line}\n")
    with pytest.raises(fe.CheckpointError, match=r"other\.txt: expected a line of JSON .* line 1"):
        started(path)
    assert path.read_text() == f"{line}\n"


def test_a_file_that_cannot_be_written_is_refused(tmp_path):
    with pytest.raises(fe.CheckpointError, match="expected a file to append to"):
        started(tmp_path / "nowhere" / "run.jsonl")


def test_the_settings_tell_checkpoints_and_plans_apart(tmp_path):
    cpu = fe.open_device("cpu")
    folder = copy_of("gm_v1_sym_g128", tmp_path)
    checkpoint, plan = fe.Checkpoint.open(folder), Plan((1, 2))
    settings = settings_of(checkpoint, plan, cpu)
    assert settings == settings_of(fe.Checkpoint.open(folder), replace(plan, explain=True), cpu)
    assert settings != settings_of(checkpoint, replace(plan, seed=1), cpu)
    assert settings != settings_of(checkpoint, replace(plan, m_values=(1,)), cpu)
    assert settings != settings_of(fe.Checkpoint.open(fixture("gm_v2_sym_g128")), plan, cpu)
    assert settings != settings_of(fe.Checkpoint.open(folder, zero_format="v2"), plan, cpu)
    os.utime(folder / "model.safetensors", (1, 1))
    assert settings != settings_of(checkpoint, plan, cpu)
    json.dumps(settings)


@pytest.mark.parametrize("make", [lambda path: path.symlink_to("/dev/zero"), os.mkfifo])
def test_what_has_no_end_is_no_journal(tmp_path, make):
    make(tmp_path / "run.jsonl")
    with pytest.raises(fe.CheckpointError, match="expected a regular file to append to"):
        started(tmp_path / "run.jsonl")


def test_the_settings_tell_how_groups_are_read(tmp_path):
    cpu, folder = fe.open_device("cpu"), copy_of("gm_v1_sym_g128", tmp_path)
    settings = [
        settings_of(fe.Checkpoint.open(folder, g_idx=g_idx), Plan(), cpu)
        for g_idx in ("file", "ignore")
    ]
    assert settings[0] != settings[1]
