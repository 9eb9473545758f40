"""`ferrum-numba explain`: name the likely cause of a wrong or failed launch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.text import Text

from .. import kernels
from ..abi import LaunchConfig
from ..debug.build_clues import ptx_clues
from ..debug.case import Case, CaseArray, read_array, read_block
from ..debug.causes import CAUSES
from ..debug.checkpoint_clues import explain_checkpoint
from ..debug.explanation import Diagnosis, explain, explain_refused
from ..debug.recording import RecordedLaunch, Recording, Refused
from ..errors import FerrumError, RecordingError, did_you_mean
from ..gptq import Checkpoint
from ..kernels import artefact
from .confinement import ConfinedCommand, confined
from .console import facts_table, json_option, standard_output, write_json
from .options import NUMBER_FROM_ZERO, examples, refuse_options
from .ptx_file import PtxFile, entry_option, is_ptx, open_ptx, sidecar_option

_OF_PTX = ("source", "arrays", "grid", "threads", "shared_bytes", "entry", "sidecar_path")
_OF_LAUNCHES = ("number", "expected", "checkpoint", "layer", "seconds")


@click.command(
    "explain",
    cls=ConfinedCommand,
    epilog=examples("ferrum-numba explain run.ferrum", "ferrum-numba explain damaged"),
)
@click.argument("target", type=click.Path(path_type=Path))
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
    help="With PTX: the parameter block, as hex digits or a file.",
)
@click.option(
    "--array",
    "arrays",
    metavar="NAME=FILE.npy[@ADDRESS]",
    multiple=True,
    help="With PTX: an array, and where it lay; by default where the block says.",
)
@click.option(
    "--grid",
    metavar="X,Y,Z",
    help="With PTX: CTAs of the launch; by default what the sidecar's rule gives.",
)
@click.option(
    "--threads",
    metavar="X,Y,Z",
    help="With PTX: threads of a CTA; by default what PTX or sidecar ask for.",
)
@click.option(
    "--shared-bytes",
    type=click.IntRange(min=0),
    help="With PTX: dynamic shared memory; by default what the sidecar asks for.",
)
@entry_option
@sidecar_option
@click.option(
    "--seconds",
    type=NUMBER_FROM_ZERO,
    default=20.0,
    show_default=True,
    help="Seconds for which fixes are tried.",
)
@json_option
@confined
@click.pass_context
def explain_command(
    ctx: click.Context, /, target: Path, seconds: float, as_json: bool, **given: Any
) -> None:
    """Name the likely cause of a wrong or failed launch.

    TARGET is a recording (fe.record), a .ptx file or the name of a shipped kernel, with parameter
    block and arrays of its launch, or a checkpoint. Fixes are tried on the CPU, with checks on, in
    a process of its own with limits; given the expected result it says which one makes the result
    right. Exits with 1 if something is wrong.
    """
    if target.is_dir() or target.suffix == ".safetensors":
        refuse_options(ctx, (*_OF_LAUNCHES, *_OF_PTX), "of a checkpoint every layer is read")
        found = explain_checkpoint(target)
    else:
        if is_ptx(target):
            refuse_options(ctx, ("number",), "only a recording has several launches")
        else:
            if not target.exists():
                kinds = "a recording, a .ptx file, the name of a shipped kernel or a checkpoint"
                raise RecordingError(
                    target, kinds, "none", did_you_mean(target, kernels.names(), "")
                )
            refuse_options(ctx, _OF_PTX, "the recording says it")
        case = _ptx_case(target, given) if is_ptx(target) else _recorded(target, given)
        if isinstance(case, Refused):
            found = explain_refused(case)
        else:
            found = explain(_with_expected(case, given), seconds=seconds)
    if as_json:
        write_json(_as_json(found))
    else:
        _show(standard_output(), found)
    ctx.exit(0 if found.suspects[0].cause == "none" else 1)


def _recorded(target: Path, given: dict[str, Any]) -> Case | Refused:
    recording = Recording(target)
    if not recording.launches:
        if recording.refused:
            return recording.refused[0]
        raise RecordingError(str(target), "it has no launch")
    return Case.from_recording(recording, _pick(recording.launches, given["number"]))


def _pick(launches: Sequence[RecordedLaunch], number: int | None) -> RecordedLaunch:
    """The launch asked for, else the first that failed or never ended, else the last."""
    if number is None:
        failed = (x for x in launches if x.error or (x.before and x.after is None))
        return next(failed, launches[-1])
    if number >= len(launches):
        raise RecordingError("launch", f"0 to {len(launches) - 1}", number)
    return launches[number]


def _ptx_case(target: Path, given: dict[str, Any]) -> Case:
    if given["source"] is None:
        raise click.UsageError("--bytes: PTX needs the parameter block of its launch")
    file = open_ptx(target, given["sidecar_path"])
    case = Case(
        ptx=file.text,
        block=_bytes(given["source"]),
        config=LaunchConfig(_extent(given["grid"] or "1"), _extent(given["threads"] or "1")),
        arrays={},
        entry=given["entry"],
        sidecar=_sidecar(file),
    )
    if any(ptx_clues(case)):  # nothing else can be said of it
        return case
    case = _configured(case, given)
    return replace(case, arrays=dict(_array(case, text) for text in given["arrays"]))


def _sidecar(file: PtxFile) -> Mapping[str, Any] | str | None:
    """The sidecar, as a case takes it."""
    if isinstance(file.sidecar, Path):
        return file.sidecar.read_text(encoding="utf-8")
    return None if file.sidecar is None else artefact(file.name).declared


def _configured(case: Case, given: dict[str, Any]) -> Case:
    """Fill what was not said of the configuration by what PTX and sidecar ask for."""
    signature, sidecar = case.signature, case.declared
    changes: dict[str, Any] = {"shared_bytes": given["shared_bytes"]}
    if given["shared_bytes"] is None:
        changes["shared_bytes"] = sidecar.shared_bytes or 0
    if given["threads"] is None:
        threads = signature.reqntid or (sidecar.num_warps and (32 * sidecar.num_warps,))
        if not threads:
            raise click.UsageError("--threads: neither PTX nor sidecar says them; name them")
        changes["block"] = threads
    if given["grid"] is None:
        if sidecar.grid is None:
            raise click.UsageError("--grid: no sidecar has a rule for it; name it")
        return case.with_config(**changes).with_grid()
    return case.with_config(**changes)


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
    given, _, rest = text.partition("=")
    file, _, address = rest.partition("@")
    values = read_array(Path(file))
    name = _parameter(case, "--array", given)
    try:
        where = (
            int(address, 0) if address else read_block(case.block, (case.signature[name],))[name]
        )
    except (FerrumError, ValueError) as error:
        raise click.UsageError(f"--array {given}: {error}") from None
    if not isinstance(where, int):
        raise click.UsageError(f"--array {given}: its parameter holds no address")
    return name, CaseArray(values, where)


def _parameter(case: Case, option: str, name: str) -> str:
    """A parameter's whole name."""
    try:
        return case.signature.full_name(name)
    except FerrumError as error:
        raise click.UsageError(f"{option}: {error}") from None


