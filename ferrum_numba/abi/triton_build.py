"""A folder of Triton's cache: PTX, cubin and metadata of one kernel, which open as one thing.

`~/.triton/cache/HASH/` holds NAME.ptx, NAME.cubin, NAME.json and earlier stages of the compiler.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import AbiError
from ..machine_code import Cubin
from ..ptx_text import read_ptx
from .sidecar import Sidecar
from .signature import Signature

_WIDEST = 16  # bytes: beyond it an assembler aligns by the address that constants have on a GPU


@dataclass(frozen=True)
class TritonBuild:
    """One kernel of Triton's.  cubin: None where the folder has none.  sidecar: its metadata."""

    folder: Path
    name: str
    ptx: str
    cubin: Cubin | None
    sidecar: Sidecar

    @classmethod
    def open(cls, folder: Path) -> TritonBuild:
        """Read a folder.  Raises AbiError where it is none of Triton's cache, PtxError and AbiError
        for a part of it that cannot be read."""
        texts = sorted(folder.glob("*.ptx"))
        if len(texts) != 1 or not texts[0].with_suffix(".json").is_file():
            found = ", ".join(path.name for path in texts) or "no .ptx"
            raise AbiError(
                str(folder),
                "a folder of Triton's cache, with one .ptx and the .json of its name",
                found,
                "name one file of it",
            )
        path = texts[0]
        binary = path.with_suffix(".cubin")
        return cls(
            folder,
            path.stem,
            read_ptx(path),
            Cubin(binary.read_bytes()) if binary.is_file() else None,
            Sidecar.read(path.with_suffix(".json")),
        )

    def disagreements(self) -> Iterator[str]:
        """Sentences, one for each thing that the parts say differently."""
        try:
            signature = Signature.from_ptx(self.ptx, self.sidecar.entry)
            self.sidecar.check(self.ptx, signature)
        except AbiError as error:
            yield str(error)
            signature = Signature.from_ptx(self.ptx)
        if self.cubin is None:
            return
        if signature.entry not in self.cubin.entries:
            found = ", ".join(self.cubin.entries)
            yield f"entry: the PTX declares {signature.entry}, the cubin has {found}"
            return
        machine = Signature.of(self.cubin, signature.entry)
        plain = all(p.align <= _WIDEST for p in signature.params)
        for what, ptx, cubin in (
            ("parameters (offset, bytes)", _places(signature, plain), _places(machine, plain)),
            ("target", signature.target.rstrip("af"), machine.target.rstrip("af")),
            ("block", signature.reqntid and _extent(signature.reqntid), machine.reqntid),
            ("cluster", signature.cluster and _extent(signature.cluster), machine.cluster),
        ):
            if ptx != cubin:
                yield f"{what}: the PTX says {ptx}, the cubin {cubin}"

    def check(self) -> None:
        """Raise AbiError where the parts disagree."""
        found = list(self.disagreements())
        if found:
            raise AbiError(
                str(self.folder),
                "; ".join(found),
                remedy="its files are of several builds: delete the folder, and compile again",
            )


def _places(signature: Signature, plain: bool) -> list[tuple[int, int]]:
    return [(p.offset if plain else 0, p.size) for p in signature.params]


def _extent(numbers: tuple[int, ...]) -> tuple[int, ...]:
    return (*numbers, 1, 1)[:3]
