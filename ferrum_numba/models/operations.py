"""The launches between a model's GEMMs, each with the shipped build that fits device and model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np

from .. import kernels
from ..devices import Device
from ..errors import CheckpointError
from ..kernels import Artefact
from .config import ModelConfig

_SPLITS = 32  # of a context over CTAs, at most
_CTAS = 528  # four on each multiprocessor of an H200; elsewhere only the speed suffers


class Operations:
    """What a model does to arrays of one device; every call launches on `stream` and returns.

    Shapes: M rows of activations, in the model's dtype T; x float32 [M, hidden] is the residual
    stream.  An array may have more rows than M.
    """

    def __init__(self, config: ModelConfig, device: Device) -> None:
        """Raises CheckpointError where no shipped kernel takes the model's heads."""
        self.config, self.device = config, device
        self._launch = kernels.launches_on(device)
        self._heads = {"HEADS": config.heads, "KV": config.kv_heads, "D": config.head_dim}
        padded = max(32, 1 << (config.head_dim - 1).bit_length())
        if config.head_dim % 8 or padded > 256 or config.heads // config.kv_heads > 16:
            raise CheckpointError(
                "head_dim",
                "a multiple of 8 up to 256, and up to 16 query heads a key head",
                f"{config.head_dim} and {config.heads // config.kv_heads}",
                "no kernel here computes attention of other sizes",
            )
        self._padded = padded
        self.page: int = self._rotary.fields["PAGE"]

    def _build(self, kernel: str, **fields: Any) -> Artefact:
        """The build of these fields that this device runs: the newest target's on a GPU."""
        found = [
            build for build in kernels.builds(kernel=kernel, **fields) if build.runs_on(self.device)
        ]
        newest = 0 if self.device.name == "cpu" else -1  # sm_80 is the shortest to translate
        return sorted(found, key=lambda build: str(build.sidecar.target))[newest]

    def _typed(self, kernel: str, **fields: Any) -> Artefact:
        return self._build(kernel, dtype=self.config.dtype, **fields)

    def embed(self, ids: Any, table: Any, x: Any, m: int, stream: Any) -> None:
        """x = table[ids]; ids int32 [M], table float16 or bfloat16 [V, H]."""
        sizes = {"T": m, "V": table.shape[0], "H": table.shape[1]}
        build = self._embed[np.dtype(table.dtype).name]
        self._launch(build, stream, sizes, {"ids": ids, "table": table, "x": x})

    def norm(self, x: Any, weight: Any, y: Any, m: int, stream: Any) -> None:
        """y = x / rms(x) * weight; weight float32 [H], y T [M, H]."""
        sizes = {"M": m, "H": self.config.hidden, "eps": self.config.eps}
        self._launch(self._norm, stream, sizes, {"x": x, "weight": weight, "y": y})

    def rotate(
        self,
        qkv: Any,
        norms: tuple[Any, Any],
        turns: tuple[Any, Any],
        rows: tuple[Any, Any],
        pages: Any,
        q: Any,
        cache: tuple[Any, Any],
        m: int,
        stream: Any,
    ) -> None:
        """q = rotated q of qkv, and rotated k and v into the cache.

        norms: q's and k's weights float32 [D], or None.
        turns: cosines and sines, float32 [P, R / 2].
        rows: sequence and position of each row, int32 [M].  pages: int32 [B, S].
        cache: keys and values, T [C, KV, PAGE, D].
        """
        config = self.config
        sizes = {
            "T": m,
            **self._heads,
            "R": config.rope.size,
            "P": turns[0].shape[0],
            "B": pages.shape[0],
            "S": pages.shape[1],
            "C": cache[0].shape[0],
        }
        arrays = {
            "qkv": qkv,
            "q_norm": norms[0],
            "k_norm": norms[1],
            "cosines": turns[0],
            "sines": turns[1],
            "sequences": rows[0],
            "positions": rows[1],
            "pages": pages,
            "q": q,
            "keys": cache[0],
            "values": cache[1],
        }
        self._launch(self._rotary, stream, sizes | {"eps": config.eps}, arrays)

    def attend_one(
        self,
        q: Any,
        cache: tuple[Any, Any],
        pages: Any,
        positions: Any,
        out: Any,
        window: int | None,
        stream: Any,
    ) -> None:
        """out = attention of one token of each sequence; q, out T [B, HEADS * D]."""
        batch, width = pages.shape
        pairs = batch * self.config.kv_heads
        splits = min(_SPLITS, max(1, _CTAS // pairs), 2 * width)
        splits = min(splits, 8) if splits <= 16 else splits  # a sum of more takes longer
        sizes = {
            "B": batch,
            **self._heads,
            "C": cache[0].shape[0],
            "S": width,
            "window": window or 0,
            "SPLITS": splits,
        }
        arrays = {
            "q": q,
            "keys": cache[0],
            "values": cache[1],
            "pages": pages,
            "positions": positions,
            "out": out,
        }
        self._launch(self._decode[splits > 8], stream, sizes | {"scale": self._scale}, arrays)

    def attend_many(
        self,
        q: Any,
        cache: tuple[Any, Any],
        pages: Any,
        start: int,
        out: Any,
        m: int,
        window: int | None,
        stream: Any,
    ) -> None:
        """out = attention of one sequence's tokens from position `start` on; pages int32 [S]."""
        sizes = {
            "M": m,
            **self._heads,
            "C": cache[0].shape[0],
            "S": pages.shape[0],
            "start": start,
            "window": window or 0,
        }
        arrays = {"q": q, "keys": cache[0], "values": cache[1], "pages": pages, "out": out}
        self._launch(self._prefill, stream, sizes | {"scale": self._scale}, arrays)

    def gate(self, both: Any, y: Any, m: int, stream: Any) -> None:
        """y = silu(gate) * up; both T [M, 2 I], y T [M, I]."""
        sizes = {"M": m, "I": self.config.intermediate}
        self._launch(self._silu, stream, sizes, {"both": both, "y": y})

    def dense(
        self, a: Any, weight: Any, bias: Any, c: Any, stream: Any, *, wide: bool, adds: bool
    ) -> None:
        """c = a @ weight^T + bias, added to what c holds with `adds`.

        weight T [N, K], bias T [N] or None; c T [M, N], float32 if `wide`.
        """
        m = a.shape[0]
        sizes = {"M": m, "N": weight.shape[0], "K": weight.shape[1], "adds": int(adds)}
        build = self._dense[wide, m > 16]
        self._launch(build, stream, sizes, {"a": a, "weight": weight, "bias": bias, "c": c})

    def threshold(
        self, logits: Any, choice: Mapping[str, Any], positions: Any, stream: Any
    ) -> None:
        """The lowest logit that top-k and top-p leave of each row, into choice["thresholds"]."""
        sizes = {"B": logits.shape[0], "V": logits.shape[1]}
        arrays = {name: choice[name] for name in choice if name != "seeds"}
        arrays |= {"logits": logits, "positions": positions}
        for kind, step in [(0, 0), *((kind, step) for kind in (1, 2) for step in range(8))]:
            self._launch(self._threshold, stream, sizes | {"kind": kind, "step": step}, arrays)

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
        self._launch(self._sample, stream, sizes, arrays)

    @property
    def _scale(self) -> float:
        return 1 / math.sqrt(self.config.head_dim)

    @cached_property
    def _embed(self) -> dict[str, Artefact]:
        return {dtype: self._build("embed_rows", dtype=dtype) for dtype in ("float16", "bfloat16")}

    @cached_property
    def _norm(self) -> Artefact:
        block = 1024 if self.config.hidden <= 1024 else 4096
        return self._typed("rms_norm", BLOCK=block)

    @cached_property
    def _rotary(self) -> Artefact:
        return self._typed("rotary_append", BLOCK_D=self._padded)

    @cached_property
    def _decode(self) -> dict[bool, Artefact]:
        """Whether there are more than eight splits: the build."""
        fields = {"BLOCK_D": self._padded}
        return {
            many: self._typed("attention_decode", BLOCK_S=_SPLITS if many else 8, **fields)
            for many in (False, True)
        }

    @cached_property
    def _prefill(self) -> Artefact:
        return self._typed("attention_prefill", BLOCK_D=self._padded)

    @cached_property
    def _silu(self) -> Artefact:
        return self._typed("silu_mul")

    @cached_property
    def _dense(self) -> dict[tuple[bool, bool], Artefact]:
        return {
            (wide, many): self._typed("dense_gemm", WIDE=int(wide), SWAP=int(not many))
            for wide in (False, True)
            for many in (False, True)
        }

    @cached_property
    def _threshold(self) -> Artefact:
        return self._build("token_threshold")

    @cached_property
    def _sample(self) -> Artefact:
        return self._build("sample_token")
