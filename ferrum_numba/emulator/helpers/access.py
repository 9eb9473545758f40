"""Loads, stores and copies of 32 lanes.

    load_<space>_<bits>(base, addresses, mask, old) -> <32 x i<bits>>, old where the mask is 0
    store_<space>_<bits>(base, addresses, values, mask)
    load_<space>_128(base, addresses, mask, out), store_<space>_128(base, addresses, in, mask):
        in memory as four planes, <32 x i32> each; a load leaves inactive lanes zero
    copy_<bytes>(base, to shared, from global, mask, source bytes): cp.async

space is "global" (64-bit host addresses; base is not used) or "shared" (32-bit offsets from base).
Addresses of neighbouring lanes are most often neighbours too: that is tried first.
"""

from __future__ import annotations

from ..library import Helpers, family

ADDRESS = {"global": "i64", "shared": "i32"}


def pointer(space: str, address: str, n: int = 1) -> str:
    """The expression that turns an address (or a vector of n) into a pointer."""
    kind = ADDRESS[space] if n == 1 else f"<{n} x {ADDRESS[space]}>"
    to = "ptr" if n == 1 else f"<{n} x ptr>"
    if space == "global":
        return f"inttoptr {kind} {address} to {to}"
    return f"getelementptr i8, ptr %base, {kind} {address}"


def iota(kind: str, step: int, n: int = 32) -> str:
    """A constant vector 0, step, 2*step, …"""
    return "<" + ", ".join(f"{kind} {i * step}" for i in range(n)) + ">"


def splat(name: str, kind: str, value: str, n: int = 32) -> str:
    """Lines that put a scalar into every lane of %name."""
    return (
        f"  %{name}.one = insertelement <{n} x {kind}> poison, {kind} {value}, i64 0\n"
        f"  %{name} = shufflevector <{n} x {kind}> %{name}.one, <{n} x {kind}> poison,"
        f" <{n} x i32> zeroinitializer\n"
    )


def row_test(space: str, nbytes: int) -> str:
    """Lines that set %row: all active lanes lie one after another, lane 0 at %start."""
    kind = ADDRESS[space]
    return (
        f"  %start = extractelement <32 x {kind}> %address, i64 0\n"
        + splat("starts", kind, "%start")
        + f"""  %expected = add <32 x {kind}> %starts, {iota(kind, nbytes)}
  %differs = icmp ne <32 x {kind}> %address, %expected
  %strays = and <32 x i1> %differs, %active
  %stray = bitcast <32 x i1> %strays to i32
  %row = icmp eq i32 %stray, 0
"""
    )


@family("load")
def load(helpers: Helpers, name: str, space: str, bits: str) -> str:
    if bits == "128":
        return _load_wide(helpers, name, space)
    kind, vector, nbytes = ADDRESS[space], f"<32 x i{bits}>", int(bits) // 8
    helpers.declare(f"{vector} @llvm.masked.load.v32i{bits}.p0(ptr, i32, <32 x i1>, {vector})")
    return f"""
define internal {vector} @{name}(ptr %base, <32 x {kind}> %address, i32 %mask, {vector} %old) #0 {{
  %none = icmp eq i32 %mask, 0
  br i1 %none, label %skip, label %some
skip:
  ret {vector} %old
some:
  %active = bitcast i32 %mask to <32 x i1>
{row_test(space, nbytes)}  br i1 %row, label %in_row, label %apart
in_row:
  %from = {pointer(space, "%start")}
  %line = call {vector} @llvm.masked.load.v32i{bits}.p0(ptr %from, i32 1, <32 x i1> %active, {vector} %old)
  ret {vector} %line
apart:
{_gather(helpers, space, int(bits))}}}
"""  # noqa: E501


def _gather(helpers: Helpers, space: str, bits: int) -> str:
    kind = ADDRESS[space]
    wide = max(bits, 32)
    vector = f"<32 x i{wide}>"
    gather = f"@llvm.masked.gather.v32i{wide}.v32p0"
    helpers.declare(f"{vector} {gather}(<32 x ptr>, i32, <32 x i1>, {vector})")
    if bits >= 32:
        return f"""  %each = {pointer(space, "%address", 32)}
  %found = call {vector} {gather}(<32 x ptr> %each, i32 1, <32 x i1> %active, {vector} %old)
  ret {vector} %found
"""
    # CPUs gather words: take the aligned word around the value. It never crosses a page.
    shift = (
        "trunc <32 x i64> %shift64 to <32 x i32>"
        if kind == "i64"
        else "or <32 x i32> %shift64, zeroinitializer"
    )
    return f"""  %aligned = and <32 x {kind}> %address, splat ({kind} -4)
  %each = {pointer(space, "%aligned", 32)}
  %words = call {vector} {gather}(<32 x ptr> %each, i32 4, <32 x i1> %active, {vector} zeroinitializer)
  %byte = and <32 x {kind}> %address, splat ({kind} 3)
  %shift64 = shl <32 x {kind}> %byte, splat ({kind} 3)
  %shift = {shift}
  %low = lshr {vector} %words, %shift
  %found = trunc {vector} %low to <32 x i{bits}>
  %result = select <32 x i1> %active, <32 x i{bits}> %found, <32 x i{bits}> %old
  ret <32 x i{bits}> %result
"""  # noqa: E501


