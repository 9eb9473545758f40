"""A build: one PTX of ptx/, what it is compiled with, and what its launcher must know.

Names have one grammar, which is written down in `Build.name` and read nowhere: whoever looks for a
build asks the catalogue for its fields.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

_BEHIND_MAPS = (("extent", "i32"), ("stride", "i64"))
_IN_NAMES = {"float16": "", "bfloat16": "bf16", "float32": "fp32"}


@dataclass(frozen=True)
class Build:
    """One PTX.

    kernel: the entry, and the name of its source in scripts/kernels/.
    archive: the archive of ptx/ that holds the text, without its suffix; None: a file of its own.
    label: what tells it from the other builds of its kernel, dtype and target, for people.
    dtype: of the arrays whose type is "*T" in `params`.
    tile: sizes that the rules may read, and by which builds are told apart and looked up.
    constants: all else that the kernel is compiled with.
    params: as the sidecar takes them; rules are expressions over the named integers and the tile.
    What they promise of alignment the compiler may count on.
    ptx_version: the lowest PTX ISA that has the instructions, so that older drivers load it.
    max_registers: a thread's, where the assembler's own choice lets fewer CTAs share an SM.
    programmatic: whether it is launched before the launch ahead of it is done, and waits itself.
    even_registers: whether specialised warps all keep the registers that they have at launch.
    own_order: whether each thread waits for the mbarriers of a ring itself, so that warps need no
    barriers at its stages.
    table: whether the kernel keeps a table at the start of shared memory that only its own inline
    assembly reads.
    """

    kernel: str
    archive: str | None
    label: tuple[str, ...]
    dtype: str
    target: str
    ptx_version: str
    num_warps: int
    tile: dict[str, int]
    constants: dict[str, int]
    params: list[dict[str, Any]]
    grid: list[str]
    constraints: list[str] = field(default_factory=list)
    num_stages: int = 1
    max_registers: int | None = None
    programmatic: bool = False
    even_registers: bool = False
    own_order: bool = False
    table: bool = False

    @property
    def name(self) -> str:
        """kernel[.dtype][.part of the label ...].target; float16 goes without saying.

        Parts of the labels of the W4A16 kernels:

            m8n32w4   rows and columns of c of a CTA, and its warps; without w, all have as many
            g128      the smallest group of k's that the build can take: 128 or multiples of it
            cap256    how many groups the build has room for
            v1, v2    how zeros are stored: less 1, or as they are; left out, the launch says
            sym       every zero is 8
        """
        parts = (self.kernel, _IN_NAMES[self.dtype], *self.label, self.target)
        return ".".join(part for part in parts if part)


def array(
    name: str, type_: str, shape: list[str], strides: list[str], role: str = "input"
) -> dict[str, Any]:
    """An array parameter."""
    return {"name": name, "type": type_, "role": role, "shape": shape, "strides": strides}


def aligned(params: list[dict[str, Any]], align: int, *names: str) -> list[dict[str, Any]]:
    """The parameters, those of `names` on addresses that are multiples of `align` bytes."""
    return [p | {"align": align} if p["name"] in names else p for p in params]


def owned(role: str, type_: str, nbytes: str) -> dict[str, Any]:
    """A buffer that the launcher brings along."""
    return {"name": role, "type": type_, "role": role, "nbytes": nbytes, "align": 16}


def derived(name: str, value: str, type_: str = "i32") -> dict[str, Any]:
    """An integer that the launcher computes."""
    return {"name": name, "type": type_, "role": "derived", "value": value}


def tensor_map(name: str, of: str, *box: str) -> list[dict[str, Any]]:
    """A tensor map of an array, in the 128-byte swizzle, and what Triton puts behind such a one.

    That is the array's shape and strides, which no kernel of ours reads.
    """
    unread = [(f"{name}_{what}{i}", type_) for what, type_ in _BEHIND_MAPS for i in range(len(box))]
    made = {"name": name, "type": "tensordesc", "role": "tensor_map", "of": of, "box": list(box)}
    return [made | {"swizzle": 128}, *(derived(name, "0", type_) for name, type_ in unread)]


def integers(role: str, *names: str) -> list[dict[str, Any]]:
    """int32 parameters."""
    return [{"name": name, "type": "i32", "role": role} for name in names]
