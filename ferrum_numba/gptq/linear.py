"""A quantised linear layer on a device: y = x @ W + bias, no torch, no repack."""

from __future__ import annotations

import math
import os
import threading
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import kernels
from ..devices import Device, PreparedLaunch, given_or_open, observer
from ..errors import AbiError, LaunchError
from ..kernels import Artefact, W4A16Weight
from ..notebook import facts
from ..pickling import NotPickled
from .checkpoint import Checkpoint
from .layer_dtype import in_layer_dtype, layer_dtype
from .tensors import GptqTensors
from .zeros import kernel_words

_SYMMETRIC_ZERO = 8  # the true zero of all weights that are quantised symmetrically
_OF_GEMM, _OF_BIAS = ("a", "c", "M"), ("c", "M")  # arguments that change from call to call
_SHAPES = 256  # shapes of x that are remembered
_ROWS = 16  # numbers of rows that have launches of their own; the others share them by class
_Pair = tuple[PreparedLaunch, PreparedLaunch | None]  # the GEMM, and what adds the bias after it


@dataclass
class _Shaped:
    """Plan for a shape of x.  out: the result's shape.  m: rows.  calls: the launches.

    strided: whether an x of this shape was seen whose rows lie apart.
    """

    out: tuple[int, ...]
    m: int
    calls: _Pair | None
    strided: bool


class _Calls(threading.local):
    """The launches that a thread has prepared: they are changed in place, so each has its own.

    shaped: by the shape of x.  by_rows: by m.  by_class: by the smallest measured m that is not
    below.  strided: by that, by the elements from one row of x to the next, and by whether x is
    aligned.
    last: the GEMM of the last call, where that was all of it, and its m.
    """

    def __init__(self) -> None:
        self.shaped: dict[tuple[int, ...] | None, _Shaped] = {}
        self.by_rows: dict[int, _Pair] = {}
        self.by_class: dict[int, _Pair] = {}
        self.strided: dict[tuple[int, int, bool], _Pair] = {}
        self.last: tuple[PreparedLaunch, int] | None = None

    def find(self, m: int) -> _Pair | None:
        """The launches that multiply m rows; None where they have to be prepared."""
        if len(self.by_rows) < _ROWS or m in self.by_rows:
            return self.by_rows.get(m)
        return self.by_class.get(kernels.m_class(m))

    def add(self, m: int, calls: _Pair) -> None:
        """Take launches that were prepared for m rows."""
        if len(self.by_rows) < _ROWS:
            self.by_rows[m] = calls
        else:
            self.by_class[kernels.m_class(m)] = calls


