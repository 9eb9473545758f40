"""PTX headers to test with."""

from __future__ import annotations

from collections.abc import Sequence


def ptx(
    params: Sequence[str],
    *,
    entry: str = "k",
    tail: str = ".reqntid 128",
    target: str = "sm_80",
    version: str = "7.0",
) -> str:
    """A complete PTX text whose entry has these parameter declarations and does nothing."""
    return (
        f".version {version}\n.target {target}\n.address_size 64\n\n"
        f".visible .entry {entry}(\n\t" + ",\n\t".join(params) + f"\n)\n{tail}\n{{\n\tret;\n}}\n"
    )
