"""Remedies of real messages, as the options of the command that shows them."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

import ferrum_numba as fe
from ferrum_numba.cli.bench import bench
from ferrum_numba.cli.remedies import as_options, options_of
from ferrum_numba.cli.replay import replay_command as replay
from ferrum_numba.cli.verify import verify
from tests.campaigns.layers import random_tensors
from tests.ptx import SHARED


def test_a_dtype_that_cannot_hold_the_scales() -> None:
    good = random_tensors(64, 8, 32)
    scales = np.full(good.scales.shape, 1e6, ml_dtypes.bfloat16)
    tensors = fe.GptqTensors(qweight=good.qweight, qzeros=good.qzeros, scales=scales, group_size=32)
    with pytest.raises(fe.CheckpointError) as raised:
        fe.GptqLinear(tensors, device=fe.open_device("cpu"))
    text = str(raised.value)
    assert as_options(text, options_of(verify)).endswith("; pass --dtype bfloat16")
    assert as_options(text, options_of(bench)) == text, "bench has no such option"


def test_stores_behind_shared_memory() -> None:
    device = fe.open_device("cpu")
    kernel, out = device.load_module(SHARED).get_kernel(), device.empty(32, np.uint32)
    with pytest.raises(fe.LaunchError) as raised:
        kernel.launch(fe.LaunchConfig(1, 32, 64), out, 0)
    text = str(raised.value)
    assert "; --checks memory names the line" in as_options(text, options_of(replay))
    assert as_options(text, options_of(bench)) == text
