"""Names of a model's weights in its checkpoint, checked against the configuration.

Every tensor has to be there in the configuration's shape, and none beside them.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass

from ..errors import CheckpointError
from ..gptq import Checkpoint, check_fused
from ..gptq.checkpoint import PARTS
from .config import ModelConfig
from .experts import ExpertsConfig

_EMBEDDING, _HEAD = "embed_tokens.weight", "lm_head"
_PREFIXES = ("model.", "model.language_model.")
# What files carry along: transformers computes it, and so do we.
_IGNORED = "rotary_emb.inv_freq"
_FLOATS = ("float16", "bfloat16", "float32")
# Of experts in files: what goes before their numbers, and gate, up and down.
_EXPERTS = (
    ("mlp.", ("gate_proj", "up_proj", "down_proj")),
    ("block_sparse_moe.", ("w1", "w3", "w2")),
)


@dataclass(frozen=True)
class Linear:
    """A linear layer: y (…, N) = x (…, K) @ weight [K, N] + bias [N].

    name       of its tensors, without their own endings
    quantised  whether they are GPTQ's; else there is `name.weight` [N, K]
    bias       whether `name.bias` is there; AutoGPTQ writes zeros where the model has none
    """

    name: str
    K: int
    N: int
    quantised: bool
    bias: bool


@dataclass(frozen=True)
class MlpNames:
    """down(silu(gate(x)) * up(x)).  gate_up: gate and up; or one layer, gate's columns first."""

    gate_up: tuple[Linear, ...]
    down: Linear


@dataclass(frozen=True)
class FusedExperts:
    """All experts as two layers, see `gptq.check_fused`; gate's columns come first."""

    gate_up: str
    down: str


@dataclass(frozen=True)
class ExpertsNames:
    """A mixture of experts.

    router   its layer, whose columns are the experts
    experts  gate, up and down of each, or all of them fused
    shared   of an MLP that all tokens go to, and of its gate; None where there is none
    """

    router: Linear
    experts: tuple[tuple[Linear, Linear, Linear], ...] | FusedExperts
    shared: MlpNames | None
    shared_gate: Linear | None


@dataclass(frozen=True)
class LayerNames:
    """A decoder layer. Norms are names of tensors [hidden], q_norm and k_norm [head_dim].

    qkv  q, k and v; or one layer whose columns are theirs, in this order
    mlp  or the experts in its place
    """

    input_norm: str
    qkv: tuple[Linear, ...]
    q_norm: str | None
    k_norm: str | None
    o: Linear
    post_norm: str
    mlp: MlpNames | ExpertsNames


