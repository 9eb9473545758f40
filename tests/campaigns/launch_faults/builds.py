"""Faults of configuration, sidecar and PTX."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ferrum_numba import kernels
from ferrum_numba.debug.case import Case

from .fault import Fault, Launch, w4a16

_DECODE = "w4a16_gptq_gemm_decode.m16n64w4.g128.sm_80"


def _launch(**changes: Any) -> Callable[[int], Case]:
    return lambda shape: w4a16(shape).but(**changes).case()


def _sidecar(change: Callable[[dict[str, Any]], Any]) -> Callable[[int], Case]:
    """change alters the sidecar's JSON in place, or returns another."""

    def make(shape: int) -> Case:
        launch = w4a16(shape)
        sidecar = json.loads(json.dumps(launch.sidecar))
        changed = change(sidecar)
        return launch.but(sidecar=sidecar if changed is None else changed).case()

    return make


def _other_grid(change: Callable[[tuple[int, ...]], tuple[int, ...]]) -> Callable[[int], Case]:
    def make(shape: int) -> Case:
        launch = w4a16(shape)
        return launch.but(grid=change(launch.grid)).case()

    return make


def _plain(launch: Launch) -> dict[str, Any]:
    """Triton's own metadata alone: no names, no shapes, no digest."""
    keys = ("name", "num_warps", "shared", "global_scratch_size", "global_scratch_align")
    return {key: launch.sidecar[key] for key in keys}


def _text(change: Callable[[str], str], *, sidecar: bool = False) -> Callable[[int], Case]:
    """The PTX altered; with its sidecar, or with none."""

    def make(shape: int) -> Case:
        launch = w4a16(shape)
        ptx = change(launch.ptx)
        return launch.but(ptx=ptx, sidecar=launch.sidecar if sidecar else None).case()

    return make


def _edited(pattern: str, replacement: str, *, count: int = 1) -> Callable[[str], str]:
    def change(text: str) -> str:
        changed, found = re.subn(pattern, replacement, text, count=count)
        if not found:
            raise ValueError(f"{pattern!r}: not in the PTX")
        return changed

    return change


def _undigested(change: Callable[[str], str]) -> Callable[[int], Case]:
    """The PTX altered, and a sidecar that states no digest."""

    def make(shape: int) -> Case:
        launch = w4a16(shape)
        sidecar = {k: v for k, v in launch.sidecar.items() if k != "ptx_sha256"}
        return launch.but(ptx=change(launch.ptx), sidecar=sidecar).case()

    return make


def _driver(driver: tuple[int, int], text: Callable[[str], str]) -> Callable[[int], Case]:
    def make(shape: int) -> Case:
        case = _undigested(text)(shape)
        return replace(case, driver=driver, sidecar=None)

    return make


def _capability(capability: tuple[int, int], target: str) -> Callable[[int], Case]:
    def make(shape: int) -> Case:
        case = _text(lambda text: text.replace(".target sm_80", f".target {target}"))(shape)
        return replace(case, capability=capability)

    return make


def _twice(text: str) -> str:
    """A second entry beside the first."""
    start = text.index(".visible .entry")
    return text + text[start:].replace("w4a16_gptq_gemm_typed", "another_kernel")


def _misspell(sidecar: dict[str, Any]) -> None:
    sidecar["num_warp"] = sidecar.pop("num_warps")


def _role(sidecar: dict[str, Any]) -> None:
    sidecar["params"][0]["role"] = "in"


def _without_last(sidecar: dict[str, Any]) -> None:
    del sidecar["params"][-1]


def _types(sidecar: dict[str, Any]) -> None:
    sidecar["params"][4], sidecar["params"][5] = sidecar["params"][5], sidecar["params"][4]


CONFIGURATION = [
    Fault(
        "grid-swapped", "grid-wrong", "x and y exchanged", _other_grid(lambda g: (g[1], g[0], 1))
    ),
    Fault(
        "grid-too-small",
        "grid-wrong",
        "a tile of N less than there are",
        _other_grid(lambda g: (g[0], g[1] - 1, 1)),
    ),
    Fault("twice-the-warps", "warps-wrong", "8 warps for 4", _launch(block=(256, 1, 1))),
    Fault("one-warp", "warps-wrong", "1 warp for 4", _launch(block=(32, 1, 1))),
    Fault("block-along-y", "warps-wrong", "(1, 128, 1)", _launch(block=(1, 128, 1))),
    Fault("no-shared-memory", "shared-memory-wrong", "0 bytes", _launch(shared_bytes=0)),
    Fault(
        "half-the-shared-memory", "shared-memory-wrong", "4096 bytes", _launch(shared_bytes=4096)
    ),
    Fault(
        "no-shared-memory-no-sidecar",
        "shared-memory-wrong",
        "1024 bytes, and no sidecar tells",
        lambda shape: w4a16(shape).but(shared_bytes=1024, sidecar=None).case(),
    ),
]