class GptqLinear(NotPickled):
    """One layer's tensors on a device, with the kernels that multiply by them.

        layer = fe.GptqLinear.load(checkpoint, "model.layers.0.mlp.down_proj", device=device)
        y = layer(x)                        # x [..., K] -> y [..., N]; NumPy in, NumPy out
        layer(x, out=y, stream=stream)      # arrays on the device: nothing is allocated or waits

    The packed weight lies on the device as it lies in the file.  Only what the kernel cannot read
    is rewritten: zeros of a producer whose v1 words borrow or wrap, scales and a bias that are not
    of the layer's dtype.

    weight: the device's arrays, as `launch_w4a16_gptq` takes them.
    """

    def __init__(
        self,
        tensors: GptqTensors,
        *,
        device: Device | None = None,
        kernel: str | None = None,
        dtype: npt.DTypeLike = np.float16,
    ) -> None:
        """kernel: the name of the artefact to use; left out, the catalogue chooses for each M.
        dtype: of x and y, float16 or bfloat16 (ml_dtypes).

        $FERRUM_TRITON_INT4=1 takes the canonical kernel instead.  A layer in activation order has
        kernels of its own.  Raises CheckpointError for scales or a bias that `dtype` cannot
        hold, AbiError for another dtype and for a kernel that is not shipped or does not fit.
        """
        if not isinstance(tensors, GptqTensors):
            raise AbiError(
                "tensors", "GptqTensors, such as Checkpoint.load returns", type(tensors).__name__
            )
        self.device = given_or_open(device)
        self.dtype = layer_dtype(dtype)
        self.K, self.N, self.group_size = tensors.K, tensors.N, tensors.group_size
        words, zero_bias = kernel_words(tensors.qzeros, tensors.zero_format)
        to_device = partial(self.device.to_device, copy=False, align=kernels.ALIGN)
        self.weight = W4A16Weight(
            qweight=to_device(tensors.qweight),
            scales=to_device(in_layer_dtype("scales", tensors.scales, self.dtype)),
            qzeros=to_device(words),
            K=tensors.K,
            N=tensors.N,
            group_size=tensors.group_size,
            zero_bias=zero_bias,
            symmetric=tensors.act_order and bool(np.all(tensors.zeros() == _SYMMETRIC_ZERO)),
        )
        self.bias = None
        if tensors.bias is not None and np.any(tensors.bias):
            self.bias = to_device(in_layer_dtype("bias", tensors.bias, self.dtype))
        self._g_idx = to_device(tensors.g_idx) if tensors.act_order else None
        self._fixed = _fixed(kernel, zero_bias, tensors.act_order, self.dtype.name)
        self._calls = _Calls()

    @classmethod
    def load(
        cls,
        path: str | Path | Checkpoint,
        name: str,
        *,
        device: Device | None = None,
        kernel: str | None = None,
        dtype: npt.DTypeLike = np.float16,
    ) -> GptqLinear:
        """The layer `name` of a checkpoint.  Raises CheckpointError."""
        checkpoint = path if isinstance(path, Checkpoint) else Checkpoint.open(path)
        return cls(checkpoint.load(name, mapped=True), device=device, kernel=kernel, dtype=dtype)

    @property
    def nbytes(self) -> int:
        """Bytes that the layer's arrays take on the device."""
        weight = self.weight
        arrays = (weight.qweight, weight.scales, weight.qzeros, self.bias, self._g_idx)
        return sum(array.nbytes for array in arrays if array is not None)

    def artefact(self, m: int) -> Artefact:
        """Build that multiplies m rows."""
        return self._fixed or self._choose(m, wide=False)

    def _choose(self, m: int, *, wide: bool) -> Artefact:
        """Fastest build for m rows.  wide: whether the result has to be float32."""
        weight = self.weight
        shape = (self.device, m, weight.N, weight.K)
        kind = (weight.zero_bias, self.dtype.name)
        if self._g_idx is None:
            return kernels.choose(*shape, weight.group_size, *kind, wide=wide)
        return kernels.choose_act_order(*shape, weight.scales.shape[0], *kind, weight.symmetric)

    def __call__(self, x: Any, *, out: Any = None, stream: Any = None) -> Any:
        """y = x @ W + bias.  Any number of threads may call it at a time.

        x: (..., K) of the layer's dtype, an array of the device, or NumPy on any device; in C
        order, or with rows that lie equally far apart, such as some columns of another array.
        out: (..., N) of that dtype in C order on the device; with it nothing is allocated, nothing
        is waited for, and the call can be captured.
        Both begin at a multiple of 16 bytes, as every allocator's arrays do.  Rows that lie apart
        may begin anywhere; at other multiples than of 16 bytes the canonical kernel reads them.
        stream: the device's stream, or another library's; the default stream where it is left out.

        Returns `out`, or a new array of the device; NumPy for NumPy.  Raises AbiError for an x or
        out of another dtype, shape, layout or device.
        """
        span, tried = observer.span, None
        if span is not None:
            with span(f"GptqLinear {self.K} to {self.N}"):
                return self._multiply(x, out, stream, tried)
        last = self._calls.last
        if out is not None and last is not None:  # arrays like the last call's?
            tried, m = last
            if tried._repeat(stream, _OF_GEMM, (x, out, m)):
                return out
        return self._multiply(x, out, stream, tried)

    def _multiply(self, x: Any, out: Any, stream: Any, tried: PreparedLaunch | None) -> Any:
        """The call, all of which is looked at.  tried: the launch that does not take its arrays."""
        known = self._calls
        if isinstance(x, np.ndarray) and out is None and self.device.name != "cpu":
            return self._on_host(x, stream)
        shape = getattr(x, "shape", None)
        shaped = known.shaped.get(shape) or self._shaped(x)
        if out is None:
            out = self.device.empty(shaped.out, self.dtype)
        elif getattr(out, "shape", None) != shaped.out:
            found = self._shape("out", out)
            if found != shaped.out:
                expected = f"shape {shaped.out} for x {self._shape('x', x)}"
                raise self._told(AbiError("out", expected, found), x)
        if shaped.m:
            try:
                calls = self._strided(shaped.m, x, out) if shaped.strided else None
                gemm, add_bias = calls or shaped.calls or self._prepare(shaped, x, out)
                launch = gemm._launch_anew if gemm is tried else gemm._relaunch
                launch(stream, _OF_GEMM, (x, out, shaped.m))
                known.last = (gemm, shaped.m) if add_bias is None else None
                if add_bias is not None:
                    add_bias._relaunch(stream, _OF_BIAS, (out, shaped.m))
            except AbiError as error:
                if not shaped.strided and self._row_stride(x) is not None:
                    shaped.strided = True
                    return self._multiply(x, out, stream, None)
                for theirs, own in (("a", "x"), ("c", "out")):
                    error.called(theirs, f"{own}, the kernel's {theirs}")
                raise
        return out

    @property
    def gives_wide(self) -> bool:
        """True if `into` computes with this layer, as a tuned kernel takes its groups."""
        return self._fixed is None and self._choose(1, wide=True).takes_wide

    def into(self, total: Any, x: Any, *, adds: bool, stream: Any = None) -> None:
        """total = x @ W + bias in float32, not rounded; with `adds` added to what it holds.

        total: float32 (M, N), x (M, K) of the layer's dtype, both in C order on the device.  Can be
        captured.  Raises AbiError for arrays that do not fit, and where not `gives_wide`.
        """
        m = x.shape[0]
        sizes, arrays = self._arguments(m, adds)
        arrays |= {"a": x, "wide": total}
        kernels.launches_on(self.device)(self._choose(m, wide=True), stream, sizes, arrays)

    def _arguments(self, m: int, adds: bool = False) -> tuple[dict[str, int], dict[str, Any]]:
        """Sizes and the layer's arrays, as a tuned kernel's launch has them."""
        weight = self.weight
        sizes = kernels.contiguous_sizes(m, weight.N, weight.K, weight.group_size)
        sizes |= {"zero_bias": weight.zero_bias, "adds": int(adds)}
        arrays = {"qweight": weight.qweight, "scales": weight.scales}
        arrays |= {"qzeros": weight.qzeros, "bias": self.bias}
        if self._g_idx is not None:
            sizes["groups"] = weight.scales.shape[0]
            del sizes["group_size"]
            arrays["g_idx"] = self._g_idx
        return sizes, arrays

    def _on_host(self, x: npt.NDArray[Any], stream: Any) -> npt.NDArray[Any]:
        """y of NumPy's x, by way of the device.  Waits for it."""
        if self.device.is_recording:
            raise LaunchError(
                "x",
                "an array of the device",
                (
                    "NumPy's: within record_plan() and capture() nothing runs, so there is no "
                    "result to copy back"
                ),
                "pass device.to_device(x)",
            )
        self._shaped(x)  # before it is copied
        y = self(self.device.to_device(x, copy=False), stream=stream)
        return np.asarray(self.device.to_host(y, copy=False))

    def _shape(self, name: str, array: Any) -> tuple[int, ...]:
        """An array's shape.  Raises AbiError for what is no array."""
        shape = getattr(array, "shape", None)
        try:
            return tuple(self.device.describe(name, array).shape if shape is None else shape)
        except (AbiError, TypeError):
            columns = self.K if name == "x" else self.N
            found = type(array).__name__
            raise AbiError(name, f"an array (..., {columns})", found) from None

    def _shaped(self, x: Any) -> _Shaped:
        """Plan for a shape of x, remembered.  Raises AbiError for one that does not fit."""
        shape = self._shape("x", x)
        if not shape or shape[-1] != self.K:
            raise self._told(AbiError("x", f"shape (..., {self.K})", shape), x)
        m = math.prod(shape[:-1])
        known = self._calls.shaped
        if len(known) >= _SHAPES:
            known.clear()
        calls = self._calls.find(m)
        strided = m > 0 and self._row_stride(x) is not None
        return known.setdefault(shape, _Shaped((*shape[:-1], self.N), m, calls, strided))

    def _told(self, error: AbiError, x: Any) -> AbiError:
        """The error, of which observers are told as of a launch that was refused."""
        m = math.prod(self._shape("x", x)[:-1])
        if observer.current is not None and m:
            kernel, (sizes, arrays) = self.artefact(m).kernel(self.device), self._arguments(m)
            config = kernels.launch_config(kernel.sidecar, M=m, N=self.N, K=self.K)
            if isinstance(x, np.ndarray):  # it would have gone to the device first
                x = self.device.to_device(x, copy=False)
            given = arrays | sizes | {"a": x}
            observer.show(observer.RefusedLaunch(kernel, config, (), given, error))
        return error

    def _row_stride(self, x: Any) -> int | None:
        """Elements from one row of x to the next where they lie apart, else None."""
        try:
            array = self.device.describe("x", x)
        except AbiError:  # the launch says what is wrong
            return None
        return None if array.contiguous else array.row_stride

    def _strided(self, m: int, x: Any, out: Any) -> _Pair | None:
        """The launches for an x whose rows lie apart, remembered; None where they do not."""
        row = self._row_stride(x)
        if row is None:
            return None
        aligned = self.device.describe("x", x).address % kernels.ALIGN == 0
        key, known = (kernels.m_class(m), row, aligned), self._calls.strided
        if key not in known:
            if len(known) >= _SHAPES:
                known.clear()
            any_rows = _canonical(self.weight.zero_bias, self._g_idx is not None, self.dtype.name)
            nbytes = row * self.dtype.itemsize
            build = self.artefact(m) if aligned and nbytes % kernels.ALIGN == 0 else any_rows
            if self._fixed not in (None, build):
                raise AbiError(
                    "x",
                    f"rows {kernels.ALIGN} bytes apart, or a multiple, for {self._fixed.name}",
                    f"rows {nbytes} bytes apart",
                    f"copy it first, or leave kernel={self._fixed.name!r} out",
                )
            known[key] = self._pair(build, x, out, m, row)
        return known[key]

    def _prepare(self, shaped: _Shaped, x: Any, out: Any) -> _Pair:
        """The launches for so many rows, and for this thread."""
        shaped.calls = self._pair(self.artefact(shaped.m), x, out, shaped.m, None)
        self._calls.add(shaped.m, shaped.calls)
        return shaped.calls

    def _pair(self, build: Artefact, x: Any, out: Any, m: int, stride_am: int | None) -> _Pair:
        """A GEMM, and what adds the bias where it does not."""
        weight, kernel = self.weight, build.kernel(self.device)
        own_bias = self.bias is not None and kernels.takes_bias(kernel)
        bias = self.bias if own_bias else None
        if self._g_idx is None:
            gemm = kernels.prepare_w4a16_gptq(
                kernel, x, weight, out, m, bias=bias, stride_am=stride_am
            )
        else:
            gemm = kernels.prepare_act_order(
                kernel, x, weight, self._g_idx, out, m, bias=bias, stride_am=stride_am
            )
        add_bias = None
        if self.bias is not None and not own_bias:
            add_bias = kernels.prepare_add_bias(
                self.device, out, self.bias, m, self.N, self.dtype.name
            )
        return gemm, add_bias

    def _repr_html_(self) -> str:
        kinds = [("bias", self.bias is not None), ("activation order", self._g_idx is not None)]
        pairs = (
            ("K, N", f"{self.K}, {self.N}"),
            ("group size", self.group_size),
            ("dtype of x and y", self.dtype.name),
            ("with", ", ".join(name for name, there in kinds if there)),
            ("device", self.device.name),
            *((f"kernel at M = {m}", self.artefact(m).name) for m in (1, 16, 256)),
        )
        return facts("GptqLinear", pairs)

    def __repr__(self) -> str:
        return (
            f"<GptqLinear K={self.K} N={self.N} group_size={self.group_size} "
            f"on {self.device.name} by {self.artefact(1).name}>"
        )


