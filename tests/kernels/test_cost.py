"""The model that predicts how long launches take."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import ferrum_numba as fe
from ferrum_numba import kernels
from ferrum_numba.devices import Chip
from ferrum_numba.kernels.cost import CostModel, Costs, Work, launch_us, work_of

CHIP = Chip(sms=100, bandwidth=1e6, clock=1000.0, shared=2**18)
COSTS = Costs(fixed=2.0, step=1.0, load=0.5, tile=3.0, split=4.0, part=0.5, share=0.5, slots=2)


def sizes(m: int, n: int, k: int) -> dict[str, int]:
    return kernels.contiguous_sizes(m, n, k, 128) | {"zero_bias": 1, "adds": 0}


def us(work: Work, moved: float = 0.0, chip: Chip = CHIP) -> float:
    return launch_us(COSTS, work, chip, moved)


def test_one_wave_takes_its_steps() -> None:
    alone = (1 + 0.5**4) ** 0.25  # a step, where a CTA has an SM of its own
    assert us(Work(((1, 10),), 1, 1)) == pytest.approx(2 + 10 * alone + 3)
    assert us(Work(((100, 10),), 1, 1)) == us(Work(((1, 10),), 1, 1))


def test_ctas_share_multiprocessors_then_wait_for_their_turn() -> None:
    times = [us(Work(((ctas, 10),), 1, 1)) for ctas in (100, 200, 201, 400)]
    assert times[0] < times[1] < times[2] < times[3]
    assert times[3] - 2 == pytest.approx(2 * (times[1] - 2))


def test_sharing_out_the_k_of_a_tile_has_a_price() -> None:
    assert us(Work(((100, 10),), 1, 4)) == pytest.approx(us(Work(((100, 10),), 1, 1)) + 4 + 4 * 0.5)


def test_memory_is_a_bound() -> None:
    assert us(Work(((1, 1),), 1, 1), moved=1e8) == pytest.approx(2 + 200, rel=1e-6)


def test_a_slower_clock_slows_the_arithmetic_down_alone() -> None:
    half = Chip(sms=100, bandwidth=1e6, clock=500.0, shared=2**18)
    work = Work(((1, 10),), 1, 1)
    assert launch_us(COSTS, work, half, 0, CHIP) - 2 == pytest.approx(2 * (us(work) - 2))
    assert launch_us(COSTS, work, half, 1e9, CHIP) == pytest.approx(us(work, 1e9), rel=1e-6)


def its(kernel: str, **fields: int) -> kernels.Artefact:
    found = kernels.builds(kernel=f"w4a16_gptq_gemm_{kernel}", dtype="float16", **fields)
    return found[0]


def test_the_decode_kernel_shares_out_k_within_a_cta() -> None:
    build = its("decode", BLOCK_N=32, num_warps=8, BLOCK_M=8)
    assert work_of(build, sizes(8, 4096, 4096)) == Work(((128, 4),), 1, 1)
    assert work_of(build, sizes(9, 4096, 4097 * 8)) == Work(((256, 33),), 1, 1)


def test_the_mma_kernel_splits_what_is_left_over() -> None:
    build = its("mma", GROUP=128, BLOCK_M=32, BLOCK_N=128)
    k = 64 * build.fields["BLOCK_K"]
    assert work_of(build, sizes(32, 128 * 264, k)) == Work(((264, 64),), 1, 1)
    assert work_of(build, sizes(32, 128 * 66, k)) == Work(((264, 16),), 1, 4)
    assert work_of(build, sizes(32, 128 * 396, k)) == Work(((264, 64), (264, 32)), 1, 2)


@pytest.mark.parametrize("m", [1, 64, 200, 512, 1000, 4096])
@pytest.mark.parametrize(("n", "k"), [(512, 3584), (4096, 4096), (8192, 28672), (57344, 8192)])
def test_a_persistent_kernel_does_all_of_its_steps(m: int, n: int, k: int) -> None:
    for build in kernels.builds(kernel="w4a16_gptq_gemm_wgmma", dtype="float16"):
        work = work_of(build, sizes(m, n, k))
        rows, columns, depth = (build.fields[name] for name in ("BLOCK_M", "BLOCK_N", "BLOCK_K"))
        steps = -(-m // rows) * -(-n // columns) * -(-k // depth)
        ((ctas, each),) = work.waves
        assert steps <= ctas * each <= steps * 2 + ctas
        assert work.parts == 1 or (work.parts > 1 and each < steps)


@given(st.integers(1, 20000), st.integers(1, 8000), st.integers(1, 4000))
def test_the_launcher_shares_out_every_tile(m: int, n: int, k: int) -> None:
    """Whole tiles and shared ones are all tiles, and the grid has a program for each share."""
    for build in kernels.builds(kernel="w4a16_gptq_gemm_wgmma", dtype="float16"):
        given_sizes = sizes(m, 8 * n, 8 * k)
        work = build.sidecar.derived(given_sizes)
        grid = build.sidecar.grid_for(given_sizes)
        assert grid is not None
        assert 1 <= grid[0] <= 132
        tiles, programs, sharers = work["tiles"], work["programs"], work["sharers"]
        if not sharers:
            assert grid[0] == programs
            assert programs * (work["whole"] - 1) < tiles <= programs * work["whole"]
            continue
        shared = tiles - programs * work["whole"]
        assert shared > 0
        assert grid[0] == (132 if work["whole"] else sharers)
        if work["parts"]:
            assert sharers == shared * work["parts"]
            assert work["parts"] <= work["steps"]
        else:  # steps of the last two rounds in a row
            assert sharers == 132
            assert shared < 2 * sharers


def test_another_gpu_takes_the_constants_with_its_own_chip(tmp_path: Path) -> None:
    build = its("wgmma", BLOCK_M=128)
    row = [2.0, 1.0, 0.5, 3.0, 4.0, 0.5, 0.9, 1]
    path = tmp_path / "costs.json"
    chip = {"sms": 132, "bandwidth": 4.9e6, "clock": 1980.0, "shared": 233472}
    path.write_text(json.dumps({"H200": {"chip": chip, "builds": {build.name: row}}}))
    model = CostModel.read(path)
    large = sizes(4096, 8192, 8192)
    measured = model.seconds("H200", None, build, large)
    half = Chip(sms=66, bandwidth=4.9e6, clock=1980.0, shared=233472)
    assert model.seconds("another", half, build, large) == pytest.approx(2 * measured, rel=0.1)
    assert model.seconds("another", None, build, large) == measured
    assert model.names("another") == (build.name,)


@pytest.mark.parametrize(
    "content",
    [[], {"a GPU": {}}, {"a GPU": {"chip": {}, "builds": {}}}],
)
def test_a_damaged_table(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "table.json"
    path.write_text(json.dumps(content))
    with pytest.raises(fe.AbiError, match="table.json: cannot be read as costs of builds"):
        CostModel.read(path)
