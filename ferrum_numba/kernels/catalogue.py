"""The shipped builds: what each of them is, where its text lies, and which ones fit a device.

ptx/catalogue.json has a record a kernel and a row a build:

    {kernel: {"archive": file or null, "record": {...}, "builds": {name: {...}, ...}}, ...}

A build's sidecar is the record, overlaid with the row; the row's `dtype` is the build's own, and
stands for T where a parameter's type is "*T".  The texts are files of their own (archive null) or
in the archive ptx/ARCHIVE.xz.  scripts/compile_ptx.py writes all of it.

Builds are looked up by fields: kernel, dtype, target, num_warps, and every name in the sidecar's
tile and constants.  Names are for people.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from ..abi import LaunchConfig, Sidecar, cuda_for_ptx, runs_on
from ..devices import Device, Kernel
from ..errors import AbiError, did_you_mean
from ..notebook import facts
from .archive import unpack

ALIGN = 16
"""Bytes that addresses of arrays are multiples of: the strictest that a shipped kernel asks for."""

_POINTERS = {"float16": "*fp16", "bfloat16": "*bf16", "float32": "*fp32"}


@dataclass(frozen=True, eq=False)
class Artefact:
    """One shipped build.

    archive: the archive that holds its text, without suffix; None: a file of its own.
    row: the build's row of the catalogue; record: what all builds of its kernel share.
    """

    name: str
    archive: str | None
    record: Mapping[str, Any]
    row: Mapping[str, Any]

    def __repr__(self) -> str:
        return f"<Artefact {self.name}>"

    def _repr_html_(self) -> str:
        return facts(self.name, self.fields.items())

    @property
    def dtype(self) -> str:
        """The dtype that it computes in."""
        return str(self.row["dtype"])

    @cached_property
    def fields(self) -> dict[str, Any]:
        """Fields by which it is looked up."""
        said = {**self.record, **self.row}
        own = {name: said[name] for name in ("dtype", "target", "num_warps")}
        return {**said["constants"], **said["tile"], **own, "kernel": said["name"]}

    @property
    def takes_wide(self) -> bool:
        """True if it is a GEMM that gives its result in float32, too."""
        return any(parameter["name"] == "wide" for parameter in self.record["params"])

    @property
    def declared(self) -> dict[str, Any]:
        """The sidecar's JSON."""
        fields = {**self.record, **self.row}
        dtype = fields.pop("dtype")
        return fields | {"params": typed(fields["params"], dtype)}

    @cached_property
    def sidecar(self) -> Sidecar:
        """Sidecar: the facts that its launcher must know."""
        return Sidecar.read(self.declared)

    @property
    def path(self) -> Path:
        """The file that holds its text."""
        return folder() / (f"{self.name}.ptx" if self.archive is None else f"{self.archive}.xz")

    @property
    def text(self) -> str:
        """The PTX.  Raises AbiError where the file is damaged."""
        if self.archive is None:
            return _text(self.path)
        texts = _texts(self.path)
        if self.name not in texts:
            raise AbiError(self.path.name, f"{self.name} in it", "none", "reinstall ferrum-numba")
        return texts[self.name]

    def kernel(self, device: Device) -> Kernel:
        """This build, loaded on a device (once)."""
        return device.load_module(self.text, self.sidecar).get_kernel()

    def runs_on(self, device: Device) -> bool:
        """True if device and driver run it."""
        capability = getattr(device, "capability", None)
        newest = getattr(device, "cuda_version", None)
        shared = getattr(device, "max_shared_bytes", None)
        target, version = self.sidecar.target, self.sidecar.ptx_version
        if shared is not None and (self.sidecar.shared_bytes or 0) > shared:
            return False
        if capability is not None and target is not None and not runs_on(target, capability):
            return False
        if newest is not None and version is not None:
            needed = cuda_for_ptx(version)
            if needed is None or needed > newest:
                return False
        return True

    def takes(self, device: Device, sizes: Mapping[str, int]) -> bool:
        """True if device and driver run it, and its constraints hold for these integers."""
        if not self.runs_on(device):
            return False
        given = {p.name: 1 for p in self.sidecar.params if p.nullable}
        numbers = self.sidecar.numbers_for({**given, **sizes})
        return all(rule(numbers) for rule in self.sidecar.constraints)


def typed(params: Iterable[Mapping[str, Any]], dtype: str) -> list[dict[str, Any]]:
    """Parameters of a record with the dtype in place of T."""
    types = {"*T": _POINTERS[dtype]}
    return [{**p, "type": types.get(p["type"], p["type"])} for p in params]


