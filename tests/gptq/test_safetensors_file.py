"""The safetensors reader and writer, against the safetensors package and against chance."""

import json
import os
import tracemalloc
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from ferrum_numba.devices.file_pages import extent_of
from ferrum_numba.errors import CheckpointError
from ferrum_numba.gptq.safetensors_file import read_tensors, write_file
from ferrum_numba.gptq.safetensors_header import NUMPY_DTYPES, read_header
from tests.gptq.fixtures import FOLDER, refused

TENSORS = {
    "b": np.arange(6, dtype=np.int32).reshape(2, 3),
    "a": np.array([1.5, -2], np.float16),
    "empty": np.zeros((0, 4), np.float32),
    "number": np.array(7, np.int64),
    "bf": np.array([[1, 2]], ml_dtypes.bfloat16),
    "ü 'x'": np.array([True, False]),
}
NAMES = {dtype: name for name, dtype in NUMPY_DTYPES.items()}


def header_of(tensors):
    return {name: (NAMES[array.dtype], array.shape) for name, array in tensors.items()}


def check(tensors, expected):
    assert set(tensors) == set(expected)
    for name, array in expected.items():
        assert tensors[name].dtype == array.dtype
        assert tensors[name].shape == array.shape
        assert tensors[name].tobytes() == array.tobytes()
        assert tensors[name].flags.c_contiguous


def test_what_the_package_writes_is_read(tmp_path):
    file = tmp_path / "a.safetensors"
    save_file(TENSORS, file, {"format": "pt"})
    stored, metadata = read_header(file)
    assert metadata == {"format": "pt"}
    check(dict(read_tensors(stored)), TENSORS)


def test_large_tensors_are_the_files_pages(tmp_path):
    """As long as they are used; nobody may write them."""
    tensors = {
        "small": np.arange(5, dtype=np.int32),
        "odd": np.arange(3, dtype=np.uint8),
        "large": np.arange(1 << 18, dtype=np.int32).reshape(512, 512),
        "bf": np.ones((1 << 10, 1 << 9), ml_dtypes.bfloat16),
    }
    file = tmp_path / "a.safetensors"
    write_file(file, header_of(tensors), tensors.values())
    stored, _ = read_header(file)
    found = dict(read_tensors(stored, mapped=True))
    check(found, tensors)
    assert {name: array.flags.owndata for name, array in found.items()} == {
        "small": True,
        "odd": True,
        "large": False,
        "bf": False,
    }
    tracemalloc.start()
    again = dict(read_tensors({"large": stored["large"]}, mapped=True))
    assert tracemalloc.get_traced_memory()[1] < 1 << 16
    tracemalloc.stop()
    assert not found["large"].flags.writeable
    extent = extent_of(found["large"][256:])
    assert extent is not None
    part = os.pread(extent.descriptor, 1 << 19, extent.begin)
    assert part == tensors["large"][256:].tobytes()
    assert extent_of(tensors["large"]) is None
    file.rename(tmp_path / "b.safetensors")
    check(again, {"large": tensors["large"]})
    file.write_bytes((tmp_path / "b.safetensors").read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="cut short"):
        dict(read_tensors({"bf": stored["bf"]}, mapped=True))


