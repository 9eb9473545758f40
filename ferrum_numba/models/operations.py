"""The launches between a model's GEMMs, each with the shipped build that fits device and model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from .. import kernels
from ..devices import Device
from ..errors import CheckpointError
from ..gptq import Routing
from ..kernels import Artefact, ExpertTiles
from .config import ModelConfig
from .experts import ExpertsConfig
from .workspace import Pages, Rows, Segment, Workspace

_CTAS = 264  # two on each multiprocessor of an H200; elsewhere only the speed suffers
_OF_HEADS = ("rotary_append", "attention_decode", "attention_prefill")


class Operations:
    """Operations on arrays of one device; every call launches on `stream` and returns.

    Shapes: M rows of activations, in the model's dtype T; x float32 [M, hidden] is the residual
    stream.
    """

    def __init__(self, config: ModelConfig, device: Device) -> None:
        """Raises CheckpointError where no shipped kernel takes the model's heads."""
        self.config, self.device = config, device
        self._launch = kernels.launches_on(device)
        self._found: dict[tuple[Any, ...], Artefact] = {}
        self._heads = {"HEADS": config.heads, "KV": config.kv_heads, "D": config.head_dim}
        self._scale = 1 / math.sqrt(config.head_dim)
        padded = max(64, 1 << (config.head_dim - 1).bit_length())
        if config.head_dim % 8 or padded > 256 or config.heads // config.kv_heads > 16:
            expected = "a multiple of 8 up to 256, and up to 16 query heads a key head"
            found = f"{config.head_dim} and {config.heads // config.kv_heads}"
            remedy = "no kernel here computes attention of other sizes"
            raise CheckpointError("head_dim", expected, found, remedy)
        self._padded = padded
        self.page: int = self._typed("rotary_append", BLOCK_D=padded).fields["PAGE"]

    def _build(self, kernel: str, **fields: Any) -> Artefact:
        """The build of these fields that this device runs: the newest target's on a GPU."""
        key = (kernel, *fields.values())
        if key not in self._found:
            builds = kernels.builds(kernel=kernel, **fields)
            (self._found[key],) = kernels.of_newest_target(builds, self.device)
        return self._found[key]

    def _typed(self, kernel: str, **fields: Any) -> Artefact:
        return self._build(kernel, dtype=self.config.dtype, **fields)

    def builds(self) -> list[Artefact]:
        """Builds that every text needs, GEMMs aside: a prompt's, and one sequence's steps."""
        return [
            self._build("embed_rows", dtype=self.config.dtype),
            self._norm_build(),
            *(self._typed(name, BLOCK_D=self._padded) for name in _OF_HEADS),
            self._typed("silu_mul"),
            self._build("sample_token"),
        ]

    def dense_build(self, m: int, *, wide: bool) -> Artefact:
        """The build that multiplies m rows by a dense weight."""
        return self._typed("dense_gemm", WIDE=int(wide), SWAP=int(m <= 16))

    def _norm_build(self) -> Artefact:
        return self._typed("rms_norm", BLOCK=1024 if self.config.hidden <= 1024 else 4096)

    def embed(self, ids: Any, table: Any, x: Any, stream: Any) -> None:
        """x = table[ids]; ids int32 [M], table float16 or bfloat16 [V, H]."""
        sizes = {"T": x.shape[0], "V": table.shape[0], "H": table.shape[1]}
        build = self._build("embed_rows", dtype=np.dtype(table.dtype).name)
        self._launch(build, stream, sizes, {"ids": ids, "table": table, "x": x})

    def norm(self, x: Any, weight: Any, y: Any, stream: Any) -> None:
        """y = x / rms(x) * weight; x float32 [M, H], weight float32 [H], y T [M, H]."""
        sizes = {"M": x.shape[0], "H": x.shape[1], "eps": self.config.eps}
        self._launch(self._norm_build(), stream, sizes, {"x": x, "weight": weight, "y": y})

    def rotate(
        self, work: Workspace, norms: tuple[Any, Any], rows: Rows, cache: Pages, stream: Any
    ) -> None:
        """work.q = rotated q of work.qkv, and rotated k, and v, into the cache.

        norms: q's and k's weights float32 [D], or None.
        """
        sizes, arrays = self._rotation(work, norms, rows, cache)
        arrays |= {"q": work.q, "sequences": rows.sequences}
        build = self._typed("rotary_append", BLOCK_D=self._padded)
        self._launch(build, stream, sizes | {"T": work.m}, arrays)

    def attend_one(
        self,
        work: Workspace,
        norms: tuple[Any, Any],
        rows: Rows,
        cache: Pages,
        window: int | None,
        stream: Any,
    ) -> None:
        """work.attended = attention of work.qkv, one token of each sequence, and as `rotate`."""
        build = self._typed("attention_decode", BLOCK_D=self._padded)
        batch, width = rows.pages.shape
        blocks = width * self.page // build.fields["BLOCK_N"]
        splits = max(1, min(_CTAS // (batch * self.config.kv_heads), blocks))
        sizes, arrays = self._rotation(work, norms, rows, cache)
        sizes |= {"window": window or 0, "SPLITS": splits, "scale": self._scale}
        self._launch(build, stream, sizes, arrays | {"out": work.attended})

    def attend_many(
        self, work: Workspace, part: Segment, cache: Pages, window: int | None, stream: Any
    ) -> None:
        """work.attended = attention of work.q, in the rows of a segment."""
        own = slice(part.first, part.last)
        sizes = {"M": len(part.ids), **self._heads, "C": cache[0].shape[0]}
        sizes |= {"S": part.pages.shape[0], "start": part.start, "window": window or 0}
        arrays = {"q": work.q[own], "out": work.attended[own], "pages": part.pages}
        build = self._typed("attention_prefill", BLOCK_D=self._padded)
        self._launch(build, stream, sizes | {"scale": self._scale}, arrays | _cache(cache))

    def gate(self, both: Any, y: Any, stream: Any) -> None:
        """y = silu(gate) * up; both T [M, 2 I], y T [M, I]."""
        sizes = {"M": y.shape[0], "I": y.shape[1]}
        self._launch(self._typed("silu_mul"), stream, sizes, {"both": both, "y": y})

    def choose(self, scores: Any, counts: Any, ids: Any, stream: Any) -> None:
        """The experts ids int32 [C] of each row of scores float32 [M, E], and what they count."""
        spec = self._experts
        sizes = {"M": scores.shape[0], "E": spec.count, "top_k": spec.top_k, "sigmoid": 0}
        sizes |= {"renormalise": int(spec.renormalise), "scale": 1.0}
        sizes |= {"groups": 1, "top_groups": 1, "group_best": 1}
        arrays = {"logits": scores, "bias": None, "weights": counts, "ids": ids}
        self._launch(self._build("moe_route"), stream, sizes, arrays)

    def align(self, ids: Any, routing: Routing, tiles: ExpertTiles, stream: Any) -> None:
        """The choices `ids` int32 [C] in the blocks of `routing`."""
        sizes = {"T": ids.shape[0], "E": self._experts.count, "block": tiles.block}
        sizes |= {"blocks": routing.expert_ids.shape[0], "span": tiles.span}
        arrays = {"topk_ids": ids, **vars(routing)}
        self._launch(self._build("moe_align"), stream, sizes, arrays)

    def sum(self, x: Any, parts: Any, shared: Any, gate: Any, stream: Any) -> None:
        """x float32 [M, H] += each row's parts, and sigmoid(gate) * shared."""
        sizes = {"M": x.shape[0], "H": x.shape[1], "top_k": self._experts.top_k}
        arrays = {"x": x, "parts": parts, "shared": shared, "gate": gate}
        self._launch(self._typed("moe_sum"), stream, sizes, arrays)

    @property
    def _experts(self) -> ExpertsConfig:
        assert self.config.experts is not None
        return self.config.experts

    def dense(
        self, a: Any, weight: Any, bias: Any, c: Any, stream: Any, *, wide: bool, adds: bool
    ) -> None:
        """c = a @ weight^T + bias, added to what c holds with `adds`.

        weight T [N, K], bias T [N] or None; c T [M, N], float32 if `wide`.
        """
        m = a.shape[0]
        sizes = {"M": m, "N": weight.shape[0], "K": weight.shape[1], "adds": int(adds)}
        build = self.dense_build(m, wide=wide)
        self._launch(build, stream, sizes, {"a": a, "weight": weight, "bias": bias, "c": c})

    def threshold(
        self, logits: Any, choice: Mapping[str, Any], positions: Any, stream: Any
    ) -> None:
        """The lowest logit that top-k and top-p leave of each row, into choice["thresholds"]."""
        sizes = {"B": logits.shape[0], "V": logits.shape[1]}
        arrays = {name: choice[name] for name in choice if name != "seeds"}
        arrays |= {"logits": logits, "positions": positions}
        for kind, step in [(0, 0), *((kind, step) for kind in (1, 2) for step in range(8))]:
            steps = sizes | {"kind": kind, "step": step}
            self._launch(self._build("token_threshold"), stream, steps, arrays)

    def sample(
        self,
        logits: Any,
        choice: Mapping[str, Any],
        tokens: Any,
        mail: Any,
        positions: Any,
        stream: Any,
    ) -> None:
        """tokens int32 [B] drawn from logits float32 [B, V], and positions += 1.

        mail: int64 [B], the tokens with their positions in the upper halves.
        """
        sizes = {"B": logits.shape[0], "V": logits.shape[1]}
        arrays = {name: choice[name] for name in ("temperatures", "thresholds", "seeds")}
        arrays |= {"logits": logits, "tokens": tokens, "mail": mail, "positions": positions}
        self._launch(self._build("sample_token"), stream, sizes, arrays)

    def turns(self, longest: int, length: int) -> tuple[Any, Any]:
        """Cosines and sines on the device, see `RopeSpec.turns`."""
        cosines, sines = self.config.rope.turns(longest, length)
        return self.device.to_device(cosines), self.device.to_device(sines)

    def _rotation(
        self, work: Workspace, norms: tuple[Any, Any], rows: Rows, cache: Pages
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """The sizes and arrays by which q, k and v of rows turn, and come into the cache."""
        sizes = {**self._heads, "R": self.config.rope.size, "eps": self.config.eps}
        sizes |= {"P": rows.turns[0].shape[0], "C": cache[0].shape[0]}
        sizes |= dict(zip("BS", rows.pages.shape, strict=True))
        arrays = {"qkv": work.qkv, "q_norm": norms[0], "k_norm": norms[1]}
        arrays |= {"cosines": rows.turns[0], "sines": rows.turns[1], "pages": rows.pages}
        return sizes, arrays | {"positions": rows.positions} | _cache(cache)


def _cache(pages: Pages) -> dict[str, Any]:
    return {"keys": pages[0], "values": pages[1]}