def _load_wide(helpers: Helpers, name: str, space: str) -> str:
    kind = ADDRESS[space]
    gather = "@llvm.masked.gather.v32i32.v32p0"
    helpers.declare(f"<32 x i32> {gather}(<32 x ptr>, i32, <32 x i1>, <32 x i32>)")
    planes, gathers = [], []
    for i in range(4):
        picks = ", ".join(f"i32 {4 * lane + i}" for lane in range(32))
        planes.append(
            f"  %plane{i} = shufflevector <128 x i32> %all, <128 x i32> poison,"
            f" <32 x i32> <{picks}>\n"
            f"  %out{i} = getelementptr i8, ptr %out, i64 {128 * i}\n"
            f"  store <32 x i32> %plane{i}, ptr %out{i}, align 64\n"
        )
        gathers.append(
            f"  %address{i} = add <32 x {kind}> %address, splat ({kind} {4 * i})\n"
            f"  %each{i} = {pointer(space, f'%address{i}', 32)}\n"
            f"  %found{i} = call <32 x i32> {gather}(<32 x ptr> %each{i}, i32 4, <32 x i1> %active,"
            " <32 x i32> zeroinitializer)\n"
            f"  %to{i} = getelementptr i8, ptr %out, i64 {128 * i}\n"
            f"  store <32 x i32> %found{i}, ptr %to{i}, align 64\n"
        )
    return f"""
define internal void @{name}(ptr %base, <32 x {kind}> %address, i32 %mask, ptr %out) #0 {{
  %active = bitcast i32 %mask to <32 x i1>
{row_test(space, 16)}  %full = icmp eq i32 %mask, -1
  %quick = and i1 %row, %full
  br i1 %quick, label %in_row, label %apart
in_row:
  %from = {pointer(space, "%start")}
  %all = load <128 x i32>, ptr %from, align 1
{"".join(planes)}  ret void
apart:
{"".join(gathers)}  ret void
}}
"""


@family("store")
def store(helpers: Helpers, name: str, space: str, bits: str) -> str:
    if bits == "128":
        return _store_wide(helpers, name, space)
    kind, vector, nbytes = ADDRESS[space], f"<32 x i{bits}>", int(bits) // 8
    helpers.declare(f"void @llvm.masked.store.v32i{bits}.p0({vector}, ptr, i32, <32 x i1>)")
    return f"""
define internal void @{name}(ptr %base, <32 x {kind}> %address, {vector} %value, i32 %mask) #0 {{
  %places = alloca [32 x {kind}], align 64
  %values = alloca [32 x i{bits}], align 64
  %none = icmp eq i32 %mask, 0
  br i1 %none, label %skip, label %some
skip:
  ret void
some:
  %active = bitcast i32 %mask to <32 x i1>
{_run_test(space, int(bits))}  br i1 %in_runs, label %runs, label %rows
runs:
{_store_runs(space, int(bits))}  ret void
rows:
{row_test(space, nbytes)}  br i1 %row, label %in_row, label %apart
in_row:
  %to = {pointer(space, "%start")}
  call void @llvm.masked.store.v32i{bits}.p0({vector} %value, ptr %to, i32 1, <32 x i1> %active)
  ret void
apart:
{_scatter(helpers, space, int(bits))}}}
"""