SIDECAR = [
    Fault(
        "sidecar-other-digest",
        "stale-sidecar",
        "of another PTX by its digest",
        _sidecar(lambda s: s.update(ptx_sha256="0" * 64)),
    ),
    Fault(
        "sidecar-other-shared",
        "stale-sidecar",
        "another size of shared memory",
        _sidecar(lambda s: s.update(shared=16384)),
    ),
    Fault(
        "sidecar-other-warps", "stale-sidecar", "8 warps", _sidecar(lambda s: s.update(num_warps=8))
    ),
    Fault(
        "sidecar-other-tile",
        "stale-sidecar",
        "another tile",
        _sidecar(lambda s: s["tile"].update(BLOCK_N=128)),
    ),
    Fault(
        "sidecar-other-kernel",
        "stale-sidecar",
        "of the decode kernel",
        _sidecar(lambda s: kernels.artefact(_DECODE).declared),
    ),
    Fault("sidecar-parameter-less", "stale-sidecar", "a parameter less", _sidecar(_without_last)),
    Fault("sidecar-types", "stale-sidecar", "c and M exchanged", _sidecar(_types)),
    Fault(
        "sidecar-other-bias",
        "stale-sidecar",
        "ZERO_BIAS of the other build",
        _sidecar(lambda s: s["constants"].update(ZERO_BIAS=0)),
    ),
    Fault(
        "sidecar-cut-short",
        "sidecar-unreadable",
        "half a file",
        _sidecar(lambda s: json.dumps(s)[:700]),
    ),
    Fault("sidecar-list", "sidecar-unreadable", "a JSON list", _sidecar(lambda s: "{}[")),
    Fault(
        "sidecar-misspelt-key", "sidecar-misspelt", "num_warp for num_warps", _sidecar(_misspell)
    ),
    Fault("sidecar-misspelt-role", "sidecar-misspelt", "'in' for 'input'", _sidecar(_role)),
]

BUILD = [
    Fault(
        "ptx-lfs-pointer",
        "ptx-unreadable",
        "a Git LFS pointer",
        _text(lambda t: "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"),
    ),
    Fault("ptx-cubin", "ptx-unreadable", "a cubin", _text(lambda t: "\x7fELF\x02\x01\x013\x07")),
    Fault(
        "ptx-ttgir",
        "ptx-unreadable",
        "an earlier stage of Triton",
        _text(lambda t: 'module attributes {"ttg.num-warps" = 4 : i32} {\n}\n'),
    ),
    Fault(
        "ptx-html",
        "ptx-unreadable",
        "the page of an error",
        _text(lambda t: "<!DOCTYPE html>\n<p>"),
    ),
    Fault(
        "ptx-llvm",
        "ptx-unreadable",
        "LLVM IR",
        _text(lambda t: "; ModuleID = 'x'\ndefine void @f()"),
    ),
    Fault("ptx-two-modules", "ptx-joined", "one behind the other", _text(lambda t: t + t)),
    Fault(
        "ptx-cut-short", "ptx-truncated", "two thirds of it", _text(lambda t: t[: len(t) * 2 // 3])
    ),
    Fault("ptx-header-only", "ptx-truncated", "the first lines", _text(lambda t: t[:300])),
    Fault(
        "ptx-unknown-opcode",
        "ptx-damaged",
        "an instruction that does not exist",
        _text(_edited(r"\tadd\.s32", r"\tadx.s32")),
    ),
    Fault(
        "ptx-unknown-register",
        "ptx-damaged",
        "a register that is not declared",
        _text(_edited(r"(\tadd\.s32 \t%r\d+, )%r\d+", r"\1%q9")),
    ),
    Fault(
        "ptx-other-arithmetic",
        "ptx-altered",
        "an addition turned into a subtraction",
        _text(_edited(r"\tadd\.s32", r"\tsub.s32", count=0), sidecar=True),
    ),
    Fault(
        "entry-misspelt",
        "entry-missing",
        "a name that the PTX does not have",
        lambda shape: w4a16(shape).but(sidecar=None).case(entry="w4a16_gptq_gemm"),
    ),
    Fault("entry-of-two", "entry-ambiguous", "two entries, none named", _text(_twice)),
    Fault(
        "ptx-of-the-future",
        "driver-too-old",
        "PTX ISA 9.1 for a driver of CUDA 12.2",
        _driver((12, 2), lambda t: t.replace(".version 7.0", ".version 9.1")),
    ),
    Fault(
        "old-driver",
        "driver-too-old",
        "PTX ISA 8.4 for a driver of CUDA 11.4",
        _driver((11, 4), lambda t: t.replace(".version 7.0", ".version 8.4")),
    ),
    Fault("target-too-new", "target-mismatch", "sm_90a on an sm_80", _capability((8, 0), "sm_90a")),
    Fault(
        "target-other-family", "target-mismatch", "sm_90a on sm_100", _capability((10, 0), "sm_90a")
    ),
    Fault(
        "barrier-removed",
        "missing-barrier",
        "one bar.sync is left out",
        _undigested(_edited(r"\tbar\.sync \t0;", "\t")),
    ),
    Fault(
        "all-barriers-removed",
        "missing-barrier",
        "every bar.sync is left out",
        _undigested(_edited(r"\tbar\.sync \t0;", "\t", count=0)),
    ),
    Fault(
        "mask-removed",
        "missing-mask",
        "a load of a without its predicate",
        _undigested(_edited(r"@%p3 ld\.global\.b16", "ld.global.b16")),
    ),
]

FAULTS = CONFIGURATION + SIDECAR + BUILD
