"""`ferrum-numba replay` and `ferrum-numba explain`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import ferrum_numba as fe
from ferrum_numba import kernels
from ferrum_numba.debug.recorder import record
from tests.cli.commands import run, run_json
from tests.conftest import FIXTURES
from tests.devices import canonical


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    """A right launch, and one of a wrong group size."""
    device, path = fe.open_device("cpu"), tmp_path / "run.ferrum"
    with record(path):
        for size in (canonical.G, 2 * canonical.G):
            arguments = canonical.arguments(device) | {"group_size": size}
            canonical.kernel(device).launch(canonical.CONFIG, **arguments)
    np.save(tmp_path / "expected.npy", canonical.EXPECTED.astype(np.float16))
    return path


def test_replay(recorded: Path) -> None:
    result = run("replay", recorded, "--device", "cpu", columns=80)
    assert result.exit_code == 0
    assert "0-1  w4a16_gptq_gemm_typed" in result.stdout
    assert "2 launches on cpu: 2 equal" in result.stdout
    code, found = run_json("replay", recorded, "--checks", "memory,init,race")
    assert code == 1, "the second launch's arrays are not what its integers say"
    assert [launch["verdict"] for launch in found["launches"]] == ["equal", "equal"]
    assert [len(launch["findings"]) > 0 for launch in found["launches"]] == [False, True]
    assert found["complete"]


def test_replay_of_altered_contents(recorded: Path) -> None:
    data = bytearray(recorded.read_bytes())
    recording = fe.Recording(recorded)
    digest = recording.launches[0].before["a"]
    member = recording._container.members[f"arrays/{digest}.npy"]
    data[member.start + member.stored - 1] ^= 0x40
    recorded.write_bytes(data)
    result = run("replay", recorded, "--device", "cpu")
    assert result.exit_code == 2
    assert "its bytes are not those that were written" in result.stderr


@pytest.mark.parametrize("way", ["launch", "prepare", "update"])
def test_a_launch_that_was_refused(tmp_path: Path, way: str) -> None:
    """Its recording is no dead end: the cause that the exception names is that of `explain`."""
    device, path = fe.open_device("cpu"), tmp_path / "run.ferrum"
    kernel, right = canonical.kernel(device), canonical.arguments(device)
    exchanged = right | {"qweight": right["scales"], "scales": right["qweight"]}
    prepared = kernel.prepare(canonical.CONFIG, **right)
    call = {
        "launch": lambda: kernel.launch(canonical.CONFIG, **exchanged),
        "prepare": lambda: kernel.prepare(canonical.CONFIG, **exchanged),
        "update": lambda: prepared.update(qweight=exchanged["qweight"], scales=exchanged["scales"]),
    }[way]
    with record(path), pytest.raises(fe.AbiError):
        call()
    code, found = run_json("explain", path)
    assert (code, found["suspects"][0]["cause"]) == (1, "pointers-swapped")
    result = run("replay", path, "--device", "cpu")
    assert result.exit_code == 1
    assert "likely cause: pointers-swapped" in result.stdout
    result = run("params", path, "--launch", "0")
    assert result.exit_code == 2
    assert "its launch was refused before it had a parameter block, by AbiError" in result.stderr
    assert f"ferrum-numba explain {path} looks for the cause" in result.stderr


def test_replay_of_what_is_no_recording(tmp_path: Path) -> None:
    path = tmp_path / "x.ferrum"
    path.write_text("nothing")
    result = run("replay", path)
    assert result.exit_code == 2
    assert "error: x.ferrum: expected a recording (a zip file)" in result.stderr
    assert run("replay", path, "--checks", "all").exit_code == 2


def test_explain_a_recording(recorded: Path) -> None:
    expected = recorded.with_name("expected.npy")
    result = run("explain", recorded, "--launch", 1, "--expected", expected, columns=80)
    assert result.exit_code == 1
    assert result.stdout.startswith("group-size-wrong: the group size is not the weight's")
    code, found = run_json("explain", recorded, "--launch", 0, "--expected", f"c={expected}")
    assert (code, found["cause"]) == (0, "none")
    code, found = run_json("explain", recorded, "--expected", expected)
    assert (code, found["cause"]) == (1, "group-size-wrong")
    assert found["suspects"][0]["verdict"] == "proved"
    assert run("explain", recorded, "--launch", 2).exit_code == 2


def test_explain_ptx_and_bytes(recorded: Path, tmp_path: Path) -> None:
    shipped = kernels.canonical(1)
    ptx = tmp_path / "kernel.ptx"
    ptx.write_text(shipped.text)
    ptx.with_suffix(".json").write_text(json.dumps(shipped.declared))
    signature = shipped.sidecar.declare(fe.Signature.from_ptx(shipped.text))
    device = fe.open_device("cpu")
    arguments = canonical.arguments(device)
    arrays = {n: a for n, a in arguments.items() if isinstance(a, np.ndarray)}
    places = {name: 0x7F0000000000 + i * 0x100000 for i, name in enumerate(arrays)}
    block = fe.ParameterBlock(signature).set(
        **places, **{n: v for n, v in arguments.items() if n not in arrays} | {"stride_am": 512}
    )
    options: list[object] = ["--bytes", block.to_bytes().hex(), "--grid", "1,3"]
    for name, values in arrays.items():
        np.save(tmp_path / f"{name}.npy", values)
        options += ["--array", f"{name}={tmp_path / name}.npy"]
    options += ["--shared-bytes", 8192, "--expected", tmp_path / "expected.npy"]
    code, found = run_json("explain", ptx, *options)
    assert (code, found["cause"]) == (1, "strides-in-bytes")
    # What is not said is what PTX and sidecar ask for.
    unsaid = [o for o in options if o not in ("--grid", "1,3", "--shared-bytes", 8192)]
    assert run_json("explain", ptx, *unsaid)[1]["cause"] == "strides-in-bytes"
    wrong = run("explain", ptx, *unsaid, "--expected", f"d={tmp_path / 'expected.npy'}")
    assert (wrong.exit_code, "parameter: expected one of" in wrong.output) == (2, True)
    # The file of another array is no result of this launch, and named so.
    code, found = run_json("explain", ptx, *options[:-1], tmp_path / "a.npy")
    assert (code, "result-shape" in [s["cause"] for s in found["suspects"]]) == (1, True)
    alone = [*options[:4], "--array", f"a={tmp_path / 'a.npy'}", *options[-2:]]
    wrong = run("explain", ptx, *alone)
    assert (wrong.exit_code, "which array is the output" in wrong.output) == (2, True)
    assert run("explain", ptx).exit_code == 2
    assert run("explain", ptx, "--bytes", "xy").exit_code == 2


def test_explain_takes_names_as_other_commands_show_them(tmp_path: Path) -> None:
    folder = FIXTURES.parent / "emulator" / "data" / "kernels"
    x, y = np.arange(300, dtype=np.float32), np.ones(300, np.float32)
    np.save(tmp_path / "sum.npy", x.astype(np.float64) + y)
    kernel = (
        fe.open_device("cpu").load_module(folder / "vector_add.sm_80.ptx").get_kernel("vector_add")
    )
    with fe.record(tmp_path / "run.ferrum"):
        kernel.launch(fe.LaunchConfig(2, 128), x, y, np.zeros(300, np.float32), 200, None, None)
    for expected in (tmp_path / "sum.npy", f"param_2={tmp_path / 'sum.npy'}"):
        result = run("explain", tmp_path / "run.ferrum", "--expected", expected)
        assert result.stdout.startswith("size-wrong: ")
        assert "with param_3 = 300 the result is right" in result.stdout
    assert run("explain", tmp_path / "run.ferrum", "--expected", "c=x.npy").exit_code == 2


def test_explain_a_checkpoint(tmp_path: Path) -> None:
    code, found = run_json("explain", FIXTURES / "gm_v1_sym_g128")
    assert (code, found["cause"]) == (0, "none")
    (tmp_path / "model.safetensors").write_bytes(b"")
    result = run("explain", tmp_path)
    assert result.exit_code == 1
    assert result.stdout.startswith("checkpoint-unreadable: a file of the checkpoint is not what")
