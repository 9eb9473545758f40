"""`ferrum-numba compare`: two builds of a kernel, two checkpoints, or two devices."""

from __future__ import annotations

from pathlib import Path

import click

from ..gptq.dense import is_dense
from .compare_builds import show_builds
from .compare_dense import compare_dense
from .compare_layers import compare_layers
from .console import json_option
from .devices import device_option
from .options import (
    NUMBER_FROM_ZERO,
    examples,
    file_option,
    layers_option,
    output_option,
    refuse_options,
    seed_option,
)
from .ptx_file import is_ptx, open_ptx

_M = 64  # rows of x, a whole tile
_OF_LAYERS = ("devices", "patterns", "tolerance", "m", "seed", "x", "html")
_NOT_WITH_DENSE = ("devices", "device", "html")


@click.command(
    epilog=examples(
        "ferrum-numba compare example other",
        "ferrum-numba compare add_bias.sm_80 add_bias.bf16.sm_80",
    )
)
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path), required=False)
@click.option(
    "--devices",
    nargs=2,
    metavar="DEVICE DEVICE",
    help="Compare the results of A's layers on two devices, such as cpu cuda, instead of B.",
)
@device_option("Load the builds on this device, too; or compare the checkpoints' results there.")
@layers_option
@click.option(
    "--tolerance",
    type=NUMBER_FROM_ZERO,
    default=0.0,
    show_default=True,
    help="Relative difference of weights that passes, 0 asks for equal ones; for a dense B, of "
    "outputs, and 0 asks for no more than quantising it loses.",
)
@click.option(
    "--m",
    type=click.IntRange(min=1),
    default=_M,
    show_default=True,
    help="Rows of x, for devices and a dense B.",
)
@seed_option("x")
@file_option("--x", "A .safetensors file of inputs for a dense B: <layer>.x or x_<K>; else random.")
@output_option("--html", "Write a page: where differences lie, and their likely causes.")
@json_option
@click.pass_context
def compare(
    ctx: click.Context,
    a: Path,
    b: Path | None,
    devices: tuple[str, str] | None,
    device: str | None,
    patterns: tuple[str, ...],
    tolerance: float,
    m: int,
    seed: int,
    x: Path | None,
    html: Path | None,
    as_json: bool,
) -> None:
    """Compare builds of a kernel, GPTQ checkpoints, or devices.

    Two .ptx files, or names of shipped kernels: can a launcher of A launch B, and how do their
    instructions differ? Exits with 1 if a launcher would have to change, or if the device refuses
    one of them.

    Two checkpoints: their layers by the dequantised weights, so that two formats of the same
    weights are equal; with --device, by their results there for the same x. With --devices, A's
    layers run on both and the results are compared. Exits with 1 if any layer differs or is on one
    side only, else with 2 if any is refused.

    A checkpoint and the dense model that it was quantised from: what quantisation lost, layer by
    layer, of the weights and of the outputs for random inputs or those of --x. Exits with 1 if any
    layer lost more than --tolerance, or than quantising this model can make.
    """
    builds = [is_ptx(side) for side in (a, b) if side is not None]
    if any(builds):
        refuse_options(ctx, _OF_LAYERS, "PTX has no layers")
        for side in (a, b):
            if side is not None and not side.exists():
                open_ptx(side)  # what it may have been meant to be, where it is nothing
        if b is None or not all(builds):
            raise click.UsageError("expected two .ptx files or shipped kernels, or two checkpoints")
        ctx.exit(show_builds(a, b, device, as_json))
    if device and (devices or b is None):
        raise click.UsageError("--device: one device takes two checkpoints; see --devices for two")
    if is_dense(a):
        raise click.UsageError("expected the quantised checkpoint before the dense model")
    if b is not None and is_dense(b):
        refuse_options(ctx, _NOT_WITH_DENSE, "not with a dense model")
        ctx.exit(compare_dense(a, b, patterns, tolerance, m, seed, x, as_json))
    refuse_options(ctx, ("x",), "only with a dense model as B")
    ctx.exit(compare_layers(a, b, devices, device, patterns, tolerance, m, seed, html, as_json))
