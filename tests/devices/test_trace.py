"""`with device.trace(...)`: what the launches of a block did."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import ferrum_numba as fe
from ferrum_numba import kernels
from ferrum_numba.kernels.sample import Sample, sample

NAME = "w4a16_gptq_gemm_typed.v1.sm_80"


def add_bias(rows: int, columns: int) -> tuple[fe.Kernel, Sample]:
    shipped = kernels.artefact("add_bias.sm_80")
    drawn = sample(shipped.sidecar, {"M": rows, "N": columns})
    drawn.arrays["c"][:] = np.arange(rows * columns).reshape(rows, columns)
    return shipped.kernel(fe.open_device("cpu")), drawn


def test_events_and_rows() -> None:
    kernel, drawn = add_bias(2, 72)
    before = drawn.arrays["c"].copy()
    device = kernel.module.device
    with device.trace(cta=(1,), warp=0, lanes=range(4), registers=["%rs10"]) as trace:
        kernel.launch(drawn.config, **drawn.arrays, **drawn.integers)
    expected = before + drawn.arrays["bias"]
    assert (drawn.arrays["c"] == expected).all()
    total, store = trace.events
    assert (total.opcode, total.source_line) == ("add.f16", 21)
    assert total.source == "scripts/kernels/add_bias.py"
    assert (total.writes["%rs10"].array == expected[1, :32]).all()
    assert store.reads["%rs10"].type == "f16"
    rows = [row for row in trace.rows() if row["register"] == "%rs10" and row["written"]]
    assert [row["lane"] for row in rows] == [0, 1, 2, 3]
    assert [row["value"] for row in rows] == expected[1, :4].tolist()
    assert trace.dropped == 0


def test_several_launches() -> None:
    kernel, drawn = add_bias(1, 40)
    call = kernel.prepare(drawn.config, **drawn.arrays, **drawn.integers)
    with kernel.module.device.trace(registers=["rs10"]) as trace:
        call()
        call()
    assert [len(launch) for launch in trace.launches] == [8, 8]  # four warps, a sum and a store
    assert [event.launch for event in trace.events] == [0] * 8 + [1] * 8
    assert [trace.events[i].launch for i in (0, 7, 8, -1, -9)] == [0, 0, 1, 1, 0]
    assert [event.launch for event in trace.events[6:10]] == [0, 0, 1, 1]
    with pytest.raises(IndexError):
        trace.events[16]
    call()
    assert len(trace.launches) == 2


def test_a_traced_kernel_computes_the_same() -> None:
    shipped = kernels.artefact(NAME)
    drawn = sample(shipped.sidecar, {"M": 3, "N": 72, "K": 96, "group_size": 32})
    kernel = shipped.kernel(fe.open_device("cpu"))
    kernel.launch(drawn.config, **drawn.arrays, **drawn.integers)
    plain = drawn.arrays["c"].copy()
    drawn.arrays["c"][:] = np.nan
    with kernel.module.device.trace(warp=1) as trace:
        kernel.launch(drawn.config, **drawn.arrays, **drawn.integers)
    assert (drawn.arrays["c"].view(np.uint16) == plain.view(np.uint16)).all()
    assert not trace.launches[0].findings
    sums = [event for event in trace.events if event.opcode.startswith("mma")]
    assert len(sums) == 48  # sixteen for each of three steps along K
    assert {values.type for event in sums for values in event.writes.values()} == {"f32"}


def test_one_trace_at_a_time_and_none_afterwards() -> None:
    device = fe.open_device("cpu")
    with (
        device.trace(),
        pytest.raises(fe.DeviceError, match="is being traced already"),
        device.trace(),
    ):
        pass
    kernel, drawn = add_bias(1, 40)
    with pytest.raises(fe.AbiError), device.trace():
        kernel.launch(drawn.config)
    assert device._tracer is None


def without_guard(device: fe.Device, access: str) -> fe.Kernel:
    """add_bias with one of its accesses made by all lanes."""
    shipped = kernels.artefact("add_bias.sm_80")
    assert f"@%p1 {access}" in shipped.text
    text = shipped.text.replace(f"@%p1 {access}", access)
    return device.load_module(text, replace(shipped.sidecar, ptx_sha256=None)).get_kernel()


def test_findings() -> None:
    _, drawn = add_bias(1, 40)
    device = fe.open_device("cpu")
    kernel = without_guard(device, "ld.global.b16 { %rs6 }")
    with device.trace(warp=1) as trace:
        kernel.launch(drawn.config, **drawn.arrays, **drawn.integers)
    (finding,) = trace.launches[0].findings
    assert (finding.kind, finding.array, finding.warp) == ("out-of-bounds", "bias", 1)
    assert finding.lanes == tuple(range(8, 32))


def test_a_checked_device_raises_as_it_does_without() -> None:
    _, drawn = add_bias(1, 40)
    device = fe.open_device("cpu", checks=("memory",))
    kernel = without_guard(device, "st.global.b16")
    with pytest.raises(fe.SanitizerError, match="out-of-bounds"), device.trace(warp=1) as trace:
        kernel.launch(drawn.config, **drawn.arrays, **drawn.integers)
    assert len(trace.launches[0]) > 0


@pytest.mark.gpu
def test_a_gpu_is_not_traced(gpu: fe.Device) -> None:
    with pytest.raises(fe.DeviceError, match="trace: expected the CPU device"), gpu.trace():
        pass
