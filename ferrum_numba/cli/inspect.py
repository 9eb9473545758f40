"""`ferrum-numba inspect`: what entries expect and do, and whether a sidecar says the same."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import click

from ..abi import LaunchConfig, Sidecar, TritonBuild
from ..devices import Kernel
from ..devices.resources import Resources
from ..errors import AbiError, DeviceError, FerrumError, PtxError
from ..machine_code import is_machine_code
from ..report.builds import (
    InspectedEntry,
    Inspection,
    Loading,
    Needs,
    SidecarVerdict,
    Unreadable,
    assembled_resources,
    inspect_build,
    inspect_code,
    inspect_ptx,
    with_resources,
)
from .console import json_option, standard_output, write_json
from .devices import NoSuchDevice, device_option, find_device
from .inspection_view import show_folder, show_inspection
from .machine_code_view import show_agreement, show_machine_code
from .options import examples
from .ptx_file import PtxFile, entry_option, open_ptx, sidecar_option


@click.command(
    epilog=examples(
        "ferrum-numba inspect w4a16_gptq_gemm_typed.v1.sm_80",
        "ferrum-numba inspect row_softmax.ptx",
    )
)
@click.argument("target")
@entry_option
@sidecar_option
@device_option("Also load the entries there: whether this device can run them, and what they take.")
@click.option("--all", "everything", is_flag=True, help="Every entry, opcode and source line.")
@click.option("--text", "as_text", is_flag=True, help="Print the PTX itself, and nothing else.")
@json_option
@click.pass_context
def inspect(
    ctx: click.Context,
    target: str,
    entry: str | None,
    sidecar_path: Path | None,
    device: str | None,
    everything: bool,
    as_text: bool,
    as_json: bool,
) -> None:
    """Show what a kernel expects of a launch, and what it is made of.

    TARGET is a .ptx file, a folder of them, or the name of a shipped kernel (see info --kernels).
    Registers and occupancy are those of ptxas, where one is installed, or of the GPU that --device
    names. Of a cubin or a fatbin it says what machine code tells; a folder of Triton's cache is
    shown as one build, whose PTX, cubin and metadata are compared. Exits with 1 if a sidecar
    disagrees with its PTX, such parts with each other, or the device refuses it.
    """
    if is_machine_code(target):
        if as_text or everything or device or entry or sidecar_path:
            raise click.UsageError("machine code: no other option than --json")
        ctx.exit(_machine_code(Path(target), as_json))
    if as_text:
        if as_json or everything or device or entry or sidecar_path:
            raise click.UsageError("--text: not with other options")
        click.echo(open_ptx(target).text, nl=False)
        return
    if Path(target).is_dir():
        if entry or sidecar_path:
            raise click.UsageError("--entry, --sidecar: not with a folder")
        if any(Path(target).glob("*.cubin")):
            ctx.exit(_triton_build(Path(target), device, everything, as_json))
        ctx.exit(_folder(Path(target), device, as_json))
    opened = open_ptx(target, sidecar_path)
    if device is None:
        found, loading = inspected(opened, entry), None
    else:
        found, loading = loaded(opened, device, entry)
    if as_json:
        write_json({**vars(found), **({"device": loading} if loading else {})})
    else:
        console = standard_output()
        show_inspection(console, found, loading, everything)
    ctx.exit(_exit_code(found, loading))


def _machine_code(path: Path, as_json: bool) -> int:
    found = inspect_code(path)
    if as_json:
        write_json(vars(found))
    else:
        show_machine_code(standard_output(), found)
    return 0


def _triton_build(folder: Path, device: str | None, everything: bool, as_json: bool) -> int:
    """A folder of Triton's cache; the exit code."""
    build = TritonBuild.open(folder)
    code = inspect_build(build)
    path = folder / f"{build.name}.ptx"
    opened = open_ptx(path)
    found, loading = (inspected(opened), None) if device is None else loaded(opened, device)
    if as_json:
        extra = {"device": loading} if loading else {}
        write_json({**vars(found), "machine_code": code, **extra})
    else:
        console = standard_output()
        show_inspection(console, found, loading, everything)
        show_machine_code(console, code)
        console.print()
        show_agreement(console, code)
    return max(_exit_code(found, loading), int(bool(code.disagreements)))


def inspected(opened: PtxFile, entry: str | None = None) -> Inspection:
    """All that can be said of a PTX without a GPU.  Raises PtxError."""
    return _assembled(_inspect(opened, entry), opened)


