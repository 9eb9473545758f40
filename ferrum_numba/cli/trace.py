"""`ferrum-numba trace`: what a kernel computes on the CPU, instruction by instruction."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from .console import json_option, standard_output, write_json
from .options import examples, output_option, refuse_options, repeated_option, seed_option
from .ptx_file import entry_option, is_recording, sidecar_option
from .trace_options import chosen_option, read_cta, read_lanes, read_warps
from .trace_target import kernel_target, read_sizes, recorded_target

_folder = click.Path(exists=True, file_okay=False, path_type=Path)


@click.command(
    epilog=examples(
        "ferrum-numba trace add_bias.sm_80",
        "ferrum-numba trace add_bias.sm_80 --line :21 --lanes 0-3",
    )
)
@click.argument("target")
@entry_option
@sidecar_option
@click.option(
    "--launch",
    "number",
    metavar="N",
    type=click.IntRange(min=0),
    help="Which launch of a recording.",
)
@repeated_option(
    "--size", "sizes", "NAME=N", "A size of the launch. Default: M=5, N=72, K=272, group_size=K."
)
@seed_option("the arrays")
@chosen_option("--cta", "cta", "X,Y,Z", read_cta, "0,0,0", "Which CTA; or all.")
@chosen_option("--warp", "warps", "LIST", read_warps, "0", "Which warps, such as 1 or 0-3; or all.")
@chosen_option(
    "--lanes", "lanes", "LIST", read_lanes, "0-3", "Whose values are shown, such as 0-3,8; or all."
)
@repeated_option(
    "--line",
    "lines",
    "WHERE",
    "Only this PTX line (120), these (120-140), or those of a source line (:45).",
)
@repeated_option(
    "--register",
    "registers",
    "NAME",
    "Only instructions that mention this register; with --step, show it at every stop.",
)
@repeated_option(
    "--break",
    "breaks",
    "WHERE",
    "Stop at a PTX line (120), a source line (:45), where a condition holds ('%r12 > 100'), in any "
    "lane, or both ('120 if %r12 > 100 and lane < 8').",
)
@click.option("--step", is_flag=True, help="Take commands from standard input; help lists them.")
@click.option("--accesses", is_flag=True, help="What the accesses to memory cost.")
@output_option(
    "--map", "Draw the accesses that waste most; implies --accesses.", "picture", metavar="FILE.png"
)
@repeated_option(
    "--source", "folders", "DIR", "Folder of the source files that the PTX names.", _folder
)
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=200_000,
    show_default=True,
    help="Keep at most so many events, the first ones.",
)
@json_option
@click.pass_context
def trace(
    ctx: click.Context,
    /,
    target: str,
    entry: str | None,
    sidecar_path: Path | None,
    number: int | None,
    sizes: Sequence[str],
    seed: int,
    folders: Sequence[Path],
    as_json: bool,
    **options: Any,
) -> None:
    """Run a kernel on the CPU, and show it instruction by instruction.

    TARGET is a shipped kernel's name (see info --kernels), or the path of a .ptx file whose sidecar
    declares its arrays, which are then random; or a recording (.ferrum) and --launch.

    Without further options: how many instructions each source line took. With --line or --register:
    their values, lane by lane. With --break or --step: a debugger, which goes backwards too. With
    --accesses or --map: sectors of global memory, and bank conflicts.

    Exits with 1 if the kernel leaves its arrays, or fails.
    """
    from .listing import Sources
    from .trace_session import Session, Wanted

    wanted = Wanted(**options)
    if wanted.step and as_json:
        raise click.UsageError("--step and --json: choose one")
    if is_recording(target):
        refuse_options(ctx, ("entry", "sidecar_path", "sizes", "seed"), "the recording says it")
        launched = recorded_target(target, number)
    else:
        refuse_options(ctx, ("number",), "only a recording has several launches")
        launched = kernel_target(target, sidecar_path, entry, read_sizes(sizes), seed)
    session = Session(launched, Sources(folders), standard_output(), wanted)
    session.run()
    if as_json:
        write_json(session.to_json())
    else:
        session.show()
    ctx.exit(1 if session.failed else 0)
