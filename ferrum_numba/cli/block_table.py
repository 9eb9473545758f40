"""A parameter block as a hex dump for people: what lies where, and what it means."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..abi.signature import SCRATCH_ROLES
from ..debug.block import AnnotatedBlock, Difference, Field, Suspicion, show_array
from ..devices import tensor_map
from .console import plain_table

_ROW = 8  # bytes of an aggregate in one row
_LONG_NAME = 20
_WIDE = 100  # columns


def block_table(console: Console, block: AnnotatedBlock, assumed: Collection[str] = ()) -> Table:
    """The dump: offset, bytes as they lie, parameter, type, value and what it stands for.

    assumed: parameters whose values nobody gave, marked by a star.  On a narrow console the types
    are left out.
    """
    narrow, entry = console.width < _WIDE, block.signature.entry
    table = plain_table()
    table.add_column("at" if narrow else "offset", justify="right", no_wrap=True)
    table.add_column("bytes", no_wrap=True)
    names = [short_name(p.name, entry) for p in block.signature.params]
    table.add_column("parameter", overflow="fold", min_width=column_width(names))
    if not narrow:
        table.add_column("type", no_wrap=True)
    table.add_column("value", no_wrap=True)
    table.add_column("stands for", overflow="fold")
    for offset, data, field in block.parts():
        for start in range(0, len(data), _ROW):
            shown = _bytes(data[start : start + _ROW])
            if field is None:
                table.add_row(str(offset), shown, Text("padding", "dim"))
            elif start:
                table.add_row(str(offset + start), shown)
            else:
                name = names[field.parameter.index]
                value = show_value(field) + " *" * (field.parameter.name in assumed)
                cells = [name, value] if narrow else [name, _type(field), value]
                table.add_row(str(offset), shown, *cells, stands_for(field, entry))
    return table


def array_table(block: AnnotatedBlock) -> Table | None:
    """The arrays that the block points into: extent, what the kernel touches, what is left."""
    pointing = [field for field in block.fields if field.array is not None]
    if not pointing:
        return None
    table = plain_table()
    table.add_column("parameter", overflow="fold", min_width=8)
    table.add_column("array", overflow="fold")
    for header in ("from byte", "of bytes", "used", "slack"):
        table.add_column(header, justify="right", no_wrap=True)
    for field in pointing:
        assert field.array is not None
        name = short_name(field.parameter.name, block.signature.entry)
        array = show_array(field.array)
        if field.owner != field.parameter.name:
            array = f"{short_name(field.owner or '', block.signature.entry)}'s {array}"
        slack = "" if field.slack is None else str(field.slack)
        style = "bold red" if (field.slack or 0) < 0 else ""
        table.add_row(
            name,
            array,
            str(field.inside),
            str(field.array.available),
            "" if field.needed is None else str(field.needed),
            Text(slack, style),
        )
    return table


def difference_table(found: Sequence[Difference], entry: str) -> Table:
    """The parameters whose bytes differ, A above B."""
    table = plain_table()
    table.add_column("offset", justify="right", no_wrap=True)
    table.add_column("parameter", overflow="fold", min_width=8)
    table.add_column("", no_wrap=True)
    table.add_column("bytes", no_wrap=True)
    table.add_column("value", overflow="fold")
    table.add_column("stands for", overflow="fold")
    for difference in found:
        name = short_name(difference.name, entry)
        for side, field in (("A", difference.a), ("B", difference.b)):
            first = side == "A"
            table.add_row(
                str(field.offset) if first else "",
                name if first else "",
                side,
                _bytes(field.data[:_ROW]) + ("…" if len(field.data) > _ROW else ""),
                show_value(field),
                stands_for(field, entry) if first else "",
            )
    return table


def print_suspicions(console: Console, found: Sequence[Suspicion], entry: str) -> None:
    """Each in a line or a few: what the block certainly breaks, and what only looks wrong."""
    for suspicion in found:
        label = Text("wrong", "bold red") if suspicion.certain else Text("suspect", "yellow")
        names = ", ".join(short_name(name, entry) for name in suspicion.names)
        what = suspicion.what.replace(f"{entry}_", "")
        if suspicion.kind != "misread":
            what = f"{names}: {what}"
        console.print(Text.assemble(label, f": {what}"))


def block_json(block: AnnotatedBlock, found: Sequence[Suspicion]) -> dict[str, Any]:
    """The block in JSON's types; an aggregate's value is hex."""
    return {
        "entry": block.signature.entry,
        "nbytes": len(block.data),
        "hex": block.data.hex(),
        "fields": [_field_json(field) for field in block.fields],
        "suspicions": [
            {"kind": s.kind, "names": s.names, "what": s.what, "certain": s.certain} for s in found
        ],
    }


def _field_json(field: Field) -> dict[str, Any]:
    p = field.parameter
    array = None
    if field.array is not None:
        array = {
            "owner": field.owner,
            "address": field.array.address,
            "dtype": field.array.dtype,
            "shape": field.array.shape,
            "strides": field.array.strides,
            "nbytes": field.array.available,
            "inside": field.inside,
            "needed": field.needed,
            "slack": field.slack,
        }
    return {
        "index": p.index,
        "name": p.name,
        "ptx_type": p.ptx_type,
        "c_type": p.c_type,
        "role": p.role,
        "offset": field.offset,
        "hex": field.data.hex(),
        "value": field.value.hex() if isinstance(field.value, bytes) else field.value,
        "meaning": field.meaning,
        "array": array,
        "tensor_map": tensor_map.read_fields(field.data),
    }


def show_value(field: Field) -> str:
    """The value in its own terms: an address in hex, an integer, a number."""
    value = field.value
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    if isinstance(value, float):
        return f"{value:g}"
    if field.address is not None or (field.parameter.size == 8 and value >= 1 << 32):
        return f"{value:#x}" if value else "NULL"
    return str(value)


def stands_for(field: Field, entry: str) -> str:
    """Meaning of an integer, or the place that an address leads to beside its own array."""
    if field.array is not None and (field.inside or field.owner != field.parameter.name):
        owner = short_name(field.owner or "", entry)
        whose = "its array" if field.owner == field.parameter.name else f"{owner}'s array"
        return f"{whose} + {field.inside} bytes" if field.inside else whose
    tensor = tensor_map.read_fields(field.data)
    if tensor is not None:
        swizzle = f", swizzle {tensor['swizzle']}" if tensor["swizzle"] else ""
        return (
            f"tensor map of {tensor['dtype']} {tensor['shape']} at {tensor['address']:#x}, strides "
            f"{tensor['strides']} bytes, box {tensor['box']}{swizzle}"
        )
    role = field.parameter.role.replace("_", " ")
    if field.parameter.role in SCRATCH_ROLES and field.needed:
        return f"{role} of {field.needed} bytes"
    return field.meaning or ("" if role == "argument" else role)


def short_name(name: str, entry: str) -> str:
    """A name less the entry's, which compilers put before each parameter."""
    return name.removeprefix(f"{entry}_") or name


def column_width(names: Iterable[str]) -> int:
    """Width of a column of names, which stay whole as long as they are of a usual length."""
    return min(max(map(len, names), default=0), _LONG_NAME)


def _bytes(data: bytes) -> str:
    return data.hex(" ", -4)


def _type(field: Field) -> str:
    p = field.parameter
    ptx = f".{p.ptx_type}" if p.count is None else f".{p.ptx_type}[{p.count}]"
    return p.c_type or (f"{ptx} .ptr" if p.pointer else ptx)
