"""Draw the pictures of the pages, and take the screens of the commands, from real runs.

    python scripts/make_pictures.py [block layout terminal peers step screens]

docs/pictures/ and docs/screens/ are what this wrote.  `peers` draws docs/pictures/w4a16.csv, what
`bench_gemm.py --csv` wrote behind a line that says what was measured: put in another, draw again.
"""

from __future__ import annotations

import csv
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from html import escape
from io import StringIO
from pathlib import Path

import ferrum_numba as fe
from ferrum_numba.gptq.packing import NIBBLES

ROOT = Path(__file__).resolve().parent.parent
PICTURES, SCREENS = ROOT / "docs" / "pictures", ROOT / "docs" / "screens"
FONT = 'font-family="ui-monospace, SFMono-Regular, Menlo, monospace"'
COLOURS = {"input": "#9ecae1", "output": "#a1d99b", "size": "#fdd0a2", "stride": "#fee6ce"}
SCRATCH = "#d9d9d9"
LANES = ("#9ecae1", "#fdae6b", "#a1d99b", "#bcbddc")  # of the four lanes t of a quad


def svg(name: str, width: int, height: int, parts: Iterable[str]) -> None:
    """Write a picture, dark text on a white ground, so that it reads in either theme."""
    body = "\n".join(parts)
    (PICTURES / name).write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" {FONT} '
        f'font-size="12">\n<rect width="{width}" height="{height}" fill="white"/>\n{body}\n'
        "</svg>\n",
        encoding="utf-8",
    )


def box(x: float, y: float, width: float, height: float, fill: str, text: str) -> str:
    """A box with a text in its middle."""
    label = f'<text x="{x + width / 2}" y="{y + height / 2 + 4}" text-anchor="middle">'
    return (
        f'<rect x="{x}" y="{y}" width="{width}" height="{height}" fill="{fill}" '
        f'stroke="#333" stroke-width="0.7"/>{label}{escape(text)}</text>'
    )


def note(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}" fill="#333">{escape(text)}</text>'


