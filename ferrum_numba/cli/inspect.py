"""`ferrum-numba inspect`: what an entry expects, and whether its sidecar says the same."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .. import kernels
from ..abi import Sidecar, Signature, cuda_for_ptx, driver_for_ptx, ptx_digest
from ..devices.base import read_ptx
from ..errors import AbiError, FerrumError, PtxError
from .console import facts_table, json_option, plain_table, standard_output, write_json
from .devices import device_option, find_device

_GOOD = ("agrees", "none", "loads")


@click.command()
@click.argument("target")
@click.option("--entry", metavar="NAME", help="Which entry, where the PTX declares several.")
@click.option(
    "--sidecar",
    "sidecar_path",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The sidecar; by default the .json file beside the PTX, if there is one.",
)
@device_option("Also load the entry there: whether this device can run it.")
@json_option
@click.pass_context
def inspect(
    ctx: click.Context,
    target: str,
    entry: str | None,
    sidecar_path: Path | None,
    device: str | None,
    as_json: bool,
) -> None:
    """Show the signature of an entry and what a launch of it needs.

    TARGET is the path of a .ptx file or the name of a shipped kernel (see info). Exits with 1 if
    the sidecar disagrees with the PTX, or the device refuses it.
    """
    path = _ptx_path(target)
    beside = path.with_suffix(".json")
    sidecar_path = sidecar_path or (beside if beside.is_file() else None)
    text = read_ptx(path)
    signature, sidecar, reason = _read(text, entry, sidecar_path)
    found = _describe(path, text, signature, sidecar)
    found["sidecar"] = {
        "path": None if sidecar_path is None else str(sidecar_path),
        "verdict": "disagrees" if reason else "none" if sidecar_path is None else "agrees",
        "reason": reason,
    }
    if device is not None:
        # With a sidecar that disagrees, whether the PTX alone would load is still worth knowing.
        found["device"] = _load(device, text, signature.entry, None if reason else sidecar)
    if as_json:
        write_json(found)
    else:
        _show(standard_output(), found)
    verdicts = [found[key]["verdict"] for key in ("sidecar", "device") if key in found]
    ctx.exit(0 if all(verdict in _GOOD for verdict in verdicts) else 1)


def _ptx_path(target: str) -> Path:
    """The file that TARGET means.  Raises PtxError."""
    if Path(target).is_file():
        return Path(target)
    if target in kernels.names():
        return kernels.folder() / f"{target}.ptx"
    raise PtxError(
        f"{target}: expected the path of a .ptx file or the name of a shipped kernel "
        f"({', '.join(kernels.names())}), found neither"
    )


def _read(
    text: str, entry: str | None, sidecar_path: Path | None
) -> tuple[Signature, Sidecar, str]:
    """The signature, declared by the sidecar where both agree, and else why they do not."""
    sidecar, reason = Sidecar(), ""
    try:
        sidecar = Sidecar.read(sidecar_path)
    except AbiError as error:
        reason = str(error)
    if entry is None and sidecar.entry in Signature.entries(text):
        entry = sidecar.entry
    signature = Signature.from_ptx(text, entry)
    try:
        sidecar.check(text, signature)
        signature = sidecar.declare(signature)
    except AbiError as error:
        reason = str(error)
    return signature, sidecar, reason


def _describe(path: Path, text: str, signature: Signature, sidecar: Sidecar) -> dict[str, Any]:
    """All but the verdicts, in JSON's types; what nobody states is None or empty."""
    cuda = cuda_for_ptx(signature.ptx_version)
    return {
        "ptx": str(path),
        "ptx_sha256": ptx_digest(text),
        "entry": signature.entry,
        "target": signature.target,
        "ptx_version": _dotted(signature.ptx_version),
        "min_cuda": _dotted(cuda) if cuda else None,
        "min_driver": driver_for_ptx(signature.ptx_version),
        "reqntid": signature.reqntid,
        "num_warps": sidecar.num_warps,
        "shared_bytes": sidecar.shared_bytes,
        "scratch": sidecar.scratch,
        "tile": sidecar.tile,
        "constants": sidecar.constants,
        "grid": [rule.text for rule in sidecar.grid] if sidecar.grid else None,
        "constraints": [rule.text for rule in sidecar.constraints],
        "params": [
            {
                "index": p.index,
                "name": p.name,
                "ptx_type": p.ptx_type if p.count is None else f"{p.ptx_type}[{p.count}]",
                "c_type": p.c_type,
                "offset": p.offset,
                "size": p.size,
                "role": p.role,
            }
            for p in signature.params
        ],
        "nbytes": signature.nbytes,
    }


