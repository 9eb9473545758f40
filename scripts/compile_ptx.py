"""Compile the Triton and Gluon sources in scripts/kernels/ ahead of time into ptx/.

    python scripts/compile_ptx.py            # write ptx/*.ptx and ptx/*.json
    python scripts/compile_ptx.py --check    # rebuild in memory, compare byte for byte

Needs triton==3.6.0 (`pip install .[compile]`), no GPU and no torch.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import re
import sys
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "scripts" / "kernels"
ARTEFACTS = ROOT / "ptx"
TUNING = "w4a16_tuning.json"  # measured by scripts/tune.py, not compiled
TRITON_VERSION = "3.6.0"
sys.path.insert(0, str(ROOT))  # the ABI's own rules, also from a bare checkout

from ferrum_numba.abi import Sidecar, Signature, driver_for_ptx, ptx_digest  # noqa: E402


@dataclass(frozen=True)
class Build:
    """One artefact: a kernel, what it is compiled with, and what its launcher must know.

    params: as the sidecar takes them; rules are expressions over the named integers.  What they
    promise of alignment the compiler may count on.
    ptx_version: the lowest PTX ISA that has the instructions, so that older drivers load it.
    max_registers: a thread's, where the assembler's own choice lets fewer CTAs share an SM.
    """

    artefact: str
    kernel: str
    target: str
    ptx_version: str
    num_warps: int
    num_stages: int
    tile: dict[str, int]
    constants: dict[str, int]
    params: list[dict[str, Any]]
    grid: list[str]
    constraints: list[str] = field(default_factory=list)
    max_registers: int | None = None


def _array(
    name: str, type_: str, shape: list[str], strides: list[str], role: str = "input"
) -> dict[str, Any]:
    return {"name": name, "type": type_, "role": role, "shape": shape, "strides": strides}


def _aligned(params: list[dict[str, Any]], align: int, *names: str) -> list[dict[str, Any]]:
    """The parameters, those of `names` on addresses that are multiples of `align` bytes."""
    return [p | {"align": align} if p["name"] in names else p for p in params]


def _integers(role: str, *names: str) -> list[dict[str, Any]]:
    return [{"name": name, "type": "i32", "role": role} for name in names]


W4A16_PARAMS = [
    _array("a", "*fp16", ["M", "K"], ["stride_am", "stride_ak"]),
    _array("qweight", "*i32", ["K // 8", "N"], ["stride_qwk", "stride_qwn"]),
    _array("scales", "*fp16", ["cdiv(K, group_size)", "N"], ["stride_sk", "stride_sn"]),
    _array("qzeros", "*i32", ["cdiv(K, group_size)", "N // 8"], ["stride_qzk", "stride_qzn"]),
    _array("c", "*fp16", ["M", "N"], ["stride_cm", "stride_cn"], role="output"),
    *_integers("size", "M", "N", "K", "group_size"),
    *_integers("stride", "stride_am", "stride_ak", "stride_qwk", "stride_qwn"),
    *_integers("stride", "stride_sk", "stride_sn", "stride_qzk", "stride_qzn"),
    *_integers("stride", "stride_cm", "stride_cn"),
]
UNIT_STRIDES = ["stride_ak", "stride_qwn", "stride_sn", "stride_qzn"]
W4A16_CONSTRAINTS = [
    "M >= 1",
    "N >= 8",
    "N % 8 == 0",
    "K >= 8",
    "K % 8 == 0",
    "group_size >= 8",
    "group_size % 8 == 0",
]


def _bfloat16(build: Build) -> Build:
    """The same build for bfloat16 activations, scales and results."""
    kernel, _, rest = build.artefact.partition(".")
    types = {"*fp16": "*bf16"}
    return replace(
        build,
        artefact=f"{kernel}.bf16.{rest}",
        params=[p | {"type": types.get(p["type"], p["type"])} for p in build.params],
    )


def _canonical(zero_format: str, zero_bias: int) -> Build:
    return Build(
        artefact=f"w4a16_gptq_gemm_typed.{zero_format}.sm_80",
        kernel="w4a16_gptq_gemm_typed",
        target="sm_80",
        ptx_version="7.0",
        num_warps=4,
        num_stages=1,
        tile={"BLOCK_M": 64, "BLOCK_N": 64, "BLOCK_K": 32},
        constants={"ZERO_BIAS": zero_bias},
        params=W4A16_PARAMS,
        grid=["cdiv(M, BLOCK_M)", "cdiv(N, BLOCK_N)", "1"],
        constraints=W4A16_CONSTRAINTS,
    )


def _act_order(zero_format: str, zero_bias: int) -> Build:
    """As the canonical kernel, but with `g_idx`, and `groups` in place of group_size."""
    a, qweight, _, _, c, *integers = W4A16_PARAMS
    return replace(
        _canonical(zero_format, zero_bias),
        artefact=f"w4a16_gptq_gemm_act_order.{zero_format}.sm_80",
        kernel="w4a16_gptq_gemm_act_order",
        params=[
            a,
            qweight,
            _array("scales", "*fp16", ["groups", "N"], ["stride_sk", "stride_sn"]),
            _array("qzeros", "*i32", ["groups", "N // 8"], ["stride_qzk", "stride_qzn"]),
            _array("g_idx", "*i32", ["K"], ["1"]),
            c,
            *(p | {"name": "groups"} if p["name"] == "group_size" else p for p in integers),
        ],
        constraints=[*W4A16_CONSTRAINTS[:-2], "groups >= 1"],
    )


@dataclass(frozen=True)
class DecodeTile:
    """What a CTA of the decode kernel does: its rows and columns of c, its warps."""

    block_m: int
    block_n: int
    num_warps: int
    max_registers: int | None = None

    @property
    def name(self) -> str:
        return f"m{self.block_m}n{self.block_n}w{self.num_warps}"


# 128 registers let 16 warps share an SM.
DECODE_TILES = {
    128: [
        DecodeTile(8, 32, 2, max_registers=128),
        DecodeTile(8, 32, 4, max_registers=128),
        DecodeTile(8, 32, 8, max_registers=128),
        DecodeTile(8, 32, 16),
        DecodeTile(16, 32, 8),
        DecodeTile(16, 64, 2),
        DecodeTile(16, 64, 4),
        DecodeTile(16, 64, 8),
    ],
    32: [DecodeTile(8, 32, 4), DecodeTile(8, 32, 8), DecodeTile(16, 32, 4), DecodeTile(16, 32, 8)],
}


def _decode(tile: DecodeTile, group: int, zero_format: str, zero_bias: int) -> Build:
    return Build(
        artefact=f"w4a16_gptq_gemm_decode.{tile.name}.g{group}.{zero_format}.sm_80",
        kernel="w4a16_gptq_gemm_decode",
        target="sm_80",
        ptx_version="7.4",  # cache hints
        num_warps=tile.num_warps,
        num_stages=1,
        tile={"BLOCK_M": tile.block_m, "BLOCK_N": tile.block_n, "BLOCK_K": 128},
        constants={"GROUP": group, "APART": int(tile.block_m == 8), "ZERO_BIAS": zero_bias},
        params=_aligned(W4A16_PARAMS, 16, "a", "qweight", "scales"),
        grid=["cdiv(M, BLOCK_M)", "cdiv(N, BLOCK_N)", "1"],
        constraints=[
            *W4A16_CONSTRAINTS[:-2],
            "group_size >= 1",
            f"group_size % {group} == 0 or group_size >= K",
            "stride_am % 8 == 0",
            "stride_qwk % 4 == 0",
            "stride_sk % 4 == 0",
            *(f"{stride} == 1" for stride in UNIT_STRIDES),
        ],
        max_registers=tile.max_registers,
    )


ADD_BIAS = Build(
    artefact="add_bias.sm_80",
    kernel="add_bias",
    target="sm_80",
    ptx_version="7.0",
    num_warps=4,
    num_stages=1,
    tile={"BLOCK_N": 512},
    constants={},
    params=[
        _array("c", "*fp16", ["M", "N"], ["stride_cm", "stride_cn"], role="output"),
        _array("bias", "*fp16", ["N"], ["1"]),
        *_integers("size", "M", "N"),
        *_integers("stride", "stride_cm", "stride_cn"),
    ],
    grid=["M", "cdiv(N, BLOCK_N)", "1"],
    constraints=["M >= 1", "N >= 1"],
)
ZERO_FORMATS = {"v1": 1, "v2": 0}
REFERENCES = [
    *(_canonical(*zeros) for zeros in ZERO_FORMATS.items()),
    *(_act_order(*zeros) for zeros in ZERO_FORMATS.items()),
    ADD_BIAS,
]
BUILDS = [
    *REFERENCES,
    *map(_bfloat16, REFERENCES),
    *(
        _decode(tile, group, *zeros)
        for group, tiles in DECODE_TILES.items()
        for tile in tiles
        for zeros in ZERO_FORMATS.items()
    ),
]


def compile_build(build: Build) -> tuple[str, str]:
    """The artefact's PTX text and its sidecar's JSON text."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    from triton.experimental.gluon._runtime import GluonASTSource

    if triton.__version__ != TRITON_VERSION:
        raise SystemExit(f"triton: expected {TRITON_VERSION}, found {triton.__version__}")
    source = SOURCES / f"{build.kernel}.py"
    kernel = getattr(_import_source(source), build.kernel)
    constants = build.tile | build.constants
    signature = {p["name"]: p["type"] for p in build.params}
    signature |= dict.fromkeys(constants, "constexpr")
    aligned = {
        (i,): [["tt.divisibility", p["align"]]] for i, p in enumerate(build.params) if "align" in p
    }
    language = GluonASTSource if kernel.is_gluon() else ASTSource
    compiled = triton.compile(
        language(kernel, signature, constants, aligned),
        target=GPUTarget("cuda", int(re.sub(r"\D", "", build.target)), 32),
        options={
            "num_warps": build.num_warps,
            "num_stages": build.num_stages,
            "ptx_version": int(build.ptx_version.replace(".", "")),
            "maxnreg": build.max_registers,
        },
    )
    text = _portable(compiled.asm["ptx"], build, compiled.metadata.shared)
    return text, _sidecar(build, text, compiled.metadata, source)


