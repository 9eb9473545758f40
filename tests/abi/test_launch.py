from __future__ import annotations

import pytest

import ferrum_numba as fe


def test_a_small_config() -> None:
    config = fe.LaunchConfig(grid=(1, 4), block=128, shared_bytes=8192)
    assert config.grid == (1, 4, 1)
    assert config.block == (128, 1, 1)
    assert (config.threads, config.ctas, config.shared_bytes) == (128, 4, 8192)
    assert config == fe.LaunchConfig([1, 4, 1], (128,), 8192)


@pytest.mark.parametrize(
    ("grid", "block", "shared", "message"),
    [
        ((0, 1), 128, 0, "grid.x: expected 1 to 2147483647, found 0"),
        ((1, 65536), 128, 0, "grid.y: expected 1 to 65535, found 65536"),
        ((1, 1, 1, 1), 128, 0, "grid: expected 1 to 3 integers"),
        ((), 128, 0, "grid: expected 1 to 3 integers"),
        (1.5, 128, 0, r"grid.x: expected an integer, found 1.5 \(float\)"),
        ("12", 128, 0, "grid.x: expected an integer"),
        (True, 128, 0, "grid.x: expected an integer"),
        (1, 1025, 0, "block.x: expected 1 to 1024"),
        (1, (32, 64), 0, "at most 1024 threads, found 2048"),
        (1, (1, 1, 65), 0, "block.z: expected 1 to 64"),
        (1, 32, -1, "shared_bytes: expected 0 to"),
        (1, 32, 1.0, "shared_bytes: expected an integer"),
    ],
)
def test_out_of_range(grid: object, block: object, shared: object, message: str) -> None:
    with pytest.raises(fe.AbiError, match=message):
        fe.LaunchConfig(grid, block, shared)  # type: ignore[arg-type]
