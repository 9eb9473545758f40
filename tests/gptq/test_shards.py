"""Shards: several files with and without an index, and files that are none."""

import json
import re
import shutil
import sys
import warnings
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import save_file

from ferrum_numba.gptq import Checkpoint, Recipe, make_checkpoint
from tests.campaigns.layers import random_tensors
from tests.gptq.fixtures import (
    DOWN_PROJ,
    Q_PROJ,
    damaged,
    edit_tensors,
    fixture,
    refused,
    save_layer,
)

PARTS = ("qweight", "qzeros", "scales")
INDEX = "model.safetensors.index.json"


def test_shards_without_an_index(sharded):
    (sharded / INDEX).unlink()
    checkpoint = Checkpoint.open(sharded)
    assert len(checkpoint.layers) == 14
    for name in checkpoint.layers:
        np.testing.assert_array_equal(
            checkpoint.load(name).dequantize(),
            Checkpoint.open(fixture("gm_v1_sym_g64_sharded")).load(name).dequantize(),
        )


def test_a_missing_file_that_no_index_tells_of_is_a_problem(sharded):
    (sharded / INDEX).unlink()
    name = "model-00002-of-00004.safetensors"
    (sharded / name).unlink()
    problem = Checkpoint.open(sharded).problems[name]
    assert re.search("expected 4 files of this series, found 3; layers that stand in", problem)


@pytest.mark.parametrize("place", ["gone.safetensors", "model-00001-of-00004.safetensors"])
def test_a_stale_index_is_not_followed(sharded, place):
    index = json.loads((sharded / INDEX).read_text())
    index["weight_map"] = dict.fromkeys(index["weight_map"], place)
    (sharded / INDEX).write_text(json.dumps(index))
    checkpoint = Checkpoint.open(sharded)
    assert len(checkpoint.layers) == 14
    checkpoint.load(DOWN_PROJ)  # its tensors lie in two shards


@pytest.mark.parametrize(
    "place",
    ["../../outside.safetensors", "/etc/passwd", "a\\b", "C:x", "x\0", "..", "", None, ["a"], 3],
)
def test_an_index_that_names_a_path_is_refused(sharded, place):
    index = json.loads((sharded / INDEX).read_text())
    index["weight_map"][f"{Q_PROJ}.scales"] = place
    (sharded / INDEX).write_text(json.dumps(index))
    with refused(
        rf"index\.json: {Q_PROJ}\.scales: expected the name of a file in the same directory, found "
    ):
        Checkpoint.open(sharded)


@pytest.mark.parametrize("text", ["{", "[]", '{"weight_map": 3}', "{}", "[" * 100_000])
def test_an_unreadable_index_is_a_problem_and_hides_none(sharded, text):
    (sharded / INDEX).write_text(text)
    checkpoint = Checkpoint.open(sharded)
    assert len(checkpoint.layers) == 14
    assert re.search(r"index\.json: expected a JSON object with", checkpoint.problems[INDEX])
    (sharded / "model-00003-of-00004.safetensors").unlink()
    message = r"qweight: expected in .*found in none of them; the checkpoint is incomplete"
    damaged(sharded, DOWN_PROJ, message)


def test_a_missing_shard_is_named_from_the_index(sharded):
    (sharded / "model-00003-of-00004.safetensors").unlink()
    message = (
        r"qweight: expected in .*\(the index places it in "
        r"'model-00003-of-00004\.safetensors'\); the checkpoint is incomplete"
    )
    damaged(sharded, DOWN_PROJ, message)


def test_a_layer_wholly_in_a_missing_shard_is_named_from_the_index(sharded):
    for number in (2, 3, 4):
        (sharded / f"model-0000{number}-of-00004.safetensors").unlink()
    first = sharded / "model-00001-of-00004.safetensors"
    edit_tensors(first, lambda t: [t.pop(name) for name in list(t) if "o_proj" in name])
    checkpoint = Checkpoint.open(sharded)
    assert Q_PROJ in checkpoint.layers
    with refused(rf"^{DOWN_PROJ}\.qweight: .*index places it in 'model-00003-of-00004\.safet"):
        checkpoint.load(DOWN_PROJ)


def test_one_shard_of_a_layer_alone_is_refused(sharded):
    message = r"o_proj\.\w+: expected in model-00001.*open its directory"
    damaged(
        sharded / "model-00001-of-00004.safetensors", "model.layers.0.self_attn.o_proj", message
    )


