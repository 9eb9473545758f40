"""Triton's kernels of all kinds are clean, and a missing proxy fence is found."""

from __future__ import annotations

import numpy as np
import pytest

import ferrum_numba as fe
from ferrum_numba.devices.cpu.checked import CheckedCpuDevice
from tests.emulator import test_kernels as kernels

ATTENTION = "attention.sm_90a"


@pytest.fixture(scope="module")
def checked() -> CheckedCpuDevice:
    device = fe.open_device("cpu", checks=("memory", "init", "race", "order"), threads=1)
    assert isinstance(device, CheckedCpuDevice)
    return device


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, in the models
def test_kernels_of_other_kinds_are_clean(checked: CheckedCpuDevice) -> None:
    """Reductions that load under a mask and go on with all lanes, stores of one value by all
    warps, tables of the module, locks, atomic operations whose order nothing fixes."""
    kernels.test_reductions_of_bits(checked)
    kernels.test_histogram_and_lock(checked)
    kernels.test_scan_and_sort(checked)
    kernels.test_activations(checked, "activation_trigonometry.sm_80")
    kernels.test_atomics(checked, "atomic_xchg_fp32.sm_80")
    kernels.test_gathers(checked)


def test_warp_group_products_are_clean(checked: CheckedCpuDevice) -> None:
    kernels.test_attention(checked, ATTENTION)


def test_kernels_that_mask_with_infinities_make_none() -> None:
    device = fe.open_device("cpu", checks=("nan",), threads=1)
    kernels.test_attention(device, "attention.sm_80")
    kernels.test_norms_and_softmax(device)


def attend(device: CheckedCpuDevice, text: str, shared_bytes: int) -> None:
    known = kernels.INDEX[ATTENTION]
    kernel = device.load_module(text).get_kernel(known["entry"])
    q, k, v, out = (np.ones((1, 100, 32), np.float16) for _ in range(4))
    config = fe.LaunchConfig((2, 1), 32 * known["warps"], shared_bytes)
    kernel.launch(config, q, k, v, out, np.float32(0.2), 100, None, None)


def test_a_missing_proxy_fence(checked: CheckedCpuDevice) -> None:
    text = (kernels.FOLDER / f"{ATTENTION}.ptx").read_text()
    assert text.count("fence.proxy.async.shared::cta;") == 1
    with checked.collect() as findings:
        attend(
            checked,
            text.replace("fence.proxy.async.shared::cta;", ""),
            kernels.INDEX[ATTENTION]["shared"],
        )
    assert {finding.kind for finding in findings} == {"missing-fence"}
    assert findings[0].instruction is not None
    assert findings[0].instruction.startswith("wgmma.mma_async")
    assert "fence.proxy.async" in findings[0].message


def test_descriptors_that_lead_outside(checked: CheckedCpuDevice) -> None:
    text = (kernels.FOLDER / f"{ATTENTION}.ptx").read_text()
    with checked.collect() as findings:
        attend(checked, text, 1024)
    found = {(f.kind, (f.instruction or "").partition(".")[0]) for f in findings}
    assert ("out-of-bounds", "wgmma") in found
