"""Helpers of the checks "init" and "race" for shared memory: a tag for each granule.

    tags_<load|store|copy>_<bytes>_<granule>(addresses, mask, checks, ctx, site)
    land_<bytes>_<granule>(addresses, mask, checks, ctx): a copy arrived

A tag is described in memory.py.  An access is a race where the tag is of this epoch and another
warp's, and one of the two wrote.  Whoever comes second sees it, so it does not matter that warps
really run one after another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..helpers import family
from ..helpers.access import splat
from ..layout import WARP
from .memory import KIND, LANDED, MANY, PENDING, load_field
from .records import ARGUMENTS, visit

if TYPE_CHECKING:
    from ..helpers import Helpers


def _own() -> str:
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
"""


def _look(access: str, t: str, name: str, n: int) -> str:
    """Lines that judge n tags: %<name>.bad, and %<name>.new, the tags that they become."""
    v = f"<{n} x i32>"
    if access == "land":
        return f"  {name}.new = or {v} %selfs{n}, zeroinitializer\n"
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


def _splats(n: int) -> str:
    names = {"nows": "now", "mines": "mine", "owns": "own", "bases": "base", "selfs": "self"}
    names |= {"readss": "reads", "manys": "many"}
    return "".join(splat(f"{many}{n}", "i32", f"%{one}", n) for many, one in names.items())


@family("tags")
def tags(helpers: Helpers, name: str, access: str, nbytes: str, granule: str) -> str:
    count, shift = int(nbytes) // int(granule), int(granule).bit_length() - 1
    judge = helpers.use(f"judgetags_{access}_{granule}")
    helpers.declare("i32 @llvm.cttz.i32(i32, i1)")
    refuse = (
        f"  call void @{judge}(<32 x i32> %address, i32 %mask, i32 {count},"
        " ptr %checks, ptr %ctx, i32 %site)\n"
    )
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
{_own()}{_splats(32)}{_splats(max(count, 8) if count != 4 else 4)}\
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
        stores += f"  store <32 x i32> %r{c}.new, ptr %r{c}.at, align 4\n"
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
            f"  call void {scatter}(<32 x i32> %g{c}.new, <32 x ptr> %g{c}.at, i32 4,"
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
        stores += f"  store <8 x i32> %c{c}.new, ptr %c{c}.at, align 4\n"
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
    keep = f"  store {v} %lane.new, ptr %at, align 4\n  br i1 %done, label %over, label %lane\n"
    rest = f"""{_any(["%lane.bad"], count, "%bad")}  br i1 %bad, label %refuse, label %keep
refuse:
  %bit = shl i32 1, %number
{judge.replace("%mask", "%bit")}  br label %keep
keep:
{keep}"""
    last = "%lane" if access == "land" else "%keep"
    before, quick = "%apart", ""
    if access == "load":
        helpers.declare(f"{v} @llvm.umax.v{count}i32({v}, {v})")
        before = "%slow"
        quick = f"""  %full = icmp eq i32 %inactive, 0
  br i1 %full, label %quick, label %slow
quick:
{_fresh_rows(count)}slow:
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
def land(helpers: Helpers, name: str, nbytes: str, granule: str) -> str:
    """What a copy brought counts as written by the warp that waited for it."""
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
{_own()}{_splats(count)}  %index = lshr <32 x i32> %address, splat (i32 {shift})
{_lane_by_lane(helpers, "land", count, "")}}}
"""


@family("judgetags")
def judge_tags(helpers: Helpers, name: str, access: str, granule: str) -> str:
    """Record what is wrong with the tags of an access: each lane's first problem."""
    record = helpers.use("record")
    helpers.declare("i32 @llvm.cttz.i32(i32, i1)")
    shift = int(granule).bit_length() - 1
    if access == "load":
        test = """  %void = icmp ult i32 %t, %base
  %writer = trunc i32 %t to i1
  %race = and i1 %clash, %writer
"""
    else:
        test = "  %void = icmp ne i32 0, 0\n  %race = and i1 %clash, true\n"
    doubt = ""
    if access == "store":  # to what another warp has written: the same value is no race
        name_of_doubt = helpers.use("doubt_shared")
        doubt = f"""  %whole = zext i32 %place to i64
  %width = shl i32 %count, {shift}
  %written.bit = and i32 %t, 129
  %was.written = icmp eq i32 %written.bit, 1
  %arrived = icmp ult i32 %t, {PENDING}
  %doubtful = and i1 %was.written, %arrived
  br i1 %doubtful, label %doubt, label %certain
doubt:
  call void @{name_of_doubt}(ptr %checks, i32 %lane, i64 %whole, i32 %width, i32 %t)
  br label %next
certain:
"""
    return f"""
define internal void @{name}(<32 x i32> %address, i32 %mask, i32 %count, {ARGUMENTS}) #0 {{
  %places = alloca [32 x i32], align 64
  store <32 x i32> %address, ptr %places, align 64
{_own()}{visit()}  br label %test
test:
  %left = phi i32 [ %mask, %0 ], [ %rest, %next ]
  %done = icmp eq i32 %left, 0
  br i1 %done, label %end, label %begin
end:
  ret void
next:
  %less = add i32 %left, -1
  %rest = and i32 %left, %less
  br label %test
begin:
  %lane = call i32 @llvm.cttz.i32(i32 %left, i1 true)
  %place.at = getelementptr i32, ptr %places, i32 %lane
  %place = load i32, ptr %place.at
  %index = lshr i32 %place, {shift}
  br label %each
each:
  %i = phi i32 [ 0, %begin ], [ %i.next, %fine ]
  %past = icmp uge i32 %i, %count
  br i1 %past, label %next, label %look
look:
  %number = add i32 %index, %i
  %tag.at = getelementptr i32, ptr %tags, i32 %number
  %t = load i32, ptr %tag.at, align 4
  %recent = icmp uge i32 %t, %now
  %written = or i32 %t, {LANDED | 1}
  %others = icmp ne i32 %written, %self
  %clash = and i1 %recent, %others
{test}  %bad = or i1 %void, %race
  br i1 %bad, label %report, label %fine
fine:
  %i.next = add i32 %i, 1
  br label %each
report:
{doubt}  %waits = icmp uge i32 %t, {PENDING}
  %kind.race = select i1 %waits, i32 {KIND["pending-copy"]}, i32 {KIND["race"]}
  %kind = select i1 %void, i32 {KIND["uninitialised-shared"]}, i32 %kind.race
  %where = shl i32 %number, {shift}
  %where.wide = zext i32 %where to i64
  %nbytes = shl i32 %count, {shift}
  call void @{record}(ptr %checks, ptr %ctx, i32 %site, i32 %kind, i32 %lane, i64 %where.wide, i32 %nbytes, i32 %t)
  br label %next
}}
"""  # noqa: E501
