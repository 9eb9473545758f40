"""Why a checkpoint cannot be read: what the reader says, under its cause's name."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

from ..errors import CheckpointError, FerrumError
from ..gptq import Checkpoint
from .explanation import Diagnosis, Suspect

# By what the reader says, the more particular first.
_CAUSES = (
    (r"expected \*\.safetensors files|expected a regular file", "checkpoint-file-missing"),
    (r"safetensors\.index\.json: ", "checkpoint-index-wrong"),
    (r"should be 0x[78]{8} .*found 0x[78]{8} in all", "zero-convention"),
    (r"found .* cut|expected a file of \d+ bytes", "checkpoint-cut-short"),
    (r"expected a safetensors file", "checkpoint-unreadable"),
    (
        r"data_offsets|in the header|its bytes to begin|bytes at the end belong|__metadata__|"
        r"expected dtype to be one of|expected shape to be a list|found in model-\S+ and ",
        "checkpoint-header-wrong",
    ),
    (r"configuration, found none|^\w+: expected in .*found nothing", "configuration-missing"),
    (r"expected I32 .*found (?!I32)|expected F16 or BF16 .*found (?!B?F16)", "tensor-type"),
    (r"g_idx: expected one, as desc_act", "tensor-missing"),
    (r"more such layers|rule '", "configuration-wrong"),
    (r"expected shape|none of them 0|with \d dim", "tensor-shape"),
    (
        r"expected finite|found zeros alone|within float16|should be 0x|expected groups \d",
        "tensor-values",
    ),
    (r"config\.json|^dynamic|^\w+: expected ", "configuration-wrong"),
)
_NOWHERE = re.compile(r"found in none of them(?: \(the index places it in '([^']*)'\))?")

_SHAPES = re.compile(
    r"expected shape \[(\d+), (\d+)\], as \S+qweight \[(\d+), (\d+)\] with bits=(\d+) and "
    r"group_size=(\d+) .* found \[(\d+), (\d+)\].*more such layers",
    re.DOTALL,
)


def explain_checkpoint(path: str | Path) -> Diagnosis:
    """Name the likely cause of a checkpoint that cannot be read; all layers are read.

    Raises nothing for a damaged one: that is the answer.
    """
    start = time.perf_counter()
    refusals = list(_refusals(Path(path)))
    suspects = [_suspect(text, Path(path)) for text in refusals]
    if len(refusals) > 1 and all("configuration says symmetric" in text for text in refusals):
        told = f"{refusals[0]} (so it is for {len(refusals)} layers)"
        if not any(s.cause == "zero-convention" for s in suspects):
            suspects.insert(0, Suspect("configuration-wrong", "certain", told, 0.95))
    if not suspects:
        told = "every layer can be read, and its values are such as can be"
        suspects = [Suspect("none", "suspected", told, 0.5)]
    return Diagnosis(suspects, [], None, [], 0, time.perf_counter() - start)


def _refusals(path: Path) -> Iterator[str]:
    """What the reader says against the checkpoint and each of its layers."""
    try:
        checkpoint = Checkpoint.open(path)
    except FerrumError as error:
        yield str(error)
        return
    yield from checkpoint.problems.values()
    for name in checkpoint.layers:
        try:
            if not checkpoint.load_dense(name).any():
                yield f"{name}: expected weights, found zeros alone: its scales are zero"
        except CheckpointError as error:
            yield str(error)


def _suspect(text: str, path: Path) -> Suspect:
    nowhere = _NOWHERE.search(text)
    if nowhere is not None:
        there = nowhere[1] is None or (path / Path(nowhere[1]).name).is_file()
        cause = "tensor-missing" if there else "checkpoint-file-missing"
        return Suspect(cause, "certain", text, 0.95)
    shapes = _SHAPES.search(text)
    if shapes is not None:
        cause = _misshapen(*map(int, shapes.groups()))
        return Suspect(cause, "certain", text, 0.95)
    known = (name for pattern, name in _CAUSES if re.search(pattern, text, re.DOTALL))
    cause = next(known, "unknown")
    return Suspect(cause, "suspected" if cause == "unknown" else "certain", text, 0.95)


def _misshapen(*numbers: int) -> str:
    """What makes all layers' qzeros of another shape: what is expected, qweight's shape, bits,
    group size, what was found."""
    groups, words, rows, columns, bits, size, *found = numbers
    if bits and size > 0 and [columns * 32 // bits // size, rows * bits // 32] == found:
        return "operand-transposed"
    if words == found[1]:  # the rows depend on group_size alone
        return "configuration-wrong"
    alike = all(
        one and other and not max(one, other) % min(one, other)
        for one, other in zip((groups, words), found, strict=True)
    )
    return "configuration-wrong" if alike else "tensor-shape"