def test_a_name_in_two_files_is_refused(plain):
    shutil.copy(plain / "model.safetensors", plain / "other.safetensors")
    with refused(
        r"^\S+: expected in one file, found in model\.safetensors and other\.safetensors of .*"
        r"remove the file that does not belong"
    ):
        Checkpoint.open(plain)


def test_layers_are_in_the_order_of_their_numbers(tmp_path):
    make_checkpoint(tmp_path, Recipe(layers=11, shards=3, layers_only=True))
    numbers = [int(name.split(".")[2]) for name in Checkpoint.open(tmp_path).layers]
    assert numbers == sorted(numbers)
    assert numbers[-1] == 10


def test_no_such_path(tmp_path):
    with refused(r"gone: expected a checkpoint directory or a \.safetensors file, found nothing"):
        Checkpoint.open(tmp_path / "gone")


def test_a_directory_that_nobody_may_read(tmp_path, monkeypatch):
    def deny(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.glob", deny)
    with refused(r"expected a checkpoint, found what cannot be read \(.*Permission denied"):
        Checkpoint.open(tmp_path)


def test_an_empty_directory(tmp_path):
    with refused(r"expected \*\.safetensors files, found nothing; name the model's own directory"):
        Checkpoint.open(tmp_path)


def test_a_directory_of_other_files(tmp_path):
    (tmp_path / "pytorch_model.bin").touch()
    with refused(r"expected \*\.safetensors files, found pytorch_model\.bin; .*convert \.bin"):
        Checkpoint.open(tmp_path)


@pytest.mark.parametrize(
    "content",
    [b"", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", b"\xff" * 64],
)
def test_a_file_that_is_no_safetensors(plain, content):
    (plain / "model.safetensors").write_bytes(content)
    with refused(r"model\.safetensors: expected a safetensors file.* found .*download the file"):
        Checkpoint.open(plain)


def test_a_truncated_file(plain):
    file = plain / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    with refused(r"\w+: expected a file of \d+ bytes, .*found \d+: the file is cut short"):
        Checkpoint.open(plain)


def test_no_quantised_layers(plain):
    save_file({"model.norm.weight": np.ones(8, np.float16)}, plain / "model.safetensors")
    with refused(r"expected tensors named \*\.qweight, found none among 1 tensors"):
        Checkpoint.open(plain)


def second_copy(folder, change):
    """Add a shard with a copy of Q_PROJ's scales, changed in place, beside the one indexed."""
    name = f"{Q_PROJ}.scales"
    scales = Checkpoint.open(folder).array(name)
    copy = scales.copy()
    change(copy)
    save_file({name: copy}, folder / "a-first.safetensors")
    return scales


def test_of_a_tensor_in_two_shards_the_indexed_one_is_taken(sharded):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        second_copy(sharded, lambda copy: None)
        Checkpoint.open(sharded)  # the same bytes: nothing to say
    scales = Checkpoint.open(sharded).array(f"{Q_PROJ}.scales")
    second_copy(sharded, lambda copy: copy.fill(2))
    place = json.loads((sharded / INDEX).read_text())["weight_map"][f"{Q_PROJ}.scales"]
    with pytest.warns(
        UserWarning,
        match=rf"^{Q_PROJ}\.scales: expected the same values .*; the one in {place}, wh",
    ):
        checkpoint = Checkpoint.open(sharded)
    np.testing.assert_array_equal(checkpoint.load(Q_PROJ).scales, scales)
    assert checkpoint.tensors[f"{Q_PROJ}.scales"].file == place


def test_the_index_may_place_a_tensor_in_the_file_that_is_read_first(sharded):
    second_copy(sharded, lambda copy: copy.fill(2))
    index = json.loads((sharded / INDEX).read_text())
    index["weight_map"][f"{Q_PROJ}.scales"] = "a-first.safetensors"
    (sharded / INDEX).write_text(json.dumps(index))
    with pytest.warns(UserWarning, match="the one in a-first.safetensors"):
        checkpoint = Checkpoint.open(sharded)
    assert (checkpoint.load(Q_PROJ).scales == 2).all()


def test_of_a_tensor_in_many_shards_any_can_be_the_indexed_one(tmp_path):
    tensors = random_tensors(64, 64, 64)
    for number in range(4):
        scales = tensors.scales * np.float16(2**number)
        save_layer(tmp_path / f"{number}.safetensors", replace(tensors, scales=scales))
    for number in range(4):
        index = {f"layer.{part}": f"{number}.safetensors" for part in PARTS}
        (tmp_path / INDEX).write_text(json.dumps({"weight_map": index}))
        with pytest.warns(UserWarning, match=rf"scales: .*; the one in {number}\.safetensors"):
            checkpoint = Checkpoint.open(tmp_path, group_size=64, zero_format="v1")
        np.testing.assert_array_equal(
            checkpoint.load("layer").scales, tensors.scales * np.float16(2**number)
        )


@pytest.mark.parametrize("place", [None, "gone.safetensors"])
def test_a_tensor_in_two_shards_of_which_the_index_names_none(sharded, place):
    second_copy(sharded, lambda copy: copy.fill(2))
    index = json.loads((sharded / INDEX).read_text())
    index["weight_map"] |= {f"{Q_PROJ}.scales": place} if place else {}
    if place is None:
        del index["weight_map"][f"{Q_PROJ}.scales"]
    (sharded / INDEX).write_text(json.dumps(index))
    with refused(r"scales: expected in one file, found in .* and .*; where all belong, get the"):
        Checkpoint.open(sharded)


def test_layers_that_the_index_does_not_name_are_left_out_unless_asked(sharded):
    index = json.loads((sharded / INDEX).read_text())
    for part in ("qweight", "qzeros", "scales", "g_idx"):
        del index["weight_map"][f"{DOWN_PROJ}.{part}"]
    (sharded / INDEX).write_text(json.dumps(index))
    checkpoint = Checkpoint.open(sharded)
    assert checkpoint.unindexed == (DOWN_PROJ,)
    assert len(checkpoint.layers) == 13
    assert not checkpoint.problems
    with refused(rf"^{DOWN_PROJ}: expected a layer that the index names, .*unindexed=True"):
        checkpoint.load(DOWN_PROJ)
    asked = Checkpoint.open(sharded, unindexed=True)
    assert asked.unindexed == (DOWN_PROJ,)
    assert [name for name, spec in asked.layers.items() if not spec.indexed] == [DOWN_PROJ]
    assert len(asked.layers) == 14
    asked.load(DOWN_PROJ)


def test_a_file_that_is_asked_for_has_all_its_layers(tmp_path):
    tensors = random_tensors(64, 64, 64)
    for name in "ab":
        save_layer(tmp_path / f"{name}.safetensors", tensors, name)
    save_layer(tmp_path / "more.safetensors", tensors, "more")
    places = {f"{name}.{part}": f"{name}.safetensors" for name in "ab" for part in PARTS}
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": places}))
    stated = {"group_size": 64, "zero_format": "v1"}
    assert list(Checkpoint.open(tmp_path, **stated).layers) == ["a", "b"]
    assert "more" in Checkpoint.open(tmp_path / "more.safetensors", **stated).layers


def test_an_index_of_the_dense_model_says_nothing_of_layers(sharded):
    index = {"weight_map": {f"{Q_PROJ}.weight": "model-00001-of-00002.safetensors"}}
    (sharded / INDEX).write_text(json.dumps(index))
    checkpoint = Checkpoint.open(sharded)
    assert (len(checkpoint.layers), checkpoint.unindexed) == (14, ())


def header_of(n, start=0):
    """The header of a file of n small layers, and the bytes that it describes."""
    parts = {"qweight": ("I32", [16, 64], 4096), "qzeros": ("I32", [1, 8], 32)}
    parts["scales"] = ("F16", [1, 64], 128)
    header, offset = {}, 0
    for number in range(start, start + n):
        for part, (dtype, shape, nbytes) in parts.items():
            entry = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + nbytes]}
            header[f"model.layers.{number}.{part}"] = entry
            offset += nbytes
    return header, offset


def test_opening_takes_work_in_proportion_to_the_layers(tmp_path, monkeypatch):
    """Work is counted in lines of this package's code, with half of the layers missing."""

    def lines(n):
        folder = tmp_path / str(n)
        folder.mkdir()
        header, nbytes = header_of(n)
        text = json.dumps(header).encode()
        with (folder / "model-00001-of-00002.safetensors").open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            file.truncate(8 + len(text) + nbytes)
        places = dict.fromkeys(header, "model-00001-of-00002.safetensors")
        places |= dict.fromkeys(header_of(n, n)[0], "model-00002-of-00002.safetensors")
        (folder / INDEX).write_text(json.dumps({"weight_map": places}))
        counted = 0

        def trace(frame, event, argument):
            nonlocal counted
            counted += event == "line"
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            checkpoint = Checkpoint.open(folder, group_size=128, zero_format="v2")
        finally:
            sys.settrace(before)
        assert (len(checkpoint.layers), len(checkpoint.problems)) == (n, n)
        return counted

    assert lines(400) < 4.5 * lines(100)
