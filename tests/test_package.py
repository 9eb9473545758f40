"""What holds for the package as a whole: its layers, its imports, its artefacts."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import ferrum_numba as fe
from ferrum_numba import kernels
from ferrum_numba.abi import ptx_digest
from tests.conftest import FIXTURES

PACKAGE = Path(fe.__file__).parent
ROWS = ["errors", "abi", "emulator", "devices", "kernels", "gptq", "report", "debug", "cli"]

NUMBA = [PACKAGE / "devices" / "cuda" / name for name in ("numba_cuda.py", "native.py")]


def imported(path: Path) -> set[str]:
    """Absolute names of what a module of the package imports."""
    parts = ["ferrum_numba", *path.relative_to(PACKAGE).with_suffix("").parts]
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = parts[: len(parts) - node.level] if node.level else []
            names.add(".".join([*package, *([node.module] if node.module else [])]))
    return names


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: p.stem)
def test_layers_and_foreign_libraries(path: Path) -> None:
    names = imported(path)
    row = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if row in ROWS:
        above = {n.split(".")[1] for n in names if n.startswith("ferrum_numba.")}
        upward = {n for n in above & set(ROWS) if ROWS.index(n) > ROWS.index(row)}
        assert not upward, "imports upward"
    foreign = {n.split(".")[0] for n in names}
    assert not foreign & {"torch", "triton", "cupy", "jax"}
    assert "llvmlite" not in foreign or row == "emulator"
    assert not any(n.startswith("numba.cuda") for n in names)
    assert "numba" not in foreign or path in NUMBA
    assert row != "abi" or "numpy" not in foreign


def test_the_main_job_imports_no_peer() -> None:
    """Verify a checkpoint in a fresh process, then look at what it has loaded."""
    code = (
        "import sys\n"
        "import ferrum_numba as fe\n"
        f"layer = fe.GptqLinear.load({str(FIXTURES / 'gm_v1_sym_g128')!r},"
        " 'model.layers.0.self_attn.q_proj', device=fe.open_device('cpu'))\n"
        "import numpy as np\n"
        "layer(np.ones((1, layer.K), np.float16))\n"
        "print(sorted(m for m in ('torch', 'triton', 'cupy', 'jax') if m in sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_the_public_names_are_there() -> None:
    for name in fe.__all__:
        assert getattr(fe, name) is not None


@pytest.mark.parametrize("name", kernels.names())
def test_artefacts(name: str) -> None:
    artefact = kernels.artefact(name)
    signature = fe.Signature.from_ptx(artefact.text)
    artefact.sidecar.check(artefact.text, signature)
    assert artefact.sidecar.ptx_sha256 == ptx_digest(artefact.text)
    content = json.loads((kernels.folder() / f"{name}.json").read_text())
    for text in (artefact.text, json.dumps(content)):
        assert not re.search(r"(?<![\w.])/[\w.-]+/[\w./-]+", text), "an absolute path"
    assert "\t.loc\t" in artefact.text
    assert content["source"] in artefact.text, ".file names the source"


def test_an_artefact_that_is_not_shipped() -> None:
    with pytest.raises(fe.AbiError, match=r"found 'nothing'; kernels\.names\(\) and "):
        kernels.artefact("nothing")
    with pytest.raises(fe.AbiError, match=r"did you mean w4a16_gptq_gemm_typed\.v1\.sm_80\?"):
        kernels.artefact("w4a16_gptq_gemm_typed.v1.sm_8")


def test_the_tile_is_the_sidecars() -> None:
    assert (fe.BM, fe.BN, fe.BK) == (64, 64, 32)
    assert fe.fn_name() == "w4a16_gptq_gemm_typed"
