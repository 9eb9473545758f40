"""Recording launches and running them again, on every device."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from ctypes import CFUNCTYPE, c_int, c_void_p
from pathlib import Path

import numpy as np
import pytest

import ferrum_numba as fe
from ferrum_numba.debug.digest import digest
from ferrum_numba.debug.recorder import record
from ferrum_numba.debug.recording import Recording
from ferrum_numba.debug.replay import replay
from ferrum_numba.devices.cuda import driver
from tests.devices import canonical
from tests.devices.emulated_gpu import EVERYWHERE
from tests.ptx import IOTA


def verdicts(path: Path, device: fe.Device, **options) -> list[str]:
    return [launch.verdict for launch in replay(Recording(path), device, **options)]


@pytest.fixture
def run(device: fe.Device, tmp_path: Path) -> Path:
    """Three launches: at once, prepared and changed, of a layer."""
    path = tmp_path / "run.ferrum"
    kernel, arguments = canonical.kernel(device), canonical.arguments(device)
    with record(path) as recorder:
        kernel.launch(canonical.CONFIG, **arguments)
        call = kernel.prepare(canonical.CONFIG, **arguments)
        call.update(M=3)
        call()
        fe.GptqLinear(canonical.TENSORS, device=device)(canonical.A)
    assert recorder.launches == 3
    return path


def test_what_was_recorded_comes_out_again(device: fe.Device, run: Path) -> None:
    recording = Recording(run)
    assert recording.complete
    assert verdicts(run, device, tolerance=0) == ["equal"] * 3
    first, second, _ = recording.launches
    assert first.call.signature["M"].offset == 40
    assert first.call.block[40:44] == (5).to_bytes(4, "little")
    assert second.call.block[40:44] == (3).to_bytes(4, "little")
    assert first.seconds > 0
    assert set(first.before) == {"a", "qweight", "scales", "qzeros", "c"}
    assert set(first.after) == {"c"}
    layout = first.call.arrays["c"]
    c = layout.view(recording.contents(first.after["c"], layout))
    expected = canonical.EXPECTED
    assert np.linalg.norm(c.astype(float) - expected) <= 1e-3 * np.linalg.norm(expected)


def test_the_cpu_runs_what_any_device_recorded(run: Path) -> None:
    cpu = fe.open_device("cpu", checks=("memory", "init", "race"))
    launches = list(replay(Recording(run), cpu))
    assert {launch.verdict for launch in launches} <= {"equal", "close"}
    assert not any(launch.findings for launch in launches)


def test_any_zip_program_reads_it(run: Path) -> None:
    with zipfile.ZipFile(run) as archive:
        assert archive.testzip() is None
        names = archive.namelist()
    assert names[0] == "recording.json"
    assert len([name for name in names if name.startswith("arrays/")]) < 15, "each content once"


def test_where_two_devices_part(device: fe.Device, tmp_path: Path) -> None:
    class Wrong(type(device)):
        """Adds a little to one element of the output, as a broken device may."""

        def __new__(cls):
            return object.__new__(cls)

        def __init__(self) -> None:
            self.__dict__ |= device.__dict__

        def to_host(self, array):
            host = super().to_host(array).copy()
            if host.dtype == np.float16 and host.size == canonical.M * canonical.N:
                host[2 * canonical.N + 7] += 1
            return host

    path = tmp_path / "run.ferrum"
    with record(path):
        for _ in range(2):
            canonical.kernel(device).launch(canonical.CONFIG, **canonical.arguments(device))
    wrong = Wrong()
    launches = list(replay(Recording(path), wrong))
    assert [launch.verdict for launch in launches] == ["differs"] * 2
    (difference,) = launches[0].differences
    assert (difference.array, difference.index, difference.count) == ("c", (2, 7), 1)
    assert difference.replayed == pytest.approx(difference.recorded + 1, abs=0.01)
    assert str(difference).startswith("c[2, 7] was ")
    assert verdicts(path, wrong, tolerance=10.0) == ["close"] * 2


def test_strided_arrays_and_foreign_kernels(device: fe.Device, tmp_path: Path) -> None:
    path = tmp_path / "run.ferrum"
    wide = device.to_device(np.full((canonical.M, 2 * canonical.N), np.nan, np.float16))
    with record(path):
        arguments = canonical.arguments(device)
        arguments |= {"c": wide[:, : canonical.N], "stride_cm": 2 * canonical.N}
        canonical.kernel(device).launch(canonical.CONFIG, **arguments)
        out = device.to_device(np.full(300, -1, np.int32))
        device.load_module(IOTA).get_kernel().launch(fe.LaunchConfig(3, 96), out, 250)
    assert verdicts(path, device, tolerance=0) == ["equal"] * 2
    assert Recording(path).launches[0].call.arrays["c"].strides == (4 * canonical.N, 2)


def test_digests_are_the_same_everywhere(device: fe.Device, tmp_path: Path) -> None:
    path = tmp_path / "run.ferrum"
    arguments = canonical.arguments(device)
    with record(path, arrays="digest", every=1):
        call = canonical.kernel(device).prepare(canonical.CONFIG, **arguments)
        for _ in range(300):  # more than are computed between two reads
            call()
    recording = Recording(path)
    assert len(recording.launches) == 300
    result = device.to_host(arguments["c"]).reshape(-1).view(np.uint8)
    assert {launch.after["c"] for launch in recording.launches} == {digest(result)}
    assert recording.launches[0].before["a"] == digest(canonical.A.reshape(-1).view(np.uint8))
    assert path.stat().st_size < 300 * 1500
    launches = list(replay(recording, device))
    assert {launch.verdict for launch in launches} == {"left out"}
    assert launches[0].reason == "a: the recording has its digest alone"


def test_a_device_with_checks_is_recorded_too(tmp_path: Path) -> None:
    device = fe.open_device("cpu", checks=("memory", "init"))
    with record(tmp_path / "run.ferrum", arrays="digest"):
        canonical.kernel(device).launch(canonical.CONFIG, **canonical.arguments(device))
    assert Recording(tmp_path / "run.ferrum").launches[0].after


def test_arrays_that_are_too_large_are_kept_by_digest(device: fe.Device, tmp_path: Path) -> None:
    path = tmp_path / "run.ferrum"
    out = device.to_device(np.full(300, -1, np.int32))
    kernel = device.load_module(IOTA).get_kernel()
    with record(path, max_bytes=4):
        kernel.launch(fe.LaunchConfig(3, 96), out, 250)
    assert len(next(iter(Recording(path).launches[0].after.values()))) == 32
    (launch,) = replay(Recording(path), device)
    assert launch.verdict == "left out"


@pytest.mark.parametrize("nbytes", [1, 3, 16, 17, 1000, 4096, 70_001])
@pytest.mark.parametrize("shift", [0, 1, 4])
def test_the_digest_is_the_documented_one(nbytes: int, shift: int) -> None:
    data = np.random.default_rng(nbytes).integers(0, 256, nbytes + shift, dtype=np.uint8)[shift:]
    words = np.zeros(-(-nbytes // 4) * 4, np.uint8)
    words[:nbytes] = data
    words = words.view(np.uint32)
    x = words ^ (np.arange(words.size, dtype=np.uint32) * np.uint32(0x9E3779B1))
    x *= np.uint32(0x85EBCA6B)
    x ^= x >> np.uint32(15)
    x *= np.uint32(0xC2B2AE35)
    x ^= x >> np.uint32(13)
    y = x * np.uint32(0x27D4EB2F)
    y ^= y >> np.uint32(16)
    sums = (int(part.sum(dtype=np.uint64)) for part in (x, y))
    assert digest(data) == "".join(f"{total:016x}" for total in sums)


def test_none_and_every(tmp_path: Path) -> None:
    device, path = fe.open_device("cpu"), tmp_path / "run.ferrum"
    call = canonical.kernel(device).prepare(canonical.CONFIG, **canonical.arguments(device))
    with record(path, every=3):
        for _ in range(7):
            call()
    kept = [bool(launch.before) for launch in Recording(path).launches]
    assert kept == [True, False, False, True, False, False, True]
    with record(path, arrays="digest"):
        for _ in range(258):
            call()
    assert [n for n, launch in enumerate(Recording(path).launches) if launch.before] == [0, 256]
    with record(path, arrays="none"):
        call()
    assert not Recording(path).launches[0].before


def test_a_failed_launch_is_in_the_recording(tmp_path: Path) -> None:
    device = fe.open_device("cpu", checks=("memory",))
    out = np.zeros(8, np.int32)
    path = tmp_path / "run.ferrum"
    kernel = device.load_module(IOTA).get_kernel()
    with record(path):
        with pytest.raises(fe.SanitizerError) as raised:
            kernel.launch(fe.LaunchConfig(1, 32), out, 20)
        with pytest.raises(fe.AbiError):
            kernel.launch(fe.LaunchConfig(1, 32), out, 2**32)
    notes = getattr(raised.value, "__notes__", ["", "--launch 0"])
    assert "--launch 0" in notes[-1]
    recording = Recording(path)
    assert recording.launches[0].error.startswith("SanitizerError: k on cpu")
    assert recording.refused[0].error.startswith("AbiError: n: expected -2147483648 to")
    assert recording.refused[0].arguments["out"] == "int32 (8,) (ndarray)"


@pytest.mark.parametrize(
    ("columns", "out", "cause"),
    [(8, None, "array-of-another-layer"), (0, (1, 3), "")],
)
def test_shapes_that_a_layer_refuses(
    device: fe.Device, tmp_path: Path, columns: int, out: tuple | None, cause: str
) -> None:
    layer, path = fe.GptqLinear(canonical.TENSORS, device=device), tmp_path / "run.ferrum"
    x = np.ones((1, layer.K + columns), np.float16)
    with fe.record(path), pytest.raises(fe.AbiError):
        layer(x, out=None if out is None else np.ones(out, np.float16))
    (found,) = fe.Recording(path).refused
    assert "expected shape" in found.error
    assert found.cause == cause


def test_a_crash_loses_no_launch_that_was_done(tmp_path: Path) -> None:
    code = (
        "import os, numpy as np, ferrum_numba as fe\n"
        "from tests.devices import canonical as c\n"
        "device = fe.open_device('cpu')\n"
        "for _ in range(3): c.kernel(device).launch(c.CONFIG, **c.arguments(device))\n"
        "os._exit(9)\n"
    )
    path = tmp_path / "run.ferrum"
    root = str(Path(fe.__file__).parents[1])
    environment = {"FERRUM_RECORD": str(path), "PYTHONPATH": root, "HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, check=False)
    assert done.returncode == 9
    recording = Recording(path)
    assert not recording.complete
    assert len(recording.launches) == 3
    assert verdicts(path, fe.open_device("cpu"), tolerance=0) == ["equal"] * 3
    subprocess.run([sys.executable, "-c", code], env=environment, check=False)
    assert (tmp_path / "run.1.ferrum").is_file(), "a recording that is there is left alone"


def test_what_cannot_be_recorded(tmp_path: Path) -> None:
    with (
        pytest.raises(fe.RecordingError, match="cannot be written: No such file"),
        record(tmp_path / "none" / "run.ferrum"),
    ):
        pass
    with (
        record(tmp_path / "run.ferrum"),
        pytest.raises(fe.RecordingError, match="already being recorded"),
        record(tmp_path / "other.ferrum"),
    ):
        pass
    for options, message in (
        ({"arrays": "all"}, "arrays: expected one of contents, digest, none, found 'all'"),
        ({"max_bytes": -1}, "max_bytes: expected 0 to"),
        ({"every": 0}, "every: expected at least 1"),
    ):
        with pytest.raises(fe.RecordingError, match=message), record("x", **options):
            pass


@pytest.mark.gpu
def test_captured_launches_are_told(gpu: fe.Device, tmp_path: Path) -> None:
    path = tmp_path / "run.ferrum"
    call = canonical.kernel(gpu).prepare(canonical.CONFIG, **canonical.arguments(gpu))
    call()
    stream = gpu.create_stream()
    with record(path), gpu.capture(stream):
        call(stream)
    launches = Recording(path).launches
    assert [launch.captured for launch in launches] in ([], [True])


@pytest.mark.parametrize("arrays", ["none", "digest"])
def test_launches_that_are_repeated(anywhere: fe.Device, tmp_path: Path, arrays: str) -> None:
    """Each way to launch runs what it ran before, and one call stands for all of its launches."""
    device, path = anywhere, tmp_path / "run.ferrum"
    kernel = device.load_module(IOTA).get_kernel()
    outs = [device.to_device(np.full(32, -1, np.int32)) for _ in range(4)]
    stream, config = device.create_stream(), fe.LaunchConfig(1, 32)
    prepared, lent = (kernel.prepare(config, out=out, n=20) for out in outs[:2])
    with device.record_plan() as plan:
        for n in (3, 5):
            kernel.launch(config, outs[3], n)
    with record(path, arrays=arrays, every=4) as recorder:
        for _ in range(6):
            prepared(stream)
            lent.launch(stream, out=outs[1])
            kernel.launch(config, outs[2], 20, stream=stream)
            plan(stream)
        prepared.update(n=21)(stream)
    assert recorder.launches == 31
    recording = Recording(path)
    by_call: dict[int, list[bool]] = {}
    for launch in recording.launches:
        by_call.setdefault(id(launch.call), []).append(bool(launch.before))
    kept = [arrays == "digest" and n % 4 == 0 for n in range(6)]
    assert list(by_call.values()) == [kept] * 5 + [kept[:1]]
    assert sorted(n.number for n in recording.launches) == list(range(31))
    for out, n in zip(outs, (21, 20, 20, 5), strict=True):
        assert (device.to_host(out)[:n] == np.arange(n)).all()
        assert (device.to_host(out)[n:] == -1).all()


@pytest.mark.parametrize("anywhere", EVERYWHERE[1:], indirect=True)
def test_a_graph_is_recorded_as_one(anywhere: fe.Device, tmp_path: Path, monkeypatch) -> None:
    device, path = anywhere, tmp_path / "run.ferrum"
    kernel = device.load_module(IOTA).get_kernel()
    out = device.to_device(np.full(32, -1, np.int32))
    with device.capture() as graph:
        for n in (4, 7):
            kernel.launch(fe.LaunchConfig(1, 32), out, n, stream=graph.stream)
    with record(path, arrays="digest"):
        monkeypatch.setattr(type(kernel), "_enqueue", None)  # which the graph does not need
        for _ in range(3):
            graph.launch()
    assert (device.to_host(out)[:8] == [*range(7), -1]).all()
    launches = Recording(path).launches
    assert [launch.graph for launch in launches] == [True] * 6
    assert [launch.call.block[8:12] for launch in launches[:2]] == [b"\4\0\0\0", b"\7\0\0\0"]


@pytest.mark.parametrize("anywhere", EVERYWHERE[-1:], indirect=True)
def test_a_repeated_launch_that_fails(anywhere: fe.Device, tmp_path: Path, monkeypatch) -> None:
    path, config = tmp_path / "run.ferrum", fe.LaunchConfig(1, 32)
    kernel = anywhere.load_module(IOTA).get_kernel()
    out = anywhere.to_device(np.full(32, -1, np.int32))
    refuse = CFUNCTYPE(c_int, *[c_void_p] * 4)(lambda *row: 1)
    monkeypatch.setattr(driver, "launcher", lambda: refuse)
    call = kernel.prepare(config, out, 4)
    with record(path, arrays="none"), pytest.raises(fe.LaunchError, match="k on cuda:0"):
        call()
    assert Recording(path).launches[0].error.startswith("LaunchError")