def test_what_is_written_the_package_reads(tmp_path):
    file = tmp_path / "a.safetensors"
    nbytes = write_file(file, header_of(TENSORS), TENSORS.values(), {"format": "pt"})
    assert nbytes == file.stat().st_size
    check(load_file(file), TENSORS)
    with safe_open(file, framework="np") as handle:
        assert handle.metadata() == {"format": "pt"}


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*/*.safetensors")), ids=str)
def test_the_producers_files(path: Path):
    stored, _ = read_header(path)
    check(dict(read_tensors(stored)), load_file(path))


def test_a_tensor_may_come_in_parts(tmp_path):
    file = tmp_path / "a.safetensors"
    write_file(file, {"x": ("F16", (4, 2))}, [np.ones((3, 2), np.float16), np.zeros(2, "f2")])
    assert load_file(file)["x"].tolist() == [[1, 1], [1, 1], [1, 1], [0, 0]]
    with refused(r"a\.safetensors: expected 16 bytes of tensors, as .* announces, found 12"):
        write_file(file, {"x": ("F16", (4, 2))}, [np.ones((3, 2), np.float16)])


def test_tensors_of_dtypes_that_numpy_lacks_are_only_measured(tmp_path):
    file = tmp_path / "a.safetensors"
    entries = {
        "f8": {"dtype": "F8_E4M3", "shape": [3, 2], "data_offsets": [0, 6]},
        "f4": {"dtype": "F4", "shape": [4], "data_offsets": [6, 8]},
    }
    text = json.dumps(entries).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + bytes(8))
    stored, _ = read_header(file)
    assert stored["f4"].nbytes == 2
    with refused(r"a\.safetensors: f8: expected a dtype among BOOL, .*found F8_E4M3, which NumPy"):
        dict(read_tensors(stored))


def test_a_file_that_shrinks_after_the_open(tmp_path):
    file = tmp_path / "a.safetensors"
    save_file({"x": np.zeros(1 << 20, np.int32)}, file)
    stored, _ = read_header(file)
    os.truncate(file, 1000)
    tracemalloc.start()
    try:
        with refused(r"a\.safetensors: x: expected a file of \d+ bytes, .*found 1000: "):
            dict(read_tensors(stored))
        assert tracemalloc.get_traced_memory()[1] < 1 << 20  # not even allocated
    finally:
        tracemalloc.stop()
    file.unlink()
    with refused(r"a\.safetensors: expected a regular file, found nothing"):
        dict(read_tensors(stored))


@pytest.mark.parametrize(
    ("begins", "found"),
    [(b"GGUF\3\0\0\0", "a GGUF file"), (b"PK\3\4\0\0\10\10", "a zip file, such as torch.save")],
)
def test_files_of_other_kinds_are_named(tmp_path, begins, found):
    file = tmp_path / "model.safetensors"
    file.write_bytes(begins + bytes(100))
    with refused(f"expected a safetensors file, found {found}"):
        read_header(file)


def test_a_header_whose_length_is_spelt_as_a_pickle_begins(tmp_path):
    header = b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}'.ljust(0x0280)
    file = tmp_path / "model.safetensors"
    file.write_bytes(len(header).to_bytes(8, "little") + header + b"x")
    assert list(read_header(file)[0]) == ["a"]


def test_a_pipe_is_refused_without_waiting_for_a_writer(tmp_path):
    os.mkfifo(tmp_path / "a.safetensors")
    with refused(r"a\.safetensors: expected a regular file, found a device or pipe"):
        read_header(tmp_path / "a.safetensors")


def test_a_file_without_permission(tmp_path, monkeypatch):
    file = tmp_path / "a.safetensors"
    save_file(TENSORS, file)

    def deny(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("ferrum_numba.gptq.files.FileIO", deny)
    with refused(r"a\.safetensors: expected a safetensors file, found one that cannot be read \("):
        read_header(file)


def test_a_file_that_cannot_be_written(tmp_path):
    with refused(
        r"gone/a\.safetensors: expected room for 2 bytes, found that it cannot be written"
    ):
        write_file(tmp_path / "gone" / "a.safetensors", {"x": ("F16", (1,))}, [np.ones(1, "f2")])


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("sound") / "a.safetensors"
    save_file(TENSORS, file, {"format": "pt"})
    return file


@given(data=st.data())
def test_damaged_bytes_are_refused_or_read_as_the_package_reads_them(sound, data):
    """Any bytes of the length and the header altered, taken out or put in."""
    content = bytearray(sound.read_bytes())
    end = 8 + int.from_bytes(content[:8], "little")
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, end - 1))
        kind = data.draw(st.sampled_from(["set", "digit", "cut", "insert", "truncate"]))
        if kind == "set":
            content[at : at + 1] = bytes([data.draw(st.integers(0, 255))])
        elif kind == "digit":
            content[at : at + 1] = data.draw(st.sampled_from([b"0", b"9", b"-", b".", b"}", b","]))
        elif kind == "cut":
            del content[at : at + data.draw(st.integers(1, 9))]
        elif kind == "insert":
            content[at:at] = data.draw(st.binary(min_size=1, max_size=9))
        else:
            del content[max(at, 1) :]
        end = min(end, len(content)) or 1
    file = sound.with_name("damaged.safetensors")
    file.write_bytes(content)
    try:
        stored, _ = read_header(file)
        found = dict(read_tensors(stored))
    except CheckpointError:
        return
    try:
        expected = load_file(file)
    except (SafetensorError, KeyError) as error:
        raise AssertionError(f"read what the package refuses: {error}") from error
    check(found, expected)


def renamed_over(file):
    save_file({"x": np.full(16, 2, np.int32)}, file.with_name("new"))
    file.with_name("new").replace(file)


def written_to(file):
    save_file({"x": np.full(16, 2, np.int32)}, file.with_name("new"))
    file.write_bytes(file.with_name("new").read_bytes())


def grown(file):
    file.write_bytes(file.read_bytes() + bytes(64))


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (renamed_over, "another file in its place"),
        (written_to, "it written to since"),
        (grown, "it written to since"),
    ],
)
def test_a_file_that_changes_after_the_open(tmp_path, change, found):
    file = tmp_path / "a.safetensors"
    save_file({"x": np.zeros(16, np.int32)}, file)
    os.utime(file, (0, 0))
    stored, _ = read_header(file)
    change(file)
    with refused(
        r"a\.safetensors: x: expected the file as it was when its header was read, found "
        rf"{found} \(.*; open the checkpoint again"
    ):
        dict(read_tensors(stored))


def test_a_file_under_another_number_is_told_by_its_header(tmp_path):
    """As after a file system that is mounted from elsewhere has forgotten the file."""
    file = tmp_path / "a.safetensors"
    save_file({"x": np.arange(16, dtype=np.int32)}, file)
    os.utime(file, (0, 0))
    stored, _ = read_header(file)
    (tmp_path / "kept").hardlink_to(file)  # or its number could be given again
    for content, same in (({"x": np.arange(16)}, True), ({"y": np.arange(16)}, False)):
        save_file({name: a.astype(np.int32) for name, a in content.items()}, tmp_path / "new")
        os.utime(tmp_path / "new", (0, 0))
        (tmp_path / "new").replace(file)
        if same:
            np.testing.assert_array_equal(dict(read_tensors(stored))["x"], np.arange(16))
        else:
            with refused("x: expected the file as it was .*found another file in its place"):
                dict(read_tensors(stored))


def test_a_file_that_changes_while_it_is_read(tmp_path):
    file = tmp_path / "a.safetensors"
    save_file({"x": np.zeros(16, np.int32), "y": np.zeros(16, np.int32)}, file)
    os.utime(file, (0, 0))
    reading = read_tensors(read_header(file)[0])
    next(reading)
    renamed_over(file)
    assert next(reading)[0] == "y"  # of the file that is open, which is whole as it was
    stored, _ = read_header(file)
    os.utime(file, (0, 0))
    reading = read_tensors(stored | {"y": stored["x"]})
    with refused("found it written to since"):
        next(reading)
