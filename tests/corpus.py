"""PTX of several compilers, in tests/data/ptx."""

from __future__ import annotations

from pathlib import Path

from ferrum_numba.abi import Sidecar, Signature

FOLDER = Path(__file__).parent / "data" / "ptx"
FILES = sorted(FOLDER.glob("*.ptx"))
TRITON = [path for path in FILES if ".triton-" in path.name]


def corpus_text(name: str) -> str:
    """The PTX of a name such as "reverse.llvm-14.sm_70"."""
    return (FOLDER / f"{name}.ptx").read_text(encoding="utf-8")


def corpus_sidecar(name: str) -> Sidecar:
    """The metadata beside it; empty where there is none."""
    path = FOLDER / f"{name}.json"
    return Sidecar.read(path if path.is_file() else None)


def declared(name: str) -> Signature:
    """The signature with what the metadata says."""
    return corpus_sidecar(name).declare(Signature.from_ptx(corpus_text(name)))
