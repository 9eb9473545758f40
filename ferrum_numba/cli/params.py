"""`ferrum-numba params`: a parameter block, byte by byte, and what looks wrong in it."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console

from ..abi import ArrayReference, ParameterBlock, Sidecar, Signature
from ..debug.block import AnnotatedBlock, annotate, differences, dtype_nbytes, propose, suspicions
from ..errors import AbiError, PtxError
from ..report.builds import Loading
from .block_table import array_table, block_json, block_table, difference_table, print_suspicions
from .console import json_option, standard_output, write_json
from .devices import device_option
from .inspect import load_entry
from .inspection_view import verdict
from .options import examples
from .ptx_file import entry_option, is_recording, open_ptx, sidecar_option


@click.command(
    epilog=examples(
        "ferrum-numba params run.ferrum --launch 0",
        "ferrum-numba params add_bias.sm_80 --set M=4 --set N=64",
    )
)
@click.argument("target")
@entry_option
@sidecar_option
@click.option(
    "--set",
    "assignments",
    metavar="NAME=VALUE",
    multiple=True,
    help="A value: an integer, a number, an address, or an array such as "
    "'a=float16[4, 4096]@0x7f0000000000' (the address may be left out). What the sidecar "
    "declares need not be given: strides of arrays in C order, and the arrays.",
)
@click.option(
    "--bytes",
    "source",
    metavar="SOURCE",
    help="A block as it is: hex digits, a file (raw, or hex digits), or - for standard input. "
    "With --set, arrays are taken from there.",
)
@click.option(
    "--launch",
    type=click.IntRange(min=0),
    metavar="NUMBER",
    help="TARGET is a recording: this launch of it, counted from 0.",
)
@click.option(
    "--diff",
    "other",
    metavar="SOURCE",
    help="Compare with this block; with --launch, the number of another launch.",
)
@device_option("Also load the entry there: whether this device can run it.")
@json_option
@click.pass_context
def params(
    ctx: click.Context,
    target: str,
    entry: str | None,
    sidecar_path: Path | None,
    assignments: tuple[str, ...],
    source: str | None,
    launch: int | None,
    other: str | None,
    device: str | None,
    as_json: bool,
) -> None:
    """Show the parameter block of a launch, byte by byte.

    TARGET is a .ptx file, a shipped kernel's name, or with --launch a recording. The block comes
    from values (--set), from raw bytes (--bytes) or from the recording. Exits with 1 if anything in
    it looks wrong, if two blocks differ, or if the device refuses the kernel.
    """
    if launch is not None:
        if assignments or source or entry or sidecar_path:
            raise click.UsageError("--launch: the recording has all of it; leave the others out")
        (blocks, text), assumed = _recorded(target, launch, other), frozenset[str]()
    elif is_recording(target):
        raise click.UsageError("--launch: of a recording, name a launch by its number, from 0 on")
    else:
        opened = open_ptx(target, sidecar_path)
        text = opened.text
        signature, sidecar = opened.declared(entry)
        given = _assignments(assignments, signature)
        if not given and source is None:
            raise click.UsageError("expected values (--set), bytes (--bytes) or --launch")
        first, assumed = _first(signature, sidecar, given, source)
        blocks = [first]
        if other is not None:
            blocks.append(annotate(signature, _read_bytes(other), sidecar, first.arrays))
    loading = None
    if device is not None:
        loading = load_entry(device, text, blocks[0].sidecar, blocks[0].signature.entry)
    if len(blocks) == 1:
        code = _show(blocks[0], assumed, loading, as_json)
    else:
        code = _show_difference(blocks[0], blocks[1], loading, as_json)
    ctx.exit(1 if loading and loading.verdict == "refuses" else code)


def _assignments(texts: Sequence[str], signature: Signature) -> dict[str, str]:
    """`NAME=VALUE` as pairs, names without the entry's too.  Raises UsageError."""
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise click.UsageError(f"--set: expected NAME=VALUE, found {text!r}")
        name = signature.full_name(name.strip())
        if name in found:
            raise click.UsageError(f"--set: {name} is given twice")
        found[name] = value.strip()
    return found


def _first(
    signature: Signature, sidecar: Sidecar, given: dict[str, str], source: str | None
) -> tuple[AnnotatedBlock, frozenset[str]]:
    """The block of the values, or of the bytes with the arrays among the values."""
    proposal = propose(signature, sidecar if source is None else Sidecar(), given)
    if source is not None:
        block = annotate(signature, _read_bytes(source), sidecar, proposal.arrays)
        return block, frozenset()
    data = ParameterBlock(signature).set(**proposal.values).to_bytes()
    return annotate(signature, data, sidecar, proposal.arrays, filled=False), proposal.assumed


