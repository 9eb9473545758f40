"""Launching by hand: what is accepted, and what each wrong argument is told."""

from __future__ import annotations

import ctypes
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import ferrum_numba as fe
from ferrum_numba import kernels
from tests.devices import canonical
from tests.ptx import SCRATCH, ptx

FIELDS = ("qweight", "scales", "qzeros", "K", "N", "group_size")


def test_by_name(device: fe.Device) -> None:
    arguments = canonical.arguments(device)
    canonical.kernel(device).launch(canonical.CONFIG, **arguments)
    canonical.check(device, arguments["c"])


def test_by_position_on_a_stream(device: fe.Device) -> None:
    arguments = canonical.arguments(device)
    stream = device.create_stream()
    device.synchronize()
    canonical.kernel(device).launch(canonical.CONFIG, *arguments.values(), stream=stream)
    stream.synchronize()
    canonical.check(device, arguments["c"])


def test_without_a_sidecar(device: fe.Device) -> None:
    """By position; the scratch pointers, which the kernel never reads, may be left out."""
    kernel = device.load_module(fe.W4A16_PTX).get_kernel("w4a16_gptq_gemm_typed")
    arguments = canonical.arguments(device)
    kernel.launch(canonical.CONFIG, *arguments.values(), None, None)
    canonical.check(device, arguments["c"])
    arguments = canonical.arguments(device)
    kernel.launch(canonical.CONFIG, *arguments.values())
    canonical.check(device, arguments["c"])
    with pytest.raises(fe.AbiError, match="found none for w4a16_gptq_gemm_typed_param_18"):
        kernel.launch(canonical.CONFIG, *list(arguments.values())[:-1])
    used = device.load_module(SCRATCH).get_kernel("k")  # its profile scratch is not
    with pytest.raises(fe.AbiError, match="found none for global_scratch"):
        used.launch(fe.LaunchConfig(1, 128), arguments["c"])


@pytest.mark.parametrize("number", [int, np.int64, np.uint64, np.int32])
def test_a_number_where_nothing_says_what_it_is(device: fe.Device, number: type) -> None:
    """A .u64 may be an address or an integer: the value decides, NumPy's own numbers too."""
    text = ptx(
        [".param .u64 out", ".param .u64 n"],
        "ld.param.u64 %rd1, [out]; ld.param.u64 %rd2, [n]; st.global.u64 [%rd1], %rd2; ret;",
    )
    out = device.to_device(np.zeros(1, np.int64))
    device.load_module(text).get_kernel().launch(fe.LaunchConfig(1, 128), out, number(77))
    assert device.to_host(out) == [77]


def test_from_files_with_tritons_metadata(device: fe.Device, tmp_path: Path) -> None:
    """A stranger's PTX and JSON, from disk; the front door holds it to the canonical arguments."""
    path = tmp_path / "kernel.ptx"
    path.write_text(fe.W4A16_PTX + "// another build\n")
    metadata = {"name": fe.fn_name(), "num_warps": 4, "shared": 8192,
                "global_scratch_size": 0, "profile_scratch_size": 0}  # fmt: skip
    kernel = device.load_module(str(path), sidecar=metadata).get_kernel()
    assert [p.role for p in kernel.signature.scratch] == ["global_scratch", "profile_scratch"]
    weight = fe.W4A16Weight(
        **{n: device.to_device(getattr(canonical.TENSORS, n))
           for n in ("qweight", "scales", "qzeros")},
        K=canonical.K, N=canonical.N, group_size=canonical.G,
    )  # fmt: skip
    arguments = canonical.arguments(device)
    fe.launch_w4a16_gptq(None, kernel, arguments["a"], weight, arguments["c"], canonical.M)
    canonical.check(device, arguments["c"])
    bare = device.load_module(str(path)).get_kernel()
    with pytest.raises(fe.AbiError, match="sidecar: expected num_warps and shared"):
        fe.launch_w4a16_gptq(None, bare, arguments["a"], weight, arguments["c"], canonical.M)


