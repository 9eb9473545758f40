"""Tensor maps and integers that the launcher makes, on each road of a launch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ferrum_numba as fe
from ferrum_numba.abi import ParameterBlock
from ferrum_numba.debug import trial
from ferrum_numba.debug.case import Case
from ferrum_numba.debug.replay import replay
from tests.cli.commands import run, run_json
from tests.devices import mapped
from tests.devices.emulated_gpu import EVERYWHERE, open_anywhere

M, N = 100, 136


@pytest.fixture(params=EVERYWHERE)
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> fe.Device:
    return open_anywhere(request.param, monkeypatch)


@pytest.fixture(params=["plain", "owning"])
def kernel(device: fe.Device, request: pytest.FixtureRequest) -> fe.Kernel:
    """With a block that all streams share, and with one for each."""
    return mapped.kernel(device, mapped.owning() if request.param == "owning" else None)


def inputs(device: fe.Device, count: int, m: int = M) -> tuple[list[Any], list[np.ndarray]]:
    hosts = [mapped.tensor(seed, m, N) for seed in range(count)]
    return [device.to_device(host) for host in hosts], hosts


def check(device: fe.Device, out: Any, expected: np.ndarray) -> None:
    device.synchronize()
    np.testing.assert_array_equal(device.to_host(out), expected)


def test_a_launch(device: fe.Device, kernel: fe.Kernel) -> None:
    names = [p.name for p in kernel.signature.arguments]
    assert names == ["x", "out", "M", "N"]
    assert kernel.signature.computed[0] == "x_map"
    xs, hosts = inputs(device, 3)
    outs = [device.empty((M, N), np.float16) for _ in range(2)]
    for n in (0, 1, 2, 0, 0, 1, 2, 2, 1):
        kernel.launch(mapped.config(M, N), xs[n], outs[n % 2], M, N)
        check(device, outs[n % 2], hosts[n])


def test_an_array_that_is_left_out(device: fe.Device, kernel: fe.Kernel) -> None:
    (x,), (host,) = inputs(device, 1)
    nothing = np.full((M, N), -1, np.float16)
    out = device.empty((M, N), np.float16)
    for given, expected in (({"x": x}, host), ({"x": None}, nothing), ({}, nothing)):
        kernel.launch(mapped.config(M, N), out=out, M=M, N=N, **given)
        check(device, out, expected)
    call = kernel.prepare(mapped.config(M, N), out=out, M=M, N=N)
    for given, expected in ((x, host), (None, nothing), (x, host)):
        call.update(x=given)()
        check(device, out, expected)
        data = call.invocation.block.values()["x_map"]
        assert any(data) is (given is not None)


def test_updates(device: fe.Device, kernel: fe.Kernel) -> None:
    """Arrays move, and sizes change; maps, integers and the grid follow."""
    xs, hosts = inputs(device, 3)
    out = device.empty((M, N), np.float16)
    call = kernel.prepare(mapped.config(M, N), xs[0], out, M, N)
    for n in (1, 2, 2, 0, 1, 0):
        call.update(x=xs[n])()
        check(device, out, hosts[n])
        now = call.invocation
        assert now.bound.values["x_map"] == now.block.read("x_map")
        assert now.bound.values["x"] == device.describe("x", xs[n]).address
    for m in (300, 64, 5):
        (x,), (host,) = inputs(device, 1, m)
        out = device.empty((m, N), np.float16)
        call.update(x=x, out=out, M=m)()
        check(device, out, host)
        assert call.config.grid == mapped.config(m, N).grid
        assert call.invocation.block.values()["boxes"] == call.config.grid[0]
    call.update(M=3)()
    check(device, out, host)
    assert call.config.grid == (3, 1, 1)


def test_borrowed_arrays(device: fe.Device, kernel: fe.Kernel) -> None:
    """Of `launch`, each time elsewhere, on streams in turn; sizes change in between."""
    xs, hosts = inputs(device, 3)
    outs = [device.empty((M, N), np.float16) for _ in range(2)]
    streams = [device.create_stream() for _ in range(2)]
    device.synchronize()
    call = kernel.prepare(mapped.config(M, N), xs[0], outs[0], M, N)
    for m in (M, M - 1, 64, M):
        for n in range(12):
            stream = streams[n // 2 % 2]
            call.launch(stream, x=xs[n % 3], out=outs[n % 2], M=m)
            stream.synchronize()
            np.testing.assert_array_equal(device.to_host(outs[n % 2])[:m], hosts[n % 3][:m])
        now = call.invocation
        assert now.bound.values["x_map"] == now.block.read("x_map")


def test_a_plan(device: fe.Device, kernel: fe.Kernel) -> None:
    xs, hosts = inputs(device, 3)
    outs = [device.empty((M, N), np.float16) for _ in range(2)]
    with device.record_plan() as plan:
        for out in outs:
            kernel.launch(mapped.config(M, N), xs[0], out, M, N)
    streams = [device.create_stream() for _ in range(2)]
    for n in (0, 1, 2, 1):
        plan.update(1, x=xs[n])
        for stream in streams:
            plan(stream)
            stream.synchronize()
            check(device, outs[0], hosts[0])
            check(device, outs[1], hosts[n])
    assert plan.replace(xs[1], xs[2]) == 1
    plan.update(0, M=64)
    plan()
    check(device, outs[1], hosts[2])
    assert plan[0].config.grid == mapped.config(64, N).grid


def test_a_graph(device: fe.Device, kernel: fe.Kernel) -> None:
    xs, hosts = inputs(device, 3)
    outs = [device.empty((M, N), np.float16) for _ in range(2)]
    with device.capture() as graph:
        for out in outs:
            kernel.launch(mapped.config(M, N), xs[0], out, M, N, stream=graph.stream)
    for n in (0, 1, 2, 1):
        graph.update(0, x=xs[n])
        graph.launch()
        check(device, outs[0], hosts[n])
        check(device, outs[1], hosts[0])
    graph.update(0, M=64)
    graph.update(1, x=None)
    graph.launch()
    check(device, outs[1], np.full((M, N), -1, np.float16))
    assert graph[0].config.grid == mapped.config(64, N).grid


def test_a_move_that_is_refused(device: fe.Device, kernel: fe.Kernel) -> None:
    """It changes nothing."""
    (x,), (host,) = inputs(device, 1)
    whole, out = device.empty(2 * M * N + 2, np.uint8), device.empty((M, N), np.float16)
    misaligned = whole[2:].view(np.float16).reshape(M, N)
    call = kernel.prepare(mapped.config(M, N), x, out, M, N)
    for give in (call.update, call.launch):
        with pytest.raises(fe.AbiError, match="x: expected an address aligned to 16 bytes"):
            give(x=misaligned)
        call()
        check(device, out, host)


def test_with_all_checks() -> None:
    checked = fe.open_device("cpu", checks=["memory", "init", "race", "order"])
    (x,), (host,) = inputs(checked, 1)
    out = checked.empty((M, N), np.float16)
    mapped.kernel(checked, mapped.owning()).launch(mapped.config(M, N), x, out, M, N)
    check(checked, out, host)


def test_a_recording(device: fe.Device, kernel: fe.Kernel, tmp_path: Path) -> None:
    """Replayed, maps are made anew for where arrays lie."""
    xs, hosts = inputs(device, 2)
    out = device.empty((M, N), np.float16)
    call = kernel.prepare(mapped.config(M, N), xs[0], out, M, N)
    with fe.record(tmp_path / "run.ferrum"):
        for x, host in zip(xs, hosts, strict=True):
            call.launch(x=x, out=out)
            check(device, out, host)
        kernel.launch(mapped.config(M, N), out=out, M=M, N=N)
        device.synchronize()
    recording = fe.Recording(tmp_path / "run.ferrum")
    for other in (device, fe.open_device("cpu", checks=["memory"])):
        found = list(replay(recording, other))
        assert [launch.verdict for launch in found] == ["equal"] * 3, found
    assert recording.launches[0].call.arrays.keys() == {"x", "out"}


def test_a_log_of_launches(device: fe.Device, kernel: fe.Kernel, tmp_path: Path) -> None:
    """Written by native code on a GPU, it has each launch's own map."""
    xs, hosts = inputs(device, 3)
    out, blocks = device.empty((M, N), np.float16), []
    call = kernel.prepare(mapped.config(M, N), xs[0], out, M, N)
    call.launch(x=xs[0])
    with fe.record(tmp_path / "run.ferrum", arrays="none"):
        for n in (0, 1, 2, 1, 1, 0, 2):
            call.launch(x=xs[n])
            check(device, out, hosts[n])
            blocks.append(call.invocation.block.values())
    launches = fe.Recording(tmp_path / "run.ferrum").launches
    for launch, block in zip(launches, blocks, strict=True):
        found = ParameterBlock.from_bytes(launch.call.signature, launch.call.block).values()
        assert found["x_map"] == block["x_map"]
        assert found["x"] == block["x"]


