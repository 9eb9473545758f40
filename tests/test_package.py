"""Properties of the package as a whole: its layers, its imports, its artefacts."""

from __future__ import annotations

import ast
import graphlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import ferrum_numba as fe
from ferrum_numba import errors, kernels
from ferrum_numba.abi import ptx_digest
from tests.conftest import FIXTURES

PACKAGE = Path(fe.__file__).parent
ROWS = ["start", "errors", "version", "notebook", "pickling", "regular_file", "host_memory",
        "digest", "dtypes", "json_values",
        "ptx_text", "machine_code", "abi", "emulator", "devices", "kernels", "gptq", "models",
        "text", "report", "debug", "cli"]  # fmt: skip

CUDA = PACKAGE / "devices" / "cuda"
NUMBA = [CUDA / "numba_cuda.py", CUDA / "native.py", CUDA / "launcher.py"]


def name_of(path: Path) -> str:
    """The absolute name of a module of the package."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imported(path: Path) -> set[str]:
    """Absolute names of the modules that a module of the package imports, also for types only."""
    package = ["ferrum_numba", *path.relative_to(PACKAGE).parent.parts]
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parts = package[: len(package) + 1 - node.level] if node.level else []
            start = ".".join([*parts, *([node.module] if node.module else [])])
            found = {f"{start}.{alias.name}" for alias in node.names}
            names |= {name if name in MODULES else start for name in found}
    return names


def test_no_import_circle() -> None:
    graph = {name: imported(path) & MODULES.keys() - {name} for name, path in MODULES.items()}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(f"circle: {' <- '.join(error.args[1])}")


@pytest.mark.parametrize("name", MODULES)
def test_layers_and_foreign_libraries(name: str) -> None:
    path = MODULES[name]
    names = imported(path)
    row = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if row in ROWS:
        above = {n.split(".")[1] for n in names if n.startswith("ferrum_numba.")}
        upward = {n for n in above & {*ROWS} if ROWS.index(n) > ROWS.index(row)}
        assert not upward, "imports upward"
        assert row == "cli" or "ferrum_numba" not in names, "imports the package itself"
    foreign = {n.split(".")[0] for n in names}
    assert not foreign & {"torch", "triton", "cupy", "jax"} or row == "examples"
    assert "llvmlite" not in foreign or row == "emulator" or path == CUDA / "native.py"
    assert not any(n.startswith("numba.cuda") for n in names)
    assert "numba" not in foreign or path in NUMBA
    assert row not in ("ptx_text", "machine_code", "abi") or "numpy" not in foreign


@pytest.mark.parametrize("folder", ["tests", "scripts"])
def test_tests_and_scripts_share_campaigns_alone(folder: str) -> None:
    """Neither imports the other, campaigns import neither, and none says where modules lie."""
    shared = PACKAGE.parent / "tests" / "campaigns"
    for path in sorted((PACKAGE.parent / folder).rglob("*.py")):
        others = {"scripts", "tests"} if shared in path.parents else {"scripts", "tests"} - {folder}
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [str(node.module)]
            foreign = [name for name in names if not f"{name}.".startswith("tests.campaigns.")]
            assert not others & {name.partition(".")[0] for name in foreign}, path
            assert not isinstance(node, ast.Attribute) or ast.unparse(node) != "sys.path", path


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
    for text in (artefact.text, json.dumps(artefact.declared)):
        assert not re.search(r"(?<![\w.])/[\w.-]+/[\w./-]+", text), "an absolute path"
    assert "\t.loc\t" in artefact.text
    assert artefact.declared["source"] in artefact.text, ".file names the source"


def test_what_is_shipped_is_small() -> None:
    files = list(kernels.folder().iterdir())
    assert len(files) <= 20
    assert sum(file.stat().st_size for file in files) <= 1_500_000
    assert len([name for name in kernels.names() if name.startswith("w4a16")]) <= 100


def test_an_artefact_that_is_not_shipped() -> None:
    with pytest.raises(fe.AbiError, match=r"found 'nothing'; kernels\.names\(\) and "):
        kernels.artefact("nothing")
    with pytest.raises(fe.AbiError, match=r"did you mean w4a16_gptq_gemm_typed\.v1\.sm_80\?"):
        kernels.artefact("w4a16_gptq_gemm_typed.v1.sm_8")


def test_the_tile_is_the_sidecars() -> None:
    assert (fe.BM, fe.BN, fe.BK) == (64, 64, 32)
    assert fe.fn_name() == "w4a16_gptq_gemm_typed"


def test_every_error_that_is_raised_has_parts() -> None:
    """But those that are made of another one, and that which shows a line of PTX below."""
    kinds = {name for name, kind in vars(errors).items() if isinstance(kind, type)}
    whole = []
    for path in MODULES.values():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and len(node.args) == 1:
                name = getattr(node.func, "id", "")
                if name in kinds and not isinstance(node.args[0], ast.Starred):
                    whole.append(path.relative_to(PACKAGE).as_posix())
    assert sorted(whole) == ["emulator/explanation.py", "ptx_text/text.py"]


@pytest.mark.parametrize("folder", ["ferrum_numba", "tests", "scripts"])
def test_docstrings_begin_with_a_verb_or_the_noun(folder: str) -> None:
    others = {"What", "Whether", "Who", "Whose", "Where", "Which", "Why", "How", "When", "That"}
    if folder == "ferrum_numba":
        others |= {"As", "By", "For", "From", "In", "Its", "Of", "So", "Those", "With", "Without"}
    for path in sorted((PACKAGE.parent / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                first = str(node.value.value).split()[:1]
                assert not others & {*first}, f"{path}:{node.lineno}"