def test_the_shipped_ptx_needs_no_sidecar_at_the_front_door(device: fe.Device) -> None:
    kernel = device.load_module(fe.W4A16_PTX).get_kernel(fe.fn_name())
    tensors = canonical.TENSORS
    weight = fe.W4A16Weight(
        device.to_device(tensors.qweight), device.to_device(tensors.scales),
        device.to_device(tensors.qzeros), tensors.K, tensors.N, tensors.group_size,
    )  # fmt: skip
    arguments = canonical.arguments(device)
    fe.launch_w4a16_gptq(None, kernel, arguments["a"], weight, arguments["c"], canonical.M)
    canonical.check(device, arguments["c"])
    record = SimpleNamespace(**{field: getattr(weight, field) for field in FIELDS})
    arguments = canonical.arguments(device)
    fe.launch_w4a16_gptq(None, kernel, arguments["a"], record, arguments["c"], canonical.M)
    canonical.check(device, arguments["c"])
    v2 = kernels.canonical(0).kernel(device)
    for v1 in (weight, record):
        with pytest.raises(fe.AbiError, match=r"zero_bias: expected .*, found nibble \+ 1"):
            fe.launch_w4a16_gptq(None, v2, arguments["a"], v1, arguments["c"], canonical.M)
    del record.qzeros
    with pytest.raises(fe.AbiError, match="weight: expected qweight, .* no attribute 'qzeros'"):
        fe.launch_w4a16_gptq(None, kernel, arguments["a"], record, arguments["c"], canonical.M)


def test_strided_arrays_whose_strides_are_stated(device: fe.Device) -> None:
    arguments = canonical.arguments(device)
    wide = np.full((canonical.M, 2 * canonical.N), np.nan, np.float16)
    c = device.to_device(wide)
    arguments |= {"c": c[:, : canonical.N], "stride_cm": 2 * canonical.N}
    canonical.kernel(device).launch(canonical.CONFIG, **arguments)
    device.synchronize()
    host = device.to_host(c)
    canonical.check(device, device.to_device(np.ascontiguousarray(host[:, : canonical.N])))
    assert np.isnan(host[:, canonical.N :]).all(), "written outside the slice"


def short(array: Any) -> Any:
    return array[:-1]


def retyped(array: Any) -> Any:
    return array.view(np.int16)


BAD_ARGUMENTS: list[tuple[Any, str]] = [
    ({"a": None}, "a: expected (an array|a NumPy array)"),
    ({"a": 0x7F0000000000}, "a: expected (an array|a NumPy array)"),
    ({"a": short}, r"a: expected at least 2560 bytes for \(M, K\) = \(5, 256\).*found 2048"),
    ({"qweight": short}, "qweight: expected at least"),
    ({"scales": short}, r"scales: .*\(cdiv\(K, group_size\), N\) = \(4, 136\)"),
    ({"qzeros": short}, "qzeros: expected at least"),
    ({"c": short}, "c: expected at least"),
    ({"a": retyped}, r"a: expected dtype float16 \(\*fp16\), found int16"),
    ({"group_size": 32}, "scales: expected at least"),
    ({"M": 6}, "a: expected at least"),
    ({"M": 0}, "expected M >= 1, found M = 0"),
    ({"M": -1}, "expected M >= 1, found M = -1"),
    ({"M": 2**31}, "M: expected -2147483648 to 2147483647"),
    ({"M": 5.0}, r"M: expected an integer for i32, found 5.0 \(float\)"),
    ({"M": True}, "M: expected an integer"),
    ({"N": 132}, "expected N % 8 == 0, found N = 132"),
    ({"K": 252}, "expected K % 8 == 0"),
    ({"group_size": 0}, "expected group_size >= 8, found group_size = 0"),
    ({"stride_am": -256}, "a: .*negative stride"),
    ({"stride_cm": 10**6}, "c: expected at least"),
    ({"N": 512, "stride_qwk": 512}, r"grid: expected \(1, 8, 1\) = .*N = 512.*found \(1, 3, 1\)"),
    ({"lda": 1}, "unknown lda"),
    ({"global_scratch": 0}, "global_scratch: the launcher fills it in"),
]


@pytest.mark.parametrize(
    ("changes", "message"),
    BAD_ARGUMENTS,
    ids=lambda v: v[:40] if isinstance(v, str) else "-".join(v),
)
def test_a_wrong_argument_is_refused(
    device: fe.Device, changes: dict[str, Any], message: str
) -> None:
    arguments = canonical.arguments(device)
    for name, change in changes.items():
        arguments[name] = change(arguments[name]) if callable(change) else change
    with pytest.raises(fe.AbiError, match=message):
        canonical.kernel(device).launch(canonical.CONFIG, **arguments)
    assert np.isnan(device.to_host(arguments["c"])).all(), "nothing was launched"


