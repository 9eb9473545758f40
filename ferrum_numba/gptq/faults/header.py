"""Headers of safetensors files that lie about the file, or are none."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from ..safetensors_header import MAX_HEADER_BYTES
from .editing import (
    Fault,
    Header,
    bytes_fault,
    entry_fault,
    header_fault,
    header_text,
    write_header,
)

_POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"


def _announce(length: int) -> Fault:
    def change(file: Path) -> None:
        with file.open("r+b") as handle:
            handle.write(length.to_bytes(8, "little"))

    return bytes_fault(f"a header length of {length}", change)


def _announce_over_the_limit(file: Path) -> None:
    os.truncate(file, MAX_HEADER_BYTES * 2)  # sparse: takes no space
    with file.open("r+b") as handle:
        handle.write((MAX_HEADER_BYTES + 1).to_bytes(8, "little"))


def _shift(header: Header, tensor: str, by: int) -> None:
    header[tensor]["data_offsets"] = [at + by for at in header[tensor]["data_offsets"]]


def _grow(header: Header, tensor: str) -> None:
    """Make the last tensor a row longer than the file is, and say so consistently."""
    name = max((n for n in header if n != "__metadata__"), key=lambda n: _end(header, n))
    shape, (begin, end) = header[name]["shape"], header[name]["data_offsets"]
    row = (end - begin) // shape[0]
    header[name].update(shape=[shape[0] + 1, *shape[1:]], data_offsets=[begin, end + row])


def _invent(header: Header, tensor: str) -> None:
    """Make the last tensor 2^30 times as long as it is."""
    name = max((n for n in header if n != "__metadata__"), key=lambda n: _end(header, n))
    shape, (begin, end) = header[name]["shape"], header[name]["data_offsets"]
    much = 1 << 30
    header[name].update(
        shape=[shape[0] * much, *shape[1:]], data_offsets=[begin, begin + (end - begin) * much]
    )


def _end(header: Header, name: str) -> int:
    return int(header[name]["data_offsets"][1])


def _twice(header: Header, tensor: str) -> str:
    text = json.dumps(header)
    return f"{text[:-1]}, {json.dumps(tensor)}: {json.dumps(header[tensor])}}}"


def _field_twice(header: Header, tensor: str) -> str:
    entry = json.dumps(header[tensor])
    return json.dumps(header).replace(entry, f'{entry[:-1]}, "dtype": "F16"}}', 1)


def _rename(header: Header, tensor: str) -> None:
    header[tensor]["type"] = header[tensor].pop("dtype")


def _number(text: str) -> Fault:
    """The first size of the scales' shape as the JSON number `text`."""

    def change(header: Header, tensor: str) -> str:
        shape = header[tensor]["shape"]
        header[tensor]["shape"] = ["@", *shape[1:]]
        return json.dumps(header).replace('"@"', text)

    shown = text if len(text) < 20 else f"a number of {len(text)} digits"
    return header_fault(f"a size of {shown} in a shape", change)


HEADER_FAULTS: Mapping[str, Fault] = {
    "empty-file": bytes_fault("a file of no bytes", lambda file: os.truncate(file, 0)),
    "seven-bytes": bytes_fault("a file of seven bytes", lambda file: os.truncate(file, 7)),
    "lfs-pointer": bytes_fault(
        "a Git LFS pointer in place of the file", lambda file: _ignore(file.write_text(_POINTER))
    ),
    "header-length-zero": _announce(0),
    "header-length-beyond-file": _announce(1 << 40),
    "header-length-huge": _announce((1 << 64) - 1),
    "header-length-over-limit": bytes_fault(
        "a header beyond the format's own limit", _announce_over_the_limit
    ),
    "header-length-short": bytes_fault(
        "a header length that is ten bytes short of the JSON",
        lambda file: write_header(file, (text := header_text(file)), len(text.rstrip()) - 10),
    ),
    "header-of-nothing": header_fault("a header of NUL bytes", lambda h, t: b"\0" * 64),
    "header-not-utf8": header_fault("a header that is not UTF-8", lambda h, t: b'{"\xff": 1}'),
    "header-list": header_fault("a header that is a JSON list", lambda h, t: "[1, 2]"),
    "header-nested": header_fault(
        "a header nested 100,000 deep", lambda h, t: '{"a":' + "[" * 100_000
    ),
    "header-nan": header_fault("NaN in a header", lambda h, t: '{"a": NaN}'),
    "header-trailing-text": header_fault(
        "text after the header's object", lambda h, t: json.dumps(h) + "}"
    ),
    "metadata-list": header_fault(
        "a list as __metadata__", lambda h, t: h.update(__metadata__=["pt"])
    ),
    "metadata-number": header_fault(
        "a number in __metadata__", lambda h, t: h.update(__metadata__={"format": 1})
    ),
    "duplicate-tensor": header_fault("a tensor that stands in the header twice", _twice),
    "duplicate-field": header_fault("a tensor with two dtypes", _field_twice),
    "entry-number": header_fault("a number for a tensor", lambda h, t: h.update({t: 3})),
    "entry-without-dtype": header_fault("a tensor without dtype", _rename),
    "entry-with-more": entry_fault("a tensor with a field that there is not", order="F"),
    "dtype-unknown": entry_fault("an unknown dtype", dtype="F17"),
    "dtype-number": entry_fault("a number for a dtype", dtype=16),
    "shape-number": entry_fault("a number for a shape", shape=256),
    "shape-negative": _number("-2"),
    "shape-fraction": _number("2.5"),
    "shape-text": _number('"2"'),
    "shape-bool": _number("true"),
    "shape-beyond-64-bits": _number(str(1 << 70)),
    "shape-digits": _number("9" * 5000),
    "shape-overflow": entry_fault("sizes whose product wraps 64 bits to 0", shape=[1 << 32] * 2),
    "shape-dimensions": entry_fault("a shape of a thousand dimensions", shape=[1] * 1000),
    "offsets-swapped": header_fault(
        "an end before its begin", lambda h, t: h[t]["data_offsets"].reverse()
    ),
    "offsets-negative": entry_fault("negative offsets", data_offsets=[-2, 510]),
    "offsets-three": entry_fault("three offsets", data_offsets=[0, 1, 2]),
    "offsets-text": entry_fault("offsets as text", data_offsets="0:512"),
    "size-against-shape": header_fault(
        "offsets that span less than dtype and shape take",
        lambda h, t: h[t].update(data_offsets=[h[t]["data_offsets"][0], _end(h, t) - 2]),
    ),
    "dtype-against-size": entry_fault("a dtype of twice the size", dtype="F32"),
    "offset-outside": header_fault("a tensor that ends beyond the file", _grow),
    "invented-terabytes": header_fault("a tensor of terabytes", _invent),
    "overlap": header_fault("a tensor over its neighbour", lambda h, t: _shift(h, t, -2)),
    "hole": header_fault("a tensor removed from the header alone", lambda h, t: _ignore(h.pop(t))),
    "trailing-bytes": bytes_fault(
        "bytes after the last tensor", lambda file: os.truncate(file, file.stat().st_size + 16)
    ),
    "truncated": bytes_fault(
        "a file cut short by a download", lambda file: os.truncate(file, file.stat().st_size - 99)
    ),
    "truncated-header": bytes_fault(
        "a file cut short in its header", lambda file: os.truncate(file, 50)
    ),
}


def _ignore(value: object) -> None:
    """Drop the value that a change returns."""