def _load(device: str, text: str, entry: str, sidecar: Sidecar | None) -> dict[str, str]:
    """Whether a device takes the entry."""
    opened = find_device(device)
    try:
        opened.load_module(text, sidecar).get_kernel(entry)
    except FerrumError as error:
        return {"name": opened.name, "verdict": "refuses", "reason": str(error)}
    return {"name": opened.name, "verdict": "loads", "reason": ""}


def _show(console: Console, found: Mapping[str, Any]) -> None:
    lines = facts_table()
    for name, value in _facts(found):
        lines.add_row(name, value)
    console.print(lines)
    console.print()
    console.print(_parameter_table(found["params"]))
    console.print(f"\nparameter block: {found['nbytes']} bytes")
    sidecar = found["sidecar"]
    about = f"sidecar {sidecar['path']}" if sidecar["path"] else "sidecar"
    console.print(_verdict(about, sidecar["verdict"], sidecar["reason"]))
    if "device" in found:
        device = found["device"]
        console.print(_verdict(f"device {device['name']}", device["verdict"], device["reason"]))


def _facts(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    cuda, driver = found["min_cuda"], found["min_driver"]
    since = f"CUDA {cuda}" + (f", driver {driver}" if driver else "") if cuda else ""
    reqntid = found["reqntid"]
    scratch = [f"{s.role} {s.size} bytes a CTA, aligned to {s.align}" for s in found["scratch"]]
    return [
        ("ptx", found["ptx"]),
        ("sha256", found["ptx_sha256"]),
        ("entry", found["entry"]),
        ("target", found["target"]),
        ("PTX ISA", f"{found['ptx_version']} ({since or 'which driver reads it is not known'})"),
        ("reqntid", ", ".join(map(str, reqntid)) if reqntid else "not demanded"),
        ("num_warps", _stated(found["num_warps"])),
        ("shared_bytes", _stated(found["shared_bytes"])),
        ("scratch", "; ".join(scratch) or "not stated"),
        ("tile", _pairs(found["tile"])),
        ("constants", _pairs(found["constants"])),
        ("grid", f"({', '.join(found['grid'])})" if found["grid"] else "not stated"),
        ("constraints", ", ".join(found["constraints"]) or "not stated"),
    ]


def _stated(number: int | None) -> str:
    return "not stated" if number is None else str(number)


def _pairs(numbers: Mapping[str, int] | None) -> str:
    if numbers is None:
        return "not stated"
    return ", ".join(f"{name} {value}" for name, value in numbers.items()) or "none"


def _parameter_table(params: list[dict[str, Any]]) -> Table:
    table = plain_table()
    table.add_column("", justify="right", no_wrap=True)
    table.add_column("parameter", overflow="fold")
    table.add_column("PTX", no_wrap=True)
    table.add_column("kernel", no_wrap=True)
    table.add_column("offset", justify="right", no_wrap=True)
    table.add_column("size", justify="right", no_wrap=True)
    table.add_column("role", no_wrap=True)
    for p in params:
        table.add_row(
            str(p["index"]),
            p["name"],
            f".{p['ptx_type']}",
            p["c_type"] or "",
            str(p["offset"]),
            str(p["size"]),
            p["role"],
        )
    return table


def _verdict(about: str, verdict: str, reason: str) -> Text:
    style = "green" if verdict in _GOOD else "bold red"
    return Text.assemble(f"{about}: ", (verdict, style), f": {reason}" if reason else "")


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"