@dataclass(frozen=True)
class ModelNames:
    """A whole model. embedding: a tensor [vocab, hidden]; norm: the last one's tensor [hidden].

    head: None where it is tied, and the embedding's rows are its columns.  tensors: all of these.
    """

    embedding: str
    layers: tuple[LayerNames, ...]
    norm: str
    head: Linear | None
    tensors: frozenset[str]

    @classmethod
    def find(cls, config: ModelConfig, checkpoint: Checkpoint) -> ModelNames:
        """The names of `config`'s weights.

        Raises CheckpointError for the first tensor that is missing, misshapen or has no place.
        """
        finder = _Finder(config, checkpoint)
        prefix = finder.prefix
        names = cls(
            embedding=finder.tensor(prefix + _EMBEDDING, config.vocab, config.hidden),
            layers=tuple(
                finder.layer(f"{prefix}layers.{number}.", sparse)
                for number, sparse in enumerate(config.sparse)
            ),
            norm=finder.tensor(f"{prefix}norm.weight", config.hidden),
            head=finder.head(),
            tensors=frozenset(finder.found & checkpoint.tensors.keys()),
        )
        finder.refuse_others()
        return names

    def nbytes(self, checkpoint: Checkpoint) -> int:
        """Bytes that come onto a device, where what is float32 in the file has half as many."""
        stored = (checkpoint.tensors[name] for name in self.tensors if not name.endswith("g_idx"))
        return sum(own.nbytes // (2 if own.dtype == "float32" else 1) for own in stored)


class _Finder:
    """Looks names up, and keeps which tensors found a place."""

    def __init__(self, config: ModelConfig, checkpoint: Checkpoint) -> None:
        self.config, self.checkpoint = config, checkpoint
        self.found: set[str] = set()
        stored = checkpoint.tensors
        self.prefix = next((p for p in _PREFIXES if p + _EMBEDDING in stored), _PREFIXES[0])

    def tensor(self, name: str, *shape: int) -> str:
        """The name of a tensor that is not quantised, once it is there in this shape."""
        stored = self.checkpoint.tensors.get(name)
        if stored is None or stored.shape != shape or stored.dtype not in _FLOATS:
            found = "nothing" if stored is None else f"{stored.dtype} {list(stored.shape)}"
            self._refuse(name, f"{', '.join(_FLOATS)} {list(shape)}", found)
        self.found.add(name)
        return name

    def linear(self, name: str, K: int, N: int, bias: bool = False) -> Linear:
        """The layer `name`, quantised or not."""
        if name in self.checkpoint.errors:
            raise copy(self.checkpoint.errors[name])
        spec = self.checkpoint.layers.get(name)
        if spec is None:
            self.tensor(f"{name}.weight", N, K)
            if bias:
                self.tensor(f"{name}.bias", N)
            return Linear(name, K, N, quantised=False, bias=bias)
        if (spec.K, spec.N) != (K, N):
            self._refuse(name, f"a layer of K={K}, N={N}", f"K={spec.K}, N={spec.N}")
        if bias and not spec.bias:
            self._refuse(f"{name}.bias", f"a bias [{N}]", "nothing")
        self._found_layer(name)
        return Linear(name, K, N, quantised=True, bias=spec.bias)

    def fused(self, whole: str, parts: dict[str, int], K: int, bias: bool) -> tuple[Linear, ...]:
        """The layer `whole`, where it is there, or else its parts {name: N}."""
        own = self.checkpoint
        if whole in own.layers or whole in own.errors or f"{whole}.weight" in own.tensors:
            return (self.linear(whole, K, sum(parts.values()), bias),)
        return tuple(self.linear(name, K, N, bias) for name, N in parts.items())

    def layer(self, prefix: str, sparse: bool) -> LayerNames:
        """The decoder layer whose names begin with `prefix`."""
        config, attention, mlp = self.config, f"{prefix}self_attn.", f"{prefix}mlp."
        q, kv = config.q_width, config.kv_width
        norm = (config.head_dim,) if config.qk_norm else None
        return LayerNames(
            input_norm=self.tensor(f"{prefix}input_layernorm.weight", config.hidden),
            qkv=self.fused(
                f"{attention}qkv_proj",
                {f"{attention}{part}_proj": N for part, N in (("q", q), ("k", kv), ("v", kv))},
                config.hidden,
                config.qkv_bias,
            ),
            q_norm=self.tensor(f"{attention}q_norm.weight", *norm) if norm else None,
            k_norm=self.tensor(f"{attention}k_norm.weight", *norm) if norm else None,
            o=self.linear(f"{attention}o_proj", q, config.hidden, config.o_bias),
            post_norm=self.tensor(f"{prefix}post_attention_layernorm.weight", config.hidden),
            mlp=self.experts(prefix) if sparse else self.mlp(mlp, config.intermediate),
        )

    def mlp(self, prefix: str, width: int) -> MlpNames:
        """The MLP whose names begin with `prefix`."""
        hidden, bias = self.config.hidden, self.config.mlp_bias
        parts = {f"{prefix}{part}_proj": width for part in ("gate", "up")}
        return MlpNames(
            gate_up=self.fused(f"{prefix}gate_up_proj", parts, hidden, bias),
            down=self.linear(f"{prefix}down_proj", width, hidden, bias),
        )

    def experts(self, prefix: str) -> ExpertsNames:
        """The experts of the decoder layer whose names begin with `prefix`."""
        spec, tensors, hidden = self.config.experts, self.checkpoint.tensors, self.config.hidden
        assert spec is not None
        shared, gate = f"{prefix}mlp.shared_expert.", f"{prefix}mlp.shared_expert_gate"
        named = (own for own in _EXPERTS if f"{prefix}{own[0]}gate.weight" in tensors)
        middle, parts = next(named, _EXPERTS[0])
        prefix += middle
        return ExpertsNames(
            router=self.linear(f"{prefix}gate", hidden, spec.count),
            experts=self._fused_experts(f"{prefix}experts.", spec)
            or tuple(self._expert(f"{prefix}experts.{n}.", parts, spec) for n in range(spec.count)),
            shared=self.mlp(shared, spec.shared) if spec.shared else None,
            shared_gate=self.linear(gate, hidden, 1) if spec.shared_gate else None,
        )

    def _fused_experts(self, prefix: str, spec: ExpertsConfig) -> FusedExperts | None:
        """All experts as two layers, where the file has them so."""
        names, hidden = (
            FusedExperts(f"{prefix}gate_up_proj", f"{prefix}down_proj"),
            self.config.hidden,
        )
        if f"{names.gate_up}.qweight" not in self.checkpoint.tensors:
            return None
        check_fused(self.checkpoint, names.gate_up, spec.count, hidden, 2 * spec.width)
        check_fused(self.checkpoint, names.down, spec.count, spec.width, hidden)
        self._found_layer(names.gate_up)
        self._found_layer(names.down)
        return names

    def _expert(
        self, prefix: str, parts: Sequence[str], spec: ExpertsConfig
    ) -> tuple[Linear, Linear, Linear]:
        """Gate, up and down of one expert, each of 4 bits."""
        hidden, width = self.config.hidden, spec.width
        shapes = ((hidden, width), (hidden, width), (width, hidden))
        own = [
            self.linear(prefix + part, *shape) for part, shape in zip(parts, shapes, strict=True)
        ]
        for linear in own:
            bits = self.checkpoint.layers[linear.name].bits if linear.quantised else None
            if bits != 4:
                found = "no quantised tensors" if bits is None else f"{bits} bits"
                self._refuse(linear.name, "4 bits, for all experts run in one launch", found)
        return own[0], own[1], own[2]

    def head(self) -> Linear | None:
        """The head, None where it is tied; a copy that a tied model carries along is not read."""
        if self.config.tied and _HEAD not in self.checkpoint.layers:
            self.found.add(f"{_HEAD}.weight")
            return None
        return self.linear(_HEAD, self.config.hidden, self.config.vocab)

    def refuse_others(self) -> None:
        """Refuse tensors under the model's prefix that no part of it asked for.

        What else lies in the directory, such as an adapter, is no part of the model.
        """
        others = [
            name
            for name in self.checkpoint.tensors
            if name.startswith((self.prefix, _HEAD))
            and name not in self.found
            and not name.endswith(_IGNORED)
        ]
        if others:
            more = f" (and {len(others) - 1} more)" if len(others) > 1 else ""
            model = f"{self.config.architecture} of {self.config.layers} layers"
            remedy = "parts of the model are not computed here, or config.json is another model's"
            found = f"one in {self.checkpoint.path}"
            raise CheckpointError(others[0] + more, f"no such tensor in a {model}", found, remedy)

    def _found_layer(self, name: str) -> None:
        self.found |= {f"{name}.{part}" for part in PARTS}

    def _refuse(self, name: str, expected: str, found: str) -> None:
        expected, found = f"{expected}, as config.json asks", f"{found} in {self.checkpoint.path}"
        remedy = "get the whole checkpoint, with its own config.json"
        raise CheckpointError(name, expected, found, remedy)