def test_a_missing_argument(device: fe.Device) -> None:
    arguments = canonical.arguments(device)
    del arguments["c"], arguments["stride_cn"]
    with pytest.raises(fe.AbiError, match="none for c, stride_cn"):
        canonical.kernel(device).launch(canonical.CONFIG, **arguments)


def test_the_same_launch_again_and_others_in_between(device: fe.Device) -> None:
    """A kernel that remembers the launch before refuses what it refused."""
    kernel, arguments = canonical.kernel(device), canonical.arguments(device)
    for _ in range(3):
        for changes in ({"M": 6}, {"a": arguments["c"]}, {"lda": 1}, {"N": 512, "stride_qwk": 512}):
            kernel.launch(canonical.CONFIG, **arguments)
            with pytest.raises(fe.AbiError):
                kernel.launch(canonical.CONFIG, **arguments | changes)
        with pytest.raises(fe.AbiError, match=r"grid: expected \(1, 3, 1\)"):
            kernel.launch(fe.LaunchConfig((2, 3), 128, 8192), **arguments)
        one = arguments | {"M": 1}
        kernel.launch(canonical.CONFIG, *one.values())
        arguments = canonical.arguments(device)  # elsewhere
        kernel.launch(canonical.CONFIG, *arguments.values(), stream=device.create_stream())
        canonical.check(device, arguments["c"])


def test_a_grid_that_is_refused_is_refused_again(device: fe.Device) -> None:
    """Also where none of the integers is Python's own."""
    kernel = canonical.kernel(device)
    arguments = {
        name: np.int32(value) if type(value) is int else value
        for name, value in canonical.arguments(device).items()
    }
    for _ in range(3):
        kernel.launch(canonical.CONFIG, **arguments)
    for _ in range(3):
        with pytest.raises(fe.AbiError, match=r"grid: expected \(1, 2, 1\)"):
            kernel.launch(canonical.CONFIG, **arguments | {"N": np.int32(128)})
    kernel.launch(canonical.CONFIG, **arguments)
    canonical.check(device, arguments["c"])


def test_too_many_and_twice(device: fe.Device) -> None:
    arguments = canonical.arguments(device)
    canonical.kernel(device).launch(canonical.CONFIG, **arguments)
    with pytest.raises(fe.AbiError, match="expected 19 arguments"):
        canonical.kernel(device).launch(canonical.CONFIG, *arguments.values(), None)
    with pytest.raises(fe.AbiError, match="a: given by position and by name"):
        canonical.kernel(device).launch(canonical.CONFIG, arguments["a"], **arguments)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (fe.LaunchConfig((1, 4), 128, 8192), r"grid: expected \(1, 3, 1\)"),
        (
            fe.LaunchConfig((1, 3), 64, 8192),
            r"block: expected \(128, 1, 1\) \(the PTX's .reqntid\)",
        ),
        (fe.LaunchConfig((1, 3), 128, 4096), "shared_bytes: expected 8192"),
        ((1, 3), "config: expected a LaunchConfig, found tuple"),
    ],
)
def test_a_wrong_config(device: fe.Device, config: Any, message: str) -> None:
    with pytest.raises(fe.AbiError, match=message):
        canonical.kernel(device).launch(config, **canonical.arguments(device))


def test_misaligned(device: fe.Device) -> None:
    raw = device.to_device(np.zeros(canonical.M * canonical.K * 2 + 1, np.uint8))
    arguments = canonical.arguments(device) | {"a": raw[1:].view(np.float16)}
    with pytest.raises(fe.AbiError, match="a: expected an address aligned to 2 bytes"):
        canonical.kernel(device).launch(canonical.CONFIG, **arguments)


def test_an_output_that_is_also_an_input(device: fe.Device) -> None:
    arguments = canonical.arguments(device)
    big = device.empty((canonical.M, canonical.K), np.float16)
    arguments |= {"a": big, "c": big}
    with pytest.raises(fe.AbiError, match="c: shares memory with a"):
        canonical.kernel(device).launch(canonical.CONFIG, **arguments)


