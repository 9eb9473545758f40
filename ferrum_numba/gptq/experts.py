"""The experts of one layer on a device: grouped W4A16 on their tensors as the file has them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import kernels
from ..devices import Device
from ..devices.addresses import AddressTable
from ..dtypes import dtype_named
from ..errors import CheckpointError
from ..kernels import ExpertTiles
from .layer_dtype import in_layer_dtype, layer_dtype
from .tensors import GptqTensors, in_order
from .zeros import kernel_words, word_of_ones


def _padded(columns: int) -> int:
    return -(-columns // 32) * 32


_PARTS = ("qweight", "scales", "qzeros", "g_idx")


@dataclass(frozen=True, eq=False)
class Routing:
    """Choices of experts, sorted into blocks as vLLM's `moe_align_block_size` sorts them.

    sorted_token_ids        int32 [blocks * block]  choices by expert, each expert's last block
                                                    filled up with numbers from `choices` on
    expert_ids              int32 [blocks]          the expert of each block; below 0: none here
    num_tokens_post_padded  int32 [1]               how much of sorted_token_ids there is
    tiles                   int32 [1 + blocks]      as `moe_align` makes them, or None

    All are arrays of the device, and the host never reads them.
    """

    sorted_token_ids: Any
    expert_ids: Any
    num_tokens_post_padded: Any
    tiles: Any = None


@dataclass(frozen=True, eq=False)
class ExpertRoom:
    """Arrays that the experts of a layer write, for C choices in blocks of P rows in all.

    rows   T [P, hidden]: activations, where gate_up's build wants them sorted; or None
    gated  T [C, width], or [P, width] where down's does: silu(gate) * up
    parts  float32 [C, hidden]: the weighted results

    Rows that are sorted lie in the order of blocks, and their columns, padded to a multiple of 32,
    as scripts/kernels/moe_gather.py has them.  No kernel writes rows behind the last block.  Some
    of those are read, and no result depends on what they hold; GptqExperts.room fills them with
    zeros once, so that a check of memory that nobody has written finds nothing.
    """

    rows: Any
    gated: Any
    parts: Any

    @staticmethod
    def shapes(
        tiles: ExpertTiles, choices: int, experts: int, hidden: int, width: int
    ) -> tuple[tuple[int, int] | None, tuple[int, int], tuple[int, int]]:
        """Shapes of rows, gated and parts, with these builds."""
        rows = tiles.blocks(choices, experts) * tiles.block
        own = None if tiles.gather is None else (rows, _padded(hidden))
        gated = (rows, _padded(width)) if tiles.sorts else (choices, width)
        return own, gated, (choices, hidden)


@dataclass(frozen=True, eq=False)
class StackedWeight:
    """The same layer of all experts: qweight int32 [E, K/8, N], scales [E, groups, N], qzeros int32
    [E, groups, N/8], arrays of one device in C order.  The true zero is nibble + zero_bias.

    g_idx: int32 [E, K], the group of each row, where any expert's rows are in activation order.
    """

    qweight: Any
    scales: Any
    qzeros: Any
    group_size: int
    zero_bias: int
    g_idx: Any = None

    @property
    def experts(self) -> int:
        return int(self.qweight.shape[0])

    @property
    def K(self) -> int:  # noqa: N802  as a PackedWeight's
        return int(self.qweight.shape[1]) * 8

    @property
    def N(self) -> int:  # noqa: N802
        return int(self.qweight.shape[2])

    @property
    def nbytes(self) -> int:
        return sum(int(array.nbytes) for array in self.arrays.values())

    @property
    def arrays(self) -> dict[str, Any]:
        """Arrays by name, without a g_idx that there is not."""
        named = {part: getattr(self, part) for part in _PARTS}
        return {part: array for part, array in named.items() if array is not None}

    @property
    def group(self) -> int:
        """Rows in a group, 0 where it is all of K."""
        return 0 if self.group_size >= self.K else self.group_size

    def addresses(self, device: Device) -> npt.NDArray[np.int64]:
        """int64 [E, 3 or 4]: where each expert's qweight, scales, qzeros and g_idx begin."""
        columns = []
        for part, array in self.arrays.items():
            first = device.describe(part, array).address
            columns.append(first + np.arange(self.experts) * (array.nbytes // self.experts))
        return np.stack(columns, 1)

    def row_by_row(self, device: Device) -> StackedWeight:
        """The same with a g_idx."""
        if self.g_idx is not None:
            return self
        rows = np.tile(in_order(self.K, self.group_size), (self.experts, 1))
        return replace(self, g_idx=device.to_device(rows))

    @classmethod
    def of(
        cls, tensors: Iterable[GptqTensors], count: int, device: Device, dtype: npt.DTypeLike
    ) -> StackedWeight:
        """`count` experts' tensors, each copied to its place on the device as it comes.

        No word is repacked.  Scales are rounded to `dtype`; zeros whose format has no constant bias
        are rewritten, as GptqLinear's are.  Raises CheckpointError for scales that `dtype` cannot
        hold, for an expert that differs from the first in shape or groups and for biases, AbiError
        for another dtype than float16 and bfloat16.
        """
        dtype, zeros, orders, act_order = layer_dtype(dtype), [], [], False
        for number, expert in enumerate(tensors):
            if number == 0:
                first = expert
                qweight = device.empty((count, *expert.qweight.shape), np.int32)
                scales = device.empty((count, *expert.scales.shape), dtype)
            _check(expert, first, number)
            device.write(qweight[number], expert.qweight)
            device.write(scales[number], in_layer_dtype("scales", expert.scales, dtype))
            zeros.append(kernel_words(expert.qzeros, expert.zero_format))
            rows = expert.g_idx
            orders.append(in_order(first.K, first.group_size) if rows is None else rows)
            act_order |= expert.act_order
        zero_bias = min(bias for _, bias in zeros)
        ones = np.uint32(word_of_ones(4))
        words = [
            words if bias == zero_bias else (words.view(np.uint32) + ones).view(np.int32)
            for words, bias in zeros
        ]
        qzeros = device.to_device(np.stack(words))
        g_idx = device.to_device(np.stack(orders)) if act_order else None
        return cls(qweight, scales, qzeros, first.group_size, zero_bias, g_idx)


def _check(expert: GptqTensors, first: GptqTensors, number: int) -> None:
    for field in ("K", "N", "group_size"):
        found, expected = getattr(expert, field), getattr(first, field)
        if found != expected:
            raise CheckpointError(field, f"{expected} in all experts", f"{found} in {number}")
    if expert.bias is not None and np.any(expert.bias):
        raise CheckpointError("bias", "none in experts", f"one in {number}")


class GptqExperts:
    """The MLPs of all experts of a layer: y = weight · down(silu(gate(x)) * up(x)) for each choice.

    Launches are grouped: one for gate and up, one for down, whatever the routing.
    """

    def __init__(
        self,
        gate: StackedWeight,
        up: StackedWeight,
        down: StackedWeight,
        *,
        device: Device,
        dtype: npt.DTypeLike = np.float16,
    ) -> None:
        """Raises CheckpointError for weights that do not fit each other."""
        self.device, self.dtype = device, dtype_named(dtype)
        shape = (gate.experts, gate.K, gate.N, gate.group_size, gate.zero_bias)
        found = (up.experts, up.K, up.N, up.group_size, up.zero_bias)
        if found != shape:
            named = "experts, K, N, group_size and zero_bias"
            raise CheckpointError("up", f"{named} of gate, {shape}", found)
        if (down.experts, down.K) != (gate.experts, gate.N):
            expected = f"{gate.experts} experts with K={gate.N}"
            raise CheckpointError("down", expected, f"{down.experts} with K={down.K}")
        self.experts, self.hidden, self.width = sizes = gate.experts, gate.K, gate.N
        act_order = any(weight.g_idx is not None for weight in (gate, up, down))
        if act_order:  # in one layer of one expert, and all of them are looked up row by row
            gate, up, down = (weight.row_by_row(device) for weight in (gate, up, down))
        self.gate, self.up, self.down = gate, up, down
        self._tables = (self._table(gate=gate, up=up), self._table(down=down))
        self._shape = kernels.ExpertShape(*sizes, gate.group, down.group, act_order)
        self._launch = kernels.launches_on(device)

    def _table(self, **weights: StackedWeight) -> AddressTable:
        arrays = {f"{n}.{part}": own for n, w in weights.items() for part, own in w.arrays.items()}
        addresses = np.hstack([weight.addresses(self.device) for weight in weights.values()])
        return AddressTable(self.device, addresses, arrays)

    @property
    def nbytes(self) -> int:
        """Bytes that the experts take on the device."""
        return self.gate.nbytes + self.up.nbytes + self.down.nbytes

    def room(self, choices: int) -> ExpertRoom:
        """New arrays for so many choices."""
        tiles, empty = self.tiles(choices), self.device.empty
        sizes = (choices, self.experts, self.hidden, self.width)
        rows, gated, parts = ExpertRoom.shapes(tiles, *sizes)
        own = None if rows is None else self._zeros(rows)
        inner = self._zeros(gated) if tiles.sorts else empty(gated, self.dtype)
        return ExpertRoom(own, inner, empty(parts, np.float32))

    def _zeros(self, shape: tuple[int, int]) -> Any:
        return self.device.to_device(np.zeros(shape, self.dtype))

    def tiles(self, choices: int) -> ExpertTiles:
        """The builds that compute so many choices, and the blocks that they want."""
        return kernels.choose_expert_tiles(self.device, choices, self._shape, self.dtype.name)

    def __call__(
        self, x: Any, routing: Routing, weights: Any, room: ExpertRoom, stream: Any = None
    ) -> None:
        """Compute all choices: those of a token follow each other, and share its row of x.

        x        T [M, hidden]
        routing  in the blocks of `tiles(choices)`
        weights  float32 [choices], what each choice counts
        room     its `parts` [choices, hidden] are the weighted results
        """
        self.into_gated(x, routing, room, stream)
        self.into_parts(routing, weights, room, stream)

    def into_gated(self, x: Any, routing: Routing, room: ExpertRoom, stream: Any = None) -> None:
        """The first half: room.gated = silu(gate(x)) * up(x)."""
        choices, rows = room.parts.shape[0], routing.sorted_token_ids.shape[0]
        tiles, top_k = self.tiles(choices), choices // x.shape[0]
        if tiles.gather is not None:
            sizes = {"T": choices, "P": rows, "K": self.hidden, "top_k": top_k}
            arrays = {"a": x, "sorted_token_ids": routing.sorted_token_ids}
            arrays |= {"num_tokens_post_padded": routing.num_tokens_post_padded}
            self._launch(tiles.gather, stream, sizes, arrays | {"rows": room.rows})
            x = room.rows
        self._half(tiles.gate_up, 0, x, routing, {"c": room.gated}, choices, top_k, stream)

    def into_parts(
        self, routing: Routing, weights: Any, room: ExpertRoom, stream: Any = None
    ) -> None:
        """The second half: room.parts = weights * down(room.gated)."""
        choices, results = room.parts.shape[0], {"wide": room.parts, "weights": weights}
        down = self.tiles(choices).down
        self._half(down, 1, room.gated, routing, results, choices, 1, stream)

    def _half(
        self,
        build: kernels.Artefact,
        half: int,
        a: Any,
        routing: Routing,
        results: dict[str, Any],
        choices: int,
        top_k: int,
        stream: Any,
    ) -> None:
        weight = (self.gate, self.down)[half]
        N, K = weight.N, weight.K
        arrays = {
            "weights": None,
            "c": None,
            "wide": None,
            "a": a,
            "experts": self._tables[half].array,
            **{name: array for name, array in vars(routing).items() if name != "tiles"},
            **results,
        }
        if "UNIT" in build.fields:
            arrays["tiles"] = routing.tiles
        sizes = {"T": choices, "N": N, "K": K, "E": self.experts}
        sizes |= {"group_size": weight.group_size, "top_k": top_k}
        sizes |= {"blocks": routing.expert_ids.shape[0], "stride_am": a.shape[1]}
        sizes |= {"stride_qwk": N, "stride_sk": N, "stride_qzk": N // 8}
        if build.fields["kernel"] == "moe_w4a16_gptq_mma":  # a line of its grid takes a tile
            most = self.tiles(choices).most(choices, self.experts)
            sizes["lines"] = sizes["blocks"] if routing.tiles is None else most
        self._launch(build, stream, sizes | {"zero_bias": weight.zero_bias}, arrays)

    def __repr__(self) -> str:
        return (
            f"<GptqExperts {self.experts} of {self.hidden} → {self.width} → {self.hidden}, "
            f"{self.nbytes / 1e6:.0f} MB on {self.device.name}>"
        )
