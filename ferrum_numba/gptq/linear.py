"""A quantised linear layer on a device: y = x @ W + bias, no torch, no repack."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..devices import Device, open_device
from ..errors import AbiError, CheckpointError
from ..kernels import Artefact, W4A16Weight, add_bias, canonical, launch_w4a16_gptq
from .checkpoint import Checkpoint
from .tensors import GptqTensors
from .zeros import kernel_words

_FLOAT16 = np.dtype(np.float16)
_ROUNDING = 2.0**-11  # relative error of one rounding to float16


class GptqLinear:
    """One layer's tensors on a device, with the kernel that multiplies by them.

    The packed weight lies on the device as it lies in the file.  Only what the kernel cannot read
    is rewritten: zeros of a producer whose v1 words borrow or wrap, bfloat16 scales, a bias that
    is not float16.

    weight: the device's arrays, as `launch_w4a16_gptq` takes them.
    """

    def __init__(self, tensors: GptqTensors, *, device: Device | None = None) -> None:
        """Raises CheckpointError for a layer that no kernel here computes (act-order)."""
        if tensors.act_order:
            raise CheckpointError(
                "g_idx: the rows are in activation order (act-order), which no kernel here reads "
                "yet; tensors.dequantize() does, or quantise with desc_act=False"
            )
        self.device = device or open_device()
        self.K, self.N, self.group_size = tensors.K, tensors.N, tensors.group_size
        words, zero_bias = kernel_words(tensors.qzeros, tensors.zero_format)
        self.artefact = _choose(zero_bias)
        to_device = self.device.to_device
        self.weight = W4A16Weight(
            qweight=to_device(tensors.qweight),
            scales=to_device(_as_float16("scales", tensors.scales)),
            qzeros=to_device(words),
            K=tensors.K,
            N=tensors.N,
            group_size=tensors.group_size,
            zero_bias=zero_bias,
        )
        self.bias = None
        if tensors.bias is not None and np.any(tensors.bias):
            self.bias = to_device(_as_float16("bias", tensors.bias))
        self._kernel = self.artefact.kernel(self.device)

    @classmethod
    def load(
        cls, path: str | Path | Checkpoint, name: str, *, device: Device | None = None
    ) -> GptqLinear:
        """The layer `name` of a checkpoint.  Raises CheckpointError."""
        checkpoint = path if isinstance(path, Checkpoint) else Checkpoint.open(path)
        return cls(checkpoint.load(name), device=device)

    def __call__(self, x: Any, *, out: Any = None, stream: Any = None) -> Any:
        """y = x @ W + bias.

        x: float16 (..., K) in C order, an array of the device, or NumPy on any device.
        out: float16 (..., N) in C order on the device; with it nothing is allocated.
        stream: the device's stream, or another library's; the default stream where it is left out.

        Returns `out`, or a new array of the device; NumPy for NumPy.  Raises AbiError for an x or
        out of another dtype, shape, layout or device.
        """
        if isinstance(x, np.ndarray) and out is None and self.device.name != "cpu":
            _check("x", x, self.K)
            y = self(self.device.to_device(x), stream=stream)
            if stream is not None:
                stream.synchronize()
            return self.device.to_host(y)
        shape = _check("x", x, self.K)
        m = int(np.prod(shape[:-1], dtype=np.int64))
        if out is None:
            out = self.device.empty((*shape[:-1], self.N), _FLOAT16)
        elif tuple(out.shape) != (*shape[:-1], self.N):
            raise AbiError(
                f"out: expected shape {(*shape[:-1], self.N)} for x {shape}, "
                f"found {tuple(out.shape)}"
            )
        if m:
            launch_w4a16_gptq(stream, self._kernel, x, self.weight, out, m)
            if self.bias is not None:
                add_bias(self.device, out, self.bias, m, self.N, stream)
        return out

    def __repr__(self) -> str:
        return (
            f"<GptqLinear K={self.K} N={self.N} group_size={self.group_size} "
            f"on {self.device.name} by {self.artefact.name}>"
        )


def _choose(zero_bias: int) -> Artefact:
    """The artefact for a layer.

    $FERRUM_TRITON_INT4=1 takes the canonical kernel, unset lets the catalogue choose; as long as
    the catalogue holds no other GEMM, both come to the same.
    """
    flag = os.environ.get("FERRUM_TRITON_INT4", "")
    if flag not in ("", "1"):
        raise AbiError(
            f"FERRUM_TRITON_INT4: expected 1 (the canonical kernel) or unset, found {flag!r}"
        )
    return canonical(zero_bias)


def _check(name: str, array: Any, columns: int) -> tuple[int, ...]:
    """The shape of a (..., columns) array.  Raises AbiError with what was found."""
    shape = getattr(array, "shape", None)
    if shape is None:
        raise AbiError(f"{name}: expected an array (..., {columns}), found {type(array).__name__}")
    shape = tuple(shape)
    if not shape or shape[-1] != columns:
        raise AbiError(f"{name}: expected shape (..., {columns}), found {shape}")
    return shape


def _as_float16(name: str, values: npt.NDArray[Any]) -> npt.NDArray[np.float16]:
    """`values` in float16, where that loses no more than one rounding.

    A bfloat16 scale has fewer significant bits than float16 but more exponents: an overflow, or
    an underflow that matters beside the other values, raises CheckpointError.
    """
    if values.dtype == _FLOAT16:
        return values
    exact = values.astype(np.float32)
    with np.errstate(over="ignore", under="ignore"):
        rounded = exact.astype(np.float16)
    error = np.linalg.norm(rounded.astype(np.float32) - exact)
    if not error <= _ROUNDING * np.linalg.norm(exact):
        raise CheckpointError(
            f"{name}: expected {values.dtype.name} values that float16 holds, found magnitudes "
            f"from {np.abs(exact).min():.3g} to {np.abs(exact).max():.3g}; "
            "the kernels here compute in float16"
        )
    return rounded