def _inspect(opened: PtxFile, entry: str | None = None) -> Inspection:
    path = opened.sidecar_name
    sidecar: Sidecar | SidecarVerdict
    try:
        sidecar = Sidecar.read(opened.sidecar)
    except AbiError as error:
        sidecar = SidecarVerdict(path, "disagrees", str(error))
    return inspect_ptx(opened.name, opened.text, sidecar, path, entry)


def _assembled(found: Inspection, opened: PtxFile) -> Inspection:
    """Inspection with ptxas's resources, where there is a ptxas."""
    resources: dict[str, Resources] = {}
    reason = ""
    try:
        resources = assembled_resources(opened.text, found.target)
    except DeviceError as error:
        reason = str(error)
    entries = (
        with_resources(e, resources.get(e.entry), found.target, reason) for e in found.entries
    )
    return replace(found, entries=tuple(entries))


def loaded(opened: PtxFile, name: str, entry: str | None = None) -> tuple[Inspection, Loading]:
    """Inspection with a device's answer: whether it takes each entry, and the GPU's resources."""
    device = find_device(name)
    found = _inspect(opened, entry)
    # With a sidecar that disagrees, whether the PTX alone would load is still worth knowing.
    agrees = found.sidecar.verdict == "agrees"
    sidecar = Sidecar.read(opened.sidecar) if agrees else Sidecar()
    described = sidecar.entry or found.entries[0].entry
    entries: list[InspectedEntry] = []
    for each in found.entries:
        own = sidecar if each.entry == described else Sidecar()
        try:
            kernel = device.load_module(opened.text, own).get_kernel(each.entry)
        except FerrumError as error:
            which = f"{each.entry}: " if len(found.entries) > 1 else ""
            refused = Loading(device.name, "refuses", f"{which}{error}")
            unknown = f"{device.name} refuses it"
            rest = (with_resources(e, None, found.target, unknown) for e in found.entries)
            return replace(found, entries=tuple(rest)), refused
        unknown = f"{device.name} has no registers"
        entries.append(with_resources(each, _measured(kernel, each.needs), found.target, unknown))
    return replace(found, entries=tuple(entries)), Loading(device.name, "loads")


def _measured(kernel: Kernel, needs: Needs) -> Resources | None:
    """The driver's word on a kernel; None on the CPU device."""
    if kernel.module.device.name == "cpu":
        return None
    found = kernel.attributes
    if needs.most_threads is None:
        return found
    config = LaunchConfig(needs.cluster or 1, needs.most_threads, needs.shared_bytes or 0)
    return replace(found, ctas_per_sm=kernel.occupancy(config).ctas_per_sm)


def load_entry(name: str, ptx: str, sidecar: Sidecar, entry: str) -> Loading:
    """True if the device of this name takes an entry, and else why not."""
    device = find_device(name)
    try:
        device.load_module(ptx, sidecar).get_kernel(entry)
    except FerrumError as error:
        return Loading(device.name, "refuses", str(error))
    return Loading(device.name, "loads")


def _folder(folder: Path, device: str | None, as_json: bool) -> int:
    """Print a table of every PTX in a folder; return the exit code."""
    paths = sorted(folder.glob("*.ptx"))
    if not paths:
        raise PtxError(folder, ".ptx files in this folder", "none")
    if device:
        find_device(device)
        rows = [_of_folder(path, device) for path in paths]
    else:
        with ThreadPoolExecutor() as pool:  # most of the time goes to ptxas
            rows = list(pool.map(lambda path: _of_folder(path, None), paths))
    if as_json:
        files = [vars(i) | ({"device": loading} if loading else {}) for i, loading in rows]
        write_json({"folder": str(folder), "files": files})
    else:
        show_folder(standard_output(), rows)
    return max(_exit_code(i, loading) for i, loading in rows)


def _of_folder(path: Path, device: str | None) -> tuple[Inspection | Unreadable, Loading | None]:
    try:
        opened = open_ptx(path)
        return (inspected(opened), None) if device is None else loaded(opened, device)
    except NoSuchDevice:
        raise
    except FerrumError as error:
        return Unreadable(str(path), error.without(str(path))), None


def _exit_code(found: Inspection | Unreadable, loading: Loading | None) -> int:
    """0 where all is well, 1 for a finding, 2 for what cannot be read."""
    if isinstance(found, Unreadable):
        return 2
    refused = loading is not None and loading.verdict == "refuses"
    return 1 if refused or found.sidecar.verdict == "disagrees" else 0
