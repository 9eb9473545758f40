"""Compile the Triton and Gluon sources of the emulator's tests into tests/emulator/data/kernels.

    python scripts/compile_test_kernels.py            # write *.ptx and index.json
    python scripts/compile_test_kernels.py --check    # rebuild in memory, compare byte for byte

The tests need only what is written here.  Needs triton==3.6.0, no GPU.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "tests" / "emulator" / "kernels_src"
TARGET = ROOT / "tests" / "emulator" / "data" / "kernels"


@dataclass(frozen=True)
class Build:
    """A kernel, the types of its pointers and of all else, its constants, and its targets.

    aligned: integers that are multiples of 16.  debug: whether assertions are compiled.
    """

    name: str
    kernel: str
    pointers: dict[str, str]
    numbers: dict[str, str]
    constants: dict[str, Any]
    targets: tuple[int, ...] = (80,)
    warps: int = 4
    stages: int = 2
    aligned: tuple[str, ...] = ()
    debug: bool = False


def _gemm(
    name: str, element: str, result: str, acc: str, targets: tuple[int, ...], **options: Any
) -> Build:
    constants = {"BM": 64, "BN": 32, "BK": 32, "ACC": acc, "TRANS_B": False, "SPLIT": 1}
    constants |= {"SCALE_A": False} | options
    return Build(
        f"gemm_{name}",
        "products.gemm",
        {"a": element, "b": element, "c": result},
        dict.fromkeys("MNK", "i32"),
        constants,
        targets,
        aligned=("M", "N", "K"),
    )


def _rows(kernel: str, element: str, names: str, block: int, numbers: str = "n") -> Build:
    types = {"n": "i32", "eps": "fp32"}
    pointers = {name: "i32" if name == "places" else element for name in names.split()}
    constants = {"BLOCK": block} | ({"ROWS": 4} if kernel == "reduce" else {})
    return Build(
        f"{kernel}_{element}",
        f"rows.{kernel}",
        pointers,
        {name: types[name] for name in numbers.split()},
        constants,
    )


def _elements(
    name: str, kernel: str, pointers: dict[str, str], *targets: int, **constants: Any
) -> Build:
    constants = {"BLOCK": 128} | constants
    return Build(name, f"elements.{kernel}", pointers, {"n": "i32"}, constants, targets or (80,))


def _launched(kernel: str, pointers: str, numbers: str, **constants: Any) -> Build:
    """pointers: `name:type`; numbers: likewise, i32 where no type is given."""
    return Build(
        kernel,
        f"launched.{kernel}",
        {name: kind for name, _, kind in (p.partition(":") for p in pointers.split())},
        {name: kind or "i32" for name, _, kind in (n.partition(":") for n in numbers.split())},
        constants,
        debug=kernel == "asserts",
    )


def _activation(kind: str, *targets: int) -> Build:
    pointers = {"x": "fp32", "y": "fp32"}
    return _elements(f"activation_{kind}", "activation", pointers, *targets, KIND=kind)


def _convert(
    source: str, to: str, result: str, *targets: int, rounding: str | None = None
) -> Build:
    name = f"convert_{source}_{to}_{result}{'_' + rounding if rounding else ''}"
    pointers = {"x": source, "y": result}
    return _elements(name, "convert", pointers, *targets, TO=to, ROUND=rounding, BLOCK=512)


def _atomic(kind: str, element: str, *targets: int) -> Build:
    pointers = dict.fromkeys(("x", "out", "old"), element)
    name = f"atomic_{kind}_{element}"
    return _elements(name, "atomics", pointers, *targets, KIND=kind, SLOTS=8)


BUILDS = [
    _gemm("fp16", "fp16", "fp16", "float32", (80, 90)),
    _gemm("bf16", "bf16", "fp32", "float32", (90,), TRANS_B=True),
    _gemm("tf32", "fp32", "fp32", "float32", (80, 90)),
    _gemm("i8", "i8", "i32", "int32", (80, 90), TRANS_B=True),
    _gemm("e4m3", "fp8e4nv", "fp32", "float32", (89, 90), TRANS_B=True),
    _gemm("e5m2", "fp8e5", "fp32", "float32", (80,), TRANS_B=True),
    _gemm("fp64", "fp64", "fp64", "float64", (80,), BN=16, BK=16),
    _gemm("halfsum", "fp16", "fp16", "float16", (90,)),
    _gemm("scaled", "fp16", "fp16", "float32", (90,), SCALE_A=True),
    _gemm("splitk", "fp16", "fp16", "float32", (80, 90), SPLIT=2),
    Build(
        "attention",
        "products.attention",
        dict.fromkeys(("q", "k", "v", "out"), "fp16"),
        {"scale": "fp32", "n": "i32"},
        {"BM": 64, "BN": 32, "D": 32, "CAUSAL": True},
        (80, 90),
    ),
    Build(
        "specialised",
        "specialised.multiply",
        {"a": "fp16", "b": "i8", "c": "fp32"},
        dict.fromkeys("MNK", "i32"),
        {"BM": 64, "BN": 32, "BK": 64, "STAGES": 3},
        (90,),
        aligned=("K",),
    ),
    _launched("vector_add", "x:fp32 y:fp32 out:fp32", "n", BLOCK=256),
    _launched("strided_softmax", "out:fp32 x:fp32", "out_stride x_stride n", BLOCK=256),
    _launched(
        "strided_gemm",
        "a:fp16 b:fp16 c:fp16",
        "M N K a_m a_k b_k b_n c_m c_n",
        BM=32,
        BN=32,
        BK=32,
    ),
    _launched("take_rows", "table:fp16 indices:i64 out:fp16", "rows width scale:fp32", BLOCK=64),
    _launched("rotary", "x:fp16 cos:fp32 sin:fp32 out:fp16", "positions heads width", BLOCK=32),
    _launched(
        "scalars",
        "out:fp64",
        "h:fp16 b:bf16 f:fp32 d:fp64 flag:u1 i8:i8 u8:u8 i16:i16 i64:i64",
    ),
    _launched("wait_ns", "x:i32", "ns:i64", BLOCK=128),
    _launched("prints", "x:i32", "n", BLOCK=128),
    _launched("asserts", "x:i32", "n", BLOCK=128),
    Build(
        "copy_boxes",
        "launched.copy_boxes",
        {"x": "fp16", "out": "fp16"},
        {
            "x_map": "tensordesc<fp16[64,64]>",
            **dict.fromkeys(("M", "N", "across"), "i32"),
            "boxes": "i64",
        },
        {"BOX": 64},
        (90,),
    ),
    _rows("layer_norm", "fp16", "x w b y", 512, "n eps"),
    _rows("rms_norm", "bf16", "x w y", 256, "n eps"),
    _rows("softmax", "fp16", "x y", 512),
    _rows("reduce", "fp32", "x out places", 128),
    _rows("reduce", "i64", "x out places", 128),
    _rows("reduce_bits", "i32", "x out", 256),
    _rows("scan", "fp32", "x total product decayed", 256),
    Build(
        "sort_fp16",
        "rows.sort",
        dict.fromkeys(("x", "y", "top"), "fp16"),
        {},
        {"ROWS": 2, "BLOCK": 64, "K": 8},
    ),
    *map(_activation, ("gelu", "gelu_tanh", "silu", "softplus", "trigonometry", "roots")),
    *map(_activation, ("approximate", "power", "called")),
    _activation("clamped", 80, 90),
    _convert("fp32", "fp8e4nv", "fp16", 89, 90),
    _convert("fp16", "fp8e5", "fp32", 80, 90),
    _convert("fp32", "fp16", "fp16", 80, rounding="rtz"),
    _convert("fp32", "bf16", "bf16", 80, rounding="rtz"),
    _convert("bf16", "int64", "fp64", 80),
    _elements("integers_i32", "integers", dict.fromkeys(("x", "y", "out"), "i32")),
    _elements("integers_i64", "integers", dict.fromkeys(("x", "y", "out"), "i64")),
    Build(
        "dropout",
        "elements.dropout",
        {"x": "fp32", "y": "fp32"},
        {"seed": "i32", "p": "fp32", "n": "i32"},
        {"BLOCK": 128},
    ),
    Build(
        "embedding",
        "elements.embedding",
        {"table": "fp16", "index": "i64", "out": "fp16"},
        {"width": "i32"},
        {"BLOCK": 256},
    ),
    Build(
        "gather",
        "elements.gather",
        {"x": "fp16", "index": "i32", "out": "fp16"},
        {},
        {"ROWS": 16, "BLOCK": 16},
    ),
    _elements("histogram", "histogram", dict.fromkeys(("x", "counts", "more"), "i32"), BINS=64),
    _elements("locked", "locked", {"x": "fp32", "total": "fp32", "lock": "i32"}),
    *(_atomic("add", t, 80, 90) for t in ("fp16", "bf16", "fp32")),
    *(_atomic(kind, "fp32") for kind in ("max", "min", "xchg")),
    *(_atomic(kind, "i64") for kind in ("add", "and", "xor")),
]


def compile_build(build: Build, target: int) -> tuple[str, dict[str, Any]]:
    """PTX text, and what its launcher must know."""
    import triton
    import triton.language as tl
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    from triton.experimental.gluon._runtime import GluonASTSource

    stem, _, name = build.kernel.partition(".")
    kernel = getattr(_import_source(SOURCES / f"{stem}.py"), name)
    types = {
        "fp8e4nv": tl.float8e4nv,
        "fp8e5": tl.float8e5,
        "fp16": tl.float16,
        "bf16": tl.bfloat16,
    }
    constants = {
        key: types.get(value, getattr(tl, str(value), value)) if key in ("ACC", "TO") else value
        for key, value in build.constants.items()
    }
    signature = {key: f"*{value}" for key, value in build.pointers.items()}
    signature |= build.numbers | dict.fromkeys(constants, "constexpr")
    names = list(kernel.arg_names)
    divisible = [*build.pointers, *build.aligned]
    attributes = {(names.index(key),): [["tt.divisibility", 16]] for key in divisible}
    compiled = triton.compile(
        (GluonASTSource if kernel.is_gluon() else ASTSource)(
            kernel, signature, constants, attributes
        ),
        target=GPUTarget("cuda", target, 32),
        options={"num_warps": build.warps, "num_stages": build.stages, "debug": build.debug},
    )
    # Warps that have a part of their own come on top of those that the kernel begins with.
    index = {
        "entry": name,
        "warps": compiled.metadata.num_warps,
        "shared": compiled.metadata.shared,
    }
    return _bare(compiled.asm["ptx"]), index


def _import_source(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _bare(text: str) -> str:
    """The PTX without comments, lines that only debuggers read, and folders of this machine."""
    text = re.sub(r"\t\.section\s+\.debug_\w+\s*\{.*?\}\n", "", text, flags=re.DOTALL)
    text = re.sub(r"^\s*\.(?:loc|file)\s[^\n]*\n", "", text, flags=re.M)
    text = re.sub(r"\s*//[^\n]*", "", text)
    text = re.sub(r"^\$L__tmp\d+:\n", "", text, flags=re.M)
    text = re.sub(r"(?m)^(.*\bassertFile_\d+)\[\d+\] = \{(.*)\};$", _bare_file, text)
    if str(ROOT) in text or ".section" in text:
        raise SystemExit("a folder or a DWARF section is left")
    return text.strip() + "\n"


def _bare_file(array: re.Match[str]) -> str:
    """The array of an assertion's file without the folders before it."""
    name = bytes(map(int, array[2].split(","))).rpartition(b"/")[2]
    return f"{array[1]}[{len(name) + 1}] = {{{', '.join(map(str, name))}}};"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare with what is there")
    check = parser.parse_args().check
    contents: dict[str, str] = {}
    index: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TRITON_CACHE_DIR"] = cache
        for build in BUILDS:
            for target in build.targets:
                name = f"{build.name}.sm_{target}{'a' if target == 90 else ''}"
                contents[f"{name}.ptx"], index[name] = compile_build(build, target)
    rows = ",\n".join(f" {json.dumps(k)}: {json.dumps(v)}" for k, v in index.items())
    contents["index.json"] = f"{{\n{rows}\n}}\n"
    if check:
        stale = [n for n, text in contents.items() if (TARGET / n).read_text() != text]
        print(f"{len(contents)} files rebuilt, {len(stale)} differ: {' '.join(stale)}")
        return 1 if stale else 0
    TARGET.mkdir(exist_ok=True)
    for path in TARGET.iterdir():
        path.unlink()
    for name, text in contents.items():
        (TARGET / name).write_text(text, encoding="utf-8", newline="\n")
    print(f"{len(contents)} files, {sum(map(len, contents.values()))} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
