"""Routing, the grouped GEMMs of experts and their sum, against NumPy."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import ferrum_numba as fe
from ferrum_numba import kernels
from ferrum_numba.devices.addresses import AddressTable
from ferrum_numba.gptq import ExpertRoom, ExpertSpace, GptqExperts, Routing, StackedWeight
from ferrum_numba.kernels import ExpertTiles
from tests.campaigns.routing import aligned
from tests.kernels.test_model_kernels import DTYPES, Launcher, every, floats, nothing

CHECKS = ("memory", "init", "race")
RELATIVE = {"float16": 1e-3, "bfloat16": 8e-3}


@pytest.fixture(
    params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)],
    scope="module",
)
def device(request: pytest.FixtureRequest) -> fe.Device:
    """The CPU with all checks, and a GPU."""
    cpu = request.param == "cpu"
    return fe.open_device("cpu", checks=CHECKS) if cpu else fe.open_device("cuda")


@pytest.fixture
def launch(device: fe.Device) -> Launcher:
    return Launcher(device)


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(11)


def softmax(x: Any) -> Any:
    x = np.exp(x - x.max(axis=-1, keepdims=True))
    return x / x.sum(axis=-1, keepdims=True)


@pytest.mark.parametrize("sigmoid", [0, 1])
@pytest.mark.parametrize("renormalise", [0, 1])
def test_moe_route(
    device: fe.Device,
    launch: Launcher,
    random: np.random.Generator,
    sigmoid: int,
    renormalise: int,
) -> None:
    logits, bias = floats(random, 7, 60), floats(random, 60)
    logits[3] = 1.0  # all alike: the lowest experts win
    scores = 1 / (1 + np.exp(-logits)) if sigmoid else softmax(logits)
    added = bias if sigmoid else None
    order = np.argsort(-(scores + bias if sigmoid else logits), axis=1, kind="stable")[:, :4]
    expected = np.take_along_axis(scores, order, 1)
    if renormalise:
        expected = expected / expected.sum(axis=1, keepdims=True)
    for build in every(device, "moe_route"):
        weights, ids = nothing(7, 4), np.full((7, 4), -1, np.int32)
        launch(build, logits=logits, bias=added, weights=weights, ids=ids, M=7, E=60, top_k=4,
               sigmoid=sigmoid, renormalise=renormalise, groups=1, top_groups=1, group_best=1,
               scale=2.0)  # fmt: skip
        np.testing.assert_array_equal(ids, order)
        np.testing.assert_allclose(weights, 2 * expected, rtol=1e-5)


@pytest.mark.parametrize(("sigmoid", "best", "biased"), [(0, 1, 0), (0, 2, 1), (1, 2, 1)])
def test_moe_route_within_groups(
    device: fe.Device,
    launch: Launcher,
    random: np.random.Generator,
    sigmoid: int,
    best: int,
    biased: int,
) -> None:
    """As DeepSeek-V2 (the best expert of a group) and V3 (the sum of its two best) choose."""
    logits, bias = floats(random, 9, 48), biased * floats(random, 48)
    logits[3] = 1.0  # all alike: the lowest groups and experts win
    scores = 1 / (1 + np.exp(-logits)) if sigmoid else softmax(logits)
    rank = (scores + bias).reshape(9, 6, 8)
    totals = np.sort(rank, axis=2)[:, :, -best:].sum(2)
    taken = np.argsort(-totals, axis=1, kind="stable")[:, :3]
    limited = np.full_like(rank, -np.inf)
    np.put_along_axis(limited, taken[:, :, None], np.take_along_axis(rank, taken[:, :, None], 1), 1)
    order = np.argsort(-limited.reshape(9, 48), axis=1, kind="stable")[:, :5]
    for build in every(device, "moe_route"):
        weights, ids = nothing(9, 5), np.full((9, 5), -1, np.int32)
        own = bias if biased else None
        launch(build, logits=logits, bias=own, weights=weights, ids=ids, M=9, E=48, top_k=5,
               sigmoid=sigmoid, renormalise=0, groups=6, top_groups=3, group_best=best,
               scale=1.0)  # fmt: skip
        np.testing.assert_array_equal(ids, order)
        np.testing.assert_allclose(weights, np.take_along_axis(scores, order, 1), rtol=1e-5)


def tiled(owners: Any, span: int) -> list[int]:
    """16 * first block + blocks of each tile: as few as there may be, all alike but for a block."""
    found = []
    for expert in np.unique(owners):
        own = np.flatnonzero(owners == expert)
        found += [16 * part[0] + len(part) for part in np.array_split(own, -(-len(own) // span))]
    return found


@pytest.mark.parametrize(("block", "span"), [(8, 1), (16, 4), (16, 8)])
@pytest.mark.parametrize("kind", ["any", "one expert", "elsewhere"])
def test_moe_align(
    device: fe.Device,
    launch: Launcher,
    random: np.random.Generator,
    block: int,
    span: int,
    kind: str,
) -> None:
    experts, ids = 20, random.integers(0, 20, 1300).astype(np.int32)
    ids[ids == 3] = 4
    if kind == "one expert":
        ids[:] = 7
    if kind == "elsewhere":  # of other machines
        ids[::3] = -1
    rows, owners = aligned(ids, experts, block)
    blocks = (ids.size + experts * (block - 1)) // block
    for build in every(device, "moe_align"):
        found = [np.full(size, -7, np.int32) for size in (blocks * block, blocks, 1, blocks + 1)]
        names = ("sorted_token_ids", "expert_ids", "num_tokens_post_padded", "tiles")
        launch(build, topk_ids=ids, **dict(zip(names, found, strict=True)), T=ids.size, E=experts,
               block=block, blocks=blocks, span=span)  # fmt: skip
        assert found[2][0] == len(rows)
        np.testing.assert_array_equal(found[0][: len(rows)], rows)
        np.testing.assert_array_equal(found[1][: len(owners)], owners)
        expected = tiled(owners, span)
        assert found[3][: 1 + len(expected)].tolist() == [len(expected), *expected]
        assert (found[0][len(rows) :] == -7).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_moe_sum(
    device: fe.Device, launch: Launcher, random: np.random.Generator, dtype: str
) -> None:
    x, parts, gate = floats(random, 3, 136), floats(random, 12, 136), floats(random, 3)
    shared = floats(random, 3, 136, dtype=dtype)
    for build in every(device, "moe_sum", dtype=dtype):
        for own, factor in ((None, 0.0), (gate, 1 / (1 + np.exp(-gate[:, None])))):
            found = x.copy()
            launch(build, x=found, parts=parts, shared=None if own is None else shared, gate=own,
                   M=3, H=136, top_k=4)  # fmt: skip
            expected = x + parts.reshape(3, 4, 136).sum(1) + factor * shared.astype(np.float32)
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def tensors(
    random: np.random.Generator,
    K: int,
    N: int,
    group: int,
    dtype: str,
    zeros: str,
    act_order: bool = False,
) -> fe.GptqTensors:
    groups = 1 if group == -1 else -(-K // group)
    words = random.integers(0, 2**32, (K // 8 + groups, N), np.uint32).view(np.int32)
    return fe.GptqTensors(
        qweight=words[: K // 8].copy(),
        qzeros=words[K // 8 :, : N // 8].copy(),
        scales=(random.uniform(0.5, 1.5, (groups, N)) / 5 / np.sqrt(K)).astype(DTYPES[dtype]),
        group_size=group,
        zero_format=zeros,  # type: ignore[arg-type]
        g_idx=random.permutation(np.arange(K, dtype=np.int32) // group) if act_order else None,
    )


@pytest.mark.parametrize("magnitude", [1e6, 1e-12])
def test_bfloat16_scales_that_float16_cannot_hold(
    random: np.random.Generator, magnitude: float
) -> None:
    layer = tensors(random, 64, 32, 32, "bfloat16", "v1")
    layer = replace(layer, scales=np.full_like(layer.scales, magnitude))
    with pytest.raises(fe.CheckpointError, match="scales: expected bfloat16 values that float16"):
        StackedWeight.of([layer], 1, fe.open_device("cpu"), np.float16)


def test_a_dtype_that_no_kernel_computes_in(random: np.random.Generator) -> None:
    layer = tensors(random, 64, 32, 32, "float16", "v1")
    with pytest.raises(fe.AbiError, match="dtype: expected float16 or bfloat16, found float32"):
        StackedWeight.of([layer], 1, fe.open_device("cpu"), np.float32)


class Layer:
    """Experts of random weights on a device, and what NumPy makes of a token that goes to one."""

    def __init__(
        self,
        device: fe.Device,
        random: np.random.Generator,
        experts: int,
        hidden: int,
        width: int,
        group: int,
        dtype: str,
        zeros: str = "v1",
        act_order: tuple[int, ...] = (),
    ) -> None:
        """act_order: the experts whose rows are so, of gate alone."""
        shapes = ((hidden, width), (hidden, width), (width, hidden))
        self.dtype = DTYPES[dtype]
        layers = [
            [
                tensors(random, K, N, group, dtype, zeros, not layer and expert in act_order)
                for expert in range(experts)
            ]
            for layer, (K, N) in enumerate(shapes)
        ]
        self.weights = [[t.dequantize(np.float32) for t in its] for its in layers]
        stacks = [StackedWeight.of(its, experts, device, self.dtype) for its in layers]
        self.experts = GptqExperts(*stacks, device=device, dtype=self.dtype)
        self.device = device

    def expected(self, x: Any, ids: Any, weights: Any) -> Any:
        parts = np.empty((ids.size, x.shape[1]), np.float32)
        for choice, expert in enumerate(ids.ravel()):
            row = x[choice // ids.shape[1]].astype(np.float32)
            gate, up = (row @ self.weights[i][expert] for i in (0, 1))
            gated = (gate / (1 + np.exp(-gate)) * up).astype(self.dtype).astype(np.float32)
            parts[choice] = weights.ravel()[choice] * (gated @ self.weights[2][expert])
        return parts

    def found(
        self, x: Any, ids: Any, weights: Any, listed: bool = True, room: ExpertRoom | None = None
    ) -> Any:
        """Results of the grouped GEMMs, with a routing that NumPy made.

        listed: whether tiles are; each block is one else.  room: of its own, left out.
        """
        there, own = self.device.to_device, self.experts
        tiles = own.tiles(ids.size)
        rows, owners = aligned(ids.ravel(), own.experts, tiles.block)
        blocks = tiles.blocks(ids.size, own.experts)
        filled = [np.full(size, 2**30, np.int32) for size in (blocks * tiles.block, blocks)]
        filled[0][: len(rows)], filled[1][: len(owners)] = rows, owners
        list_ = tiled(owners, tiles.span)
        packed = np.zeros(1 + blocks, np.int32)
        packed[: 1 + len(list_)] = [len(list_), *list_]
        count = np.array([len(rows)], np.int32)
        routing = Routing(*(there(a) for a in (*filled, count, packed)[: 3 + listed]))
        arrays = room or own.room(ids.size)
        own(there(x), routing, there(weights.ravel()), arrays)
        self.device.synchronize()
        return self.device.to_host(arrays.parts)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("experts", "hidden", "width", "group", "zeros", "tokens", "top_k"),
    [
        (6, 256, 96, 32, "v1", 1, 2),
        (5, 128, 104, 32, "v2", 9, 3),
        (3, 320, 128, 64, "v1", 40, 2),
        (3, 256, 136, 128, "v1", 40, 2),
        (4, 64, 768, -1, "v1", 3, 1),
    ],
)
def test_experts(
    device: fe.Device,
    random: np.random.Generator,
    dtype: str,
    experts: int,
    hidden: int,
    width: int,
    group: int,
    zeros: str,
    tokens: int,
    top_k: int,
) -> None:
    layer = Layer(device, random, experts, hidden, width, group, dtype, zeros)
    x = floats(random, tokens, hidden, dtype=dtype)
    ids = np.argsort(random.random((tokens, experts)), axis=1)[:, :top_k].astype(np.int32)
    weights = random.random((tokens, top_k), np.float32)
    expected, found = layer.expected(x, ids, weights), layer.found(x, ids, weights)
    assert np.linalg.norm(found - expected) < RELATIVE[dtype] * np.linalg.norm(expected)
    np.testing.assert_array_equal(found, layer.found(x, ids, weights))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("tokens", "zeros"), [(1, "v1"), (21, "v2")])
def test_experts_in_activation_order(
    device: fe.Device, random: np.random.Generator, dtype: str, tokens: int, zeros: str
) -> None:
    """Gate of one expert is, and all others are not."""
    layer = Layer(device, random, 3, 160, 72, 32, dtype, zeros, act_order=(1,))
    x = floats(random, tokens, 160, dtype=dtype)
    ids = np.tile(np.array([[1, 0]], np.int32), (tokens, 1))
    weights = random.random((tokens, 2), np.float32)
    expected, found = layer.expected(x, ids, weights), layer.found(x, ids, weights)
    assert np.linalg.norm(found - expected) < RELATIVE[dtype] * np.linalg.norm(expected)
    np.testing.assert_array_equal(found, layer.found(x, ids, weights))


def pairs_of_builds(device: fe.Device, kernel: str, dtype: str) -> list[ExpertTiles]:
    """Every tile of a kernel that the device runs, for gate and up and for down."""
    found = []
    fields: dict[str, Any] = {"dtype": dtype, "GATED": 1}
    if device.name == "cpu" and kernel.endswith("wgmma"):  # others take minutes to translate
        fields |= {"GROUP": 128, "dtype": "float16"}
        if dtype != "float16":
            pytest.skip("all tiles are tested on a GPU")
    for gate_up in every(device, kernel, **fields):
        own = {name: gate_up.fields[name] for name in ("target", "num_warps")}
        fields = {**gate_up.sidecar.tile, **own, "GATED": 0}  # type: ignore[dict-item]
        block, rows = fields.get("UNIT", fields["BLOCK_M"]), fields["BLOCK_M"]
        if fields.pop("SORTED", 0):
            own = {name: fields[name] for name in ("GROUP", "UNIT", "GATED")}
            many = "moe_w4a16_gptq_wgmma"
            (down,) = kernels.builds(kernel=many, dtype=dtype, **own)
        else:
            (down,) = kernels.builds(kernel=kernel, dtype=dtype, **fields)
        gathers = every(device, "moe_gather", dtype=dtype) if kernel.endswith("wgmma") else [None]
        found += [ExpertTiles(gate_up, down, block, rows // block, own) for own in gathers]
    return found


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kernel", ["moe_w4a16_gptq", "moe_w4a16_gptq_mma", "moe_w4a16_gptq_wgmma"])
@pytest.mark.parametrize(
    ("experts", "hidden", "width", "group", "tokens"),
    [(3, 192, 136, 128, 70), (2, 264, 96, 128, 300), (5, 64, 64, -1, 5)],
)
def test_every_tile(
    device: fe.Device,
    random: np.random.Generator,
    monkeypatch: pytest.MonkeyPatch,
    dtype: str,
    kernel: str,
    experts: int,
    hidden: int,
    width: int,
    group: int,
    tokens: int,
) -> None:
    """Experts of one to many blocks, columns and k's that no tile divides."""
    layer = Layer(device, random, experts, hidden, width, group, dtype)
    x = floats(random, tokens, hidden, dtype=dtype)
    # The first expert has few tokens, the last one most of them.
    ids = np.minimum(random.integers(0, 2 * experts, (tokens, 1)), experts - 1).astype(np.int32)
    weights = random.random((tokens, 1), np.float32)
    expected = layer.expected(x, ids, weights)
    for tiles in pairs_of_builds(device, kernel, dtype):
        monkeypatch.setattr(layer.experts, "tiles", lambda _, own=tiles: own)
        found = layer.found(x, ids, weights)
        assert np.linalg.norm(found - expected) < RELATIVE[dtype] * np.linalg.norm(expected)
        np.testing.assert_array_equal(found, layer.found(x, ids, weights, listed=False))


