"""Quantisation configurations that are missing, unreadable or wrong."""

from __future__ import annotations

from collections.abc import Mapping

from .editing import Fault, Target, configuration_fault, configurations


def _remove(target: Target) -> None:
    for file in configurations(target.folder):
        file.unlink()


def _text(what: str, text: str) -> Fault:
    return Fault(what, lambda target: _write(target, text))


def _write(target: Target, text: str) -> None:
    configurations(target.folder)[0].write_text(text)


def _disagree(target: Target) -> None:
    file = configurations(target.folder)[0]
    file.write_text(file.read_text().replace('"group_size": ', '"group_size": 1', 1))


CONFIGURATION_FAULTS: Mapping[str, Fault] = {
    "configuration-missing": Fault("no configuration", _remove),
    "configuration-not-json": _text("a configuration cut short", '{"bits": 4,'),
    "configuration-list": _text("a configuration that is a list", "[4, 128]"),
    "configurations-disagree": Fault("another group_size in one of two files", _disagree),
    "bits-missing": configuration_fault("no bits", bits=None),
    "bits-text": configuration_fault("bits as text", bits="4"),
    "bits-wrong": configuration_fault("8 bits for a layer of 4", bits=8),
    "bits-impossible": configuration_fault("5 bits", bits=5),
    "group-size-missing": configuration_fault("no group_size", group_size=None),
    "group-size-zero": configuration_fault("a group_size of 0", group_size=0),
    "group-size-wrong": configuration_fault("another group_size than the tensors'", group_size=24),
    "sym-number": configuration_fault("a number for sym", sym=1),
    "method-awq": configuration_fault("another method", quant_method="awq"),
    "format-marlin": configuration_fault("another format", checkpoint_format="marlin"),
    "pack-dtype": configuration_fault("words of 16 bits", pack_dtype="int16"),
    "dynamic-pattern": configuration_fault("a rule that does not compile", dynamic={"-:(": {}}),
    "dynamic-excludes": configuration_fault(
        "a rule that excludes a layer which is quantised", dynamic={"-:.*q_proj": {}}
    ),
    "dynamic-bits": configuration_fault(
        "a rule with other bits than the layer's", dynamic={"+:.*q_proj": {"bits": 8}}
    ),
}
