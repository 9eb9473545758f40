"""Checkpoints to damage."""

from pathlib import Path

import pytest

from tests.gptq.fixtures import copy_of


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """A copy of gm_v1_sym_g128 to damage."""
    return copy_of("gm_v1_sym_g128", tmp_path)


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    """A copy of gm_v1_sym_g64_sharded to damage."""
    return copy_of("gm_v1_sym_g64_sharded", tmp_path)
