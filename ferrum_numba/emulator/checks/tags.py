"""Helpers of the checks "init" and "race" for shared memory: a tag for each granule.

    tags_<access>_<bytes>_<granule>_<epochs|clocks>(addresses, mask, checks, ctx, site)
    land_<bytes>_<granule>[_awaited](addresses, mask, checks, ctx): a copy arrived

access: load, product (a load by wgmma), store, copy; with clocks also atomic, and strong (a load
that may meet atomic operations).

A tag is described in memory.py.  With epochs an access is a race where the tag is of this epoch and
another warp's, and one of the two wrote.  With clocks (clocks.py) tags are only of those who wrote,
and an access is a race where the tag is at or above what this warp's clock says of them.  Whoever
comes second sees it, so it does not matter that warps really run one after another.
"""

from __future__ import annotations

from typing import ClassVar

from ..builder import Builder
from ..helpers.access import splat
from ..layout import WARP, state_offset
from ..library import Helpers, family
from ..ptx import Instruction
from ..values import Value
from .check import LONG, POINTER, WORD, Check, Kept, Kind, Room, is_strong, mask_of, place, zeros
from .clocks import own_clock
from .records import ARGUMENTS
from .state import AWAITED, LANDED, MANY, PENDING, load_field


class Tags(Check):
    """Shared memory that a CTA reads before it has written it, and warps that race for it."""

    asked = frozenset({"init", "race"})
    kinds = (
        Kind(
            "uninitialised-shared",
            "init",
            {
                "shared": "reads {place}, which this CTA has not written; look for a store that is"
                " missing or masked, or a copy that nobody waited for"
            },
        ),
        Kind(
            "race",
            "race",
            {
                "shared": "{place}: {user} used it, one of the two wrote, and nothing brings them"
                " into an order; look for a missing bar.sync, or arrival and wait, between the two"
            },
        ),
    )
    # tags: one for each granule.  now: a tag at or above it is of this epoch; base: a tag below it
    # was not written by this CTA.
    fields: ClassVar = {"tags": POINTER, "tag_bytes": LONG, "now": WORD, "base": WORD}

    def keep(self, room: Room) -> Kept:
        tags = zeros(room.words)
        return {"tags": tags, "tag_bytes": tags.nbytes, "now": 0xFFFFFFFF}

    def round(self, b: Builder) -> str:
        if self.subject.clocks:
            return ""
        epoch = b.helpers.use(f"epoch_{self.subject.init:d}_{self.subject.race:d}")
        return f"  call void @{epoch}(ptr %checks, i1 %moves, i1 %fresh)\n"

    def access(
        self,
        b: Builder,
        ins: Instruction,
        space: str,
        address: Value,
        nbytes: int,
        condition: Value | None,
        kind: str,
    ) -> Value | None:
        """What an atomic operation reads must be there."""
        if space == "shared":
            if kind != "store" and is_strong(ins):
                strong = kind if kind == "atomic" else "strong"
                kind = strong if self.subject.clocks else "load"
            self._look(b, ins, kind, nbytes, b.vector(address), mask_of(b, address, condition))
        return condition

    def mbarrier(
        self, b: Builder, ins: Instruction, address: Value, condition: Value | None, kind: str
    ) -> Value | None:
        access = "store" if kind == "renew" else "load"
        self._look(b, ins, access, 8, b.vector(address), b.mask(condition))
        return condition

    def copy(
        self,
        b: Builder,
        ins: Instruction,
        to: Value,
        source: Value,
        nbytes: int,
        mask: Value,
        sizes: Value,
    ) -> Value:
        self._look(b, ins, "copy" if self.subject.race else "store", nbytes, to, mask)
        return mask

    def near(
        self, b: Builder, ins: Instruction, near: Value, sizes: Value, mask: Value, inward: bool
    ) -> Value:
        name = f"bulktags_{'in' if inward else 'out'}_{self.subject.granule}_{self.subject.mode}"
        b.call(name, "void", near, sizes, mask, *place(ins))
        return mask

    def _look(
        self, b: Builder, ins: Instruction, kind: str, nbytes: int, addresses: Value, mask: Value
    ) -> None:
        """Look at the tags, and leave this access's own."""
        granule, clocks = self.subject.granule, self.subject.clocks
        name = f"tags_{kind}_{nbytes}_{granule}_{self.subject.mode}"
        b.call(name, "void", addresses, mask, *place(ins))
        if clocks and kind not in ("load", "strong"):
            b.call(f"readers_{nbytes}_{granule}", "void", addresses, mask, *place(ins))