def _import_source(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise SystemExit(f"{path.name}: cannot be imported")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _portable(text: str, build: Build, shared: int) -> str:
    """The PTX with nothing in it that depends on where it was compiled.

    `.loc` lines stay, and `.file` names the source relative to the repository: they map PTX back
    to the kernel's source.  The DWARF sections go, since their bytes spell out absolute folders;
    `.loc` works without them.
    """
    text = re.sub(r'(\.file\s+\d+\s+)"([^"]*)"', lambda m: f'{m[1]}"{_relative(m[2])}"', text)
    text = re.sub(r"\t\.section\s+\.debug_\w+\s*\{.*?\}\n", "", text, flags=re.DOTALL)
    if str(ROOT) in text or re.search(r'"/|\.section', text):
        raise SystemExit(f"{build.artefact}: an absolute path or a DWARF section is left")
    built = {
        "tile": build.tile,
        "constants": build.constants,
        "num_stages": build.num_stages,
        "shared": shared,
    }
    return f"// ferrum-build: {json.dumps(built)}\n{text}"


def _relative(path: str) -> str:
    """A source file as everyone has it: ours from the repository, Triton's from its package."""
    file = Path(path)
    if file.is_relative_to(SOURCES):  # an environment may lie in the repository, too
        return file.relative_to(ROOT).as_posix()
    if "triton" in file.parts:
        return Path(*file.parts[file.parts.index("triton") :]).as_posix()
    return file.name


def _sidecar(build: Build, text: str, metadata: Any, source: Path) -> str:
    scratch = {
        "global_scratch_size": metadata.global_scratch_size,
        "global_scratch_align": metadata.global_scratch_align,
        "profile_scratch_size": metadata.profile_scratch_size,
        "profile_scratch_align": metadata.profile_scratch_align,
    }
    ptx_version = Signature.from_ptx(text).ptx_version
    content = {
        "name": build.kernel,
        "target": build.target,
        "ptx_version": ".".join(map(str, ptx_version)),
        "min_driver": driver_for_ptx(ptx_version),
        "num_warps": build.num_warps,
        "num_ctas": metadata.num_ctas,
        "num_stages": build.num_stages,
        "shared": metadata.shared,
        **scratch,
        "tile": build.tile,
        "constants": build.constants,
        "grid": build.grid,
        "constraints": build.constraints,
        "params": [
            *build.params,
            {"name": "global_scratch", "type": "*i8", "role": "global_scratch"},
            {"name": "profile_scratch", "type": "*i8", "role": "profile_scratch"},
        ],
        "triton_version": TRITON_VERSION,
        "source": source.relative_to(ROOT).as_posix(),
        "source_sha256": hashlib.sha256(source.read_bytes()).hexdigest(),
        "ptx_sha256": ptx_digest(text),
    }
    _check(text, content)
    return _json(content)


def _check(text: str, content: dict[str, Any]) -> None:
    """The package itself must accept what is written here."""
    sidecar = Sidecar.read(content)
    signature = Signature.from_ptx(text, content["name"])
    sidecar.check(text, signature)
    sidecar.declare(signature)


def _json(content: dict[str, Any]) -> str:
    """JSON with one line a key, and one line a parameter: readable, and diffs stay small."""
    lines = []
    for key, value in content.items():
        if key == "params":
            rows = ",\n".join(f"    {json.dumps(row)}" for row in value)
            lines.append(f'  "params": [\n{rows}\n  ]')
        else:
            lines.append(f"  {json.dumps(key)}: {json.dumps(value)}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare with ptx/, write nothing")
    check = parser.parse_args().check
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TRITON_CACHE_DIR"] = cache  # what is cached elsewhere proves nothing
        contents = {}
        for build in BUILDS:
            text, sidecar = compile_build(build)
            contents[f"{build.artefact}.ptx"] = text
            contents[f"{build.artefact}.json"] = sidecar
    if check:
        return compare(contents)
    ARTEFACTS.mkdir(exist_ok=True)
    for name, content in contents.items():
        (ARTEFACTS / name).write_text(content, encoding="utf-8", newline="\n")
        print(f"{name}: {len(content)} bytes")
    return 0


def compare(contents: dict[str, str]) -> int:
    """Print each artefact whose bytes differ from the rebuilt ones; 1 if there is any."""
    suffixes = (".ptx", ".json")
    found = {p.name: p.read_bytes() for p in ARTEFACTS.iterdir() if p.suffix in suffixes}
    found.pop(TUNING, None)
    stale = sorted(
        name
        for name in found.keys() | contents.keys()
        if found.get(name) != contents.get(name, "").encode()
    )
    for name in stale:
        print(f"{name}: differs from its rebuild from source; run scripts/compile_ptx.py")
    print(f"{len(contents)} artefacts rebuilt, {len(stale)} differ")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
