"""The kernels between a model's GEMMs, against NumPy in float64."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

import ferrum_numba as fe
from ferrum_numba import kernels
from ferrum_numba.kernels import Artefact

DTYPES = {"float16": np.dtype(np.float16), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
ROUNDING = {"float16": 5e-4, "bfloat16": 4e-3}
CHECKS = ("memory", "init", "race")


@pytest.fixture(
    params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)],
    scope="module",
)
def device(request: pytest.FixtureRequest) -> fe.Device:
    """The CPU with all checks, and a GPU."""
    return (
        fe.open_device("cpu", checks=CHECKS) if request.param == "cpu" else fe.open_device("cuda")
    )


@pytest.fixture(params=list(DTYPES))
def dtype(request: pytest.FixtureRequest) -> str:
    """Both of the models' dtypes."""
    return str(request.param)


class Launcher:
    """Launches builds on copies of NumPy arrays, which it then overwrites with the results."""

    def __init__(self, device: fe.Device) -> None:
        self.device = device

    def __call__(self, build: Artefact, **arguments: Any) -> None:
        sidecar = build.sidecar
        sizes = {name: value for name, value in arguments.items() if type(value) is int}
        grid, warps, shared = sidecar.grid_for(sizes), sidecar.num_warps, sidecar.shared_bytes
        assert grid is not None
        assert warps is not None
        assert shared is not None
        config = fe.LaunchConfig(
            grid, block=warps * 32, shared_bytes=shared, programmatic=sidecar.programmatic
        )
        arrays = {n: value for n, value in arguments.items() if isinstance(value, np.ndarray)}
        there = {name: self.device.to_device(array.copy()) for name, array in arrays.items()}
        build.kernel(self.device).launch(config, **{**arguments, **there})
        for name, array in arrays.items():
            array[...] = self.device.to_host(there[name])


@pytest.fixture
def launch(device: fe.Device) -> Launcher:
    return Launcher(device)


def every(device: fe.Device, kernel: str, **fields: Any) -> list[Artefact]:
    """The builds of these fields that the device runs."""
    return [build for build in kernels.builds(kernel=kernel, **fields) if build.runs_on(device)]


def floats(random: np.random.Generator, *shape: int, dtype: str = "float32") -> Any:
    return random.standard_normal(shape).astype(np.float32).astype(DTYPES.get(dtype, dtype))


def nothing(*shape: int, dtype: str = "float32") -> Any:
    return np.full(shape, np.nan).astype(DTYPES.get(dtype, dtype))


def error(found: Any, expected: Any) -> float:
    found, expected = found.astype(np.float64), expected.astype(np.float64)
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(7)


def test_embed_rows(
    device: fe.Device, launch: Launcher, random: np.random.Generator, dtype: str
) -> None:
    table = floats(random, 50, 136, dtype=dtype)
    ids = random.integers(0, 50, 5).astype(np.int32)
    for build in every(device, "embed_rows", dtype=dtype):
        x = nothing(5, 136)
        launch(build, ids=ids, table=table, x=x, T=5, V=50, H=136)
        np.testing.assert_array_equal(x, table[ids].astype(np.float32))


@pytest.mark.parametrize("hidden", [8, 136, 2080])
def test_rms_norm(
    device: fe.Device, launch: Launcher, random: np.random.Generator, dtype: str, hidden: int
) -> None:
    x, weight = floats(random, 3, hidden), floats(random, hidden)
    wide = x.astype(np.float64)
    expected = wide / np.sqrt((wide**2).mean(1, keepdims=True) + 1e-5) * weight
    for build in every(device, "rms_norm", dtype=dtype):
        y = nothing(3, hidden, dtype=dtype)
        launch(build, x=x, weight=weight, y=y, M=3, H=hidden, eps=1e-5)
        assert error(y, expected) < ROUNDING[dtype]


