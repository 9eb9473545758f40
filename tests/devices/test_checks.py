"""The CPU device with checks: launches by name, findings attributed to arguments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ferrum_numba as fe
from ferrum_numba import kernels
from ferrum_numba.devices.cpu.checked import CheckedCpuDevice
from ferrum_numba.kernels.sample import sample
from tests.campaigns.layers import random_tensors
from tests.devices import canonical
from tests.emulator.harness import entry
from tests.ptx import IOTA, SCRATCH

ALL = ("memory", "init", "race", "order")
SIZES = [
    {"M": 1, "N": 8, "K": 8, "group_size": 8},
    {"M": 67, "N": 136, "K": 264, "group_size": 264},
    {"M": 9, "N": 72, "K": 400, "group_size": 128},
]


@pytest.fixture(scope="module")
def checked() -> CheckedCpuDevice:
    device = fe.open_device("cpu", checks=ALL)
    assert isinstance(device, CheckedCpuDevice)
    return device


def families() -> list[str]:
    """Of GEMMs that differ in a constant or in a type only, one, and not every tile."""
    builds = [b for b in kernels.builds(dtype="float16") if b.fields.get("ZERO_BIAS") != 0]
    builds = [build for build in builds if build.archive not in ("models", "moe")]
    tuned = [build.name for build in builds if build.archive is not None]
    return [build.name for build in builds if build.name not in tuned] + tuned[::4]


@pytest.mark.parametrize("name", families())
def test_shipped_kernels_are_clean(checked: CheckedCpuDevice, name: str) -> None:
    shipped = kernels.artefact(name)
    kernel = shipped.kernel(checked)
    for sizes in SIZES:
        launch = sample(shipped.sidecar, sizes)
        kernel.launch(launch.config, **launch.arrays, **launch.integers)
        assert checked.findings == []


def test_layers_with_a_bias_are_clean_and_right(checked: CheckedCpuDevice) -> None:
    tensors = random_tensors(264, 72, 64, bias=True)
    x = np.random.default_rng(0).standard_normal((5, 264)).astype(np.float16)
    y = fe.GptqLinear(tensors, device=checked)(x)
    expected = fe.GptqLinear(tensors, device=fe.open_device("cpu"))(x)
    assert np.array_equal(y, expected)


def iota(device: fe.Device, out: np.ndarray, n: int, ctas: int = 1) -> None:
    config = fe.LaunchConfig(grid=ctas, block=64)
    device.load_module(IOTA).get_kernel().launch(config, out, n)


def test_a_launch_with_findings_raises(checked: CheckedCpuDevice) -> None:
    out = np.zeros(50, np.uint32)
    with pytest.raises(fe.SanitizerError, match="behind the end") as raised:
        iota(checked, out, n=60)
    (finding,) = raised.value.findings
    assert isinstance(raised.value, fe.LaunchError)
    assert (finding.kind, finding.array, finding.offset) == ("out-of-bounds", "out", 200)
    assert checked.findings == [finding]
    assert out.tolist() == list(range(50))
    iota(checked, out, n=50)
    assert checked.findings == []


def test_collecting(checked: CheckedCpuDevice) -> None:
    with checked.collect() as findings:
        iota(checked, np.zeros(50, np.uint32), n=60)
        iota(checked, np.zeros(50, np.uint32), n=51)
    assert [finding.count for finding in findings] == [10, 1]
    with pytest.raises(fe.SanitizerError):
        iota(checked, np.zeros(50, np.uint32), n=60)


def test_scratch_of_the_device_is_known(checked: CheckedCpuDevice) -> None:
    sidecar = {"name": "k", "num_warps": 1, "shared": 0}
    sidecar |= {"global_scratch_size": 64, "global_scratch_align": 128, "profile_scratch_size": 0}
    kernel = checked.load_module(SCRATCH, sidecar).get_kernel()
    kernel.launch(fe.LaunchConfig(3, 32), out=np.zeros(3, np.uint64))
    with checked.collect() as findings:
        small = checked.load_module(SCRATCH, sidecar | {"global_scratch_size": 48}).get_kernel()
        small.launch(fe.LaunchConfig(3, 32), out=np.zeros(3, np.uint64))
    assert {(f.kind, f.array) for f in findings} == {("out-of-bounds", "global_scratch")}


CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "half of K": ({"K": canonical.K // 2}, "the array has"),
    "a stride too small": ({"stride_am": canonical.K - 8}, "the array's stride is 256"),
    "groups twice as long": ({"group_size": 2 * canonical.G}, "cdiv(K, group_size) = 2"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_integers_that_do_not_fit_the_arrays(checked: CheckedCpuDevice, change: str) -> None:
    """Launches that stay inside their arrays and are still wrong."""
    changed, message = CHANGES[change]
    arguments = canonical.arguments(checked) | changed
    with checked.collect() as findings:
        canonical.kernel(checked).launch(canonical.CONFIG, **arguments)
    assert {finding.kind for finding in findings} == {"layout"}
    assert any(message in finding.message for finding in findings)


def test_buffers_for_more_rows_are_no_mistake(checked: CheckedCpuDevice) -> None:
    arguments = canonical.arguments(checked)
    for name in ("a", "c"):
        arguments[name] = np.concatenate([arguments[name], arguments[name]])
    canonical.kernel(checked).launch(canonical.CONFIG, **arguments)
    assert np.isnan(arguments["c"][canonical.M :]).all()


def test_source_lines(checked: CheckedCpuDevice) -> None:
    text = kernels.artefact("add_bias.sm_80").text.replace("@%p1 st.global.b16", "st.global.b16")
    kernel = checked.load_module(text).get_kernel()
    out, bias = np.zeros((1, 20), np.float16), np.zeros(20, np.float16)
    with checked.collect() as findings:
        kernel.launch(fe.LaunchConfig((1, 1), 128), out, bias, 1, 20, 20, 1, None, None)
    first = findings[0]
    assert first.source == "scripts/kernels/add_bias.py"
    assert first.source_line == 21
    assert "the access has no mask" in first.message
    if Path(first.source).exists():
        assert "tl.store" in str(first)


def test_what_open_device_refuses() -> None:
    with pytest.raises(fe.DeviceError, match=r"memory, init, race, order"):
        fe.open_device("cpu", checks=("bounds",))
    with pytest.raises(fe.DeviceError, match="expected the CPU device"):
        fe.open_device("cuda", checks=("memory",))
    assert fe.open_device("cpu", checks=ALL) is fe.open_device("cpu", checks=ALL)
    assert fe.open_device("cpu") is not fe.open_device("cpu", checks=ALL)


def test_empty_arrays_are_not_zero_by_chance() -> None:
    device = fe.open_device("cpu", checks=("memory",))
    assert np.isnan(device.empty((3, 5), np.float16)).all()
    assert (np.abs(device.empty(7, np.int32)) > 1 << 30).all()
    assert device.empty((), np.float64).shape == ()
    assert device.empty(0, np.float32).size == 0


ADDS = """mul.wide.u32 %q8, %t0, {size}; add.s64 %q9, %q0, %q8; add.s64 %q10, %q1, %q8;
{} st.global.b{bits} [%q10], %{reg}1;"""
LOAD = "ld.global.b{bits} %{reg}1, [%q9];"


@pytest.mark.parametrize(
    ("first", "dtype", "written", "count"),
    [
        (LOAD, np.float32, 20, 12),
        (LOAD, np.int32, 20, 12),
        (LOAD, np.float16, 20, 12),
        (LOAD, np.float32, 32, 0),
        (LOAD, np.uint8, 20, 0),  # where all values are in use
        ("st.global.b{bits} [%q9], %{reg}2;" + LOAD, np.float32, 20, 0),
        ("atom.global.add.u32 %{reg}1, [%q9], 1;", np.float32, 20, 12),
        ("red.global.add.u32 [%q9], 1;", np.int32, 20, 12),
        ("red.global.add.u32 [%q9], 1;", np.int32, 32, 0),
        ("st.relaxed.gpu.global.b32 [%q9], 1;" + LOAD, np.int32, 20, 0),
    ],
)
def test_an_array_by_empty_is_read_only_where_somebody_has_written(
    first: str, dtype: Any, written: int, count: int
) -> None:
    """The host has written the first elements."""
    device = fe.open_device("cpu", checks=ALL)
    x, y = device.empty(40, dtype)[4:36], device.empty(32, dtype)
    x[:written] = 0
    size = x.itemsize
    register = {"size": size, "bits": 8 * size, "reg": "t" if size == 4 else "h"}
    body = ADDS.replace("{}", first).format(**register)
    kernel = device.load_module(entry(2, body)).get_kernel()
    with device.collect() as findings:
        kernel.launch(fe.LaunchConfig(1, 32), x, y)
        if not count:
            kernel.launch(fe.LaunchConfig(1, 32), y, x)  # which it has written by now
    found = [(f.array, f.count) for f in findings if f.kind == "uninitialised-global"]
    assert found == ([("p0", count)] if count else [])


def test_shared_memory_that_no_gpu_gives() -> None:
    device = fe.open_device("cpu")
    text = entry(1, "st.shared.u32 [tile], 1; st.global.u32 [%q0], 1;")
    static = text.replace(
        ".extern .shared .align 16 .b8 tile[];", ".shared .align 4 .b8 tile[49156];"
    )
    with pytest.raises(fe.PtxError, match="at most 49152 bytes of shared memory with a size"):
        device.load_module(static).get_kernel().launch(fe.LaunchConfig(1, 32), np.zeros(1))
    kernel = device.load_module(text).get_kernel()
    kernel.launch(fe.LaunchConfig(1, 32, 232448), np.zeros(1))
    with pytest.raises(fe.DeviceError, match="shared_bytes: expected at most 232448"):
        kernel.launch(fe.LaunchConfig(1, 32, 232449), np.zeros(1))
