"""Recordings from strangers: cut short, altered, lying about themselves."""

from __future__ import annotations

import json
import struct
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

import ferrum_numba as fe
from ferrum_numba.debug.container import Container
from ferrum_numba.debug.recorder import record
from ferrum_numba.debug.recording import Recording
from ferrum_numba.debug.replay import replay
from tests.devices import canonical
from tests.devices.processes import run
from tests.ptx import IOTA


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> bytes:
    """The bytes of a recording of two launches."""
    path = tmp_path_factory.mktemp("recording") / "run.ferrum"
    device = fe.open_device("cpu")
    with record(path):
        for _ in range(2):
            canonical.kernel(device).launch(canonical.CONFIG, **canonical.arguments(device))
    return path.read_bytes()


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> bytes:
    """The bytes of a recording of 100 launches, of which only that they were is known."""
    path = tmp_path_factory.mktemp("recording") / "run.ferrum"
    call = fe.open_device("cpu").load_module(IOTA).get_kernel()
    call = call.prepare(fe.LaunchConfig(1, 32), np.zeros(32, np.int32), 20)
    with record(path, arrays="none"):
        for _ in range(100):
            call()
    return path.read_bytes()


def read_all(path: Path) -> int:
    """Read all that a recording has; how many launches there are."""
    recording = Recording(path)
    for launch in recording.launches:
        for name, digest in {**launch.before, **(launch.after or {})}.items():
            recording.contents(digest, launch.call.arrays[name])
    return len(recording.launches)


def rewritten(sound: bytes, path: Path, **changes) -> Path:
    """The recording with members replaced: name with _ for / and . -> a function of its bytes."""
    source = path.with_suffix(".zip")
    source.write_bytes(sound)
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            change = changes.get(name.split("/")[0].split(".")[0])
            data = old.read(name)
            new.writestr(name, change(data) if change else data)
    return path


def test_cut_short_anywhere(sound: bytes, tmp_path: Path) -> None:
    path, counts = tmp_path / "cut.ferrum", set()
    directory = sound.index(b"PK\x01\x02")
    for length in (*range(0, len(sound), 211), *range(directory - 2, directory + 5)):
        path.write_bytes(sound[:length])
        try:
            recording = Recording(path)
            counts.add(len(recording.launches))
        except fe.RecordingError:  # too little is left even to say what it is
            assert length < 4000
    assert counts == {0, 1, 2}


def test_rows_cut_short_anywhere(rows: bytes, tmp_path: Path) -> None:
    path, counts = tmp_path / "cut.ferrum", [0]
    for length in range(0, len(rows), 97):
        path.write_bytes(rows[:length])
        try:
            counts.append(len(Recording(path).launches))
        except fe.RecordingError:
            assert length < 4000
    assert counts == sorted(counts)
    assert counts[-1] == 100


def row(number: int, call: int = 0, flags: int = 0) -> bytes:
    return struct.pack("<dQIIQ", 0.0, 0, call, flags, number)


@pytest.mark.parametrize(
    ("lie", "message"),
    [
        (row(1) + row(1), "expected launch 0 once"),
        (row(1) + row(3), "expected launch 1, found 2"),
        (row(1, flags=8), "launch 0: flags 0x8"),
        (row(1, call=7), "member calls/7.json"),
        (row(1)[:-1], r"launches/\d.rows: cannot be read: .* 31 bytes"),
    ],
    ids=["twice", "missing", "flags", "call", "length"],
)
def test_rows_that_lie(rows: bytes, tmp_path: Path, lie: bytes, message: str) -> None:
    path = rewritten(rows, tmp_path / "lie.ferrum", launches=lambda _: lie)
    with pytest.raises(fe.RecordingError, match=message):
        read_all(path)


def test_bits_turned_over(sound: bytes, tmp_path: Path) -> None:
    path, random = tmp_path / "bits.ferrum", np.random.default_rng(0)
    refused = 0
    for _ in range(120):
        data = bytearray(sound)
        for place in random.integers(0, len(data), 3):
            data[place] ^= 1 << random.integers(0, 8)
        path.write_bytes(data)
        try:
            read_all(path)
        except fe.FerrumError:
            refused += 1
    assert refused > 80


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"recording": lambda d: b"{}"}, "recording.json: expected format 'ferrum recording'"),
        ({"recording": lambda d: b"[]"}, "expected a JSON object, found list"),
        ({"recording": lambda d: d.replace(b'"version": 1', b'"version": 2')}, "version 2"),
        ({"launches": lambda d: b"nonsense\n"}, r"launches/0.jsonl: cannot be read"),
        ({"launches": lambda d: b'{"launch":5,"call":0,"at":0}\n'}, "expected launch 0, found 5"),
        ({"launches": lambda d: b'{"done": 7}\n'}, "expected a launch below"),
        ({"launches": lambda d: b'{"launch":0,"call":99,"at":0}\n'}, "member calls/99.json"),
        ({"calls": lambda d: b"{}"}, r"calls/0.json: cannot be read: 'ptx'"),
        ({"ptx": lambda d: d + b" "}, "not the one that its name says"),
        ({"arrays": lambda d: b"\x93NUMPY"}, "expected an npy header"),
    ],
)
def test_members_that_lie(sound: bytes, tmp_path: Path, changes, message: str) -> None:
    path = rewritten(sound, tmp_path / "lie.ferrum", **changes)
    with pytest.raises(fe.RecordingError, match=message):
        read_all(path)


