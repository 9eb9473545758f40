"""The hooks of code that carries checks: each is passed on to the checks that are active."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..builder import Builder
from ..hooks import Access, Hooks, Run
from ..layout import CLUSTER_STRIDE, state_offset
from ..ptx import Body, Instruction
from ..values import Text, Value
from .absences import Absences
from .bounds import Bounds
from .bulks import Bulks
from .check import Check, Subject, is_generic
from .clocks import Clocks
from .clusters import Clusters
from .copies import Copies
from .dependent import Dependent
from .exchanges import Exchanges
from .finite import Finite
from .handovers import Handovers
from .local import Local
from .marks import Marks
from .meetings import Meetings
from .neighbours import Neighbours
from .order import Order
from .products import Products
from .readers import Readers
from .registers import Registers
from .state import offset as offset_of
from .tags import Tags
from .talks import Talks

ALL: Sequence[type[Check]] = (
    *(
        Bounds,
        Registers,
        Local,
        Exchanges,
        Meetings,
        Absences,
        Neighbours,
        Tags,
        Readers,
        Marks,
        Copies,
        Clocks,
    ),
    *(Clusters, Dependent, Talks, Handovers, Bulks, Products, Order, Finite),
)
"""The checks, in the order in which they look at an access: what one refuses the next ignores."""


# Hooks that every check is told of, and those that return an argument (the n-th), which each check
# may change; where one returns None, nothing is left to look at.
_TOLD = (
    *("prepare", "begin", "begins_block", "reads", "writes", "decides"),
    *("exchanged", "meet"),
    *("releases", "acquires", "fence", "arrives", "opened"),
    *("product", "orders_products", "commit", "wait", "land", "bulk_commit", "bulk_wait"),
)
_ASKED = {
    **dict.fromkeys(("local", "copy", "far"), 2),
    **dict.fromkeys(("tries", "passes", "descriptor"), 2),
    "box": 4,
}


class Watch(Hooks[Builder]):
    """Passes hooks on. checks: those that are active.  talks: whether CTAs talk to each other."""

    def __init__(self, checks: frozenset[str], body: Body, threads: int | None) -> None:
        """threads: number of threads of a block where the PTX fixes it."""
        self.subject = Subject(checks, body, threads)
        self.talks = self.subject.talks
        asked = [make for make in ALL if make.asked & checks or make is Bounds]
        self.checks = [check for check in (make(self.subject) for make in asked) if check.active]
        self.stepwise = self.stepwise or any(check.stepwise for check in self.checks)
        self._reversed = Value("false", "i1")  # of the function that is written
        self._bounds = next(check for check in self.checks if isinstance(check, Bounds))

    def __repr__(self) -> str:
        """Name of the checks that the code depends on."""
        asked = frozenset[str]().union(*(check.asked for check in self.checks))
        return f"watch {', '.join(sorted(asked & self.subject.checks))}"

    def preamble(self) -> list[str]:
        return [
            f"  %checks.at = getelementptr i8, ptr %state, i64 {state_offset('checks')}",
            "  %checks = load ptr, ptr %checks.at, align 8",
        ]

    def round(self, b: Text, state: Value, fresh: Value, passed: Value) -> None:
        checks = b.load("ptr", 1, state, state_offset("checks"), 8)
        reverse = b.load("i32", 1, checks, offset_of("reverse"), 4)
        self._reversed = b.compare("icmp ne", reverse, 0)
        for check in self.checks:
            check.advance(b, checks, passed, fresh)

    def turn(self, b: Text, warp: Value, warps: Value) -> Value:
        back = b.op("sub", b.op("sub", warps, 1), warp)
        return b.select(self._reversed, back, warp)

    def rows(self, b: Builder, ins: Instruction, address: Value, count: int, kind: str) -> Value:
        """Test rows as accesses of 16 bytes; those that are not allowed lead to a dump."""
        rows = b.lanes(lanes_of_rows(b, count))
        allowed = Watch.access(self, b, Access(ins, "shared", address, 16, kind), rows)
        assert allowed is not None
        return self._bounds.dumped(b, address, allowed)

    # -- accesses that may be to shared memory of another CTA of the cluster ---------------------

    def access(self, b: Builder, at: Access, condition: Value | None) -> Value | None:
        """A generic access to the CTA's shared memory is also looked at as one."""
        if at.space == "global" and is_generic(at.ins) and self.subject.tagged:
            start = Value(b.emit("ptrtoint ptr %shared to i64"), "i64")
            offset = b.op("sub", at.address, start)
            limit = b.load("i32", 1, "%checks", offset_of("limit"), 4)
            inside = b.compare("icmp ult", offset, b.vector(b.cast("zext", limit, "i64"), offset.n))
            near = at._replace(space="shared", address=b.cast("trunc", offset, "i32"))
            its = inside if condition is None else b.op("and", inside, condition)
            for check in self.checks:
                if check is not self._bounds:
                    check.access(b, near, its)
        return self._split(b, "access", at, condition)

    def mbarrier(self, b: Builder, at: Access, condition: Value | None) -> Value | None:
        return self._split(b, "mbarrier", at, condition)

    def near(self, b: Builder, run: Run, mask: Value) -> Value:
        found = self._split(b, "near", run, mask)
        assert found is not None
        return found

    def changed(self, b: Builder, address: Value, mask: Value) -> None:
        own = mask
        if self.subject.clustered:
            own = b.op("and", mask, b.mask(self._is_own(b, address)))
        for check in self.checks:
            check.changed(b, address, mask if isinstance(check, Clusters) else own)

    def stored(
        self, b: Builder, at: Access, value: Value | None = None, condition: Value | None = None
    ) -> None:
        if not (self.subject.clustered and "shared::cluster" in at.ins.opcode.modifiers):
            for check in self.checks:
                check.stored(b, at, value, condition)

    @staticmethod
    def _is_own(b: Builder, address: Value) -> Value:
        """Condition that an address is of this CTA's shared memory, and not of another one's."""
        return b.compare("icmp eq", b.op("lshr", address, CLUSTER_STRIDE.bit_length() - 1), 0)

    def _split(self, b: Builder, name: str, at: Access | Run, lanes: Value | None) -> Value | None:
        """Ask each check in turn; of another CTA's shared memory bounds and order alone."""
        far = self.subject.clustered and "shared::cluster" in at.ins.opcode.modifiers
        given = lanes
        for check in self.checks:
            look = getattr(check, name)
            if not far or isinstance(check, Bounds | Clusters):
                lanes = given = look(b, at, given)
        if far:
            own = self._is_own(b, at.address)
            if lanes is not None:
                own = b.op("and", lanes, b.mask(own) if lanes.type == "i32" else own)
            for check in self.checks:
                if not isinstance(check, Bounds | Clusters):
                    getattr(check, name)(b, at, own)
        return lanes

    def marks(self, ins: Instruction, inward: bool) -> tuple[str, tuple[str, ...]]:
        found = [check.marks(ins, inward) for check in self.checks]
        return next((mark for mark in found if mark[0]), ("", ()))


def _tell(name: str) -> Callable[..., None]:
    def hook(self: Watch, *arguments: Any) -> None:
        for check in self.checks:
            getattr(check, name)(*arguments)

    return hook


def _ask(name: str, place: int) -> Callable[..., Any]:
    def hook(self: Watch, *arguments: Any) -> Any:
        given = list(arguments)
        for check in self.checks:
            given[place] = getattr(check, name)(*given)
            if given[place] is None:
                break
        return given[place]

    return hook


for _name in _TOLD:
    setattr(Watch, _name, _tell(_name))
for _name, _place in _ASKED.items():
    setattr(Watch, _name, _ask(_name, _place))


def lanes_of_rows(b: Builder, count: int) -> Value:
    """The lanes whose addresses ldmatrix and stmatrix use: eight a matrix."""
    return b.constant("i32", (1 << 8 * count) - 1 if count < 4 else -1)
