"""The time that a GEMM's launch takes, predicted: what the choice among builds goes by.

A launch is waves of CTAs, each of which goes through its tiles' k's in steps:

    compute = sum over waves of steps * a step's time
            + waves * tiles * tile                  tiles that a CTA finishes, one after the other
            + split + parts * part                  where the k's of a tile are shared out to CTAs
    memory  = bytes read and written once / (bandwidth * share)
    time    = fixed + both(compute, memory)         both(x, y) = (x^4 + y^4)^(1/4), about the larger

A step takes both(step, load * CTAs on the busiest SM); or, where an SM holds no more than one, step
+ load * CTAs / SMs, since all SMs share memory and power.  What is fitted for each build is written
in small letters here and in `Costs`; all else follows from the shape, the build's tile, and the
GPU.  ptx/w4a16_tuning.json has the constants of the GPUs that were measured, and scripts/tune.py
fits them.  A GPU that was not measured takes the constants of one that was, with its own number of
SMs, bandwidth, clock and shared memory.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

from ..devices import Chip
from ..errors import AbiError
from .catalogue import Artefact, builds

_POWER = 4


@dataclass(frozen=True)
class Costs:
    """A build's constants: microseconds but for `share`, of the bandwidth, and `slots`.

    slots: CTAs that an SM of the measured GPU holds at once.
    """

    fixed: float
    step: float
    load: float
    tile: float
    split: float
    part: float
    share: float
    slots: int


class Work(NamedTuple):
    """A launch, shared out.  waves: CTAs, and steps of each.  tiles: of a CTA, whole or in part.

    parts: CTAs that share the k's of a tile.
    """

    waves: tuple[tuple[int, int], ...]
    tiles: int
    parts: int


class CostModel:
    """The measured devices, and the constants of the builds that are worth taking there."""

    def __init__(self, chips: Mapping[str, Chip], costs: Mapping[str, Mapping[str, Costs]]) -> None:
        self._chips, self._costs = dict(chips), {k: dict(v) for k, v in costs.items()}

    @classmethod
    def read(cls, path: Path) -> CostModel:
        """Read JSON: {device: {"chip": {...}, "builds": {name: [constants of Costs]}}}.

        Raises AbiError.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            chips = {device: Chip(**its["chip"]) for device, its in content.items()}
            costs = {
                device: {name: Costs(*row) for name, row in its["builds"].items()}
                for device, its in content.items()
            }
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise AbiError(path.name, f"cannot be read as costs of builds: {error}") from None
        return cls(chips, costs)

    def known(self, device: str) -> str:
        """The device whose constants stand for this one: itself, or the first that was measured."""
        return device if device in self._costs else next(iter(self._costs))

    def names(self, device: str) -> tuple[str, ...]:
        """The builds that are worth taking on a device."""
        return tuple(self._costs[self.known(device)])

    def chip(self, device: str) -> Chip:
        """Chip of a measured device."""
        return self._chips[device]

    def seconds(
        self, device: str, chip: Chip | None, build: Artefact, sizes: Mapping[str, int]
    ) -> float:
        """Time of a launch of `build`.  chip: that of a device that was not measured."""
        known = self.known(device)
        costs, measured = self._costs[known][build.name], self._chips[known]
        if chip is None or device == known:
            chip = measured
        else:
            there = chip.shared // ((build.sidecar.shared_bytes or 0) + 1024)
            costs = replace(costs, slots=max(1, min(costs.slots, there)))
        return launch_us(costs, work_of(build, sizes), chip, moved_bytes(sizes), measured) * 1e-6


