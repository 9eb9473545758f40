"""GEMMs that start before the launch ahead of them is done, and wait for it themselves."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

import ferrum_numba as fe
from ferrum_numba import kernels
from tests.kernels.test_artefacts import case, dtype_of
from tests.kernels.test_tuned_gemms import launch
from tests.ptx import ptx

# Of those that let the next launch start at once and of those that do it late.
DEPENDENT = [
    f"w4a16_gptq_gemm_decode.{build}.g128.sm_90" for build in ("m8n32w4", "m8n32w8", "bf16.m8n32w8")
]
WGMMA = [f"w4a16_gptq_gemm_wgmma.{tile}.sm_90a" for tile in ("m64n64.g64", "m256n128.g32")]
# Lets the launch behind it start at once, takes its time, and only then copies n words.
LATE_COPY = ptx(
    [".param .u64 source", ".param .u64 out", ".param .u32 n"],
    """
    griddepcontrol.launch_dependents;
    ld.param.u64 %rd1, [source];
    ld.param.u64 %rd2, [out];
    ld.param.u32 %r1, [n];
    nanosleep.u32 100000;
    mov.u32 %r2, %ctaid.x;
    mov.u32 %r3, %ntid.x;
    mov.u32 %r4, %tid.x;
    mad.lo.u32 %r5, %r2, %r3, %r4;
    setp.ge.u32 %p1, %r5, %r1;
    @%p1 bra DONE;
    mul.wide.u32 %rd3, %r5, 4;
    add.u64 %rd1, %rd1, %rd3;
    add.u64 %rd2, %rd2, %rd3;
    ld.global.u32 %r6, [%rd1];
    st.global.u32 [%rd2], %r6;
    DONE: ret;
    """,
    target="sm_90",
    version="7.8",
)


def twin(name: str) -> str:
    """The build of the same tile that is launched when all before it is done."""
    fields = kernels.artefact(name).fields
    same = {field: fields[field] for field in ("kernel", "dtype", "num_warps", "GROUP")}
    tile = {field: fields[field] for field in ("BLOCK_M", "BLOCK_N")}
    return kernels.find(**same, **tile, target="sm_80").name


@pytest.mark.parametrize("name", DEPENDENT)
def test_the_same_bits_as_its_twin(name: str) -> None:
    device = fe.open_device("cpu")
    found, expected = (launch(device, each, 17, 1320, 40)[0] for each in (name, twin(name)))
    np.testing.assert_array_equal(found.view(np.uint16), expected.view(np.uint16))


@pytest.mark.parametrize("name", DEPENDENT)
def test_before_it_waits_it_touches_weights_alone(name: str) -> None:
    """Of a, c and bias nothing is there to be read or written, and it ends where it waits."""
    shipped, tensors = case(name, 1320, 72, None)
    for instruction in ("griddepcontrol.wait;", "griddepcontrol.launch_dependents;"):
        assert shipped.text.count(instruction) == 1
    device = fe.open_device("cpu", checks=("memory", "init", "race"))
    weights, nothing = (tensors.qweight, tensors.scales, tensors.qzeros), np.empty(0, np.int32)
    sizes = kernels.contiguous_sizes(3, 72, 1320, tensors.group_size)
    config = kernels.launch_config(shipped.sidecar, **sizes)
    kernel = device.load_module(shipped.text.replace("griddepcontrol.wait;", "ret;")).get_kernel()
    kernel.launch(
        fe.LaunchConfig(config.grid, config.block, config.shared_bytes),
        *(nothing, *weights, nothing, *sizes.values()),
        *(nothing, tensors.zero_bias, nothing, 0),
        *[nothing] * (len(kernel.signature.params) - 23),  # workspace, scratch
    )
    device.synchronize()


def outputs(
    device: fe.Device, name: str, tensors: fe.GptqTensors, sources: np.ndarray, early: bool
) -> list[np.ndarray]:
    """The layer twice over on each source [M, K], which is copied to its place late.

    early: launch the layer programmatically.
    """
    kernel = kernels.artefact(name).kernel(device)
    late = device.load_module(LATE_COPY).get_kernel()
    weights = [device.to_device(v) for v in (tensors.qweight, tensors.scales, tensors.qzeros)]
    x, between = (device.to_device(np.zeros_like(sources[0])) for _ in range(2))
    results = [device.to_device(np.zeros_like(x)) for x in sources]
    sizes = kernels.contiguous_sizes(len(x), tensors.N, tensors.K, tensors.group_size)
    config = kernels.launch_config(kernel.sidecar, **sizes)
    config = fe.LaunchConfig(config.grid, config.block, config.shared_bytes, programmatic=early)
    prepare = partial(kernel.prepare, config)
    words = x.size // 2
    calls = []
    for source, result in zip(map(device.to_device, sources), results, strict=True):
        calls += [
            late.prepare(fe.LaunchConfig(-(-words // 128), 128), source, x, words),
            prepare(x, *weights, between, *sizes.values(), None, tensors.zero_bias, None, 0),
            prepare(between, *weights, result, *sizes.values(), None, tensors.zero_bias, None, 0),
        ]
    for call in calls:  # all prepared, so that they follow close on each other
        call()
    device.synchronize()
    return [device.to_host(result).view(np.uint16) for result in results]


@pytest.mark.parametrize("name", DEPENDENT + WGMMA)
def test_activations_that_are_written_late(device: fe.Device, name: str) -> None:
    """By a kernel that lets it start at once, and by another launch of its own kind."""
    if getattr(device, "capability", (9, 0)) < (9, 0):
        pytest.skip("griddepcontrol needs sm_90")
    repeats, k = (2, 256) if device.name == "cpu" else (100, 2048)
    _, tensors = case(name, k, k, 128)
    sources = np.random.default_rng(k).standard_normal((repeats, 3, k)).astype(dtype_of(name))
    found, expected = (outputs(device, name, tensors, sources, early) for early in (True, False))
    np.testing.assert_array_equal(found, expected)
    assert len({output.tobytes() for output in found}) == repeats
