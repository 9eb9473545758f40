"""Every error that ferrum_numba raises on purpose, in one tree.

A message names the field, what was expected, what was found, and what to do; so does the error, as
data.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any


class FerrumError(Exception):
    """Base of all errors of this package; its parts are what the message is made of.

        raise AbiError("x", "shape (4, 256)", shape, "pass it as it is")

    reads "x: expected shape (4, 256), found (4, 255); pass it as it is".  Where there is nothing to
    expect, two parts say what is wrong with the field,

        raise AbiError("x", "given by position and by name", remedy="leave one out")

    and a single part, as of an error that is passed on, is the whole message.

    field     the argument, tensor, key or file that is wrong
    expected, found, remedy  in words; remedy may be left out
    where     what `field` is in, the outermost first: a file, a layer, a step
    code      a name for programs, which stays while texts may change; by default that of the kind
              of error.  Those of `debug.causes` are causes.
    data      numbers and names behind the words, for those who look for a cause
    """

    code = "error"

    def __init__(
        self,
        *parts: object,
        remedy: str = "",
        where: object | tuple[object, ...] = (),
        code: str = "",
        data: Mapping[str, Any] | None = None,
    ) -> None:
        places = where if isinstance(where, tuple) else (where,)
        self.where: tuple[str, ...] = tuple(map(str, places))
        self.field = self.expected = self.found = ""
        self.remedy = remedy
        self.data: Mapping[str, Any] = data or {}
        if code:
            self.code = code
        if len(parts) < 2:
            super().__init__(*parts)
            return
        self.field, *said = map(str, parts)
        if len(said) == 1:
            (sentence,) = (self.found,) = said
        else:
            self.expected, self.found = said[:2]
            self.remedy = remedy or "".join(said[2:])
            sentence = f"expected {self.expected}, found {self.found}"
        if self.remedy:
            sentence += ("\n" if "\n" in sentence else "; ") + self.remedy
        super().__init__(": ".join((*self.where, self.field, sentence)))

    def within(self, place: str) -> None:
        """Say what it is in: `place` comes before all that it says."""
        self.where = (place, *self.where)
        self.args = (f"{place}: {self}", *self.args[1:])

    def part_of(self, whole: str) -> None:
        """Say whose field is wrong: `layer.qweight` for `qweight`."""
        self.field = f"{whole}.{self.field}"
        self.args = (f"{whole}.{self}", *self.args[1:])

    def goes_on(self, more: str) -> None:
        """Say more, after all that it says."""
        self.remedy += more
        self.args = (f"{self}{more}", *self.args[1:])

    def called(self, field: str, instead: str) -> None:
        """Give the field that is wrong another name, if it is this one."""
        if self.field == field and not self.where:
            self.field = instead
            self.args = (f"{instead}{str(self).removeprefix(field)}", *self.args[1:])

    def without(self, place: str) -> str:
        """The message less the name that it begins with, for a reader who knows that."""
        begins = next(iter((*self.where, self.field)))
        return str(self)[len(place) + 2 :] if begins == place else str(self)

    def to_json(self) -> dict[str, Any]:
        """The parts that there are, for programs."""
        names = ("where", "field", "expected", "found", "remedy", "data")
        parts = {name: value for name in names if (value := getattr(self, name))}
        return {"kind": type(self).__name__, "code": self.code, "message": str(self), **parts}


class PtxError(FerrumError):
    """PTX text that cannot be read, or an instruction that the CPU device does not have."""

    code = "ptx"


class AbiError(FerrumError):
    """PTX, sidecar, declared names and the values of a launch disagree."""

    code = "abi"


class LaunchError(FerrumError):
    """The driver, or the CPU device, refused or broke off a launch."""

    code = "launch"


class SanitizerError(LaunchError):
    """A launch on a device with checks did what it should not; `findings` says what.

    Its arrays hold what the launch left there; accesses that were not allowed were left out.
    """

    code = "findings"

    def __init__(self, message: str, findings: Sequence[Any] = ()) -> None:
        super().__init__(message)
        self.findings = list(findings)


class DeviceError(FerrumError):
    """No such device, or a device that cannot do what was asked of it."""

    code = "device"


class CheckpointError(FerrumError):
    """A checkpoint on disk that is incomplete, inconsistent, or of a kind not read here."""

    code = "checkpoint"


class RecordingError(FerrumError):
    """A recording that cannot be read, or that holds too little for what is asked of it."""

    code = "recording"


def did_you_mean(wrong: object, names: Collection[str], otherwise: str) -> str:
    """The end of a message about a name or a glob pattern that is none of `names`.

    It proposes up to three that contain `wrong` or are spelt nearly so; where there are none it
    is `otherwise`, which says where to look.
    """
    import difflib  # here, as a process that goes well does without

    part = str(wrong).strip("*")
    near = [name for name in names if part and part in name][:3]
    near = near or difflib.get_close_matches(part, names, n=3)
    if not near:  # only its end may have been given, as in "*.qproj"
        ends = {name.rpartition(".")[2]: name for name in reversed([*names])}
        close = difflib.get_close_matches(part.rpartition(".")[2], ends, n=3)
        near = [ends[end] for end in close]
    return f"did you mean {', '.join(near)}?" if near else otherwise