def work_of(build: Artefact, sizes: Mapping[str, int]) -> Work:
    """A launch of one of the GEMMs, shared out among CTAs."""
    sidecar = build.sidecar
    given = build.fields | sidecar.numbers_for(sizes)
    tiles = -(-given["M"] // given["BLOCK_M"]) * -(-given["N"] // given["BLOCK_N"])
    assert sidecar.grid is not None
    ctas = math.prod(rule(given) for rule in sidecar.grid)
    return _WORK.get(given["kernel"], _whole_tiles)(given, sizes["K"], tiles, ctas)


def tuned(dtype: str = "float16") -> tuple[Artefact, ...]:
    """The builds that the model compares, but for the canonical one."""
    return tuple(build for kernel in _WORK for build in builds(kernel=kernel, dtype=dtype))


def _whole_tiles(given: Mapping[str, Any], k: int, tiles: int, ctas: int) -> Work:
    """Share out a tile to each CTA."""
    return Work(((tiles, -(-k // given["BLOCK_K"])),), 1, 1)


def _shared_by_warps(given: Mapping[str, Any], k: int, tiles: int, ctas: int) -> Work:
    """Share out a tile to each CTA, and its k's to warps: w4a16_gptq_gemm_decode."""
    return Work(((tiles, -(-k // (given["BLOCK_K"] * given["num_warps"]))),), 1, 1)


def _full_rounds(given: Mapping[str, Any], k: int, tiles: int, ctas: int) -> Work:
    """Full rounds of whole tiles, then a round of parts: w4a16_gptq_gemm_mma."""
    steps = -(-k // given["BLOCK_K"])
    whole = tiles // given["CTAS"] * given["CTAS"]
    left = tiles - whole
    parts = (ctas - whole) // left if left else 1
    rounds = ((whole, steps), (ctas - whole, -(-steps // parts)))
    waves = tuple(wave for wave in rounds if wave[0])
    return Work(waves, 1, parts)


def _persistent(given: Mapping[str, Any], k: int, tiles: int, ctas: int) -> Work:
    """Programs with whole tiles, and with shares of the others, as the launcher tells them."""
    steps, whole, sharers = given["steps"], given["whole"], given["sharers"]
    if not sharers:
        return Work(((ctas, whole * steps),), whole, 1)
    each = -(-(tiles - whole * given["programs"]) * steps // sharers)
    begun = whole + (1 if given["parts"] else 2)  # a program's tiles, whole or not
    return Work(((ctas, whole * steps + each),), begun, max(2, -(-steps // each)))


_WORK: dict[str, Callable[[Mapping[str, Any], int, int, int], Work]] = {
    "w4a16_gptq_gemm_decode": _shared_by_warps,
    "w4a16_gptq_gemm_mma": _full_rounds,
    "w4a16_gptq_gemm_wgmma": _persistent,
}


_ALIKE = ("kernel", "target", "num_warps", "BLOCK_M", "BLOCK_N")


def of_largest_groups(found: Iterable[Artefact]) -> list[Artefact]:
    """Keep, of builds alike but for GROUP, that of the largest: it looks up the fewest scales."""
    largest: dict[tuple[object, ...], Artefact] = {}
    for build in sorted(found, key=lambda build: build.fields.get("GROUP") or 0):
        largest[tuple(build.fields[name] for name in _ALIKE)] = build
    return list(largest.values())


def worth_trying(build: Artefact, m: int) -> bool:
    """True where its tile has rows enough that weights are not read very often, nor many in vain.

    What is not worth trying is neither timed nor chosen.
    """
    rows: int = build.fields["BLOCK_M"]
    return (m <= 3 * rows or rows >= 64) and rows <= max(16, 3 * m)


def moved_bytes(sizes: Mapping[str, int]) -> float:
    """Weights, scales, zeros, activations and results, each once."""
    m, n, k = sizes["M"], sizes["N"], sizes["K"]
    groups = -(-k // sizes["group_size"])
    return k * n / 2 + groups * 2.5 * n + 2 * m * (k + n)


def launch_us(
    costs: Costs, work: Work, chip: Chip, moved: float, measured: Chip | None = None
) -> float:
    """Microseconds of a launch.  moved: bytes.  measured: the chip of the constants, if another."""
    compute = 0.0
    for ctas, steps in work.waves:
        full, rest = divmod(ctas, chip.sms * costs.slots)
        compute += (full + bool(rest)) * work.tiles * costs.tile
        each = full * _step_us(costs, costs.slots)
        if rest:
            each += _step_us(costs, rest / chip.sms)
        compute += steps * each
    if work.parts > 1:
        compute += costs.split + work.parts * costs.part
    if measured is not None:
        compute *= measured.clock / chip.clock
    return costs.fixed + _both(compute, moved / (chip.bandwidth * costs.share))


def _step_us(costs: Costs, crowd: float) -> float:
    """A step of all CTAs that run at once.  crowd: how many that are for each SM."""
    if costs.slots == 1:
        return costs.step + costs.load * crowd
    return _both(costs.step, costs.load * math.ceil(crowd))


def _both(x: float, y: float) -> float:
    """About the larger of two times that mostly overlap."""
    return float((x**_POWER + y**_POWER) ** (1 / _POWER))


CONSTANTS = tuple(field.name for field in fields(Costs))
