"""Compile the Triton and Gluon sources in scripts/kernels/ ahead of time into ptx/.

    python scripts/compile_ptx.py            # write ptx/*.ptx and ptx/*.json
    python scripts/compile_ptx.py --check    # rebuild in memory, compare byte for byte
    python scripts/compile_ptx.py decode     # either of them for artefacts named so alone

Needs triton==3.6.0 (`pip install .[compile]`), no GPU and no torch.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import os
import re
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from modulefinder import ModuleFinder
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "scripts" / "kernels"
ARTEFACTS = ROOT / "ptx"
TUNING = "w4a16_tuning.json"  # measured by scripts/tune.py, not compiled
TRITON_VERSION = "3.6.0"
# The ABI's own rules, also from a bare checkout; and what the kernels import from each other.
sys.path[:0] = [str(ROOT), str(SOURCES)]

from ptx_builds import BUILDS, Build  # noqa: E402

from ferrum_numba.abi import Sidecar, Signature, driver_for_ptx, ptx_digest  # noqa: E402


def compile_build(build: Build) -> tuple[str, str]:
    """The artefact's PTX text and its sidecar's JSON text."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    from triton.experimental.gluon._runtime import GluonASTSource

    if triton.__version__ != TRITON_VERSION:
        raise SystemExit(f"triton: expected {TRITON_VERSION}, found {triton.__version__}")
    source = SOURCES / f"{build.kernel}.py"
    kernel = getattr(importlib.import_module(source.stem), build.kernel)
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
    text = compiled.asm["ptx"]
    if build.even_registers:  # Triton moves registers to and fro all the same, which takes time
        text = re.sub(r"^\tsetmaxnreg\..*\n", "", text, flags=re.MULTILINE)
    text = _portable(text, build, compiled.metadata.shared)
    return text, _sidecar(build, text, compiled.metadata, source)


def _portable(text: str, build: Build, shared: int) -> str:
    """The PTX with nothing in it that depends on where it was compiled.

    `.loc` lines stay, and `.file` names the source relative to the repository: they map PTX back
    to the kernel's source.  The DWARF sections go, since their bytes spell out absolute folders;
    `.loc` works without them.  Triton writes sm_90a wherever it compiles for sm_90; what needs no
    more than sm_90 runs on later GPUs, too.
    """
    text = re.sub(r"^\.target \S+", f".target {build.target}", text, flags=re.MULTILINE)
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
        "num_warps": metadata.num_warps,  # also those of specialised warps
        "num_ctas": metadata.num_ctas,
        "num_stages": build.num_stages,
        "shared": metadata.shared,
        **scratch,
        **({"launch_pdl": True} if build.programmatic else {}),
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
        "source_sha256": _source_digest(source),
        "ptx_sha256": ptx_digest(text),
    }
    _check(text, content)
    return _json(content)


def _source_digest(source: Path) -> str:
    """SHA-256 of a source and, by their names, of the modules beside it that it imports."""
    finder = ModuleFinder([str(SOURCES)])
    finder.run_script(str(source))
    imported = {Path(str(module.__file__)) for module in finder.modules.values()} - {source}
    digest = hashlib.sha256()
    for file in [source, *sorted(imported)]:
        digest.update(file.read_bytes())
    return digest.hexdigest()


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
    parser.add_argument("part", nargs="?", default="", help="of the names of artefacts to build")
    arguments = parser.parse_args()
    builds = [build for build in BUILDS if arguments.part in build.artefact]
    with tempfile.TemporaryDirectory() as cache, ProcessPoolExecutor() as pool:
        os.environ["TRITON_CACHE_DIR"] = cache  # what is cached elsewhere proves nothing
        contents = {}
        for build, (text, sidecar) in zip(builds, pool.map(compile_build, builds), strict=True):
            contents[f"{build.artefact}.ptx"] = text
            contents[f"{build.artefact}.json"] = sidecar
    if arguments.check:
        return compare(contents, arguments.part)
    ARTEFACTS.mkdir(exist_ok=True)
    for name, content in contents.items():
        (ARTEFACTS / name).write_text(content, encoding="utf-8", newline="\n")
        print(f"{name}: {len(content)} bytes")
    return 0


def compare(contents: dict[str, str], part: str = "") -> int:
    """Print each artefact whose bytes differ from the rebuilt ones; 1 if there is any.

    part: of the names of the artefacts that were rebuilt.
    """
    found = {
        path.name: path.read_bytes()
        for path in ARTEFACTS.iterdir()
        if path.suffix in (".ptx", ".json") and part in path.stem
    }
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