def own_tags() -> str:
    """Lines that set the tags that this warp leaves: %reads, %mine (it wrote), %many, %pending."""
    fields = "".join(load_field(name, "i32") for name in ("stamp", "now", "base"))
    return f"""{fields}{load_field("tags", "ptr")}\
  %warp.at = getelementptr i8, ptr %ctx, i64 {WARP}
  %warp = load i32, ptr %warp.at, align 4
  %twice = shl i32 %warp, 1
  %reads = or i32 %stamp, %twice
  %mine = or i32 %reads, 1
  %many = or i32 %stamp, {MANY}
  %own = or i32 %twice, {PENDING | 1}
  %self = or i32 %mine, {LANDED}
  %atomic = or i32 %mine, {AWAITED}
"""


def _look(access: str, t: str, name: str, n: int) -> str:
    """Lines that judge n tags: %<name>.bad, and %<name>.new, the tags that they become."""
    v = f"<{n} x i32>"
    if access == "land":
        return f"  {name}.new = or {v} %landeds{n}, zeroinitializer\n"
    kind, _, clocks = access.partition(" ")
    if clocks:
        return _look_at_clock(kind, t, name, n)
    lines = f"""  {name}.recent = icmp uge {v} {t}, %nows{n}
  {name}.written = or {v} {t}, splat (i32 {LANDED | 1})
  {name}.others = icmp ne {v} {name}.written, %selfs{n}
  {name}.clash = and <{n} x i1> {name}.recent, {name}.others
"""
    if access != "load":
        new = "%mines" if access == "store" else "%owns"
        return f"""{lines}  {name}.bad = or <{n} x i1> {name}.clash, zeroinitializer
  {name}.new = or {v} {new}{n}, zeroinitializer
"""
    return f"""{lines}  {name}.low = trunc {v} {t} to <{n} x i1>
  {name}.race = and <{n} x i1> {name}.clash, {name}.low
  {name}.void = icmp ult {v} {t}, %bases{n}
  {name}.bad = or <{n} x i1> {name}.race, {name}.void
  {name}.held = select <{n} x i1> {name}.recent, {v} {t}, {v} %readss{n}
  {name}.new = select <{n} x i1> {name}.clash, {v} %manys{n}, {v} {name}.held
"""


def _look_at_clock(access: str, t: str, name: str, n: int) -> str:
    v = f"<{n} x i32>"
    lines = _limits(t, name, n) + f"  {name}.recent = icmp uge {v} {t}, {name}.limit\n"
    if access in ("atomic", "strong"):
        last = f"%atomics{n}" if access == "atomic" else t
        return f"""{lines}  {name}.void = icmp ult {v} {t}, %bases{n}
  {name}.by = and {v} {t}, splat (i32 {LANDED | AWAITED | 1})
  {name}.plain = icmp ne {v} {name}.by, splat (i32 {AWAITED | 1})
  {name}.race = and <{n} x i1> {name}.recent, {name}.plain
  {name}.bad = or <{n} x i1> {name}.race, {name}.void
  {name}.new = or {v} {last}, zeroinitializer
"""
    if access in ("store", "copy"):
        new = "%mines" if access == "store" else "%owns"
        return f"""{lines}  {name}.bad = or <{n} x i1> {name}.recent, zeroinitializer
  {name}.new = or {v} {new}{n}, zeroinitializer
"""
    return f"""{lines}  {name}.void = icmp ult {v} {t}, %bases{n}
  {name}.bad = or <{n} x i1> {name}.recent, {name}.void
  {name}.new = or {v} %readss{n}, zeroinitializer
"""


