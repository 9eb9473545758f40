"""The ways to launch the canonical kernel: ours, the driver's bare call, other libraries'.

A road is a function that launches `count` times on one stream; a road that needs a library which
is not there is None.
"""

from __future__ import annotations

import ctypes
import importlib
import tempfile
from collections.abc import Callable, Iterator
from ctypes import CFUNCTYPE, c_int, c_int64, c_size_t, c_uint, c_uint32, c_uint64, c_void_p
from pathlib import Path
from typing import Any

import numpy as np

import ferrum_numba as fe
from ferrum_numba import kernels
from ferrum_numba.devices.cuda import driver
from ferrum_numba.devices.cuda.streams import stream_handle

M, N, K, GROUP_SIZE = 1, 64, 128, 128
STEPS = 100  # launches in a plan and in a graph
MOVING = 64  # arrays that are taken by turns where they move
# Of a road with arrays that move, or with a new result: the peer's, and how much of its time is
# enough.
PEERS = {
    "GptqLinear(x), new result": ("torch.mm, new result", 1.0),
    "GptqLinear(torch's), new result": ("torch.mm, new result", 1.0),
    "GptqLinear, torch's move": ("torch.mm(out=), torch's move", 0.8),
    "GptqLinear, CuPy's move": ("CuPy RawKernel, CuPy's move", 1.0),
    "kernel.launch, CuPy's move": ("CuPy RawKernel, CuPy's move", 1.0),
    "kernel.launch, one moves": ("CuPy RawKernel", 1.0),
}

Road = Callable[[int], object]


def repeated(call: Callable[[], object]) -> Road:
    """A road of single calls."""

    def road(count: int) -> None:
        for _ in range(count):
            call()

    return road


