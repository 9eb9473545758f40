"""The front door of the act-order GEMM, whose weight rows name their groups in `g_idx`."""

from __future__ import annotations

from typing import Any

from ..devices import Kernel, PreparedLaunch
from ..errors import AbiError
from .catalogue import contiguous_sizes, launch_config
from .w4a16 import PackedWeight, check_bias, check_zero_bias, extras


def prepare_act_order(
    kernel: Kernel,
    a: Any,
    weight: PackedWeight,
    g_idx: Any,
    out: Any,
    m: int,
    *,
    bias: Any = None,
    stride_am: int | None = None,
) -> PreparedLaunch:
    """`out[m, N] = a[m, K] @ weight + bias`, the group of row k being g_idx[k].

    kernel: of `kernels.choose_act_order` or `kernels.act_order`.  g_idx: int32 [K] on the kernel's
    device, each a row of the scales: GptqTensors refuses others, the kernels do not look.
    a, out: arrays there of the kernel's dtype, in C order, of at least m rows.  bias,
    stride_am: as `prepare_w4a16_gptq` takes them.

    Raises AbiError for arguments that do not fit.
    """
    check_bias(kernel, bias)
    check_zero_bias(kernel, weight)
    if (kernel.sidecar.constants or {}).get("SYMMETRIC") and not getattr(
        weight, "symmetric", False
    ):
        raise AbiError(
            "qzeros",
            "this kernel takes every zero as 8, and the weight does not state that its zeros are",
            remedy=f"take a build that reads them, such as kernels.act_order({weight.zero_bias})",
        )
    k, n, groups = weight.K, weight.N, weight.scales.shape[0]
    sizes = contiguous_sizes(m, n, k, groups)  # the number of groups stands for their size
    if stride_am is not None:
        sizes["stride_am"] = stride_am
    return kernel.prepare(
        launch_config(kernel.sidecar, M=m, N=n, K=k, groups=groups),
        *(a, weight.qweight, weight.scales, weight.qzeros, g_idx, out),
        *sizes.values(),
        *extras(kernel, weight, bias),
    )
