"""The typed front door of the GEMMs: a GPTQ layer's tensors become the canonical 19 arguments.

    c[M, N] = a[M, K] @ dequantise(qweight, qzeros, scales)[K, N]

Source of the argument order: scripts/kernels/w4a16_gptq_gemm_typed.py.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Protocol

from ..abi import LaunchConfig, Sidecar
from ..devices import Device, Kernel, PreparedLaunch
from ..errors import AbiError
from .catalogue import contiguous_sizes, launch_config
from .choice import add_bias_artefact, canonical

_CANONICAL = canonical(zero_bias=1)
W4A16_PTX: str = _CANONICAL.text
W4A16_SIDECAR: Sidecar = _CANONICAL.sidecar
_TILE = W4A16_SIDECAR.tile or {}
BM: int = _TILE["BLOCK_M"]
BN: int = _TILE["BLOCK_N"]
BK: int = _TILE["BLOCK_K"]


def fn_name() -> str:
    """The entry name of the canonical kernel."""
    return W4A16_SIDECAR.entry or ""


class PackedWeight(Protocol):
    """A GPTQ layer's tensors on one device, and how to read them.

    qweight int32 [K/8, N], scales float16 [ceil(K/G), N], qzeros int32 [ceil(K/G), N/8], all in C
    order; G = group_size, -1 for one group of K rows.  The true zero is nibble + zero_bias; a
    weight without this attribute is taken to be v1, where it is 1, as a W4A16Weight is.
    """

    @property
    def qweight(self) -> Any: ...
    @property
    def scales(self) -> Any: ...
    @property
    def qzeros(self) -> Any: ...
    @property
    def K(self) -> int: ...  # noqa: N802
    @property
    def N(self) -> int: ...  # noqa: N802
    @property
    def group_size(self) -> int: ...
    @property
    def zero_bias(self) -> int: ...


@dataclass(frozen=True, eq=False)
class W4A16Weight:
    """A `PackedWeight` as a plain record.  symmetric: whether every true zero is known to be 8."""

    qweight: Any
    scales: Any
    qzeros: Any
    K: int
    N: int
    group_size: int
    zero_bias: int = 1
    symmetric: bool = False


def launch_w4a16_gptq(
    stream: Any,
    kernel: Kernel,
    a: Any,
    weight: PackedWeight,
    out: Any,
    m: int,
    *,
    bias: Any = None,
    wide: Any = None,
    adds: bool = False,
) -> None:
    """Launch a GEMM: `out[m, N] = a[m, K] @ weight + bias`, on `stream` (None: the default).

    kernel: one of the shipped GEMMs, all of which take the canonical arguments, or another build
    of the canonical one; loaded without a sidecar, or with Triton's plain one, it is held to the
    canonical argument list.
    a, out: arrays of the kernel's dtype on its device, in C order, of at least m rows.
    bias: [N] of that dtype there, for a kernel that has such an argument, or None.
    wide: float32 [m, N] in C order, for a tuned kernel: takes the result in place of `out`, which
    is None then; with `adds` the result is added to what it holds.

    Raises AbiError for arguments that do not fit, LaunchError where the device refuses.
    """
    kernel, config, arguments = _marshal(kernel, a, weight, out, m, bias, wide, adds, None)
    kernel.launch(config, *arguments, stream=stream)


def prepare_w4a16_gptq(
    kernel: Kernel,
    a: Any,
    weight: PackedWeight,
    out: Any,
    m: int,
    *,
    bias: Any = None,
    stride_am: int | None = None,
) -> PreparedLaunch:
    """Prepare `launch_w4a16_gptq`: `call(stream)` launches, `call.update(a=..., M=...)` changes it.

    stride_am: elements from one row of a to the next; left out, K, for a is in C order.
    """
    kernel, config, arguments = _marshal(kernel, a, weight, out, m, bias, None, False, stride_am)
    return kernel.prepare(config, *arguments)


def takes_bias(kernel: Kernel) -> bool:
    """True if a GEMM adds the bias itself."""
    return _takes(kernel, "bias")


def _takes(kernel: Kernel, name: str) -> bool:
    return any(parameter.name == name for parameter in kernel.signature.arguments)


def check_bias(kernel: Kernel, bias: Any) -> None:
    """Raise AbiError for a bias that the kernel does not add."""
    if bias is not None and not takes_bias(kernel):
        raise AbiError(
            "bias",
            f"{kernel.signature.entry} adds none",
            remedy="add it afterwards with prepare_add_bias",
        )


def check_wide(kernel: Kernel, wide: Any) -> None:
    """Raise AbiError for a float32 result that the kernel does not give."""
    if wide is not None and not _takes(kernel, "wide"):
        raise AbiError(
            "wide",
            f"{kernel.signature.entry} rounds its result",
            remedy="take a tuned build, such as kernels.choose(..., wide=True) gives",
        )


def extras(
    kernel: Kernel, weight: PackedWeight, bias: Any, wide: Any = None, adds: bool = False
) -> tuple[Any, ...]:
    """The arguments behind the canonical ones, as far as a kernel has them."""
    known = {"bias": bias, "zero_bias": _zero_bias(weight), "wide": wide, "adds": int(adds)}
    names = (parameter.name for parameter in kernel.signature.arguments)
    return tuple(known[name] for name in names if name in known)


def _zero_bias(weight: PackedWeight) -> int:
    """Number that makes a stored nibble the true zero; 1 for a weight that does not say."""
    return int(getattr(weight, "zero_bias", 1))


def check_zero_bias(kernel: Kernel, weight: PackedWeight) -> None:
    """Raise AbiError for a weight whose zeros are of another format than a kernel is built for."""
    zero_bias = (kernel.sidecar.constants or {}).get("ZERO_BIAS")
    stored = _zero_bias(weight)
    if zero_bias is not None and zero_bias != stored:
        raise AbiError(
            "zero_bias",
            f"a weight whose zeros are nibble + {zero_bias}, as the kernel has it",
            f"nibble + {stored}",
            f"take the build for this format, such as kernels.canonical({stored})",
        )


def _marshal(
    kernel: Kernel,
    a: Any,
    weight: PackedWeight,
    out: Any,
    m: int,
    bias: Any,
    wide: Any,
    adds: bool,
    stride_am: int | None,
) -> tuple[Kernel, LaunchConfig, tuple[Any, ...]]:
    """The kernel, held to the canonical argument list, its configuration and arguments."""
    if getattr(weight, "act_order", False):
        raise AbiError(
            "g_idx",
            "the weight's rows are in activation order, which this kernel does not read",
            remedy="use GptqLinear, or kernels.prepare_act_order",
        )
    kernel = _declared(kernel)
    check_bias(kernel, bias)
    check_wide(kernel, wide)
    check_zero_bias(kernel, weight)
    try:
        tensors = (weight.qweight, weight.scales, weight.qzeros)
        k, n, group_size = weight.K, weight.N, weight.group_size
    except AttributeError as error:
        raise AbiError(
            "weight",
            "qweight, scales, qzeros, K, N and group_size, such as a W4A16Weight has",
            error,
        ) from None
    sizes = contiguous_sizes(m, n, k, group_size)
    if stride_am is not None:
        sizes["stride_am"] = stride_am
    more = extras(kernel, weight, bias, wide, adds)
    config = launch_config(kernel.sidecar, M=m, N=n, K=k, group_size=sizes["group_size"])
    return kernel, config, (a, *tensors, out, *sizes.values(), *more)


@lru_cache(maxsize=64)
def _declared(kernel: Kernel) -> Kernel:
    """`kernel` with the canonical argument list, where its own sidecar names no parameters.

    What only its own build knows stays its own: warps and shared memory are never assumed of a
    PTX that is not the shipped one.
    """
    own = kernel.sidecar
    if own.params:
        return kernel
    text = kernel.module.text
    shipped = W4A16_SIDECAR
    if text != W4A16_PTX:
        if own.shared_bytes is None or own.num_warps is None:
            raise AbiError(
                "sidecar",
                "num_warps and shared, as this is not the shipped build of the canonical kernel",
                "none",
                "pass its sidecar to load_module",
            )
        shipped = replace(
            W4A16_SIDECAR,
            num_warps=own.num_warps,
            num_stages=own.num_stages,
            shared_bytes=own.shared_bytes,
            target=own.target,
            ptx_version=own.ptx_version,
            tile=own.tile or W4A16_SIDECAR.tile,
            constants=own.constants,
            scratch=own.scratch,
            params=_canonical_params(kernel),
            ptx_sha256=own.ptx_sha256,
        )
    return kernel.module.device.load_module(text, shipped).get_kernel()


def _canonical_params(kernel: Kernel) -> Any:
    """The 19 arguments, and as many scratch pointers as this build appends."""
    extra = len(kernel.signature.params) - 19
    if not 0 <= extra <= 2:
        raise AbiError(
            kernel.signature.entry,
            "the canonical 19 arguments and up to 2 scratch pointers",
            f"{len(kernel.signature.params)} parameters",
        )
    return W4A16_SIDECAR.params[: 19 + extra]


def prepare_add_bias(
    device: Device, out: Any, bias: Any, m: int, n: int, dtype: str = "float16"
) -> PreparedLaunch:
    """`out[m, n] += bias[n]`, arrays of `device` and of `dtype` in C order."""
    shipped = add_bias_artefact(dtype)
    config = launch_config(shipped.sidecar, M=m, N=n)
    return shipped.kernel(device).prepare(config, *(out, bias, m, n, n, 1))