def _scatter(helpers: Helpers, space: str, bits: int) -> str:
    """Lane after lane: of lanes that store to one place the last wins."""
    kind, vector = ADDRESS[space], f"<32 x i{bits}>"
    if bits >= 32:
        scatter = f"@llvm.masked.scatter.v32i{bits}.v32p0"
        helpers.declare(f"void {scatter}({vector}, <32 x ptr>, i32, <32 x i1>)")
        return f"""  %each = {pointer(space, "%address", 32)}
  call void {scatter}({vector} %value, <32 x ptr> %each, i32 1, <32 x i1> %active)
  ret void
"""
    _declare_cttz(helpers)
    return f"""  store <32 x {kind}> %address, ptr %places, align 64
  store {vector} %value, ptr %values, align 64
  br label %next
next:
  %left = phi i32 [ %mask, %apart ], [ %rest, %next ]
  %lane = call i32 @llvm.cttz.i32(i32 %left, i1 true)
  %place.at = getelementptr {kind}, ptr %places, i32 %lane
  %place = load {kind}, ptr %place.at
  %item.at = getelementptr i{bits}, ptr %values, i32 %lane
  %item = load i{bits}, ptr %item.at
  %there = {pointer(space, "%place")}
  store i{bits} %item, ptr %there, align 1
  %less = add i32 %left, -1
  %rest = and i32 %left, %less
  %done = icmp eq i32 %rest, 0
  br i1 %done, label %skip, label %next
"""


def _declare_cttz(helpers: Helpers) -> str:
    helpers.declare("i32 @llvm.cttz.i32(i32, i1)")
    return ""


def _run_lanes(bits: int) -> int:
    return 128 // bits


def _run_test(space: str, bits: int) -> str:
    """Lines that set %in_runs: all lanes active, every 16 bytes' worth of lanes in a row.

    Swizzled tiles in shared memory are written like this: whole 16-byte chunks, in any order.
    """
    kind, n = ADDRESS[space], _run_lanes(bits)
    heads = ", ".join(f"i32 {lane // n * n}" for lane in range(32))
    steps = ", ".join(f"{kind} {lane % n * bits // 8}" for lane in range(32))
    vector = f"<32 x {kind}>"
    return f"""  %heads = shufflevector {vector} %address, {vector} poison, <32 x i32> <{heads}>
  %run.expected = add <32 x {kind}> %heads, <{steps}>
  %run.differs = icmp ne <32 x {kind}> %address, %run.expected
  %run.stray = bitcast <32 x i1> %run.differs to i32
  %inactive = xor i32 %mask, -1
  %run.bad = or i32 %run.stray, %inactive
  %in_runs = icmp eq i32 %run.bad, 0
"""


def _store_runs(space: str, bits: int) -> str:
    kind, n = ADDRESS[space], _run_lanes(bits)
    lines = []
    for head in range(0, 32, n):
        picks = ", ".join(f"i32 {head + i}" for i in range(n))
        lines.append(
            f"  %h{head} = extractelement <32 x {kind}> %address, i64 {head}\n"
            f"  %t{head} = {pointer(space, f'%h{head}')}\n"
            f"  %c{head} = shufflevector <32 x i{bits}> %value, <32 x i{bits}> poison,"
            f" <{n} x i32> <{picks}>\n"
            f"  store <{n} x i{bits}> %c{head}, ptr %t{head}, align 1\n"
        )
    return "".join(lines)


def _store_wide(helpers: Helpers, name: str, space: str) -> str:
    kind = ADDRESS[space]
    loads = "".join(
        f"  %at{i} = getelementptr i8, ptr %in, i64 {128 * i}\n"
        f"  %plane{i} = load <32 x i32>, ptr %at{i}, align 64\n"
        for i in range(4)
    )
    first, second = (", ".join(f"i32 {i}" for i in range(n)) for n in (64, 128))
    mix = ", ".join(f"i32 {32 * i + lane}" for lane in range(32) for i in range(4))
    return f"""
define internal void @{name}(ptr %base, <32 x {kind}> %address, ptr %in, i32 %mask) #0 {{
  %places = alloca [32 x {kind}], align 64
  %values = alloca [128 x i32], align 64
  %none = icmp eq i32 %mask, 0
  br i1 %none, label %skip, label %some
skip:
  ret void
some:
{loads}  %p01 = shufflevector <32 x i32> %plane0, <32 x i32> %plane1, <64 x i32> <{first}>
  %p23 = shufflevector <32 x i32> %plane2, <32 x i32> %plane3, <64 x i32> <{first}>
  %planes = shufflevector <64 x i32> %p01, <64 x i32> %p23, <128 x i32> <{second}>
  %lanes = shufflevector <128 x i32> %planes, <128 x i32> poison, <128 x i32> <{mix}>
  store <128 x i32> %lanes, ptr %values, align 64
  store <32 x {kind}> %address, ptr %places, align 64
  br label %next
next:
  %left = phi i32 [ %mask, %some ], [ %rest, %next ]
  %lane = call i32 @llvm.cttz.i32(i32 %left, i1 true)
  %place.at = getelementptr {kind}, ptr %places, i32 %lane
  %place = load {kind}, ptr %place.at
  %item.at = getelementptr <4 x i32>, ptr %values, i32 %lane
  %item = load <4 x i32>, ptr %item.at, align 16
  %there = {pointer(space, "%place")}
  store <4 x i32> %item, ptr %there, align 1
  %less = add i32 %left, -1
  %rest = and i32 %left, %less
  %done = icmp eq i32 %rest, 0
  br i1 %done, label %skip, label %next
}}
{_declare_cttz(helpers)}"""


