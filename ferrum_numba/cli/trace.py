"""`ferrum-numba trace`: what a kernel computes on the CPU, instruction by instruction."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from .console import json_option, standard_output, write_json
from .options import refuse_options, seed_option
from .ptx_file import entry_option, sidecar_option
from .trace_options import read_cta, read_lanes, read_warps, reading
from .trace_target import is_recording, kernel_target, read_sizes, recorded_target

_folder = click.Path(exists=True, file_okay=False, path_type=Path)


@click.command()
@click.argument("target")
@entry_option
@sidecar_option
@click.option(
    "--launch", "number", metavar="N", type=click.IntRange(min=0), help="Which of a recording."
)
@click.option(
    "--size",
    "sizes",
    metavar="NAME=N",
    multiple=True,
    help="A size of the launch. Default: M=5, N=72, K=272, group_size=K.",
)
@seed_option("the arrays")
@click.option(
    "--cta",
    metavar="X,Y,Z",
    callback=reading(read_cta),
    default="0,0,0",
    show_default=True,
    help="Which CTA; or all.",
)
@click.option(
    "--warp",
    "warps",
    metavar="LIST",
    callback=reading(read_warps),
    default="0",
    show_default=True,
    help="Which warps, such as 1 or 0-3; or all.",
)
@click.option(
    "--lanes",
    metavar="LIST",
    callback=reading(read_lanes),
    default="0-3",
    show_default=True,
    help="Whose values are shown, such as 0-3,8; or all.",
)
@click.option(
    "--line",
    "lines",
    metavar="WHERE",
    multiple=True,
    help="Only this PTX line (120), these (120-140), or those of a source line (:45).",
)
@click.option(
    "--register",
    "registers",
    metavar="NAME",
    multiple=True,
    help="Only instructions that mention this register; with --step, show it at every stop.",
)
@click.option(
    "--break",
    "breaks",
    metavar="WHERE",
    multiple=True,
    help="Stop at a PTX line (120), a source line (:45), where a condition holds ('%r12 > 100'),"
    " in any lane, or both ('120 if %r12 > 100 and lane < 8').",
)
@click.option("--step", is_flag=True, help="Take commands from standard input; help lists them.")
@click.option("--accesses", is_flag=True, help="What the accesses to memory cost.")
@click.option(
    "--map",
    "picture",
    metavar="FILE.png",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Draw the accesses that waste most; implies --accesses.",
)
@click.option(
    "--source",
    "folders",
    metavar="DIR",
    multiple=True,
    type=_folder,
    help="Where the source files are that the PTX names.",
)
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=200_000,
    show_default=True,
    help="How many events are kept, the first ones.",
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
    """Run a kernel on the CPU and show what it computed, instruction by instruction.

    TARGET is a shipped kernel's name (`ferrum-numba info` lists them), or the path of a .ptx file
    whose sidecar declares its arrays, which are then random; or a recording (.ferrum) and --launch.

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
