"""Accesses of warps to memory as a picture: one panel an instruction, a row a lane.

Global memory: the lines of 128 bytes that the warp touches, side by side; sectors that have to be
moved are grey, the bytes that a lane uses are blue; a thick rule is a gap in the addresses.
Shared memory: the 32 banks; a bank that is asked for more than one word in a phase is orange to
red, the darker the more.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..emulator.trace import Access, Event, Traffic, alike
from ..errors import FerrumError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LANES, _WORD, _SECTOR, _LINE = 32, 4, 32, 128
_LEGEND = "grey: sectors that are moved; blue: bytes used; orange to red: bank conflicts"
_PANELS = 12  # in one picture: the dearest
_COLUMNS = 3
_WHITE, _MOVED, _USED = (1.0, 1.0, 1.0), (0.87, 0.87, 0.87), (0.13, 0.40, 0.67)
_FREE = (0.26, 0.58, 0.76)
_CONFLICTS = ((0.99, 0.75, 0.44), (0.94, 0.40, 0.26), (0.70, 0.05, 0.11))  # 2, up to 4, more ways


def draw(
    path: Path,
    found: Sequence[Traffic],
    title: str,
    place_of: Callable[[int, int], str],
    source_of: Callable[[Event], str],
) -> tuple[int, int]:
    """Write a PNG of the accesses that waste most, one panel for those that are alike.

    found: at least one.  place_of: what lies at an address of global memory.
    source_of: the source line of an event.
    Returns how many panels there are, and how many there would be with room for all.
    Raises FerrumError without the `report` extra, OSError where the file cannot be written.
    """
    if find_spec("matplotlib") is None:
        raise FerrumError("map", "matplotlib", "none", 'pip install "ferrum-numba[report]"')
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    groups = sorted(alike(found), key=lambda group: -sum(item.wasted for item in group))
    shown = groups[:_PANELS]
    columns = min(_COLUMNS, len(shown))
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(5.2 * columns, 3.5 * rows + 0.5), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle("\n".join((*textwrap.wrap(title, 70 * columns), _LEGEND)), fontsize=9)
    axes = np.atleast_1d(figure.subplots(rows, columns)).reshape(-1)
    for axis in axes[len(shown) :]:
        axis.set_visible(False)
    for axis, group in zip(axes, shown, strict=False):
        _panel(axis, group, place_of, source_of)
    figure.savefig(path, dpi=110, format="png", metadata={"Software": None})
    return len(shown), len(groups)


def _panel(
    axis: Axes,
    group: Sequence[Traffic],
    place_of: Callable[[int, int], str],
    source_of: Callable[[Event], str],
) -> None:
    item = max(group, key=lambda item: item.worst.cost - item.worst.ideal)
    access, event = item.worst, item.event
    if access.space == "global":
        axis.imshow(_global_image(access), aspect="auto", interpolation="nearest")
        _label_lines(axis, access, place_of)
        cost = f"{access.sectors} sector{'s' if access.sectors != 1 else ''}"
    else:
        axis.imshow(_shared_image(access), aspect="auto", interpolation="nearest")
        _label_banks(axis, access)
        cost = f"{access.cost} pass{'es' if access.cost != 1 else ''}"
    if access.cost > access.ideal:
        cost += f", {access.ideal} would do"
    axis.set_ylabel("lane", fontsize=8)
    axis.set_yticks(range(0, _LANES, 4))
    axis.tick_params(labelsize=7)
    like = f" and {len(group) - 1} more like it" if len(group) > 1 else ""
    head = textwrap.shorten(source_of(event) or event.instruction, 64, placeholder=" …")
    access_text = f"{access.space} {access.kind} of {access.nbytes} bytes a lane: {cost}"
    axis.set_title(
        f"{head}\nPTX {event.line}{like}\n{access_text}", fontsize=8, loc="left", parse_math=False
    )


def _global_image(access: Access) -> Any:
    """Lanes × words of the lines that are touched: [32, 32 * lines, RGB]."""
    lines = {int(line): i for i, line in enumerate(access.units(_LINE))}
    image = np.full((_LANES, len(lines) * _LINE // _WORD, 3), _WHITE)
    for sector in access.units(_SECTOR).tolist():
        start = _column(lines, sector * _SECTOR)
        image[:, start : start + _SECTOR // _WORD] = _MOVED
    for lane in access.lanes:
        first = int(access.places[lane])
        for address in range(first - first % _WORD, first + access.nbytes, _WORD):
            image[lane, _column(lines, address)] = _USED
    return image


def _column(lines: dict[int, int], address: int) -> int:
    return lines[address // _LINE] * (_LINE // _WORD) + address % _LINE // _WORD


def _label_lines(axis: Axes, access: Access, place_of: Callable[[int, int], str]) -> None:
    """Labels of the touched lines, as far as there is room."""
    lines = access.units(_LINE).tolist()
    words = _LINE // _WORD
    for i in range(1, len(lines)):
        gap = lines[i] != lines[i - 1] + 1
        axis.axvline(i * words - 0.5, color="black", linewidth=0.8 if gap else 0.2)
    step = -(-len(lines) // 3)
    ticks = range(0, len(lines), step)
    names = []
    for i in ticks:
        lanes = [lane for lane in access.lanes if int(access.places[lane]) // _LINE == lines[i]]
        address = min((int(access.addresses[lane]) for lane in lanes), default=0)
        names.append(place_of(address, access.nbytes) or (f"{address:#x}" if lanes else ""))
    axis.set_xticks([i * words for i in ticks], names, ha="left")
    count = "1 line" if len(lines) == 1 else f"{len(lines)} lines"
    axis.set_xlabel(f"{count} of 128 bytes; first element used", fontsize=8)


def _shared_image(access: Access) -> Any:
    """Lanes × banks: [32, 32, RGB]."""
    image = np.full((_LANES, 32, 3), _WHITE)
    for lanes, banks in access.phases():
        for lane in lanes:
            start = int(access.places[lane])
            for word in range(start // _WORD, (start + access.nbytes - 1) // _WORD + 1):
                ways = len(banks[word % 32])
                image[lane, word % 32] = _FREE if ways == 1 else _CONFLICTS[_shade(ways)]
    return image


def _shade(ways: int) -> int:
    return 0 if ways == 2 else 1 if ways <= 4 else 2


def _label_banks(axis: Axes, access: Access) -> None:
    axis.set_xticks([x - 0.5 for x in range(0, 33, 8)], [str(x) for x in range(0, 33, 8)])
    axis.set_xlabel("bank", fontsize=8)
    for lanes, _ in list(access.phases())[1:]:
        axis.axhline(min(lanes) - 0.5, color="grey", linewidth=0.6)
