"""`ferrum-numba sanitize`: run a kernel on the CPU and look at every access."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np
from rich.console import Console
from rich.text import Text

from ..devices import open_device
from ..errors import AbiError, did_you_mean
from ..kernels import names
from . import clock
from .console import json_option, standard_output, write_json
from .devices import device_option, find_device
from .options import (
    Decorator,
    checks_option,
    examples,
    refuse_options,
    repeated_option,
    seed_option,
    threads_option,
)
from .ptx_file import PtxFile, open_ptx
from .trace_target import SIZES, read_sizes, refuse_unknown, sizes_of

if TYPE_CHECKING:
    from ..devices.cpu.checked import CheckedCpuDevice
    from ..emulator.checks import Finding


def _size_option(flag: str, name: str, help: str) -> Decorator:
    """A size of the arrays, at least 1."""
    least = click.IntRange(min=1)
    return click.option(flag, type=least, default=SIZES[name], show_default=True, help=help)


@click.command(
    epilog=examples(
        "ferrum-numba sanitize add_bias.sm_80 --checks memory,race",
        "ferrum-numba sanitize --checkpoint example --layer model.layers.0.mlp.up_proj",
    )
)
@click.argument("target", required=False)
@click.option(
    "--checkpoint",
    type=click.Path(path_type=Path),
    help="Run a layer of this checkpoint, a model's directory or one .safetensors file.",
)
@click.option("--layer", help="Which layer of the checkpoint.")
@_size_option("--m", "M", "Rows of x and of the result.")
@_size_option("--n", "N", "Columns of the weight.")
@_size_option("--k", "K", "Rows of the weight.")
@click.option(
    "--group-size", type=click.IntRange(min=1), help="Rows in a group. Default: K, one group."
)
@repeated_option("--size", "sizes", "NAME=N", "Another size, of a kernel that has others.")
@device_option("cpu: no other device has checks.", default="cpu")
@checks_option("What is looked for.", default=True)
@seed_option("the arrays")
@threads_option
@json_option
@click.pass_context
def sanitize(
    ctx: click.Context,
    target: str | None,
    checkpoint: Path | None,
    layer: str | None,
    m: int,
    n: int,
    k: int,
    group_size: int | None,
    sizes: Sequence[str],
    device: str,
    checks: tuple[str, ...],
    seed: int,
    threads: int | None,
    as_json: bool,
) -> None:
    """Run a kernel on the CPU and check every access.

    TARGET is a shipped kernel's name (see info --kernels), a pattern such as 'w4a16*' for several,
    or the path of a .ptx file whose sidecar declares its arrays; it is run on random arrays of the
    given sizes. Or leave it out and name --checkpoint and --layer. Reports accesses outside the
    arrays, reads of what nobody wrote, missing barriers and waits, and results that depend on the
    order of the warps. Exits with 1 if anything is found.
    """
    if (target is None) == (checkpoint is None) or (checkpoint is None) != (layer is None):
        raise click.UsageError("expected TARGET, or both --checkpoint and --layer")
    if checkpoint is not None:
        refuse_options(ctx, ("n", "k", "sizes"), "the layer has its own")
    checked = _open(device, threads, checks)
    with checked.collect() as findings:
        if target is not None:
            files, more = [open_ptx(name) for name in _match(target)], read_sizes(sizes)
            taken = dict.fromkeys(n for file in files for n in sizes_of(file.declared()[1]))
            if taken:
                refuse_unknown(target, more, [*taken])
            known = {"M": m, "N": n, "K": k, "group_size": group_size or k, **more}
            described = "\n".join(_run_kernel(checked, file, known, seed) for file in files)
        else:
            assert checkpoint is not None
            assert layer is not None
            described = _run_layer(checked, checkpoint, layer, m, group_size, seed)
    seconds = clock.elapsed()
    if as_json:
        found = [finding.to_json() for finding in findings]
        launch = {"launch": described, "checks": list(checks), "seconds": seconds}
        write_json({**launch, "findings": found})
    else:
        _show(standard_output(), described, checks, findings, seconds)
    ctx.exit(1 if findings else 0)


def _open(name: str, threads: int | None, checks: tuple[str, ...]) -> CheckedCpuDevice:
    from ..devices.cpu.checked import CheckedCpuDevice

    found = find_device(name).name
    if found != "cpu":
        raise click.UsageError(f"--device: only the CPU device has checks, found {found}")
    device = open_device("cpu", threads=threads, checks=checks)
    assert isinstance(device, CheckedCpuDevice)
    return device


def _match(target: str) -> list[str]:
    """The path, or the shipped kernels that a name or a pattern names."""
    if not set("*?[") & set(target) or Path(target).exists():
        return [target]
    found = fnmatch.filter(names(), target)
    if not found:
        hint = did_you_mean(target, names(), "ferrum-numba info --kernels lists them")
        raise click.UsageError(f"{target}: no shipped kernel matches; {hint}")
    return found


def _run_kernel(device: CheckedCpuDevice, file: PtxFile, sizes: dict[str, int], seed: int) -> str:
    from ..kernels.sample import sample

    signature, sidecar = file.declared()
    taken = sizes_of(sidecar)
    if not taken:
        raise AbiError(
            file.name,
            "no sidecar declares its arrays, so there is nothing to run it on",
            remedy='launch it in Python, on open_device("cpu", checks=("memory", …))',
        )
    launch = sample(sidecar, sizes, seed)
    kernel = device.load_module(file.text, sidecar).get_kernel(signature.entry)
    kernel.launch(launch.config, **launch.arrays, **launch.integers)
    return f"{file.title} at {', '.join(f'{key} = {launch.integers[key]}' for key in taken)}"


def _run_layer(
    device: CheckedCpuDevice, path: Path, name: str, m: int, group_size: int | None, seed: int
) -> str:
    from ..gptq import Checkpoint, GptqLinear

    tensors = Checkpoint.open(path, group_size=group_size).load(name)
    layer = GptqLinear(tensors, device=device)
    x = np.random.default_rng(seed).standard_normal((m, tensors.K)).astype(np.float16)
    layer(x)
    return f"{name} at M = {m}, N = {tensors.N}, K = {tensors.K}"


def _show(
    console: Console,
    described: str,
    checks: Sequence[str],
    findings: Sequence[Finding],
    seconds: float,
) -> None:
    for finding in findings:
        head, _, rest = str(finding).partition(": ")
        console.print(Text.assemble((head, "bold red"), f": {rest}"), soft_wrap=True)
        console.print()
    count = f"{len(findings)} finding{'s' if len(findings) != 1 else ''}" if findings else "clean"
    verdict = Text(count, "bold red" if findings else "green")
    line = f": {described}; checks {', '.join(checks)}; {seconds:.1f} s"
    console.print(Text.assemble(verdict, line), soft_wrap=True)