def test_maps_are_made_once_a_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver is asked again for an array that lies where none lay before."""
    gpu = open_anywhere("emulated", monkeypatch)
    kernel = mapped.kernel(gpu)
    (xs, _), out = inputs(gpu, 3), gpu.empty((M, N), np.float16)
    call = kernel.prepare(mapped.config(M, N), xs[0], out, M, N)
    call.launch(x=xs[0])
    before = gpu.library.encoded
    for n in range(12):
        call.launch(x=xs[n % 3])
    assert gpu.library.encoded - before <= 3


def test_the_caller_does_not_pass_them(device: fe.Device) -> None:
    kernel = mapped.kernel(device)
    (x,), _ = inputs(device, 1)
    out = device.empty((M, N), np.float16)
    for name, value in (("across", 3), ("x_map", bytes(128))):
        with pytest.raises(fe.AbiError, match=f"{name}: the launcher fills it in; leave it out"):
            kernel.launch(mapped.config(M, N), x, out, M, N, **{name: value})
        with pytest.raises(fe.AbiError, match=f"{name}: the launcher fills it in; leave it out"):
            kernel.prepare(mapped.config(M, N), x, out, M, N).update(**{name: value})


def test_rules_that_read_derived_integers(device: fe.Device) -> None:
    kernel, sidecar = mapped.kernel(device), fe.Sidecar.read(mapped.SIDECAR)
    assert sidecar.derived({"M": M, "N": N, "BOX": 64})["boxes"] == 6
    assert sidecar.grid_for({"M": M, "N": N}) == (6, 1, 1)
    (x,), _ = inputs(device, 1)
    out = device.empty((M, N), np.float16)
    for m, n, message in (
        (0, N, "M >= 1, found M = 0"),
        (M, 2**31 - 8, "boxes <= 4096, found boxes = 67108864"),
        (1, N, r"grid: expected \(3, 1, 1\) = \(boxes, 1, 1\) with boxes = 3, found \(6, 1, 1\)"),
    ):
        with pytest.raises(fe.AbiError, match=message):
            kernel.launch(mapped.config(M, N), x, out, m, n)
    call = kernel.prepare(mapped.config(M, N), x, out, M, N)
    with pytest.raises(fe.AbiError, match="boxes <= 4096"):
        call.update(M=2**21)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("M * N * M * M * M", r"across: expected -2147483648 to 2147483647 \(i32\), found "
         r"13600000000 = M \* N \* M \* M \* M with M = 100, N = 136"),
        ("N // (M - 100)", r"across: N // \(M - 100\): division by zero; M = 100, N = 136"),
    ],
)  # fmt: skip
def test_integers_that_do_not_fit(value: str, message: str) -> None:
    device = fe.open_device("cpu")
    kernel = mapped.kernel(device, mapped.declared("across", value=value))
    (x,), _ = inputs(device, 1)
    with pytest.raises(fe.AbiError, match=message):
        kernel.launch(mapped.config(M, N), x, device.empty((M, N), np.float16), M, N)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("x_map", {"of": "y"}, "x_map: of: expected an array that the caller gives, with shape"),
        ("x_map", {"of": "M"}, "x_map: of: expected an array.*found 'M'"),
        ("x_map", {"of": "global_scratch"}, "x_map: of: expected an array"),
        ("x", {"align": 8}, "x_map: of: expected an array.*and an align that 16 divides"),
        ("x_map", {"of": None}, "x_map: expected of and box for a tensordesc of role tensor_map"),
        ("x_map", {"box": []}, "x_map: expected of and box"),
        ("x_map", {"type": "i64"}, "x_map: expected of and box"),
        ("x_map", {"role": "argument"}, "x_map: expected of and box.*and for no other"),
        ("M", {"box": ["1"]}, "M: expected of and box"),
        ("x_map", {"box": ["64"]}, "x_map: box: expected 2 expressions, one a dimension of x"),
        ("x_map", {"box": [64, 64]}, "expected an expression as a string"),
        ("x_map", {"box": ["M", "64"]}, "'M': expected names of the tile, found M"),
        ("x_map", {"swizzle": 16}, "x_map: swizzle: expected one of 32, 64, 128, or none"),
        ("x_map", {"l2": "64"}, "x_map: l2: expected one of 64, 128, 256, or none, found '64'"),
        ("across", {"value": None}, "across: expected a value for i32 or i64 of role derived"),
        ("across", {"type": "u32"}, "across: expected a value for i32 or i64.*for u32"),
        ("M", {"value": "1"}, "M: expected a value for.*and for no other, found 1 for i32"),
        ("across", {"value": "boxes"}, "'boxes': expected names of .*ahead of it, found boxes"),
        ("across", {"value": "x"}, "'x': expected names of integer parameters.*found x"),
        ("across", {"value": "x_map"}, "'x_map': expected names of integer parameters"),
        ("across", {"value": 3}, "expected an expression as a string"),
        ("across", {"nullable": True}, "across: nullable: expected"),
    ],
)  # fmt: skip
def test_sidecars_that_make_no_sense(name: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(fe.AbiError, match=message):
        fe.Sidecar.read(mapped.declared(name, **changes))


@pytest.mark.parametrize(
    "declaration", [".align 32 .b8 {}[128]", ".align 64 .b8 {}[64]", ".u64 {}"]
)
def test_a_parameter_that_holds_no_map(declaration: str) -> None:
    name = "copy_boxes_param_0"
    text = mapped.TEXT.replace(f".align 64 .b8 {name}[128]", declaration.format(name))
    module = fe.open_device("cpu").load_module(text, mapped.SIDECAR)
    expected = r"parameter 0 \(x_map\): expected a .param .align 64 .b8\[128\] of the PTX"
    with pytest.raises(fe.AbiError, match=expected):
        module.get_kernel()


@pytest.mark.parametrize(
    ("changes", "n", "message"),
    [
        ({"box": ["BOX", "8 * BOX"]}, N, "x_map.box: expected 2 numbers from 1 to 256"),
        ({"box": ["BOX", "2 * BOX"]}, N, "x_map.box: expected rows .*at most 128 with"),
        ({"box": ["BOX", "12"], "swizzle": None}, N, "x_map.box: expected rows of a multiple"),
        ({}, 132, "x_map.array: expected rows .*multiples of 16 bytes apart"),
    ],
)  # fmt: skip
def test_maps_that_cannot_be(changes: dict[str, Any], n: int, message: str) -> None:
    device = fe.open_device("cpu")
    sidecar = mapped.declared("x_map", **changes) | {"constraints": []}
    x, out = (device.to_device(mapped.tensor(0, M, n)) for _ in range(2))
    with pytest.raises(fe.AbiError, match=message):
        mapped.kernel(device, sidecar).launch(mapped.config(M, n), x, out, M, n)


def test_there_and_back() -> None:
    sidecar = fe.Sidecar.read(mapped.declared("x_map", l2=256))
    assert fe.Sidecar.read(sidecar.to_mapping()).params == sidecar.params


def test_what_commands_say_of_them(tmp_path: Path) -> None:
    path = tmp_path / "copy_boxes.ptx"
    path.write_text(mapped.TEXT)
    path.with_suffix(".json").write_text(json.dumps(mapped.SIDECAR))
    code, found = run_json("params", path, *("--set", f"M={M}"), *("--set", f"N={N}"))
    fields = {field["name"]: field for field in found["fields"]}
    assert (code, found["assumed"], found["suspicions"]) == (0, ["out", "x"], [])
    assert fields["boxes"]["value"] == 6
    assert fields["boxes"]["meaning"] == "derived = cdiv(M, BOX) * across"
    assert fields["x_map"]["meaning"] == "tensor map of x, box [BOX, 64], swizzle 128"
    assert fields["x_map"]["tensor_map"]["address"] == fields["x"]["value"]
    assert fields["x_map"]["tensor_map"]["shape"] == [M, N]
    sizes = (argument for name in ("M=100", "N=136", "boxes=7") for argument in ("--set", name))
    code, found = run_json("params", path, *sizes)
    assert code == 1
    (suspicion,) = found["suspicions"]
    assert suspicion["what"] == "is 7, but cdiv(M, BOX) * across = 6"
    code, found = run_json("inspect", path)
    roles = {p["name"]: (p["role"], p["rule"]) for p in found["entries"][0]["params"]}
    assert roles["across"] == ("derived", "= cdiv(N, BOX)")
    assert roles["x_map"] == ("tensor_map", "of x, box [BOX, 64], swizzle 128")
    assert "derived = cdiv(M, BOX) * across" in run("inspect", path, columns=160).stdout


def test_comparing_builds(tmp_path: Path) -> None:
    paths = [tmp_path / f"{name}.ptx" for name in "ab"]
    sidecars = mapped.SIDECAR, mapped.declared("across", value="cdiv(N, 64)")
    for path, sidecar in zip(paths, sidecars, strict=True):
        path.write_text(mapped.TEXT)
        path.with_suffix(".json").write_text(json.dumps(sidecar))
    told = run("compare", *paths, columns=160).stdout
    assert "the launcher makes across = cdiv(N, 64), not = cdiv(N, BOX)" in told


def test_a_case_is_tried_with_maps_of_its_own(device: fe.Device, tmp_path: Path) -> None:
    """Whatever device it was recorded on; and what a remedy changes, others follow."""
    (x,), (host,) = inputs(device, 1)
    out = device.empty((M, N), np.float16)
    with fe.record(tmp_path / "run.ferrum"):
        mapped.kernel(device).launch(mapped.config(M, N), x, out, M, N)
    recording = fe.Recording(tmp_path / "run.ferrum")
    case = Case.from_recording(recording, recording.launches[0])
    outcome = trial.run(case)
    assert outcome.clean, outcome
    np.testing.assert_array_equal(outcome.outputs["out"], host)
    less = case.with_values(M=64)
    assert (less.values["boxes"], less.config.grid) == (3, (3, 1, 1))
    outcome = trial.run(less)
    assert outcome.clean, outcome
    np.testing.assert_array_equal(outcome.outputs["out"][:64], host[:64])
