"""The PTX that a command works on: a file with the sidecar beside it, or a shipped kernel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from .. import kernels
from ..abi import Sidecar, Signature
from ..errors import PtxError, did_you_mean
from ..ptx_text import read_ptx

entry_option: Callable[[Any], Any] = click.option(
    "--entry", metavar="NAME", help="Which entry, where the PTX declares several."
)
sidecar_option: Callable[[Any], Any] = click.option(
    "--sidecar",
    "sidecar_path",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The sidecar; by default the .json file beside the PTX, if there is one.",
)


@dataclass(frozen=True)
class PtxFile:
    """PTX text and its sidecar: a file's path, the shipped kernel's own, or None.

    name: its path, or the shipped kernel's name.
    """

    name: str
    text: str
    sidecar: Path | Sidecar | None

    @property
    def title(self) -> str:
        """The name without folder and suffix."""
        return Path(self.name).name.removesuffix(".ptx")

    @property
    def sidecar_name(self) -> str | None:
        """Name of the file that the sidecar is from."""
        if isinstance(self.sidecar, Sidecar):
            return str(kernels.folder() / "catalogue.json")
        return None if self.sidecar is None else str(self.sidecar)

    def declared(self, entry: str | None = None) -> tuple[Signature, Sidecar]:
        """The signature as the sidecar declares it.  Raises AbiError where the two disagree."""
        sidecar = Sidecar.read(self.sidecar)
        if entry is None and sidecar.entry in Signature.entries(self.text):
            entry = sidecar.entry
        signature = Signature.from_ptx(self.text, entry)
        if sidecar.entry not in (None, signature.entry):
            return signature, Sidecar()  # it is another entry's
        sidecar.check(self.text, signature)
        return sidecar.declare(signature), sidecar


def is_ptx(target: str | Path) -> bool:
    """True if a target is a PTX file or a shipped kernel's name, and nothing else."""
    path = Path(target)
    return (path.suffix == ".ptx" and not path.is_dir()) or str(target) in kernels.names()


def is_recording(target: str) -> bool:
    """True if a target is the path of a recording."""
    return Path(target).suffix == ".ferrum"


def open_ptx(target: str | Path, sidecar_path: Path | None = None) -> PtxFile:
    """The PTX of a path or of a shipped kernel's name.  Raises PtxError."""
    path = Path(target)
    if not path.is_file():
        if str(target) not in kernels.names():
            hint = did_you_mean(target, kernels.names(), "ferrum-numba info --kernels lists these")
            raise PtxError(target, "a .ptx file or the name of a shipped kernel", "neither", hint)
        shipped = kernels.artefact(str(target))
        return PtxFile(shipped.name, shipped.text, sidecar_path or shipped.sidecar)
    beside = path.with_suffix(".json")
    if sidecar_path is None and beside.is_file():
        sidecar_path = beside
    return PtxFile(str(path), read_ptx(path), sidecar_path)
