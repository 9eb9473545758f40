"""Origins of the accesses of Triton's kernels, the same in every release."""

from __future__ import annotations

from pathlib import Path

import pytest

from ferrum_numba.emulator.origin import element_nbytes, origins, tiles
from tests.corpus import TRITON

KERNELS = Path(__file__).parent / "data" / "kernels"


def text(name: str) -> str:
    return (KERNELS / f"{name}.sm_80.ptx").read_text()


@pytest.mark.parametrize(
    ("name", "elements", "steps"),
    [
        ("vector_add", {0: 4, 1: 4, 2: 4}, {"x": (256,)}),
        ("take_rows", {0: 2, 1: 8, 2: 2}, {"y": (64,)}),
        ("strided_gemm", {0: 2, 1: 2, 2: 2}, {"x": (32,)}),
        ("rotary", {0: 2, 1: 4, 2: 4, 3: 2}, {}),
    ],
)
def test_elements_and_tiles(name: str, elements: dict[int, int], steps: dict[str, object]) -> None:
    assert element_nbytes(text(name), name) == elements
    assert tiles(text(name), name) == steps


@pytest.mark.parametrize("path", [p for p in TRITON if "scale_add" in p.name], ids=lambda p: p.stem)
def test_releases_agree(path: Path) -> None:
    ptx = path.read_text()
    assert element_nbytes(ptx, "scale_add") == {0: 4, 1: 4, 2: 4}
    assert tiles(ptx, "scale_add") == {"x": (256,)}


def test_an_address_its_mask_and_what_was_loaded_for_it() -> None:
    found = list(origins(text("take_rows"), "take_rows").values())
    gathered = next(o for o in found if o.contents)
    short = {n: {p.removeprefix("take_rows_param_") for p in getattr(gathered, n)}
             for n in ("address", "mask", "contents")}  # fmt: skip
    assert short == {"address": {"0", "4"}, "mask": {"4"}, "contents": {"1"}}