def folder() -> Path:
    """Folder of the artefacts: beside the code in a wheel, beside the package in a checkout."""
    package = Path(__file__).resolve().parent.parent
    for candidate in (package / "ptx", package.parent / "ptx"):
        if candidate.is_dir():
            return candidate
    raise AbiError("ptx/", f"a folder beside or inside {package}", "none", "reinstall ferrum-numba")


def names() -> tuple[str, ...]:
    """The shipped builds' names, sorted."""
    return tuple(_catalogue(folder()))


def artefact(name: str) -> Artefact:
    """A shipped build by name.  Raises AbiError for a name that is not shipped."""
    known = _catalogue(folder())
    if name not in known:
        hint = did_you_mean(name, names(), "kernels.names() and ferrum-numba info list them")
        raise AbiError("kernel", "the name of a shipped one", f"{name!r}", hint)
    return known[name]


def builds(**fields: Any) -> tuple[Artefact, ...]:
    """The shipped builds with these fields, sorted by name: builds(kernel=..., dtype=...)."""
    return tuple(
        build
        for build in _catalogue(folder()).values()
        if all(build.fields.get(field) == value for field, value in fields.items())
    )


def find(**fields: Any) -> Artefact:
    """The one shipped build with these fields.  Raises AbiError where there are none or several."""
    found = builds(**fields)
    if len(found) != 1:
        asked = ", ".join(f"{field} {value}" for field, value in fields.items())
        names_ = ", ".join(build.name for build in found) or "none"
        raise AbiError("kernel", f"one build with {asked}", names_)
    return found[0]


def of_newest_target(found: Iterable[Artefact], device: Device) -> list[Artefact]:
    """Builds that the device runs, of the newest target among them; on the CPU of the oldest, whose
    code is the shortest to translate."""
    runs = [build for build in found if build.runs_on(device)]
    targets = sorted({str(build.sidecar.target) for build in runs})
    own = targets[:1] if device.name == "cpu" else targets[-1:]
    return [build for build in runs if str(build.sidecar.target) in own]


@lru_cache(maxsize=4)
def _catalogue(where: Path) -> dict[str, Artefact]:
    """The builds by name, sorted.  Raises AbiError."""
    path = where / "catalogue.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        found = [
            Artefact(name, entry["archive"], entry["record"], row)
            for entry in content.values()
            for name, row in entry["builds"].items()
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise AbiError(path.name, f"cannot be read as a catalogue: {error}") from None
    return {build.name: build for build in sorted(found, key=lambda build: build.name)}


@lru_cache(maxsize=64)
def _texts(path: Path) -> Mapping[str, str]:
    """The texts of an archive, unpacked once a process."""
    return unpack(_read(path), path.name)


@lru_cache(maxsize=64)
def _text(path: Path) -> str:
    return _read(path).decode()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise AbiError(
            path.name, f"cannot be read: {error}", remedy="reinstall ferrum-numba"
        ) from None


def contiguous_sizes(M: int, N: int, K: int, group_size: int) -> dict[str, int]:
    """The integer arguments of a GEMM whose arrays all lie in C order, in the kernel's order."""
    return {
        "M": M,
        "N": N,
        "K": K,
        "group_size": K if group_size == -1 else group_size,
        "stride_am": K,
        "stride_ak": 1,
        "stride_qwk": N,
        "stride_qwn": 1,
        "stride_sk": N,
        "stride_sn": 1,
        "stride_qzk": N // 8,
        "stride_qzn": 1,
        "stride_cm": N,
        "stride_cn": 1,
    }


def launch_config(sidecar: Sidecar, **sizes: int) -> LaunchConfig:
    """The launch that a sidecar prescribes for these sizes.

    Raises AbiError for a size below 1, and where the sidecar states no grid rule, warps or shared
    memory.
    """
    for name, size in sizes.items():
        if not hasattr(size, "__index__") or size < 1:
            raise AbiError(name, "an integer from 1 on", f"{size!r:.80}")
    grid = sidecar.grid_for(sizes)
    if grid is None or sidecar.num_warps is None or sidecar.shared_bytes is None:
        raise AbiError(
            sidecar.entry,
            "a sidecar that states grid, num_warps and shared",
            "one that does not",
            "give a LaunchConfig of your own",
        )
    return LaunchConfig(
        grid,
        block=sidecar.num_warps * 32,
        shared_bytes=sidecar.shared_bytes,
        cooperative=sidecar.cooperative,
        programmatic=sidecar.programmatic,
    )