def _call(**changes):
    return lambda data: json.dumps(json.loads(data) | changes).encode()


def _array(**changes):
    def change(data: bytes) -> bytes:
        call = json.loads(data)
        call["arrays"]["a"] |= changes
        return json.dumps(call).encode()

    return change


@pytest.mark.parametrize(
    "change",
    [
        _call(parameters="00" * 40000),
        _call(parameters="xyz"),
        _call(entry="other"),
        _call(config={"grid": [0, 1, 1], "block": [1, 1, 1]}),
        _call(config={"grid": [1, 1, 1], "block": [1, 1, 1], "more": 1}),
        _array(dtype="object"),
        _array(shape=[1 << 40, 1 << 40]),
        _array(strides=[1 << 40, 2]),
        _array(strides=[-4096, 2]),
        _array(shape=[-1]),
        _array(nbytes=1 << 60),
        _array(address=-1),
        _array(shape=[1] * 100),
    ],
)
def test_calls_that_lie(sound: bytes, tmp_path: Path, change) -> None:
    path = rewritten(sound, tmp_path / "lie.ferrum", calls=change)
    with pytest.raises(fe.FerrumError):
        read_all(path)


def test_arrays_that_lie_about_their_size(sound: bytes, tmp_path: Path) -> None:
    def huge(data: bytes) -> bytes:
        start = 10 + struct.unpack("<H", data[8:10])[0]
        header = "{'descr': '<f8', 'fortran_order': False, 'shape': (1099511627776, 8), }"
        text = header.ljust(start - 11).encode() + b"\n"
        return data[:8] + struct.pack("<H", len(text)) + text + data[start:]

    def pickled(data: bytes) -> bytes:
        start = 10 + struct.unpack("<H", data[8:10])[0]
        header = "{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"
        return data[:10] + header.ljust(start - 11).encode() + b"\n" + data[start:]

    for change in (huge, pickled):
        path = rewritten(sound, tmp_path / "lie.ferrum", arrays=change)
        with pytest.raises(fe.RecordingError, match="expected"):
            read_all(path)


def test_other_files(tmp_path: Path) -> None:
    path = tmp_path / "x.ferrum"
    with pytest.raises(fe.RecordingError, match="cannot be read"):
        Recording(path)
    for data in (b"", b"PK", b"\x7fELF" + bytes(100), b"PK\3\4" + bytes(26)):
        path.write_bytes(data)
        with pytest.raises(fe.RecordingError):
            Recording(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../../etc/passwd", "x")
    with pytest.raises(fe.RecordingError, match="members: expected those of a recording, found"):
        Recording(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("recording.json", b" " * (65 << 20))
    with pytest.raises(fe.RecordingError, match="expected at most 67108864 bytes"):
        Recording(path)


def test_a_strangers_launch_touches_no_memory_of_this_process(sound, tmp_path: Path) -> None:
    """Addresses and sizes of a file are not believed, also where its launch is run."""

    def big(data: bytes) -> bytes:
        call = json.loads(data)
        block = bytearray(bytes.fromhex(call["parameters"]))
        block[40:44] = (1 << 20).to_bytes(4, "little")  # M
        return json.dumps(call | {"parameters": block.hex()}).encode()

    path = rewritten(sound, tmp_path / "big.ferrum", calls=big)
    launches = list(replay(Recording(path), fe.open_device("cpu")))
    assert {launch.verdict for launch in launches} == {"fails"}
    assert launches[0].reason.startswith("AbiError: grid: expected (16384, 3, 1)")


@pytest.mark.skipif(sys.platform == "win32", reason="a limit of POSIX")
def test_a_full_disk(tmp_path: Path) -> None:
    """The file is named, and what came before is kept."""
    told = run(
        """
        import resource, sys
        from pathlib import Path
        from ferrum_numba.debug.container import ContainerWriter
        from ferrum_numba.errors import RecordingError

        resource.setrlimit(resource.RLIMIT_FSIZE, (8000, resource.RLIM_INFINITY))
        writer = ContainerWriter(Path(sys.argv[1]))
        writer.add("recording.json", b"{}")
        try:
            writer.add("arrays/" + "0" * 64 + ".npy", bytes(10000))
        except RecordingError as error:
            print(error)
        writer.close()
        """,
        str(tmp_path / "run.ferrum"),
    )
    assert told.endswith("run.ferrum: cannot be written: File too large\n")
    assert list(Container(tmp_path / "run.ferrum").members) == ["recording.json"]
