"""`ferrum-numba make`: a synthetic checkpoint, or one quantised from a dense model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..gptq import MODELS, PRODUCERS, Checkpoint, Recipe, make_checkpoint, quantize_checkpoint
from ..gptq.faults import FAULTS, apply_fault
from . import clock
from .console import byte_progress, facts_table, json_option, standard_output, write_json
from .options import examples, group_size_option, refuse_options, seed_option

# What a dense model decides by itself, or what round-to-nearest does not do.
_NOT_WITH_FROM = (
    *("like", "layers", "bits", "producer", "act_order", "bias", "mixed"),
    *("lm_head", "layers_only", "shards", "seed"),
)


def _list_faults(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if not value or ctx.resilient_parsing:
        return
    table = facts_table()
    for name, fault in FAULTS.items():
        table.add_row(name, fault.what)
    standard_output().print(table)
    ctx.exit()


def _read_fault(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    if value is None or value in FAULTS:
        return value
    message = f"expected a name that --list-faults shows, found {value!r}"
    raise click.BadParameter(message, ctx, param)


@click.command(
    epilog=examples(
        "ferrum-numba make example2", "ferrum-numba make damaged --fault missing-scales"
    )
)
@click.argument("out_dir", type=click.Path(path_type=Path))
@click.option(
    "--like",
    type=click.Choice(list(MODELS)),
    default="tiny",
    show_default=True,
    help="Random weights of this model's shapes.",
)
@click.option(
    "--from",
    "source",
    metavar="PATH",
    type=click.Path(path_type=Path),
    help="Instead, the weights of this dense model (a directory or .safetensors file), rounded to "
    "the nearest level.",
)
@click.option("--layers", type=click.IntRange(min=1), help="Decoder layers; all by default.")
@click.option(
    "--bits",
    type=click.Choice(["2", "3", "4", "8"]),
    callback=lambda ctx, param, value: int(value),
    default="4",
    show_default=True,
    help="Width of a weight.",
)
@group_size_option("Rows in a group; -1: one group.", default=128)
@click.option(
    "--format",
    "zero_format",
    type=click.Choice(["v1", "v2"]),
    default="v1",
    show_default=True,
    help="v1 stores zeros less one, v2 as they are.",
)
@click.option(
    "--producer",
    type=click.Choice(PRODUCERS),
    default="gptqmodel",
    show_default=True,
    help="Whose configuration, and whose zeros.",
)
@click.option(
    "--sym/--asym",
    "symmetric",
    default=True,
    show_default=True,
    help="Zeros in the middle, or any.",
)
@click.option("--act-order", is_flag=True, help="Rows in groups in random order.")
@click.option("--bias", is_flag=True, help="A bias in every layer.")
@click.option(
    "--dtype",
    type=click.Choice(["float16", "bfloat16"]),
    default="float16",
    show_default=True,
    help="Type of the scales and of what is not quantised.",
)
@click.option("--mixed", is_flag=True, help="8 bits for mlp.down_proj, by a rule.")
@click.option("--lm-head", is_flag=True, help="Quantise the head too, in 8 bits.")
@click.option("--layers-only", is_flag=True, help="No embeddings, norms and dense head.")
@click.option("--shards", type=click.IntRange(min=1), default=1, show_default=True, help="Files.")
@click.option(
    "--fault", metavar="NAME", callback=_read_fault, help="Damage the checkpoint in this way."
)
@seed_option("the weights")
@click.option(
    "--list-faults",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_list_faults,
    help="Print the names for --fault, and exit.",
)
@json_option
@click.pass_context
def make(
    ctx: click.Context,
    /,
    out_dir: Path,
    source: Path | None,
    group_size: int,
    zero_format: Any,
    symmetric: bool,
    dtype: Any,
    fault: str | None,
    as_json: bool,
    **random_weights: Any,
) -> None:
    """Write a GPTQ checkpoint into OUT_DIR, new or empty.

    Its weights are random, or those of a dense model (--from). The same options give the same
    bytes.
    """
    if source is None:
        recipe = Recipe(
            group_size=group_size,
            format=zero_format,
            symmetric=symmetric,
            dtype=dtype,
            **random_weights,
        )
        byte_progress(lambda progress: make_checkpoint(out_dir, recipe, progress))
    else:
        refuse_options(ctx, _NOT_WITH_FROM, "not with --from, which has its own weights")
        byte_progress(
            lambda progress: quantize_checkpoint(
                source,
                out_dir,
                group_size=group_size,
                symmetric=symmetric,
                zero_format=zero_format,
                dtype=dtype,
                progress=progress,
            )
        )
    checkpoint = Checkpoint.open(out_dir)  # before the fault, after which it may not open
    made = {
        "path": str(out_dir),
        "layers": len(checkpoint.layers),
        "nbytes": sum(file.stat().st_size for file in out_dir.glob("*.safetensors")),
        "zero_format": checkpoint.quantization.zero_format,
        "fault": fault,
        "damaged_layer": None if fault is None else apply_fault(out_dir, fault),
        "seconds": clock.elapsed(),
    }
    if as_json:
        write_json(made)
    else:
        _show(made)


def _show(made: dict[str, Any]) -> None:
    table = facts_table()
    table.add_row("checkpoint", made["path"])
    table.add_row("layers", f"{made['layers']} quantised, zeros of format {made['zero_format']}")
    table.add_row("tensors", f"{made['nbytes'] / 1e6:,.1f} MB, in {made['seconds']:.1f} s")
    if made["fault"]:
        what = FAULTS[made["fault"]].what
        table.add_row("fault", f"{made['fault']}: {what} ({made['damaged_layer']})")
    standard_output().print(table)
