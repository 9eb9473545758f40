"""The front door of the act-order GEMM, whose weight rows name their groups in `g_idx`."""

from __future__ import annotations

from typing import Any

from ..devices import Kernel, PreparedLaunch
from .catalogue import launch_config
from .w4a16 import PackedWeight


def prepare_act_order(
    kernel: Kernel, a: Any, weight: PackedWeight, g_idx: Any, out: Any, m: int
) -> PreparedLaunch:
    """`out[m, N] = a[m, K] @ weight`, the group of row k being g_idx[k].

    kernel: of `kernels.act_order(weight.zero_bias)`.  g_idx: int32 [K] on the kernel's device.
    a, out: float16 arrays there, in C order, of at least m rows.  A group number beyond the
    scales counts its row as zero; GptqTensors refuses such tensors.

    Raises AbiError for arguments that do not fit.
    """
    k, n, groups = weight.K, weight.N, weight.scales.shape[0]
    return kernel.prepare(
        launch_config(kernel.sidecar, M=m, N=n, K=k, groups=groups),
        *(a, weight.qweight, weight.scales, weight.qzeros, g_idx, out),
        *(m, n, k, groups),
        *(k, 1),  # a
        *(n, 1),  # qweight
        *(n, 1),  # scales
        *(n // 8, 1),  # qzeros
        *(n, 1),  # c
    )
