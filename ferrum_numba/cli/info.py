"""`ferrum-numba info`: what is installed, which devices there are, which kernels are shipped."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from .. import kernels
from ..devices import Device
from ..devices.cuda import implementation
from ..errors import AbiError, DeviceError, did_you_mean
from ..gptq import Checkpoint, expert_problems
from ..models import ModelConfig, ModelNames
from ..models.shared import CHUNK
from ..models.workspace import Workspace
from ..version import __version__, version_of
from .console import facts_table, json_option, standard_output, write_json
from .devices import describe_device, device_line, device_option, find_device
from .experts_note import mention_experts
from .options import examples, group_size_option, refuse_options

_RUNNERS_UP = 5  # that are printed, the chosen one with them; --json has all


def _read_shape(
    ctx: click.Context, param: click.Parameter, value: str | None
) -> tuple[int, int, int] | None:
    """`1,4096,14336` as M, N and K, each at least 1."""
    if value is None:
        return None
    numbers = [int(part) if part.strip().isdecimal() else 0 for part in value.split(",")]
    if len(numbers) != 3 or min(numbers) < 1:
        raise click.BadParameter(f"expected M,N,K from 1, found {value!r}", ctx, param)
    return numbers[0], numbers[1], numbers[2]


@click.command(
    epilog=examples(
        "ferrum-numba info",
        "ferrum-numba info --kernels 'rms_norm*'",
        "ferrum-numba info --shape 1,4096,14336",
    )
)
@click.argument("model_dir", required=False, type=click.Path(path_type=Path))
@click.option(
    "--shape",
    metavar="M,N,K",
    callback=_read_shape,
    help="Show, in place of all kernels, which one the catalogue chooses for this multiplication.",
)
@group_size_option("With --shape.", default=128)
@click.option("--act-order", is_flag=True, help="With --shape: rows in activation order.")
@click.option(
    "--kernels",
    "pattern",
    metavar="[GLOB]",
    is_flag=False,
    flag_value="*",
    help="List the shipped kernels by name: all, or those that match, such as 'rms_norm*'.",
)
@device_option("Show this device alone; exit with 3 where it is not here.")
@json_option
@click.pass_context
def info(
    ctx: click.Context,
    model_dir: Path | None,
    shape: tuple[int, int, int] | None,
    group_size: int,
    act_order: bool,
    pattern: str | None,
    device: str | None,
    as_json: bool,
) -> None:
    """Show versions and devices, or what a model needs.

    With MODEL_DIR, a directory with config.json and a GPTQ checkpoint: its architecture, and the
    memory that weights, cache and prompts take. Without: what is installed, which devices there
    are, and the shipped kernels.
    """
    if model_dir is not None:
        alone = ("shape", "group_size", "act_order", "device", "pattern")
        refuse_options(ctx, alone, "only without MODEL_DIR")
        _show_model(model_dir, as_json)
        return
    found: dict[str, Any] = {
        "versions": _versions(),
        "numba_cuda": _numba_cuda(),
        "devices": _devices() if device is None else [describe_device(find_device(device))],
        "artefacts": [_artefact(name) for name in _matching(pattern or "*")],
    }
    if shape is None:
        refuse_options(ctx, ("group_size", "act_order"), "only with --shape")
    else:
        found["choice"] = _choice(find_device(device or "auto"), shape, group_size, act_order)
    if as_json:
        write_json(found)
    elif pattern is not None:
        standard_output().print(_artefact_lines(found["artefacts"]))
    else:
        _show(found)


def _show_model(folder: Path, as_json: bool) -> None:
    """Show what a model is, and the memory that it takes on a device."""
    checkpoint = Checkpoint.open(folder)
    experts = expert_problems(checkpoint, values=True)
    mention_experts(experts)
    config = ModelConfig.load(folder)
    names = ModelNames.find(config, checkpoint)
    found = {
        "model": str(folder),
        "architecture": config.architecture,
        "layers": config.layers,
        **({"experts": _experts(config, experts)} if config.experts else {}),
        "dtype": config.dtype,
        "max_positions": config.max_positions,
        "weights_bytes": names.nbytes(checkpoint),
        "cache_bytes_per_token": 4 * config.layers * config.kv_width,
        "prefill_bytes": Workspace.nbytes(config, CHUNK),
    }
    if as_json:
        write_json(found)
        return
    table = facts_table()
    for name, value in found.items():
        if isinstance(value, dict):
            noted = f"; {len(experts)} of their layers have notes" if experts else ""
            value = f"{value['count']}, {value['top_k']} of them a token{noted}"
        size = value if "bytes" in name and isinstance(value, int) else None
        shown = str(value) if size is None else f"{size / 1e6:,.3f} MB"
        table.add_row(name.replace("_", " "), shown)
    standard_output().print(table)


def _experts(config: ModelConfig, problems: Mapping[str, str]) -> dict[str, Any]:
    """The mixture of experts, and which of their layers are not as the others."""
    assert config.experts is not None
    return {**asdict(config.experts), "problems": dict(problems)}


def _matching(pattern: str) -> list[str]:
    """The names of shipped kernels that match.  Raises AbiError where none does."""
    found = [name for name in kernels.names() if fnmatchcase(name, pattern)]
    if not found:
        hint = did_you_mean(pattern, kernels.names(), "info --kernels lists all")
        raise AbiError("--kernels", "a pattern of shipped kernels' names", f"{pattern!r}", hint)
    return found


def _versions() -> dict[str, str | None]:
    return {
        "ferrum-numba": __version__,
        "python": platform.python_version(),
        **{name: version_of(name) for name in ("numba", "llvmlite", "numpy")},
    }


def _numba_cuda() -> dict[str, str | None]:
    """The implementation of numba.cuda that is used, found without importing it."""
    found = implementation.find()
    if found is None:
        return {"implementation": None, "version": None}
    return {"implementation": found.name, "version": found.version}


def _devices() -> list[dict[str, Any]]:
    """All devices that are usable here; without a GPU, one entry with the reason."""
    from ..devices.cuda.numba_cuda import unusable

    devices = [describe_device(find_device("cpu"))]
    reason = unusable()
    if reason:
        return [*devices, {"name": "cuda", "unusable": reason}]
    while True:
        try:
            gpu = find_device(f"cuda:{len(devices) - 1}")
        except DeviceError:  # past the last one
            return devices
        devices.append(describe_device(gpu))


def _artefact(name: str) -> dict[str, Any]:
    """A shipped kernel, as the catalogue describes it."""
    shipped = kernels.artefact(name)
    fields = ("target", "ptx_version", "min_driver", "tile", "constants")
    declared = shipped.declared
    return {
        "name": name,
        "entry": declared["name"],
        "dtype": shipped.dtype,
        **{field: declared[field] for field in fields},
    }


def _choice(
    device: Device, shape: tuple[int, int, int], group_size: int, act_order: bool
) -> dict[str, Any]:
    """Builds that the catalogue chooses for float16 arrays in C order and zeros of format v1."""
    m, n, k = shape
    all_sizes = kernels.contiguous_sizes(m, n, k, group_size)
    broken = [r.text for r in kernels.canonical(1).sidecar.constraints if not r(all_sizes)]
    if broken:
        raise AbiError(
            "--shape",
            f"{' and '.join(broken)}, which every kernel needs",
            f"N {n}, K {k}, group_size {group_size}",
        )
    predicted: tuple[kernels.Candidate, ...] = ()
    if act_order:
        groups = -(-k // group_size) if group_size > 0 else 1
        chosen = kernels.choose_act_order(device, m, n, k, groups, zero_bias=1)
    else:
        chosen = kernels.choose(device, m, n, k, group_size, zero_bias=1)
        predicted = kernels.candidates(device, kernels.m_class(m), n, k, group_size, zero_bias=1)
    return {
        "device": device.name,
        "product": kernels.device_name(device),
        "M": m,
        "N": n,
        "K": k,
        "group_size": group_size,
        "act_order": act_order,
        "artefact": chosen.name,
        "measured_on": kernels.cost_model().known(kernels.device_name(device)),
        "predictions": [{"artefact": its.build.name, "seconds": its.seconds} for its in predicted],
    }


def _show(found: dict[str, Any]) -> None:
    console = standard_output()
    lines = facts_table()
    for name, number in found["versions"].items():
        lines.add_row(name, number or "not installed")
    cuda = found["numba_cuda"]
    which = {"built-in": "built into numba", None: "none"}
    name = which.get(cuda["implementation"], f"NVIDIA's {cuda['implementation']}")
    lines.add_row("numba.cuda", f"{name} {cuda['version'] or ''}".strip())
    for device in found["devices"]:
        reason = device.get("unusable")
        line = f"{device['name']}: none usable: {reason}" if reason else device_line(device)
        lines.add_row("device", line)
    console.print(lines)
    if "choice" not in found:
        builds = Counter(artefact["entry"] for artefact in found["artefacts"])
        each = ", ".join(f"{name} ({count})" for name, count in builds.items())
        console.print(f"\n{builds.total()} builds of {len(builds)} kernels: {each}")
        console.print("--kernels lists them, inspect NAME shows one")
    else:
        choice = found["choice"]
        sizes = ", ".join(f"{name} {choice[name]}" for name in ("M", "N", "K", "group_size"))
        order = ", activation order" if choice["act_order"] else ""
        console.print(f"\n{sizes}{order} on {choice['device']}: {choice['artefact']}")
        if choice["predictions"]:
            console.print("\npredicted for it, and for the builds next to it")
            if choice["measured_on"] != choice["product"]:
                console.print(
                    f"with what was fitted on {choice['measured_on']}, and the SMs, bandwidth, "
                    f"clock and shared memory of {choice['product']}: a guess"
                )
            console.print(_prediction_lines(choice["predictions"]))


def _prediction_lines(predictions: list[dict[str, Any]]) -> Table:
    lines = facts_table()
    for its in predictions[:_RUNNERS_UP]:
        lines.add_row(its["artefact"], f"{its['seconds'] * 1e6:.1f} us")
    return lines


def _artefact_lines(artefacts: list[dict[str, Any]]) -> Table:
    lines = facts_table()
    for artefact in artefacts:
        driver = artefact["min_driver"]
        needs = f"PTX {artefact['ptx_version']}"
        lines.add_row(artefact["name"], needs + (f", driver {driver}" if driver else ""))
    return lines