def _fixed(name: str | None, zero_bias: int, act_order: bool, dtype: str) -> Artefact | None:
    """The one artefact that the layer, an argument or $FERRUM_TRITON_INT4 leaves; None: any."""
    flag = os.environ.get("FERRUM_TRITON_INT4", "")
    if flag not in ("", "1"):
        raise AbiError("FERRUM_TRITON_INT4", "1 (the canonical kernel) or unset", f"{flag!r}")
    if name is not None:
        named, known = kernels.artefact(name), _canonical(zero_bias, act_order, dtype)
        takes, layer_has = _arrays(named), _arrays(known)
        if takes != layer_has:
            raise AbiError(
                "kernel",
                f"one that takes {layer_has}, as {known.name} does",
                f"{name!r}, which takes {takes}",
                "leave it out, and the catalogue chooses",
            )
        return named
    return _canonical(zero_bias, act_order, dtype) if flag else None


def _canonical(zero_bias: int, act_order: bool, dtype: str) -> Artefact:
    """The canonical kernel, with its rows in order or not."""
    return (kernels.act_order if act_order else kernels.canonical)(zero_bias, dtype)


def _arrays(artefact: Artefact) -> str:
    """Arrays of a layer that a kernel takes, and their types; a bias may be added afterwards."""
    own = (p for p in artefact.sidecar.params if p.role in ("input", "output"))
    return ", ".join(f"{p.name} {p.type}" for p in own if p.name != "bias")