def _read_bytes(source: str) -> bytes:
    """Bytes from hex digits, a file or standard input.  Raises AbiError."""
    path = Path(source)
    if source == "-":
        data = sys.stdin.buffer.read()
    elif _is_hex(source):
        return _from_hex(source)
    else:
        try:
            data = path.read_bytes()
        except (OSError, ValueError) as error:
            raise AbiError(
                source[:80], "hex digits, a file or -", f"none of these: {error}"
            ) from None
    try:
        text = data.decode("ascii")
    except UnicodeDecodeError:
        return data
    return _from_hex(text) if _is_hex(text) else data


def _is_hex(text: str) -> bool:
    return re.fullmatch(r"(?:0[xX])?[0-9a-fA-F\s:,_]+", text) is not None and bool(text.strip())


def _from_hex(text: str) -> bytes:
    digits = re.sub(r"[\s:,_]|0[xX]", "", text)
    if len(digits) % 2:
        raise AbiError("--bytes", "two hex digits a byte", f"{len(digits)} digits")
    return bytes.fromhex(digits)


def _recorded(path: str, number: int, other: str | None) -> tuple[list[AnnotatedBlock], str]:
    """The blocks of one or two launches, and the first one's PTX."""
    from ..debug.recording import Recording

    if not Path(path).is_file():
        raise PtxError(path, "a recording", "no file")
    recording = Recording(path)
    launches = recording.launches
    if not launches and recording.refused:
        raise AbiError(
            path,
            "its launch was refused before it had a parameter block, by "
            f"{recording.refused[0].error}",
            remedy=f"ferrum-numba explain {path} looks for the cause",
        )
    numbers = [number] if other is None else [number, int(other) if other.isdecimal() else -1]
    blocks = []
    for wanted, text in zip(numbers, (number, other), strict=False):
        if not 0 <= wanted < len(launches):
            raise AbiError(path, f"a launch below {len(launches)}, which the recording has", text)
        call = launches[wanted].call
        arrays = {
            name: ArrayReference(
                address=layout.address,
                shape=layout.shape,
                strides=layout.strides,
                dtype=layout.dtype,
                itemsize=dtype_nbytes(layout.dtype),
                available=layout.nbytes,
                device=call.device,
            )
            for name, layout in call.arrays.items()
        }
        blocks.append(
            annotate(call.signature, call.block, call.sidecar, arrays, call.config, filled=False)
        )
    return blocks, launches[number].call.ptx


def _show(
    block: AnnotatedBlock, assumed: frozenset[str], loading: Loading | None, as_json: bool
) -> int:
    """Print a block; return the exit code."""
    found = suspicions(block)
    if as_json:
        write_json({**block_json(block, found), "assumed": sorted(assumed), **_device(loading)})
        return 1 if found else 0
    console = standard_output()
    entry = block.signature.entry
    console.print(f"{entry}: parameter block of {len(block.data)} bytes")
    console.print()
    console.print(block_table(console, block, assumed))
    if assumed:
        console.print("* not given: as the sidecar declares it; the addresses are made up")
    arrays = array_table(block)
    if arrays is not None:
        console.print()
        console.print(arrays)
    console.print()
    print_suspicions(console, found, entry)
    if not found:
        console.print("nothing looks wrong")
    _print_loading(console, loading)
    return 1 if found else 0


def _device(loading: Loading | None) -> dict[str, Loading]:
    return {"device": loading} if loading else {}


def _print_loading(console: Console, loading: Loading | None) -> None:
    if loading is not None:
        console.print(verdict(f"device {loading.name}", loading.verdict, loading.reason))


def _show_difference(
    a: AnnotatedBlock, b: AnnotatedBlock, loading: Loading | None, as_json: bool
) -> int:
    """Print how two blocks differ; return the exit code."""
    found = differences(a, b)
    looks = suspicions(a), suspicions(b)
    if as_json:
        sides = {"a": block_json(a, looks[0]), "b": block_json(b, looks[1])}
        names = [difference.name for difference in found]
        write_json({**sides, "differences": names, **_device(loading)})
        return 1 if found else 0
    console = standard_output()
    entry = a.signature.entry
    count = f"{len(found)} of {len(a.fields)} parameters differ" if found else "equal blocks"
    console.print(f"{entry}: {len(a.data)} bytes each: {count}")
    if found:
        console.print()
        console.print(difference_table(found, entry))
    for side, suspected in zip("AB", looks, strict=True):
        if suspected:
            console.print(f"\nin {side}:")
            print_suspicions(console, suspected, entry)
    _print_loading(console, loading)
    return 1 if found else 0