class Launch:
    """One tiny launch of the canonical kernel, on a stream of its own."""

    def __init__(self, device: fe.Device) -> None:
        rng = np.random.default_rng(0)
        tensors = fe.GptqTensors(
            qweight=rng.integers(-(2**31), 2**31, (K // 8, N), np.int32),
            qzeros=rng.integers(-(2**31), 2**31, (K // GROUP_SIZE, N // 8), np.int32),
            scales=rng.uniform(1e-3, 3e-3, (K // GROUP_SIZE, N)).astype(np.float16),
            group_size=GROUP_SIZE,
        )
        self.device = device
        self.layer = fe.GptqLinear(tensors, device=device, kernel=kernels.canonical(1).name)
        self.kernel = kernels.canonical(1).kernel(device)
        self.stream = device.create_stream()
        self.handle = stream_handle(self.stream)
        self.x = device.to_device(rng.standard_normal((M, K)).astype(np.float16))
        self.out = device.empty((M, N), np.float16)
        self.others = [device.empty((M, N), np.float16) for _ in range(2)]
        weight = self.layer.weight
        self.sizes = kernels.contiguous_sizes(M, N, K, GROUP_SIZE)
        self.arrays = (self.x, weight.qweight, weight.scales, weight.qzeros, self.out)
        self.arguments = (*self.arrays, *self.sizes.values())
        self.config = kernels.launch_config(self.kernel.sidecar, **self.sizes)


def ours(launch: Launch) -> dict[str, Road]:
    """Every road of this package."""
    stream, kernel, config = launch.stream, launch.kernel, launch.config
    x, out, layer = launch.x, launch.out, launch.layer
    call = kernel.prepare(config, *launch.arguments)
    changing = kernel.prepare(config, *launch.arguments)
    lent = kernel.prepare(config, *launch.arguments)
    with launch.device.record_plan() as plan:
        for _ in range(STEPS):
            call()
    with launch.device.capture() as graph:
        plan(graph.stream)

    def update(count: int) -> None:
        for i in range(count):
            changing.update(c=launch.others[i % 2])
            changing(stream)

    def elsewhere(count: int) -> None:
        for i in range(count):
            layer(x, out=launch.others[i % 2], stream=stream)

    return {
        "kernel.launch": repeated(lambda: kernel.launch(config, *launch.arguments, stream=stream)),
        "PreparedLaunch": repeated(lambda: call(stream)),
        "PreparedLaunch, updated": update,
        "PreparedLaunch.launch": repeated(lambda: lent.launch(stream, a=x, c=out)),
        "GptqLinear(x, out=)": repeated(lambda: layer(x, out=out, stream=stream)),
        "GptqLinear, out moves": elsewhere,
        "LaunchPlan, a launch": lambda count: [plan(stream) for _ in range(count // STEPS)],
        "LaunchGraph, a launch": lambda count: [
            graph.launch(stream) for _ in range(count // STEPS)
        ],
    }


def moving(launch: Launch) -> Iterator[tuple[str, Road | None]]:
    """Arrays that lie elsewhere at each launch, and new results, by ours and by others."""
    kernel, config, layer, stream = launch.kernel, launch.config, launch.layer, launch.stream

    def one_moves(count: int) -> None:
        a, qweight, scales, qzeros, _ = launch.arrays
        sizes, outs = launch.sizes.values(), launch.others
        for i in range(count):
            kernel.launch(config, a, qweight, scales, qzeros, outs[i % 2], *sizes, stream=stream)

    yield "kernel.launch, one moves", one_moves
    yield "GptqLinear(x), new result", repeated(lambda: layer(launch.x, stream=stream))
    for make, names in (
        (_torch_moves, ("GptqLinear(torch's), new result", "torch.mm, new result",
                        "GptqLinear, torch's move", "torch.mm(out=), torch's move")),
        (_tvm_moves, ("tvm-ffi, torch's move",)),
        (_cupy_moves, ("GptqLinear, CuPy's move", "kernel.launch, CuPy's move",
                       "CuPy RawKernel, CuPy's move")),
    ):  # fmt: skip
        try:
            yield from zip(names, make(launch), strict=True)
        except (ImportError, AttributeError):
            yield from dict.fromkeys(names).items()


def _torch_moves(launch: Launch) -> list[Road]:
    torch = importlib.import_module("torch")
    layer, stream = launch.layer, torch.cuda.ExternalStream(launch.handle)
    x, out, w = _torch_arrays(torch)

    def within(road: Road) -> Road:
        def run(count: int) -> None:
            with torch.cuda.stream(stream), torch.no_grad():
                road(count)

        return run

    def new_results(count: int) -> None:
        for i in range(count):
            layer(x[i % MOVING], stream=stream)

    def new_products(count: int) -> None:
        for i in range(count):
            torch.mm(x[i % MOVING], w)

    def layers(count: int) -> None:
        for i in range(count):
            layer(x[i % MOVING], out=out[i % MOVING], stream=stream)

    def products(count: int) -> None:
        for i in range(count):
            torch.mm(x[i % MOVING], w, out=out[i % MOVING])

    return [within(road) for road in (new_results, new_products, layers, products)]


def _torch_arrays(torch: Any) -> tuple[list[Any], list[Any], Any]:
    """Inputs and results, MOVING of each, and a dense weight."""
    kind = {"dtype": torch.float16, "device": "cuda"}
    xs = [torch.ones((M, K), **kind) for _ in range(MOVING)]
    return xs, [torch.empty((M, N), **kind) for _ in range(MOVING)], torch.ones((K, N), **kind)


def _tvm_moves(launch: Launch) -> list[Road]:
    """A function of C++ that is called through tvm-ffi, as one would write it for this kernel."""
    cpp, torch = importlib.import_module("tvm_ffi.cpp"), importlib.import_module("torch")
    sizes = ", ".join(f"int64_t {name}" for name in launch.sizes)
    values = ", ".join(f"static_cast<int32_t>({name})" for name in launch.sizes)
    places = ", ".join(f"&size[{i}]" for i in range(len(launch.sizes)))
    source = f"""
    using tvm::ffi::TensorView;
    using Launch = int (*)(void*, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned,
                           unsigned, void*, void**, void**);
    void launch(int64_t call, int64_t function, int64_t grid, int64_t block, int64_t shared,
                int64_t stream, TensorView a, TensorView qweight, TensorView scales,
                TensorView qzeros, TensorView c, {sizes}) {{
      void* at[] = {{a.data_ptr(), qweight.data_ptr(), scales.data_ptr(), qzeros.data_ptr(),
                    c.data_ptr(), nullptr, nullptr}};
      int32_t size[] = {{{values}}};
      void* params[] = {{&at[0], &at[1], &at[2], &at[3], &at[4], {places}, &at[5], &at[6]}};
      int code = reinterpret_cast<Launch>(call)(
          reinterpret_cast<void*>(function), grid, 1, 1, block, 1, 1, shared,
          reinterpret_cast<void*>(stream), params, nullptr);
      TVM_FFI_CHECK(code == 0, RuntimeError) << "cuLaunchKernel: " << code;
    }}"""
    call = cpp.load_inline("launch_roads", cpp_sources=source, functions=["launch"]).launch
    x, out, _ = _torch_arrays(torch)
    _, qweight, scales, qzeros, _ = [torch.as_tensor(a, device="cuda") for a in launch.arrays]
    config = launch.config
    start = (
        ctypes.cast(driver.library().cuLaunchKernel, c_void_p).value,
        launch.kernel._handle,  # type: ignore[attr-defined]
        *(config.grid[0], config.block[0], config.shared_bytes, launch.handle),
    )
    counts = tuple(launch.sizes.values())

    def road(count: int) -> None:
        for i in range(count):
            call(*start, x[i % MOVING], qweight, scales, qzeros, out[i % MOVING], *counts)

    return [road]


def _cupy_moves(launch: Launch) -> list[Road]:
    cupy = importlib.import_module("cupy")
    kernel, layer, config = launch.kernel, launch.layer, launch.config
    raw, arrays, counts = _cupy_kernel(cupy, launch)
    x = [cupy.ones((M, K), np.float16) for _ in range(MOVING)]
    out = [cupy.empty((M, N), np.float16) for _ in range(MOVING)]
    _, qweight, scales, qzeros, _ = arrays
    sizes, stream = tuple(launch.sizes.values()), cupy.cuda.ExternalStream(launch.handle)

    def layers(count: int) -> None:
        with stream:
            for i in range(count):
                layer(x[i % MOVING], out=out[i % MOVING], stream=stream)

    def launches(count: int) -> None:
        with stream:
            for i in range(count):
                kernel.launch(
                    *(config, x[i % MOVING], qweight, scales, qzeros, out[i % MOVING], *sizes),
                    stream=stream,
                )

    def raws(count: int) -> None:
        grid, block, shared = config.grid, config.block, config.shared_bytes
        with stream:
            for i in range(count):
                given = (x[i % MOVING], qweight, scales, qzeros, out[i % MOVING], *counts)
                raw(grid, block, given, shared_mem=shared)

    return [layers, launches, raws]


def bare(launch: Launch) -> dict[str, Road]:
    """The driver's calls, everything prebuilt, and the driver alone."""
    block = launch.kernel.prepare(launch.config, *launch.arguments).invocation.block
    call = ctypes.CDLL(driver.library()._name).cuLaunchKernel
    call.argtypes = (c_void_p, *(c_uint,) * 7, c_void_p, c_void_p, c_void_p)
    nbytes = c_size_t(block.signature.nbytes)
    extra = (c_uint64 * 5)(1, block.address, 2, ctypes.addressof(nbytes), 0)
    extra_at, params = ctypes.addressof(extra), block.kernel_params()
    params_at = ctypes.addressof(params)
    function: int = launch.kernel._handle  # type: ignore[attr-defined]
    extents = (*launch.config.grid, *launch.config.block, launch.config.shared_bytes)
    prebuilt = (
        *(c_void_p(function), *map(c_uint, extents), c_void_p(launch.handle)),
        *(None, c_void_p(extra_at)),
    )
    handle = launch.handle
    kept = (block, nbytes, extra, params)
    loop, table = _driver_loop(), (c_uint64 * 10)(function, *extents, handle, extra_at)

    def by_block(count: int, kept: object = kept) -> None:
        for _ in range(count):
            call(*prebuilt)

    return {
        "ctypes, prebuilt": by_block,
        "ctypes, kernelParams": repeated(lambda: call(function, *extents, handle, params_at, None)),
        "the driver alone": lambda count: loop(ctypes.addressof(table), count),
    }


def _driver_loop() -> Callable[[int, int], int]:
    """cuLaunchKernel in a loop that numba compiles: what no road can do without."""
    from numba import cfunc, types

    address = ctypes.cast(driver.library().cuLaunchKernel, c_void_p).value or 0
    call = CFUNCTYPE(c_int, c_uint64, *(c_uint32,) * 7, c_uint64, c_uint64, c_uint64)(address)

    def loop(t, count):  # type: ignore[no-untyped-def]
        for _ in range(count):
            code = call(t[0], t[1], t[2], t[3], t[4], t[5], t[6], t[7], t[8], 0, t[9])
            if code != 0:
                return code
        return 0

    compiled = cfunc(types.int64(types.CPointer(types.uint64), types.int64))(loop)
    native = CFUNCTYPE(c_int64, c_void_p, c_int64)(compiled.address)
    native.compiled = compiled  # type: ignore[attr-defined]  # keeps the code in memory
    return native


def others(launch: Launch) -> Iterator[tuple[str, Road | None]]:
    """Other libraries' roads to the same PTX, or to the same source."""
    for name, make in (
        ("numba driver.launch_kernel", _numba),
        ("CuPy RawKernel", _cupy),
        ("cuda.core.launch", _cuda_core),
        ("Triton kernel[grid]", _triton),
    ):
        try:
            yield name, make(launch)
        except (ImportError, AttributeError):
            yield name, None


def _numba(launch: Launch) -> Road:
    call = importlib.import_module("numba.cuda.cudadrv.driver").launch_kernel
    pointers = [c_uint64(array.device_ctypes_pointer.value) for array in launch.arrays]
    arguments = [*pointers, *map(c_int, launch.sizes.values()), c_uint64(0), c_uint64(0)]
    config, handle = launch.config, c_void_p(launch.handle)
    function = c_void_p(launch.kernel._handle)  # type: ignore[attr-defined]
    extents = (*config.grid, *config.block, config.shared_bytes)
    return repeated(lambda: call(function, *extents, handle, arguments))


def _cupy_kernel(cupy: Any, launch: Launch) -> tuple[Any, list[Any], tuple[Any, ...]]:
    """The kernel, its arrays and its numbers as CuPy takes them."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.ptx"
        path.write_text(fe.W4A16_PTX)
        kernel = cupy.RawModule(path=str(path)).get_function(fe.fn_name())
    arrays = [cupy.asarray(array) for array in launch.arrays]
    return kernel, arrays, (*map(np.int32, launch.sizes.values()), np.uint64(0), np.uint64(0))


def _cupy(launch: Launch) -> Road:
    cupy = importlib.import_module("cupy")
    kernel, arrays, counts = _cupy_kernel(cupy, launch)
    arguments = (*arrays, *counts)
    config, stream = launch.config, cupy.cuda.ExternalStream(launch.handle)

    def road(count: int) -> None:
        with stream:
            for _ in range(count):
                kernel(config.grid, config.block, arguments, shared_mem=config.shared_bytes)

    return road


def _cuda_core(launch: Launch) -> Road:
    try:
        core = importlib.import_module("cuda.core")
        core.launch  # noqa: B018 - older ones have it elsewhere
    except (ImportError, AttributeError):
        core = importlib.import_module("cuda.core.experimental")
    device = core.Device()
    device.set_current()
    code = core.Program(fe.W4A16_PTX, "ptx").compile("cubin")
    kernel, stream = code.get_kernel(fe.fn_name()), device.create_stream()
    config = core.LaunchConfig(
        grid=launch.config.grid, block=launch.config.block, shmem_size=launch.config.shared_bytes
    )
    pointers = [array.device_ctypes_pointer.value for array in launch.arrays]
    arguments = (*pointers, *map(np.int32, launch.sizes.values()), 0, 0)
    return repeated(lambda: core.launch(stream, config, kernel, *arguments))


def _triton(launch: Launch) -> Road:
    torch, path = importlib.import_module("torch"), Path(__file__).parent / "kernels"
    triton = importlib.import_module("triton")
    source = path / "w4a16_gptq_gemm_typed.py"
    spec = importlib.util.spec_from_file_location(source.stem, source)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    # As shipped, with all 19 arguments: a 1 that the JIT makes a constant has no `.to`.
    function = module.w4a16_gptq_gemm_typed.fn
    kernel = triton.jit(function, do_not_specialize=list(launch.sizes))
    tensors = [torch.as_tensor(array, device="cuda") for array in launch.arrays]
    constants = (launch.kernel.sidecar.tile or {}) | dict(launch.kernel.sidecar.constants or {})
    grid = launch.config.grid
    arguments: tuple[Any, ...] = (*tensors, *launch.sizes.values())
    return repeated(lambda: kernel[grid](*arguments, **constants, num_warps=4, num_stages=1))