@family("copy")
def copy(helpers: Helpers, name: str, nbytes: str) -> str:
    """cp.async: bytes beyond the source's are zeros in the destination."""
    lanes = f"copylanes_{nbytes}"
    helpers.use(lanes)
    arguments = "ptr %base, <32 x i32> %to, <32 x i64> %from, i32 %mask, <32 x i32> %size"
    head = f"""
define internal void @{name}({arguments}) #0 {{
"""
    slow = f"""  call void @{lanes}({arguments})
  ret void
}}
"""
    if nbytes == "16":
        return head + slow
    vector, bits = f"<32 x i{int(nbytes) * 8}>", int(nbytes) * 8
    load_name = helpers.use(f"load_global_{bits}")
    store_name = helpers.use(f"store_shared_{bits}")
    return f"""{head}  %all = icmp uge <32 x i32> %size, splat (i32 {nbytes})
  %some = icmp ne <32 x i32> %size, zeroinitializer
  %part = icmp ne <32 x i1> %all, %some
  %parts = bitcast <32 x i1> %part to i32
  %whole = icmp eq i32 %parts, 0
  br i1 %whole, label %quick, label %slow
quick:
  %present = bitcast <32 x i1> %some to i32
  %reads = and i32 %present, %mask
  %value = call {vector} @{load_name}(ptr null, <32 x i64> %from, i32 %reads, {vector} zeroinitializer)
  call void @{store_name}(ptr %base, <32 x i32> %to, {vector} %value, i32 %mask)
  ret void
slow:
{slow}"""  # noqa: E501


@family("copylanes")
def copy_lanes(helpers: Helpers, name: str, nbytes: str) -> str:
    """One lane after another; the last is where a source shorter than nbytes is padded."""
    helpers.declare("void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)")
    item = f"<{nbytes} x i8>"
    return f"""
define internal void @{name}(ptr %base, <32 x i32> %to, <32 x i64> %from, i32 %mask, <32 x i32> %size) #0 {{
  %targets = alloca [32 x i32], align 64
  %sources = alloca [32 x i64], align 64
  %sizes = alloca [32 x i32], align 64
  %buffer = alloca {item}, align 16
  store <32 x i32> %to, ptr %targets, align 64
  store <32 x i64> %from, ptr %sources, align 64
  store <32 x i32> %size, ptr %sizes, align 64
  br label %test
test:
  %left = phi i32 [ %mask, %0 ], [ %rest, %put ]
  %done = icmp eq i32 %left, 0
  br i1 %done, label %end, label %next
end:
  ret void
next:
  %lane = call i32 @llvm.cttz.i32(i32 %left, i1 true)
  %target.at = getelementptr i32, ptr %targets, i32 %lane
  %target = load i32, ptr %target.at
  %there = {pointer("shared", "%target")}
  %source.at = getelementptr i64, ptr %sources, i32 %lane
  %source = load i64, ptr %source.at
  %here = {pointer("global", "%source")}
  %size.at = getelementptr i32, ptr %sizes, i32 %lane
  %bytes = load i32, ptr %size.at
  %whole = icmp uge i32 %bytes, {nbytes}
  br i1 %whole, label %all, label %part
all:
  %whole.value = load {item}, ptr %here, align 1
  br label %put
part:
  store {item} zeroinitializer, ptr %buffer, align 16
  br label %byte
byte:
  %i = phi i32 [ 0, %part ], [ %i.next, %byte.copy ]
  %last = icmp uge i32 %i, %bytes
  br i1 %last, label %part.end, label %byte.copy
byte.copy:
  %byte.from = getelementptr i8, ptr %here, i32 %i
  %byte.value = load i8, ptr %byte.from
  %byte.to = getelementptr i8, ptr %buffer, i32 %i
  store i8 %byte.value, ptr %byte.to
  %i.next = add i32 %i, 1
  br label %byte
part.end:
  %part.value = load {item}, ptr %buffer, align 16
  br label %put
put:
  %value = phi {item} [ %whole.value, %all ], [ %part.value, %part.end ]
  store {item} %value, ptr %there, align 1
  %less = add i32 %left, -1
  %rest = and i32 %left, %less
  br label %test
}}
{_declare_cttz(helpers)}"""  # noqa: E501