def _with_expected(case: Case, given: dict[str, Any]) -> Case:
    """The case with what its outputs should be."""
    expected: dict[str, NDArray[Any]] = {}
    for text in given["expected"]:
        name, _, file = text.rpartition("=")
        values = read_array(Path(file))
        output = _parameter(case, "--expected", name) if name else _output(case, values)
        if output not in case.arrays:
            known = ", ".join(case.arrays)
            raise click.UsageError(
                f"--expected: {output} is no array of the launch, as {known} are"
            )
        expected[output] = values
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
    """The parameter that takes an output like this, by what is declared, what the launch changed,
    and its shape."""
    arrays = case.arrays
    declared = [p.name for p in case.declared.params if p.role == "output" and p.name in arrays]
    changed = [
        n for n, found in case.found.items() if found.tobytes() != arrays[n].values.tobytes()
    ]
    alike = [n for n, array in arrays.items() if array.values.shape == values.shape]
    for names in (declared, changed, [n for n in alike if n in changed], alike):
        if len(names) == 1:
            return names[0]
    known = ", ".join(alike or changed or declared or arrays) or "none: give them with --array"
    raise click.UsageError(
        f"--expected: nothing says which array is the output; expected NAME=FILE.npy, with NAME "
        f"one of the launch's arrays: {known}"
    )


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