def _limits(t: str, name: str, n: int) -> str:
    """Lines that set %<name>.limit to what this warp's clock says of who left n tags."""
    v = f"<{n} x i32>"
    return f"""  {name}.half = lshr {v} {t}, splat (i32 1)
  {name}.who = and {v} {name}.half, splat (i32 63)
  {name}.limit.at = getelementptr i32, ptr %seen, {v} {name}.who
  {name}.limit = call {v} @llvm.masked.gather.v{n}i32.v{n}p0(<{n} x ptr> {name}.limit.at, i32 4, <{n} x i1> splat (i1 true), {v} poison)
"""  # noqa: E501


def _declare_gather(helpers: Helpers, *sizes: int) -> None:
    for n in sizes:
        v, name = f"<{n} x i32>", f"@llvm.masked.gather.v{n}i32.v{n}p0"
        helpers.declare(f"{v} {name}(<{n} x ptr>, i32, <{n} x i1>, {v})")


def _plane(product: bool) -> str:
    """Lines that set %seen and %kept, where this warp's loads are noted."""
    number = "%warp"
    lines = ""
    if product:
        number = "%plane.number"
        lines = f"""{load_field("worker", "ptr")}\
  %warps.at = getelementptr i8, ptr %worker, i64 {state_offset("warps")}
  %warps = load i32, ptr %warps.at, align 4
  %plane.number = add i32 %warp, %warps
"""
    return f"""{own_clock()}{load_field("planes", "ptr")}{load_field("latest", "ptr")}\
{load_field("plane_bytes", "i64")}{lines}  %plane.wide = zext i32 {number} to i64
  %plane.offset = mul i64 %plane.wide, %plane_bytes
  %kept = getelementptr i8, ptr %planes, i64 %plane.offset
  %latest.of = getelementptr i32, ptr %latest, i32 {number}
"""


def _splats(n: int) -> str:
    names = {"nows": "now", "mines": "mine", "owns": "own", "bases": "base", "selfs": "self"}
    names |= {"readss": "reads", "manys": "many", "atomics": "atomic"}
    return "".join(splat(f"{many}{n}", "i32", f"%{one}", n) for many, one in names.items())