class Rotation:
    """Norms and angles of heads, and what becomes of them in float64."""

    def __init__(
        self, random: np.random.Generator, head_dim: int, turned: int, normed: bool
    ) -> None:
        self.turned = turned
        self.q_norm, self.k_norm = (floats(random, head_dim) if normed else None for _ in range(2))
        angles = np.arange(2100)[:, None] * 100.0 ** -np.linspace(0, 1, turned // 2)
        self.cosines, self.sines = (f(angles).astype(np.float32) for f in (np.cos, np.sin))
        self.arguments = {"q_norm": self.q_norm, "k_norm": self.k_norm, "eps": 1e-6}
        self.arguments |= {"cosines": self.cosines, "sines": self.sines, "R": turned, "P": 2100}

    def split(self, row: Any, heads: int, kv_heads: int, position: int) -> list[Any]:
        """q [heads, D] and k [kv_heads, D] normed and turned, and v [kv_heads, D], of a row."""
        own = row.astype(np.float64).reshape(heads + 2 * kv_heads, -1)
        q, k, v = np.split(own, [heads, heads + kv_heads])
        return [self._turn(q, self.q_norm, position), self._turn(k, self.k_norm, position), v]

    def _turn(self, x: Any, weight: Any, position: int) -> Any:
        if weight is not None:
            x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * weight
        low, high, rest = np.split(x, [self.turned // 2, self.turned], 1)
        cos, sin = self.cosines[position], self.sines[position]
        return np.concatenate([low * cos - high * sin, high * cos + low * sin, rest], 1)


@pytest.mark.parametrize(
    ("head_dim", "turned", "heads", "kv_heads", "normed"),
    [(64, 64, 6, 2, False), (32, 16, 8, 8, True), (96, 96, 9, 3, True), (256, 256, 2, 1, False)],
)
def test_rotary_append(
    device: fe.Device,
    launch: Launcher,
    random: np.random.Generator,
    dtype: str,
    head_dim: int,
    turned: int,
    heads: int,
    kv_heads: int,
    normed: bool,
) -> None:
    block = max(64, 1 << (head_dim - 1).bit_length())
    for build in every(device, "rotary_append", dtype=dtype, BLOCK_D=block):
        page = build.fields["PAGE"]
        qkv = floats(random, 4, (heads + 2 * kv_heads) * head_dim)
        rotation = Rotation(random, head_dim, turned, normed)
        sequences = np.array([0, 0, 1, 1], np.int32)
        positions = np.array([3, 2 * page + 1, page, -1], np.int32)
        pages = np.array([[2, 4, 6], [1, 3, 5]], np.int32)
        q = np.zeros((4, heads * head_dim), DTYPES[dtype])
        keys, values = (np.zeros((7, kv_heads, page, head_dim), DTYPES[dtype]) for _ in range(2))
        launch(
            build,
            qkv=qkv,
            sequences=sequences,
            positions=positions,
            pages=pages,
            q=q,
            keys=keys,
            values=values,
            T=4,
            HEADS=heads,
            KV=kv_heads,
            D=head_dim,
            B=2,
            S=3,
            C=7,
            **rotation.arguments,
        )
        for row in range(3):
            position = int(positions[row])
            own_q, own_k, own_v = rotation.split(qkv[row], heads, kv_heads, position)
            there = pages[sequences[row], position // page], slice(None), position % page
            assert error(q[row].reshape(heads, head_dim), own_q) < ROUNDING[dtype]
            assert error(keys[there], own_k) < ROUNDING[dtype]
            assert error(values[there], own_v) < ROUNDING[dtype]
        assert not q[3].any()
        assert np.count_nonzero(values.any(-1)) == 3 * kv_heads


def attention(q: Any, keys: Any, values: Any, start: int, window: int) -> Any:
    """[M, heads, D] in float64: query row m, at start + m, of keys and values [L, kv_heads, D]."""
    q, keys, values = (each.astype(np.float64) for each in (q, keys, values))
    shared = q.shape[1] // keys.shape[1]
    keys, values = np.repeat(keys, shared, 1), np.repeat(values, shared, 1)
    scores = np.einsum("mhd,lhd->hml", q, keys) / np.sqrt(q.shape[2])
    i, j = start + np.arange(len(q))[:, None], np.arange(len(keys))[None]
    seen = (j <= i) & ((window == 0) | (j > i - window))
    scores = np.where(seen, scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return np.einsum("hml,lhd->mhd", weights / weights.sum(-1, keepdims=True), values)


class Cache:
    """Pages of random keys and values, NaN behind each sequence's end."""

    def __init__(
        self, random: np.random.Generator, page: int, heads: int, size: int, ends: Any, dtype: str
    ) -> None:
        width = max(-(-end // page) for end in ends) + 1
        count = width * len(ends) + 1
        self.pages = random.permutation(count)[: width * len(ends)].astype(np.int32)
        self.pages = self.pages.reshape(len(ends), width)
        self.keys = floats(random, count, heads, page, size, dtype=dtype)
        self.values = floats(random, count, heads, page, size, dtype=dtype)
        for pages, end in zip(self.pages, ends, strict=True):
            for array in (self.keys, self.values):
                for number in range(end // page, width):
                    array[pages[number], :, max(0, end - number * page) :] = np.nan

    def of(self, sequence: int, end: int) -> tuple[Any, Any]:
        """The first `end` keys and values of a sequence, [end, heads, size]."""
        keys, values = (
            array[self.pages[sequence]].swapaxes(1, 2).reshape(-1, *array.shape[1::2])[:end]
            for array in (self.keys, self.values)
        )
        return keys, values


@pytest.mark.parametrize(
    ("head_dim", "heads", "kv_heads", "window", "splits"),
    [
        *((64, 6, 2, 0, 1), (64, 6, 2, 0, 3), (128, 8, 8, 100, 8), (32, 16, 1, 64, 2)),
        *((96, 4, 4, 30, 2), (256, 2, 1, 0, 32), (64, 12, 1, 0, 20)),
    ],
)
def test_attention_decode(
    device: fe.Device,
    launch: Launcher,
    random: np.random.Generator,
    dtype: str,
    head_dim: int,
    heads: int,
    kv_heads: int,
    window: int,
    splits: int,
) -> None:
    block = max(64, 1 << (head_dim - 1).bit_length())
    for build in every(device, "attention_decode", dtype=dtype, BLOCK_D=block):
        positions = np.array([max(200, 64 * splits + 9), -1, 63], np.int32)
        ends = np.maximum(positions, 0)
        cache = Cache(random, build.fields["PAGE"], kv_heads, head_dim, ends, dtype)
        turned, normed = head_dim // 2, kv_heads == 2
        rotation = Rotation(random, head_dim, turned, normed)
        qkv = floats(random, 3, (heads + 2 * kv_heads) * head_dim)
        out = np.full((3, heads * head_dim), 7).astype(DTYPES[dtype])
        count, width = len(cache.keys), cache.pages.shape[1]
        launch(
            build,
            qkv=qkv,
            keys=cache.keys,
            values=cache.values,
            pages=cache.pages,
            positions=positions,
            out=out,
            B=3,
            HEADS=heads,
            KV=kv_heads,
            D=head_dim,
            C=count,
            S=width,
            window=window,
            SPLITS=splits,
            scale=head_dim**-0.5,
            **rotation.arguments,
        )
        for row in (0, 2):
            position = int(positions[row])
            q, k, v = rotation.split(qkv[row], heads, kv_heads, position)
            keys, values = cache.of(row, position + 1)
            assert error(keys[-1], k) < ROUNDING[dtype]
            assert error(values[-1], v) < ROUNDING[dtype]
            expected = attention(q[None], keys, values, position, window)
            assert error(out[row].reshape(1, heads, head_dim), expected) < ROUNDING[dtype]
        assert (out[1] == 7).all()


@pytest.mark.parametrize(
    ("head_dim", "heads", "kv_heads", "rows", "start", "window"),
    [
        *((64, 6, 2, 70, 0, 0), (64, 6, 2, 70, 131, 0), (32, 4, 4, 150, 33, 40)),
        *((128, 4, 1, 1, 5, 0), (96, 2, 1, 130, 70, 100), (256, 2, 2, 65, 64, 0)),
    ],
)
def test_attention_prefill(
    device: fe.Device,
    launch: Launcher,
    random: np.random.Generator,
    dtype: str,
    head_dim: int,
    heads: int,
    kv_heads: int,
    rows: int,
    start: int,
    window: int,
) -> None:
    block = max(64, 1 << (head_dim - 1).bit_length())
    for build in every(device, "attention_prefill", dtype=dtype, BLOCK_D=block):
        cache = Cache(random, build.fields["PAGE"], kv_heads, head_dim, [start + rows], dtype)
        q = floats(random, rows, heads * head_dim, dtype=dtype)
        out = nothing(rows, heads * head_dim, dtype=dtype)
        count, width = len(cache.keys), cache.pages.shape[1]
        launch(
            build,
            q=q,
            keys=cache.keys,
            values=cache.values,
            pages=cache.pages[0],
            out=out,
            M=rows,
            HEADS=heads,
            KV=kv_heads,
            D=head_dim,
            C=count,
            S=width,
            start=start,
            window=window,
            scale=head_dim**-0.5,
        )
        own = q.reshape(rows, heads, head_dim)
        expected = attention(own, *cache.of(0, start + rows), start, window)
        assert error(out.reshape(expected.shape), expected) < ROUNDING[dtype]


def test_silu_mul(
    device: fe.Device, launch: Launcher, random: np.random.Generator, dtype: str
) -> None:
    both = floats(random, 3, 2 * 1040, dtype=dtype)
    gate, up = np.split(both.astype(np.float64), 2, 1)
    for build in every(device, "silu_mul", dtype=dtype):
        y = nothing(3, 1040, dtype=dtype)
        launch(build, both=both, y=y, M=3, I=1040)
        assert error(y, gate / (1 + np.exp(-gate)) * up) < ROUNDING[dtype]


@pytest.mark.parametrize("wide", [0, 1])
@pytest.mark.parametrize(("rows", "biased", "adds"), [(1, True, 0), (20, False, 1), (130, True, 1)])
def test_dense_gemm(
    device: fe.Device,
    launch: Launcher,
    random: np.random.Generator,
    dtype: str,
    wide: int,
    rows: int,
    biased: bool,
    adds: int,
) -> None:
    n, k = 330, 328
    a, weight = floats(random, rows, k, dtype=dtype), floats(random, n, k, dtype=dtype)
    bias = floats(random, n, dtype=dtype) if biased else None
    expected = a.astype(np.float64) @ weight.astype(np.float64).T
    expected += 0 if bias is None else bias.astype(np.float64)
    for build in every(device, "dense_gemm", dtype=dtype, WIDE=wide):
        c = floats(random, rows, n, dtype="float32" if wide else dtype)
        total = expected + (c.astype(np.float64) if adds else 0)
        launch(build, a=a, weight=weight, bias=bias, c=c, M=rows, N=n, K=k, adds=adds)
        assert error(c, total) < (1e-6 if wide else ROUNDING[dtype])


VOCAB = 5000


@pytest.fixture
def logits(random: np.random.Generator) -> Any:
    return floats(random, 6, VOCAB) * np.float32(3)


def thresholds_of(
    launch: Launcher, device: fe.Device, logits: Any, temperatures: Any, top_ks: Any, top_ps: Any
) -> Any:
    """Count of tokens of each row that are kept, by every build: they agree."""
    counts = []
    rows = len(logits)
    for build in every(device, "token_threshold"):
        thresholds, floors = np.zeros(rows, np.int32), np.zeros(rows, np.int32)
        highest, masses = np.zeros(rows, np.float32), np.zeros(rows, np.float32)
        for kind, step in [(0, 0), *((kind, step) for kind in (1, 2) for step in range(8))]:
            launch(
                build,
                logits=logits,
                temperatures=np.array(temperatures, np.float32),
                top_ks=np.array(top_ks, np.int32),
                top_ps=np.array(top_ps, np.float32),
                positions=np.zeros(rows, np.int32),
                thresholds=thresholds,
                floors=floors,
                highest=highest,
                masses=masses,
                B=rows,
                V=logits.shape[1],
                kind=kind,
                step=step,
            )
        bits = logits.view(np.int32)
        ordered = np.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
        counts.append((ordered >= thresholds[:, None]).sum(1).tolist())
    assert all(found == counts[0] for found in counts)
    return counts[0]


def test_token_threshold(device: fe.Device, launch: Launcher, logits: Any) -> None:
    temperatures, top_ks = [0, 1, 1, 0.7, 1, 2], [9, 0, 20, 0, 5, VOCAB + 7]
    top_ps = [0.3, 1, 1, 0.5, 0.9, 0.999]
    expected = []
    for row, t, k, p in zip(logits, temperatures, top_ks, top_ps, strict=True):
        if not t:
            expected.append(VOCAB)
            continue
        best = np.sort(row.astype(np.float64))[::-1][: k or VOCAB]
        mass = np.cumsum(np.exp((best - best[0]) / t))
        expected.append(len(best) if p == 1 else int(np.searchsorted(mass, p * mass[-1])) + 1)
    assert thresholds_of(launch, device, logits, temperatures, top_ks, top_ps) == expected


def test_equal_logits_stay_together(device: fe.Device, launch: Launcher) -> None:
    logits = np.zeros((1, 100), np.float32)
    logits[0, :10] = 4
    assert thresholds_of(launch, device, logits, [1], [3], [1]) == [10]


def test_sample_token(device: fe.Device, launch: Launcher, logits: Any) -> None:
    drawn = []
    logits[1, 77] = np.nan
    logits[2, 4000:] = logits[2, 9] = 50
    for build in every(device, "sample_token"):
        tokens, positions = np.full(6, -5, np.int32), np.array([3, 4, 5, 6, 7, -1], np.int32)
        mail = np.zeros(6, np.int64)
        launch(
            build,
            logits=logits,
            temperatures=np.array([0, 0, 0, 1, 1, 1], np.float32),
            thresholds=None,
            seeds=np.arange(6, dtype=np.int64) + 2**40,
            tokens=tokens,
            mail=mail,
            positions=positions,
            B=6,
            V=VOCAB,
        )
        assert (mail[:5] >> 32).tolist() == positions[:5].tolist()
        assert (mail & 0xFFFFFFFF).tolist() == [*tokens[:5], 0]
        assert positions.tolist() == [4, 5, 6, 7, 8, -1]
        assert tokens[5] == -5
        drawn.append(tokens.tolist())
    assert all(tokens == drawn[0] for tokens in drawn)
    assert drawn[0][0] == np.argmax(logits[0])
    assert drawn[0][1] == np.nanargmax(logits[1])
    assert drawn[0][2] == 9  # the lowest of equals


def test_tokens_are_drawn_as_often_as_they_are_likely(device: fe.Device) -> None:
    launch = Launcher(fe.open_device(device.name))  # without checks, which other tests have
    build = every(device, "sample_token")[0]
    rows = 512 if device.name == "cpu" else 16384
    likely = np.array([0.5, 0.25, 0.125, 0.125])
    logits = np.tile(np.log(likely).astype(np.float32), (rows, 1))
    tokens = np.zeros(rows, np.int32)
    launch(
        build,
        logits=logits,
        temperatures=np.ones(rows, np.float32),
        thresholds=None,
        seeds=np.arange(rows, dtype=np.int64),
        tokens=tokens,
        mail=np.zeros(rows, np.int64),
        positions=np.full(rows, 9, np.int32),
        B=rows,
        V=4,
    )
    found = np.bincount(tokens, minlength=4) / rows
    assert (np.abs(found - likely) < 4 * np.sqrt(likely * (1 - likely) / rows)).all()
