"""Whole kernels to mutate, each with a launch whose every tile has a tail."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from ferrum_numba.abi import LaunchConfig, Sidecar, Signature
from ferrum_numba.abi.arrays import POINTEE_DTYPES
from ferrum_numba.emulator.checks import LaunchArray
from ferrum_numba.kernels import artefact
from ferrum_numba.kernels.sample import sample

DATA = Path(__file__).parents[2] / "emulator" / "data"
_GAP = 1 << 16  # bytes between arrays, filled with what is a NaN in every float type
_POISON = 0x7E


@dataclass(frozen=True)
class Subject:
    """A kernel and a launch of it."""

    name: str
    text: str
    sidecar: Sidecar
    sizes: tuple[tuple[str, int], ...]

    @cached_property
    def signature(self) -> Signature:
        return self.sidecar.declare(Signature.from_ptx(self.text, self.sidecar.entry))

    @cached_property
    def config(self) -> LaunchConfig:
        return self._sample.config

    @cached_property
    def integers(self) -> dict[str, int]:
        return dict(self._sample.integers)

    @cached_property
    def _sample(self):  # type: ignore[no-untyped-def]
        return sample(self.sidecar, dict(self.sizes))

    @cached_property
    def shapes(self) -> dict[str, np.ndarray]:
        """The arrays as they are before a launch: all finite, for some are added to."""
        random = np.random.default_rng(1)
        arrays = {
            name: random.standard_normal(array.shape).astype(array.dtype)
            if array.dtype.kind == "f"
            else array
            for name, array in self._sample.arrays.items()
        }
        return {**arrays, **self.lent}

    @cached_property
    def lent(self) -> dict[str, np.ndarray]:
        """Those that the device lends: workspaces and scratch, of which nobody knows what is in
        them, and counters."""
        sizes = {**(self.sidecar.tile or {}), **self.integers}
        scratch = {s.role: self.config.ctas * s.size for s in self.sidecar.scratch if s.size}
        return {name: np.full(size, _POISON, np.uint8) for name, size in scratch.items()} | {
            p.name: np.full(p.nbytes(sizes), 0 if p.role == "counters" else _POISON, np.uint8).view(
                POINTEE_DTYPES[p.type]
            )
            for p in self.sidecar.params
            if p.nbytes is not None
        }


class Arena:
    """The arrays of a subject in one piece of memory, far apart."""

    def __init__(self, subject: Subject) -> None:
        places, end = {}, _GAP
        for name, array in subject.shapes.items():
            places[name] = end
            end += -(-array.nbytes // 256) * 256 + _GAP
        self.memory = np.full(end + 4096, _POISON, np.uint8)
        self.memory = self.memory[-self.memory.ctypes.data % 4096 :][:end]
        self._subject = subject
        self._places = places
        roles = {p.name: p.role for p in subject.sidecar.params}
        self._workspaces = [name for name in subject.lent if roles[name] != "counters"]
        for name, array in subject.shapes.items():
            self.bytes_of(name)[:] = array.reshape(-1).view(np.uint8)
        self._start = self.memory.copy()

    def reset(self) -> None:
        self.memory[:] = self._start

    def result(self) -> bytes:
        """Memory that a launch has left, but for its workspaces."""
        memory = self.memory.copy()
        for name in self._workspaces:
            start = self._places[name]
            memory[start : start + self._subject.shapes[name].nbytes] = _POISON
        return memory.tobytes()

    def bytes_of(self, name: str) -> np.ndarray:
        return self.memory[self._places[name] :][: self._subject.shapes[name].nbytes]

    def address(self, name: str) -> int:
        return self.memory.ctypes.data + self._places[name]

    def arrays(self) -> list[LaunchArray]:
        """The arrays as a launch names them."""
        roles = {p.name: p.role for p in self._subject.sidecar.params}
        arrays = []
        for name, array in self._subject.shapes.items():
            place = (name, self.address(name), array.nbytes)
            if name in self._subject.lent:  # plain bytes, as the device has them
                role = "scratch" if name in self._workspaces else ""
                arrays.append(LaunchArray(*place, role=role))
            else:
                layout = (array.shape, array.strides)
                arrays.append(LaunchArray(*place, array.itemsize, roles[name], True, *layout))
        return arrays

    def whole(self) -> list[LaunchArray]:
        """All of the memory: what lies between the arrays may be touched.

        Workspaces are arrays of their own, for what is left in them is no result.
        """
        pieces, start = [], 0
        for name, place in self._places.items():
            if name in self._workspaces:
                end = place + self._subject.shapes[name].nbytes
                pieces += [("arena", start, place, ""), (name, place, end, "scratch")]
                start = end
        pieces.append(("arena", start, self.memory.nbytes, ""))
        base = self.memory.ctypes.data
        return [
            LaunchArray(name, base + start, end - start, role=role)
            for name, start, end, role in pieces
        ]


def shipped(name: str, **sizes: int) -> Subject:
    found = artefact(name)
    return Subject(name, found.text, found.sidecar, tuple(sizes.items()))


def stranger(name: str, shared_bytes: int, ones: bool, **sizes: int) -> Subject:
    """A build of the canonical source by another compiler; ones: strides of 1 are built in."""
    text = (DATA / f"{name}.ptx").read_text()
    fields = artefact("w4a16_gptq_gemm_typed.v1.sm_80").declared
    for key in ("ptx_sha256", "ptx_version", "target", "constants", "source_sha256"):
        fields.pop(key, None)
    units = {"stride_ak", "stride_qwn", "stride_sn", "stride_cn"} if ones else set()
    extra = len(Signature.from_ptx(text, fields["name"]).params) - (19 - len(units))
    params = [p for p in fields["params"] if p["name"] not in units]
    params = params[: len(params) - 2 + extra]
    for p in params:
        p["strides"] = ["1" if s in units else s for s in p.get("strides", [])]
        if not p["strides"]:
            p.pop("strides")
    if extra < 2:
        fields.pop("profile_scratch_size")
    if extra < 1:
        fields.pop("global_scratch_size")
    warps = int(name.split("_w")[1].split("_")[0])
    fields |= {"params": params, "num_warps": warps, "shared": shared_bytes}
    return Subject(name, text, Sidecar.read(fields), tuple(sizes.items()))


def specialised(**sizes: int) -> Subject:
    """The kernel of which some warps copy and convert and the others multiply."""
    index = json.loads((DATA / "kernels" / "index.json").read_text(encoding="utf-8"))
    name = "specialised.sm_90a"
    matrices = (("a", "*fp16", "MK", "input"), ("b", "*i8", "NK", "input"))
    fields = {
        "name": index[name]["entry"],
        "target": "sm_90a",
        "num_warps": index[name]["warps"],
        "shared": index[name]["shared"],
        "grid": ["cdiv(M, 64)", "cdiv(N, 32)", "1"],
        "params": [
            *(
                {"name": n, "type": t, "role": role, "shape": [*axes], "strides": [axes[1], "1"]}
                for n, t, axes, role in (*matrices, ("c", "*fp32", "MN", "output"))
            ),
            *({"name": n, "type": "i32", "role": "size"} for n in "MNK"),
            {"name": "global_scratch", "type": "*i8", "role": "global_scratch"},
            {"name": "profile_scratch", "type": "*i8", "role": "profile_scratch"},
        ],
    }
    text = (DATA / "kernels" / f"{name}.ptx").read_text()
    return Subject(name, text, Sidecar.read(fields), tuple(sizes.items()))


def multiply() -> Subject:
    """The GEMM of mma.sync, two CTAs a tile."""
    name = "w4a16_gptq_gemm_mma.m64n128w4.g32.sm_80"
    return shipped(name, M=67, N=72, K=2048 + 8, group_size=128)


def persistent() -> Subject:
    """The GEMM of wgmma as on a GPU of 3 processors: three CTAs share a tile, and each fills all
    stages of its ring.  Two partitions share out the steps; their warps rely on mbarriers alone."""
    found = artefact("w4a16_gptq_gemm_wgmma.m64n64.g128.sm_90a")
    fields = found.sidecar.to_mapping()
    for p in fields["params"]:
        for key in ("nbytes", "value"):
            if key in p:
                p[key] = p[key].replace("132", "3")
    sizes = {"M": 40, "N": 56, "K": 27 * 128 - 8, "group_size": 128}
    return Subject(found.name, found.text, Sidecar.read(fields), tuple(sizes.items()))


def canonical() -> Subject:
    return shipped("w4a16_gptq_gemm_typed.v1.sm_80", M=67, N=136, K=200, group_size=64)


def subjects() -> list[Subject]:
    """All: the shipped kernels that differ in more than a constant, and the builds in data/."""
    small = {"M": 11, "N": 72, "K": 384 + 8, "group_size": 128}
    aligned = {"M": 67, "N": 192, "K": 208, "group_size": 64}
    return [
        canonical(),
        shipped("add_bias.sm_80", M=3, N=600),
        shipped("w4a16_gptq_gemm_decode.m8n32w4.g128.sm_80", **small),
        shipped("w4a16_gptq_gemm_decode.m16n64w4.g128.sm_80", **small),
        stranger("triton_3.2.0_typed_s1_w4", 8192, False, **aligned),
        stranger("triton_3.3.1_naive_s3_w8_ones", 40960, True, **aligned),
        stranger("triton_3.4.0_typed_s4_w2_ones", 14336, True, **aligned),
        stranger("triton_3.5.1_typed_s3_w4", 12288, False, **aligned),
        stranger("triton_3.6.0_naive_s2_w8", 24576, False, **aligned),
        stranger("triton_3.7.1_typed_s2_w4_ones", 10240, True, **aligned),
        specialised(M=67, N=40, K=464),
        multiply(),
        persistent(),
    ]
