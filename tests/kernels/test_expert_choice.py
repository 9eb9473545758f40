"""The choice among the grouped GEMMs of experts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ferrum_numba as fe
from ferrum_numba.errors import AbiError
from ferrum_numba.kernels import ExpertShape, choose_expert_tiles

SHAPE = ExpertShape(128, 2048, 768, 128, 128)


class Hopper:
    """A GPU, as far as the choice asks for one."""

    name, capability, cuda_version = "cuda:0", (9, 0), (13, 0)


@pytest.mark.parametrize(
    ("choices", "kernel", "rows"),
    [
        (8, "moe_w4a16_gptq", 8),
        (512, "moe_w4a16_gptq", 8),
        (2048, "moe_w4a16_gptq_mma", 32),
        (8192, "moe_w4a16_gptq_wgmma", 80),
        (16384, "moe_w4a16_gptq_wgmma", 256),
    ],
)
def test_more_rows_take_other_tiles(choices: int, kernel: str, rows: int) -> None:
    tiles = choose_expert_tiles(Hopper(), choices, SHAPE, "float16")  # type: ignore[arg-type]
    for build, gated in ((tiles.gate_up, 1), (tiles.down, 0)):
        found = (build.fields["kernel"], build.fields["BLOCK_M"], build.fields["GATED"])
        assert found == (kernel, rows, gated)
    assert (tiles.gather is not None) == kernel.endswith("wgmma")


@pytest.mark.parametrize(
    ("choices", "gate_up", "down"),
    [(2, (64, 4), (32, 8)), (8, (64, 2), (32, 8)), (32, (64, 2), (64, 4))],
)
def test_few_ctas_of_deep_layers_have_more_warps(
    choices: int, gate_up: tuple[int, int], down: tuple[int, int]
) -> None:
    mixtral = ExpertShape(8, 4096, 14336, 128, 128)
    tiles = choose_expert_tiles(Hopper(), choices, mixtral, "float16")  # type: ignore[arg-type]
    for build, wanted in ((tiles.gate_up, gate_up), (tiles.down, down)):
        assert (build.fields["BLOCK_N"], build.fields["num_warps"]) == wanted


def test_a_down_of_few_ctas_goes_through_wgmma() -> None:
    mixtral = ExpertShape(8, 4096, 14336, 128, 128)
    tiles = choose_expert_tiles(Hopper(), 128, mixtral, "float16")  # type: ignore[arg-type]
    assert (tiles.gate_up.fields["SORTED"], tiles.down.fields["BLOCK_M"]) == (1, 80)
    assert (tiles.block, tiles.span, tiles.gather) == (8, 4, None)


@pytest.mark.parametrize("groups", [(32, 64), (128, 0), (64, 32)])
@pytest.mark.parametrize("choices", [1, 4096])
def test_groups_of_each_half(choices: int, groups: tuple[int, int]) -> None:
    shape = ExpertShape(8, 64, 96, *groups)
    for device in (Hopper(), fe.open_device("cpu")):
        tiles = choose_expert_tiles(device, choices, shape, "bfloat16")  # type: ignore[arg-type]
        for build, group in zip((tiles.gate_up, tiles.down), groups, strict=True):
            assert group % build.fields["GROUP"] == 0


def test_groups_that_no_build_takes() -> None:
    with pytest.raises(AbiError, match="group_size: expected multiples of 32"):
        choose_expert_tiles(fe.open_device("cpu"), 4, ExpertShape(4, 64, 64, 8, 32), "float16")


@given(st.integers(1, 300), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_blocks_suffice_whatever_is_chosen(choices: int, experts: int, seed: int) -> None:
    tiles = choose_expert_tiles(
        fe.open_device("cpu"), choices, ExpertShape(experts, 64, 64, 32, 32), "float16"
    )
    counts = np.bincount(np.random.default_rng(seed).integers(0, experts, choices))
    blocks = -(-counts // tiles.block)
    assert blocks.sum() <= tiles.blocks(choices, experts)
    assert (-(-blocks // tiles.span)).sum() <= tiles.most(choices, experts)