def test_every_number_of_blocks(
    device: fe.Device, random: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Products of wgmma take as many rows as there are, but for a few; each is another code."""
    for tiles in pairs_of_builds(device, "moe_w4a16_gptq_wgmma", "float16"):
        sizes = tiles.gate_up.fields["SIZES"]
        numbers = [number for number in range(sizes.bit_length()) if sizes >> number & 1]
        layer = Layer(device, random, len(numbers), 136, 64, 128, "float16")
        monkeypatch.setattr(layer.experts, "tiles", lambda _, own=tiles: own)
        counts = [number * tiles.block - 3 for number in numbers]
        ids = np.repeat(np.arange(len(numbers), dtype=np.int32), counts)[:, None]
        x, weights = (
            floats(random, len(ids), 136, dtype="float16"),
            np.ones((len(ids), 1), np.float32),
        )
        expected, found = layer.expected(x, ids, weights), layer.found(x, ids, weights)
        wrong = np.linalg.norm(found - expected, axis=1) / np.linalg.norm(expected, axis=1)
        assert wrong.max() < 2e-3, (tiles, int(wrong.argmax()))


def test_rows_behind_the_last_block_may_hold_anything(
    device: fe.Device, random: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Boxes of sorted rows reach them, where experts fill fewer blocks than they might."""
    layer = Layer(device, random, 3, 136, 64, 128, "float16")
    x, ids = floats(random, 33, 136, dtype="float16"), np.full((33, 1), 1, np.int32)
    weights = np.ones((33, 1), np.float32)
    for tiles in pairs_of_builds(device, "moe_w4a16_gptq_wgmma", "float16"):
        monkeypatch.setattr(layer.experts, "tiles", lambda _, own=tiles: own)
        expected, room = layer.found(x, ids, weights), layer.experts.room(33)
        last = -(-33 // tiles.block) * tiles.block
        for array in (room.rows, room.gated):
            device.write(array, np.full(array.shape, np.nan, np.float16))
        np.testing.assert_array_equal(layer.found(x, ids, weights, room=room), expected)
        for array in (room.rows, room.gated):
            left = device.to_host(array)[last:]
            assert len(left)
            assert np.isnan(left).all()


def test_memory_of_a_models_mixtures_is_all_written(
    device: fe.Device, random: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As far as kernels read it, with fewer blocks than there may be, and fewer than before."""
    layer = Layer(device, random, 3, 136, 64, 128, "float16")
    x, weights = floats(random, 33, 136, dtype="float16"), np.ones((33, 1), np.float32)
    for tiles in pairs_of_builds(device, "moe_w4a16_gptq_wgmma", "float16"):
        monkeypatch.setattr(layer.experts, "tiles", lambda _, own=tiles: own)
        space = ExpertSpace(device, 40, 3, 136, 64, layer.dtype)
        for ids in (random.integers(0, 3, (33, 1)), np.full((33, 1), 1)):
            room = space.room(tiles, 33)[1]
            expected = layer.found(x, ids.astype(np.int32), weights)
            found = layer.found(x, ids.astype(np.int32), weights, room=room)
            np.testing.assert_array_equal(found, expected)


def test_rows_of_a_stranger_that_lie_apart(device: fe.Device, random: np.random.Generator) -> None:
    """Blocks are as many as there can be, and the boxes of the last tile reach behind them all."""
    T, K, N = 192, 96, 136
    layer = Layer(device, random, 2, N, K, 128, "float16")
    rows, k = floats(random, T, K, dtype="float16"), np.arange(K)
    apart = np.full((T, K + 40), np.nan, np.float16)
    apart[:, k // 32 * 32 + k // 4 % 8 + k // 2 % 2 * 8 + k % 2 * 16] = rows
    order = random.permutation(T).astype(np.int32)
    there, down = device.to_device, layer.experts.down
    fields = {"dtype": "float16", "GATED": 0, "GROUP": 128}
    for build in every(device, "moe_w4a16_gptq_wgmma", **fields):
        unit = build.fields["UNIT"]
        blocks = T // unit
        owners = np.repeat(np.array([0, 1], np.int32), [1, blocks - 1])
        list_ = tiled(owners, 3)
        packed = np.zeros(1 + blocks, np.int32)
        packed[: 1 + len(list_)] = [len(list_), *list_]
        sizes = {"T": T, "N": N, "K": K, "E": 2, "group_size": down.group_size, "top_k": 1}
        sizes |= {"blocks": blocks, "stride_am": K + 40, "stride_qwk": N, "stride_sk": N}
        sizes |= {"stride_qzk": N // 8, "zero_bias": down.zero_bias}
        wide, count = there(np.full((T, N), np.nan, np.float32)), np.array([T], np.int32)
        arrays = {"a": there(apart)[:, :K], "experts": layer.experts._tables[1].array}
        arrays |= {"sorted_token_ids": there(order), "expert_ids": there(owners), "wide": wide}
        arrays |= {"num_tokens_post_padded": there(count), "tiles": there(packed)}
        arrays |= {"weights": None, "c": None}
        kernels.launches_on(device)(build, None, sizes, arrays)
        device.synchronize()
        found, of = device.to_host(wide)[order], np.repeat(owners, unit)
        for expert in (0, 1):
            expected = rows[of == expert].astype(np.float32) @ layer.weights[2][expert]
            np.testing.assert_allclose(found[of == expert], expected, rtol=2e-3, atol=2e-3)


def test_a_token_does_not_see_the_others(device: fe.Device, random: np.random.Generator) -> None:
    """Bitwise: other tokens, their experts and the order of all."""
    layer = Layer(device, random, 4, 128, 64, 32, "float16")
    x = floats(random, 12, 128, dtype="float16")
    ids = random.integers(0, 4, (12, 1)).astype(np.int32)
    weights = np.ones((12, 1), np.float32)
    alone = layer.found(x, ids, weights)[5]
    order = random.permutation(12)
    place = int(np.flatnonzero(order == 5)[0])
    np.testing.assert_array_equal(layer.found(x[order], ids[order], weights)[place], alone)
    others = floats(random, 12, 128, dtype="float16")
    others[5], ids[:5] = x[5], ids[5]  # all before it go where it goes
    np.testing.assert_array_equal(layer.found(others, ids, weights)[5], alone)


def test_all_to_one_expert_and_an_expert_elsewhere(
    device: fe.Device, random: np.random.Generator
) -> None:
    layer = Layer(device, random, 3, 64, 32, 32, "float16")
    x, weights = floats(random, 40, 64, dtype="float16"), np.ones((40, 1), np.float32)
    ids = np.full((40, 1), 1, np.int32)
    expected, found = layer.expected(x, ids, weights), layer.found(x, ids, weights)
    assert np.linalg.norm(found - expected) < 1e-3 * np.linalg.norm(expected)
    build = layer.experts.tiles(1).gate_up
    there = layer.device.to_device
    c = layer.device.to_device(np.full((1, 32), 7, np.float16))
    block = layer.experts.tiles(1).block
    rows = np.full(block, 1, np.int32)
    rows[0] = 0
    sizes = {"T": 1, "N": 32, "K": 64, "E": 3, "group_size": 32, "top_k": 1, "blocks": 1}
    sizes |= {"stride_am": 64, "stride_qwk": 32, "stride_sk": 32, "stride_qzk": 4, "zero_bias": 1}
    arrays = {"a": there(x[:1]), "experts": layer.experts._tables[0].array, "weights": None}
    arrays |= {"sorted_token_ids": there(rows), "expert_ids": there(np.array([-1], np.int32))}
    arrays |= {"num_tokens_post_padded": there(np.array([block], np.int32)), "c": c, "wide": None}
    kernels.launches_on(device)(build, None, sizes, arrays)
    device.synchronize()
    np.testing.assert_array_equal(device.to_host(c), np.zeros((1, 32), np.float16))


def test_checks_know_what_a_table_leads_to(random: np.random.Generator) -> None:
    """Only what stands in the table may be read through it."""
    device = fe.open_device("cpu", checks=("memory",))
    layer = Layer(device, random, 2, 64, 32, 32, "float16")
    stray = layer.experts._tables[0].array.copy()
    own = layer.experts._tables[0]
    x, ids = floats(random, 1, 64, dtype="float16"), np.zeros((1, 1), np.int32)
    layer.found(x, ids, np.ones((1, 1), np.float32))
    layer.experts._tables = (AddressTable(device, stray, {}), layer.experts._tables[1])
    with pytest.raises(fe.SanitizerError, match="out of bounds|out-of-bounds"):
        layer.found(x, ids, np.ones((1, 1), np.float32))
    assert own.arrays.keys() >= {"gate.qweight", "up.qzeros"}