@family("tags")
def tags(helpers: Helpers, name: str, access: str, nbytes: str, granule: str, order: str) -> str:
    count, shift = max(int(nbytes) // int(granule), 1), int(granule).bit_length() - 1
    judge = helpers.use(f"judgetags_{access}_{granule}_{order}")
    helpers.declare("i32 @llvm.cttz.i32(i32, i1)")
    refuse = (
        f"  call void @{judge}(<32 x i32> %address, i32 %mask, i32 {count},"
        " ptr %checks, ptr %ctx, i32 %site)\n"
    )
    own = own_tags()
    if order == "clocks":
        _declare_gather(helpers, 8, 32, count)
        own += _plane(access == "product")
        if access in ("load", "product"):
            own += "  store i32 %reads, ptr %latest.of, align 4\n"
        else:  # tags lie where they are kept
            own = own.replace("%kept =", "%unused =")
        access = f"{access} clocks"
    if "%kept =" not in own:
        own += "  %kept = getelementptr i8, ptr %tags, i64 0\n"
    apart = (_gathered if count <= 2 else _lane_by_lane)(helpers, access, count, refuse)
    return f"""
define internal void @{name}(<32 x i32> %address, i32 %mask, {ARGUMENTS}) #0 {{
  %places = alloca [32 x i32], align 64
  %none = icmp eq i32 %mask, 0
  br i1 %none, label %over, label %some
over:
  ret void
some:
  %active = bitcast i32 %mask to <32 x i1>
{own}{_splats(32)}{_splats(max(count, 8) if count != 4 else 4)}\
  %index = lshr <32 x i32> %address, splat (i32 {shift})
  %start = extractelement <32 x i32> %index, i64 0
{splat("starts", "i32", "%start")}  %expected = add <32 x i32> %starts, {_steps(count)}
  %differs = icmp ne <32 x i32> %index, %expected
  %stray = bitcast <32 x i1> %differs to i32
  %inactive = xor i32 %mask, -1
  %odd = or i32 %stray, %inactive
  %row = icmp eq i32 %odd, 0
  br i1 %row, label %in_row, label %apart
in_row:
{_row(access, count, refuse)}apart:
{apart}}}
"""


def _steps(count: int) -> str:
    return "<" + ", ".join(f"i32 {count * lane}" for lane in range(32)) + ">"


def _any(names: list[str], n: int, result: str) -> str:
    """Lines that set <result>: whether any element of the i1 vectors holds."""
    lines, last = "", names[0]
    for i, other in enumerate(names[1:]):
        lines += f"  {result}.o{i} = or <{n} x i1> {last}, {other}\n"
        last = f"{result}.o{i}"
    return f"""{lines}  {result}.bits = bitcast <{n} x i1> {last} to i{n}
  {result} = icmp ne i{n} {result}.bits, 0
"""


def _row(access: str, count: int, refuse: str) -> str:
    """All tags lie one after another: 32 at a time."""
    loads = stores = ""
    for c in range(count):
        loads += (
            f"  %r{c}.i = add i32 %start, {32 * c}\n"
            f"  %r{c}.at = getelementptr i32, ptr %tags, i32 %r{c}.i\n"
            f"  %r{c}.t = load <32 x i32>, ptr %r{c}.at, align 4\n"
            + _look(access, f"%r{c}.t", f"%r{c}", 32)
        )
        stores += (
            f"  %r{c}.to = getelementptr i32, ptr %kept, i32 %r{c}.i\n"
            f"  store <32 x i32> %r{c}.new, ptr %r{c}.to, align 4\n"
        )
    bad = _any([f"%r{c}.bad" for c in range(count)], 32, "%row.bad")
    return f"""{loads}{bad}  br i1 %row.bad, label %row_refuse, label %row_keep
row_refuse:
{refuse}  br label %row_keep
row_keep:
{stores}  ret void
"""


def _gathered(helpers: Helpers, access: str, count: int, refuse: str) -> str:
    gather, scatter = "@llvm.masked.gather.v32i32.v32p0", "@llvm.masked.scatter.v32i32.v32p0"
    helpers.declare(f"<32 x i32> {gather}(<32 x ptr>, i32, <32 x i1>, <32 x i32>)")
    helpers.declare(f"void {scatter}(<32 x i32>, <32 x ptr>, i32, <32 x i1>)")
    loads = stores = ""
    for c in range(count):
        loads += f"""  %g{c}.i = add <32 x i32> %index, splat (i32 {c})
  %g{c}.at = getelementptr i32, ptr %tags, <32 x i32> %g{c}.i
  %g{c}.t = call <32 x i32> {gather}(<32 x ptr> %g{c}.at, i32 4, <32 x i1> %active, <32 x i32> zeroinitializer)
{_look(access, f"%g{c}.t", f"%g{c}", 32)}  %g{c}.wrong = and <32 x i1> %g{c}.bad, %active
"""  # noqa: E501
        stores += (
            f"  %g{c}.to = getelementptr i32, ptr %kept, <32 x i32> %g{c}.i\n"
            f"  call void {scatter}(<32 x i32> %g{c}.new, <32 x ptr> %g{c}.to, i32 4,"
            " <32 x i1> %active)\n"
        )
    bad = _any([f"%g{c}.wrong" for c in range(count)], 32, "%apart.bad")
    runs = _in_runs(access, count, refuse)
    return f"""{_runs_test(count)}  br i1 %in_runs, label %runs, label %scattered
runs:
{runs}scattered:
{loads}{bad}  br i1 %apart.bad, label %apart_refuse, label %apart_keep
apart_refuse:
{refuse}  br label %apart_keep
apart_keep:
{stores}  ret void
"""


def _in_runs(access: str, count: int, refuse: str) -> str:
    """Every eight tags lie one after another, as where lanes store whole 16-byte chunks."""
    lanes = 8 // count
    loads = stores = ""
    for c in range(0, 32, lanes):
        loads += (
            f"  %c{c}.i = extractelement <32 x i32> %index, i64 {c}\n"
            f"  %c{c}.at = getelementptr i32, ptr %tags, i32 %c{c}.i\n"
            f"  %c{c}.t = load <8 x i32>, ptr %c{c}.at, align 4\n"
            + _look(access, f"%c{c}.t", f"%c{c}", 8)
        )
        stores += (
            f"  %c{c}.to = getelementptr i32, ptr %kept, i32 %c{c}.i\n"
            f"  store <8 x i32> %c{c}.new, ptr %c{c}.to, align 4\n"
        )
    bad = _any([f"%c{c}.bad" for c in range(0, 32, lanes)], 8, "%runs.bad")
    return f"""{loads}{bad}  br i1 %runs.bad, label %runs_refuse, label %runs_keep
runs_refuse:
{refuse}  br label %runs_keep
runs_keep:
{stores}  ret void
"""


def _runs_test(count: int) -> str:
    """Lines that set %in_runs; %inactive has the lanes that do not take part."""
    lanes = 8 // count
    heads = ", ".join(f"i32 {lane // lanes * lanes}" for lane in range(32))
    steps = ", ".join(f"i32 {lane % lanes * count}" for lane in range(32))
    return f"""  %heads = shufflevector <32 x i32> %index, <32 x i32> poison, <32 x i32> <{heads}>
  %run.expected = add <32 x i32> %heads, <{steps}>
  %run.differs = icmp ne <32 x i32> %index, %run.expected
  %run.stray = bitcast <32 x i1> %run.differs to i32
  %run.odd = or i32 %run.stray, %inactive
  %in_runs = icmp eq i32 %run.odd, 0
"""


def _known_rows(count: int) -> str:
    """Lines that go to %slow unless all tags that a load finds come before it by the clock."""
    v = f"<{count} x i32>"
    lines, bad = [splat("bases.q", "i32", "%base", count)], []
    for lane in range(32):
        q = f"%q{lane}"
        lines.append(
            f"  {q}.i = extractelement <32 x i32> %index, i64 {lane}\n"
            f"  {q}.at = getelementptr i32, ptr %tags, i32 {q}.i\n"
            f"  {q}.t = load {v}, ptr {q}.at, align 4\n{_limits(f'{q}.t', q, count)}"
            # One comparison for both: a tag below the base becomes huge.
            f"  {q}.d = sub {v} {q}.t, %bases.q\n"
            f"  {q}.l = sub {v} {q}.limit, %bases.q\n"
            f"  {q}.bad = icmp uge {v} {q}.d, {q}.l\n"
        )
        bad.append(f"{q}.bad")
    stores = "".join(
        f"  %q{lane}.to = getelementptr i32, ptr %kept, i32 %q{lane}.i\n"
        f"  store {v} %reads.q, ptr %q{lane}.to, align 4\n"
        for lane in range(32)
    )
    return f"""{"".join(lines)}{_any(bad, count, "%q.odd")}  br i1 %q.odd, label %slow, label %fresh
fresh:
{splat("reads.q", "i32", "%reads", count)}{stores}  ret void
"""


def _fresh_rows(count: int) -> str:
    """Lines that go to %slow unless all tags that a load finds are of an earlier epoch.

    That is how a tile is read that others wrote before the barrier: one subtraction and one
    maximum for each lane.
    """
    v = f"<{count} x i32>"
    lines = [splat("bases.q", "i32", "%base", count)]
    last = f"{v} zeroinitializer"
    for lane in range(32):
        lines.append(
            f"  %q{lane}.i = extractelement <32 x i32> %index, i64 {lane}\n"
            f"  %q{lane}.at = getelementptr i32, ptr %tags, i32 %q{lane}.i\n"
            f"  %q{lane}.t = load {v}, ptr %q{lane}.at, align 4\n"
            f"  %q{lane}.d = sub {v} %q{lane}.t, %bases.q\n"
            f"  %q{lane}.m = call {v} @llvm.umax.v{count}i32({last}, {v} %q{lane}.d)\n"
        )
        last = f"{v} %q{lane}.m"
    stores = "".join(f"  store {v} %reads.q, ptr %q{lane}.at, align 4\n" for lane in range(32))
    return f"""{"".join(lines)}  %span = sub i32 %now, %base
{splat("spans.q", "i32", "%span", count)}  %q.late = icmp uge {last}, %spans.q
{_any(["%q.late"], count, "%q.odd")}  br i1 %q.odd, label %slow, label %fresh
fresh:
{splat("reads.q", "i32", "%reads", count)}{stores}  ret void
"""


def _lane_by_lane(helpers: Helpers, access: str, count: int, judge: str) -> str:
    """A lane's tags lie one after another."""
    v = f"<{count} x i32>"
    look = _look(access, "%t", "%lane", count)
    keep = f"""  %to = getelementptr i32, ptr %kept, i32 %place
  store {v} %lane.new, ptr %to, align 4
  br i1 %done, label %over, label %lane
"""
    rest = f"""{_any(["%lane.bad"], count, "%bad")}  br i1 %bad, label %refuse, label %keep
refuse:
  %bit = shl i32 1, %number
{judge.replace("%mask", "%bit")}  br label %keep
keep:
{keep}"""
    last = "%lane" if access == "land" else "%keep"
    before, quick = "%apart", ""
    if access in ("load", "load clocks", "product clocks"):
        helpers.declare(f"{v} @llvm.umax.v{count}i32({v}, {v})")
        before = "%slow"
        rows = _fresh_rows(count) if access == "load" else _known_rows(count)
        quick = f"""  %full = icmp eq i32 %inactive, 0
  br i1 %full, label %quick, label %slow
quick:
{rows}slow:
"""
    return f"""{quick}  store <32 x i32> %index, ptr %places, align 64
  br label %lane
lane:
  %left = phi i32 [ %mask, {before} ], [ %rest, {last} ]
  %number = call i32 @llvm.cttz.i32(i32 %left, i1 true)
  %less = add i32 %left, -1
  %rest = and i32 %left, %less
  %done = icmp eq i32 %rest, 0
  %place.at = getelementptr i32, ptr %places, i32 %number
  %place = load i32, ptr %place.at
  %at = getelementptr i32, ptr %tags, i32 %place
  %t = load {v}, ptr %at, align 4
{look}{keep if access == "land" else rest}"""


@family("land")
def land(helpers: Helpers, name: str, nbytes: str, granule: str, how: str = "") -> str:
    """What a copy brought counts as written by the warp that began it. how: "awaited" or ""."""
    own = own_tags()
    if how == "awaited":
        own += f"  %landed = or i32 %self, {AWAITED}\n"
    else:
        own += "  %landed = or i32 %self, 0\n"
    count, shift = int(nbytes) // int(granule), int(granule).bit_length() - 1
    helpers.declare("i32 @llvm.cttz.i32(i32, i1)")
    return f"""
define internal void @{name}(<32 x i32> %address, i32 %mask, ptr %checks, ptr %ctx) #0 {{
  %places = alloca [32 x i32], align 64
  %none = icmp eq i32 %mask, 0
  br i1 %none, label %over, label %apart
over:
  ret void
apart:
{own}{splat(f"landeds{count}", "i32", "%landed", count)}\
  %kept = getelementptr i8, ptr %tags, i64 0
  %index = lshr <32 x i32> %address, splat (i32 {shift})
{_lane_by_lane(helpers, "land", count, "")}}}
"""