def block() -> None:
    """The canonical kernel's parameter block, from its PTX: sixteen bytes a row."""
    build = fe.kernels.canonical(1)
    signature = build.sidecar.declare(fe.Signature.from_ptx(build.text, build.sidecar.entry))
    per_byte, row_height, left, top = 42, 30, 52, 34
    parts = [note(left, 18, f"{signature.entry}: {signature.nbytes} bytes, 16 a row")]
    rows = -(-signature.nbytes // 16)
    for row in range(rows):
        parts.append(note(left - 8, top + row * row_height + 19, str(16 * row), "end"))
    for p in signature.params:
        row, column = divmod(p.offset, 16)
        fill = COLOURS.get(p.role, SCRATCH)
        short = p.name.replace("_scratch", " scratch")
        place = (left + column * per_byte, top + row * row_height)
        parts.append(box(*place, p.size * per_byte, row_height, fill, f"{short} .{p.ptx_type}"))
    legend = top + rows * row_height + 22
    for i, (role, fill) in enumerate([*COLOURS.items(), ("scratch, filled in", SCRATCH)]):
        x = left + i * 130
        parts += [box(x, legend - 12, 14, 14, fill, ""), note(x + 20, legend, role)]
    svg("block.svg", left + 16 * per_byte + 12, legend + 16, parts)


def layout() -> None:
    """Picture of the words of qweight that each lane of a quad loads, and of their nibbles' k's."""
    cell, left, top = 25, 96, 52
    parts = [
        note(
            12, 18, "Four rows of qweight (32 k's of one column): lane t of each quad loads row t."
        ),
        note(12, 36, "Its eight nibbles are the slots that mma.m16n8k16 asks of that lane, twice."),
    ]
    for t in range(4):
        y = top + t * 34
        parts.append(note(left - 10, y + 17, f"lane t = {t}", "end"))
        for nibble in range(NIBBLES):
            k = NIBBLES * t + nibble
            parts.append(box(left + nibble * cell, y, cell, 24, LANES[t], str(k)))
    parts.append(note(left, top + 4 * 34 + 8, "k of each nibble, low first"))
    right = left + NIBBLES * cell + 60
    for step in range(2):
        y = top + step * 68
        parts.append(note(right, y - 2 + 18, f"mma {step + 1}"))
        for t in range(4):
            # Nibble p + 2h + 4e: mma p takes it in register h, half e (mma_operands.py).
            ks = [NIBBLES * t + step + 2 * h + 4 * e for h in range(2) for e in range(2)]
            for slot, k in enumerate(ks):
                x = right + 56 + (4 * t + slot) * cell
                parts.append(box(x, y, cell, 24, LANES[t], str(k)))
        if not step:
            parts.append(note(right + 56, y + 46, "a lane's operand registers: k and k + 4 in one"))
    parts.append(
        note(right + 56, top + 68 + 46, "x is read in the same order of k: sums do not mind")
    )
    svg("layout.svg", right + 56 + 16 * cell + 16, top + 4 * 34 + 24, parts)


def run(*command: str, cwd: Path, width: int = 80) -> str:
    """Output and errors of a command on a terminal of `width` columns."""
    environment = os.environ | {"COLUMNS": str(width), "FERRUM_DEVICE": "cpu"}
    environment |= {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [sys.executable, "-m", "ferrum_numba", *command],
        cwd=cwd, env=environment, check=False, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    return "\n".join(line.rstrip() for line in done.stdout.splitlines()) + "\n"


def terminal() -> None:
    """The README's terminal: a checkpoint made and verified."""
    from rich.console import Console
    from rich.text import Text

    with tempfile.TemporaryDirectory() as folder:
        made = run("make", "example", "--layers", "1", cwd=Path(folder))
        verified = run("verify", "example", cwd=Path(folder))
    console = Console(record=True, width=80, file=StringIO())
    for command, said in (("make example --layers 1", made), ("verify example", verified)):
        console.print(Text.assemble(("$ ", "bold green"), (f"ferrum-numba {command}", "bold")))
        text = Text(said)
        text.highlight_regex(r"\bpass\b", "green")
        console.print(text, end="\n")
    drawn = console.export_svg(title="ferrum-numba")
    drawn = re.sub(r"@font-face \{.*?\}\s*", "", drawn, flags=re.S)  # which others would serve
    (PICTURES / "terminal.svg").write_text(drawn, encoding="utf-8")


def peers() -> None:
    """Time over the best peer's by M, geometric mean over the shapes, and the range of them."""
    import matplotlib as mpl

    mpl.use("svg")
    import matplotlib.pyplot as plt

    mpl.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "w4a16", "font.family": "sans-serif"}
    lines = (PICTURES / "w4a16.csv").read_text(encoding="utf-8").splitlines()
    rows = csv.DictReader(line for line in lines if not line.startswith("#"))
    columns = list(rows.fieldnames or ())
    contenders = ", ".join(columns[columns.index("us") + 1 : columns.index("/best")])
    ratios: dict[int, list[float]] = {}
    for row in rows:
        ratios.setdefault(int(row["M"]), []).append(float(row["/best"]))
    ms = sorted(ratios)
    means = [math.exp(sum(map(math.log, ratios[m])) / len(ratios[m])) for m in ms]
    figure, axes = plt.subplots(figsize=(8, 3.2), layout="constrained")
    axes.axhline(1, color="0.3", linewidth=1)
    low, high = [min(ratios[m]) for m in ms], [max(ratios[m]) for m in ms]
    axes.fill_between(ms, low, high, color="#e6550d", alpha=0.15, label="range over the shapes")
    axes.plot(ms, means, color="#e6550d", marker="o", markersize=4, label="geometric mean")
    axes.set_xscale("log", base=2)
    axes.set_xticks(ms, list(map(str, ms)))
    axes.set_ylim(0)
    axes.set_xlabel("M, rows of activations")
    axes.set_ylabel("time / best peer's")
    axes.set_title(f"W4A16 GEMM over the best of {contenders}", fontsize=10)
    axes.legend(frameon=False, fontsize=9)
    figure.savefig(PICTURES / "peers.svg", metadata={"Date": None})


def step() -> None:
    """A bar for each launch of a layer in a decode step, of the table in docs/reference/models.md:
    its time, and darker what its bytes would take."""
    page = (ROOT / "docs" / "reference" / "models.md").read_text(encoding="utf-8")
    table = page.partition("| launch | computes |")[2].partition("| **a layer**")[0]
    rows = [[cell.strip(" `") for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    parts, left, wide, high = [note(8, 20, "us a launch; dark: bytes / 4.4 TB/s")], 310, 20, 26
    for number, (name, _, megabytes, floor, us) in enumerate(rows[2:]):
        y = 34 + number * high
        parts += [note(left - 10, y + 15, f"{name}, {megabytes} MB", "end")]
        parts += [box(left, y, float(us) * wide, high - 6, COLOURS["input"], "")]
        parts += [box(left, y, float(floor or 0) * wide, high - 6, "#3182bd", "")]
        parts += [note(left + float(us) * wide + 6, y + 15, us)]
    svg("step.svg", left + 19 * wide + 50, 34 + len(rows[2:]) * high + 8, parts)


SCREENS_OF: dict[str, tuple[str, ...]] = {
    "info": ("info",),
    "make": ("make", "model"),
    "verify": ("verify", "example", "--layers", "*.0.*"),
    "compare": ("compare", "example", "other", "--layers", "*.0.mlp.*"),
    "bench": ("bench", "example", "--layers", "*.mlp.*"),
    "inspect": ("inspect", "row_softmax.ptx"),
    "params": ("params", "add_bias.sm_80", "--set", "M=4", "--set", "N=64"),
    "sanitize": ("sanitize", "racy.ptx", "--checks", "race"),
    "trace": ("trace", "add_bias.sm_80"),
    "replay": ("replay", "run.ferrum"),
    "explain": ("explain", "damaged"),
    "generate": ("generate", "example", "--prompt", "Once upon a time", "--max-new-tokens", "8"),
    "score": ("score", "example", "--text", "text.txt"),
    "warm": ("warm", "example", "--into", "compiled", "--device", "cpu"),
}


def screens() -> None:
    """A real screen of each command, 80 columns wide."""
    from ferrum_numba.examples import __file__ as examples

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = {
            "example": (),
            "other": ("--format", "v2"),
            "damaged": ("--fault", "missing-scales"),
        }
        for checkpoint, options in made.items():
            run("make", checkpoint, *options, cwd=folder)
        for suffix in (".ptx", ".json"):
            shutil.copy(Path(examples).parent / f"row_softmax{suffix}", folder)
        write_racy(folder)
        (folder / "text.txt").write_text("The quick brown fox jumps over the lazy dog.")
        device = fe.open_device("cpu")
        layer = fe.GptqLinear.load(folder / "example", "model.layers.0.mlp.up_proj", device=device)
        import numpy as np

        with fe.record(folder / "run.ferrum"):
            for m in (1, 4):
                layer(np.ones((m, layer.K), np.float16))
        for command, arguments in SCREENS_OF.items():
            said = run(*arguments, cwd=folder)
            shown = " ".join(f"'{a}'" if set(a) & set(" *") else a for a in arguments)
            (SCREENS / f"{command}.txt").write_text(
                f"$ ferrum-numba {shown}\n{said}", encoding="utf-8"
            )


def write_racy(folder: Path) -> None:
    """The canonical kernel without one of its barriers."""
    import json

    build = fe.kernels.canonical(1)
    lines = build.text.splitlines(keepends=True)
    del lines[[i for i, line in enumerate(lines) if "bar.sync" in line][2]]
    (folder / "racy.ptx").write_text("".join(lines))
    declared = {key: value for key, value in build.declared.items() if key != "ptx_sha256"}
    (folder / "racy.json").write_text(json.dumps(declared))


DRAWN: dict[str, Callable[[], None]] = {
    "block": block, "layout": layout, "terminal": terminal, "peers": peers,
    "step": step, "screens": screens,
}  # fmt: skip

if __name__ == "__main__":
    for name in sys.argv[1:] or DRAWN:
        DRAWN[name]()
        print(name)