def test_not_contiguous(device: fe.Device) -> None:
    arguments = canonical.arguments(device)
    wide = device.empty((canonical.M, 2 * canonical.K), np.float16)
    with pytest.raises(fe.AbiError, match="a: expected a C-contiguous array"):
        canonical.kernel(device).launch(canonical.CONFIG, **arguments | {"a": wide[:, ::2]})


def test_read_only_output_on_the_cpu() -> None:
    device = fe.open_device("cpu")
    arguments = canonical.arguments(device)
    arguments["c"].flags.writeable = False
    with pytest.raises(fe.AbiError, match="c: expected a writable array"):
        canonical.kernel(device).launch(canonical.CONFIG, **arguments)


def test_a_stream_of_something_else(device: fe.Device) -> None:
    arguments = canonical.arguments(device)
    with pytest.raises(fe.DeviceError, match="stream: expected"):
        canonical.kernel(device).launch(canonical.CONFIG, **arguments, stream="0")


def test_prepare_and_update(device: fe.Device) -> None:
    arguments = canonical.arguments(device)
    call = canonical.kernel(device).prepare(canonical.CONFIG, **arguments)
    call()
    canonical.check(device, arguments["c"])
    rows = 70  # two rows of CTAs instead of one
    a = np.resize(canonical.A, (rows, canonical.K))
    c = device.to_device(np.full((rows, canonical.N), np.nan, np.float16))
    call.update(a=device.to_device(a), c=c, M=rows)()
    assert call.config.grid == (2, 3, 1)
    device.synchronize()
    expected = np.resize(canonical.EXPECTED, (rows, canonical.N))
    assert np.linalg.norm(device.to_host(c) - expected) <= 1e-3 * np.linalg.norm(expected)
    with pytest.raises(fe.AbiError, match="a: expected at least"):
        call.update(M=rows + 1)
    call()  # as it was before the refused update


@pytest.mark.parametrize(
    "changes",
    [{"M": 0}, {"M": 2**40}, {"M": 6}, {"K": 512}, {"stride_cm": 2 * canonical.N},
     {"a": canonical.A.astype(np.float32)}, {"a": canonical.A[:4].copy(), "M": 4.0},
     {"stride_cm": 0}, {"stride_cm": 8}, {"stride_cn": 0}, {"rows": 4}, {"global_scratch": 0}],
    ids=lambda changes: ",".join(changes),
)  # fmt: skip
def test_an_update_is_refused_as_at_prepare(device: fe.Device, changes: dict[str, Any]) -> None:
    kernel, arguments = canonical.kernel(device), canonical.arguments(device)
    call = kernel.prepare(canonical.CONFIG, **arguments)
    changes = {n: device.to_device(v) if n == "a" else v for n, v in changes.items()}
    before = call.config, call.invocation.arguments, call.invocation.block.to_bytes()
    with pytest.raises(fe.AbiError) as updated:
        call.update(**changes)
    with pytest.raises(fe.AbiError) as prepared:
        kernel.prepare(canonical.CONFIG, **arguments | changes)
    assert str(updated.value) == str(prepared.value)
    assert before == (call.config, call.invocation.arguments, call.invocation.block.to_bytes())
    call()
    canonical.check(device, arguments["c"])


def test_raw_addresses_only_where_nothing_is_declared() -> None:
    """Without a sidecar a launch can be spelt out in addresses, as `c_void_p`, not as integers."""
    device = fe.open_device("cpu")
    arguments = canonical.arguments(device)
    c = arguments["c"]
    kernel = device.load_module(fe.W4A16_PTX).get_kernel()
    raw = [ctypes.c_void_p(v.ctypes.data) if isinstance(v, np.ndarray) else v
           for v in arguments.values()]  # fmt: skip
    kernel.launch(canonical.CONFIG, *raw, ctypes.c_void_p(), None)
    canonical.check(device, c)
    with pytest.raises(fe.AbiError, match=r"found the integer \d+; None stands for NULL"):
        kernel.launch(canonical.CONFIG, c.ctypes.data, *raw[1:], None, None)
    declared = canonical.kernel(device)
    with pytest.raises(fe.AbiError, match="a: expected a NumPy array"):
        declared.launch(canonical.CONFIG, *raw)
