"""`ferrum-numba explain`: name the likely cause of a wrong or failed launch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.text import Text

from ..abi import LaunchConfig
from ..debug.case import Case, CaseArray, read_array, read_block
from ..debug.causes import CAUSES
from ..debug.checkpoint_clues import explain_checkpoint
from ..debug.explanation import Diagnosis, explain
from ..debug.recording import RecordedLaunch, Recording
from ..devices.base import read_ptx
from ..errors import FerrumError, RecordingError
from ..gptq import Checkpoint
from .console import facts_table, json_option, standard_output, write_json
from .ptx_file import entry_option, sidecar_option


@click.command("explain")
@click.argument("target", type=click.Path(exists=True, path_type=Path))
@click.option("--launch", "number", type=click.IntRange(min=0), help="Which launch of a recording.")
@click.option(
    "--expected",
    metavar="[NAME=]FILE.npy",
    multiple=True,
    help="What an output should be; NAME is the parameter's, needed where there are several.",
)
@click.option(
    "--checkpoint",
    type=click.Path(exists=True, path_type=Path),
    help="Expect a @ W for a layer of this checkpoint.",
)
@click.option("--layer", help="Which layer of the checkpoint.")
@click.option(
    "--bytes",
    "source",
    metavar="SOURCE",
    help="With a .ptx: the parameter block, as hex digits or a file.",
)
@click.option(
    "--array",
    "arrays",
    metavar="NAME=FILE.npy[@ADDRESS]",
    multiple=True,
    help="With a .ptx: an array, and where it lay; by default where the block says.",
)
@click.option("--grid", metavar="X,Y,Z", default="1", help="With a .ptx: CTAs of the launch.")
@click.option("--threads", metavar="X,Y,Z", default="128", help="With a .ptx: threads of a CTA.")
@click.option("--shared-bytes", type=click.IntRange(min=0), default=0, help="With a .ptx.")
@entry_option
@sidecar_option
@click.option(
    "--seconds",
    type=click.FloatRange(min=0),
    default=20.0,
    show_default=True,
    help="How long fixes are tried.",
)
@json_option
@click.pass_context
def explain_command(
    ctx: click.Context, /, target: Path, seconds: float, as_json: bool, **given: Any
) -> None:
    """Name the likely cause of a wrong or failed launch.

    TARGET is a recording (fe.record), a .ptx file with its parameter block and arrays, or a
    checkpoint. Fixes are tried on the CPU, with checks on; given the expected result it says which
    one makes the result right. Exits with 1 if something is wrong.
    """
    if target.is_dir() or target.suffix == ".safetensors":
        found = explain_checkpoint(target)
    else:
        case = _ptx_case(target, given) if target.suffix == ".ptx" else _recorded(target, given)
        found = explain(_with_expected(case, given), seconds=seconds)
    if as_json:
        write_json(_as_json(found))
    else:
        _show(standard_output(), found)
    ctx.exit(0 if found.suspects[0].cause == "none" else 1)


def _recorded(target: Path, given: dict[str, Any]) -> Case:
    recording = Recording(target)
    if not recording.launches:
        refused = "; ".join(r.error for r in recording.refused)
        raise RecordingError(f"{target}: it has no launch{f', refused: {refused}' * bool(refused)}")
    return Case.from_recording(recording, _pick(recording.launches, given["number"]))


def _pick(launches: Sequence[RecordedLaunch], number: int | None) -> RecordedLaunch:
    """The launch asked for, else the first that failed or never ended, else the last."""
    if number is None:
        failed = (x for x in launches if x.error or (x.before and x.after is None))
        return next(failed, launches[-1])
    if number >= len(launches):
        raise RecordingError(f"launch {number}: expected 0 to {len(launches) - 1}")
    return launches[number]


def _ptx_case(target: Path, given: dict[str, Any]) -> Case:
    if given["source"] is None:
        raise click.UsageError("--bytes: a .ptx needs the parameter block of its launch")
    sidecar = given["sidecar_path"] or target.with_suffix(".json")
    case = Case(
        ptx=read_ptx(target),
        block=_bytes(given["source"]),
        config=LaunchConfig(
            _extent(given["grid"]), _extent(given["threads"]), given["shared_bytes"]
        ),
        arrays={},
        entry=given["entry"],
        sidecar=sidecar.read_text(encoding="utf-8") if sidecar.is_file() else None,
    )
    return replace(case, arrays=dict(_array(case, text) for text in given["arrays"]))


def _bytes(text: str) -> bytes:
    path = Path(text)
    try:
        return path.read_bytes() if path.is_file() else bytes.fromhex(text)
    except (OSError, ValueError):
        raise click.UsageError(
            f"--bytes: expected hexadecimal digits or a file, found {text[:60]!r}"
        ) from None


def _extent(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise click.UsageError(f"expected X,Y,Z, found {text!r}") from None


def _array(case: Case, text: str) -> tuple[str, CaseArray]:
    name, _, rest = text.partition("=")
    file, _, address = rest.partition("@")
    values = read_array(Path(file))
    if address:
        return name, CaseArray(values, int(address, 0))
    try:
        where = read_block(case.block, (case.signature[name],))[name]
    except FerrumError as error:
        raise click.UsageError(f"--array {name}: {error}") from None
    if not isinstance(where, int):
        raise click.UsageError(f"--array {name}: its parameter holds no address")
    return name, CaseArray(values, where)


def _with_expected(case: Case, given: dict[str, Any]) -> Case:
    """The case with what its outputs should be."""
    expected: dict[str, NDArray[Any]] = {}
    for text in given["expected"]:
        name, _, file = text.rpartition("=")
        values = read_array(Path(file))
        expected[name or _output(case, values)] = values
    if (given["checkpoint"] is None) != (given["layer"] is None):
        raise click.UsageError("expected both --checkpoint and --layer, or neither")
    if given["checkpoint"] is not None:
        weight = Checkpoint.open(given["checkpoint"]).load(given["layer"]).dequantize(np.float32)
        a = next((case.arrays[n] for n in ("a", "x") if n in case.arrays), None)
        if a is None or a.values.shape[-1] != weight.shape[0]:
            raise click.UsageError(f"--checkpoint: expected an array a (M, {weight.shape[0]})")
        y = (a.values.astype(np.float32) @ weight).astype(a.values.dtype)
        expected[_output(case, y)] = y
    return replace(case, expected=expected)


def _output(case: Case, values: NDArray[Any]) -> str:
    """The parameter that takes an output like this."""
    declared = [p.name for p in case.declared.params if p.role == "output"]
    names = declared or [
        name
        for name, array in case.arrays.items()
        if array.values.shape == values.shape and array.values.dtype == values.dtype
    ]
    if len(names) != 1:
        raise click.UsageError(
            f"--expected: NAME=FILE.npy: expected one of {', '.join(names or case.arrays)}"
        )
    return names[0]


def _as_json(found: Diagnosis) -> dict[str, Any]:
    return {
        "cause": found.suspects[0].cause,
        "first_line": found.first_line,
        "advice": CAUSES[found.suspects[0].cause].advice,
        "suspects": found.suspects,
        "alike": found.alike,
        "error": found.error,
        "findings": found.findings,
        "tried": found.tried,
        "seconds": found.seconds,
    }


def _show(console: Console, found: Diagnosis) -> None:
    good = found.suspects[0].cause == "none"
    console.print(Text(found.first_line, "bold green" if good else "bold red"))
    table = facts_table()
    for label, text in found.rows():
        table.add_row(label, text)
    console.print(table)
