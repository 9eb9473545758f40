"""Layout of memory: a worker's state, and the context of each warp.

The state is shared by the warps of the CTA that a worker is running; a context holds what one
warp keeps from block to block.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the translator, which is not loaded for code from the cache
    from .flow import Flow
    from .ptx import Register

LANES = 32
Triple = tuple[int, int, int]

BARRIER_WORDS = 16  # of each named barrier: see opcodes/barrier.py


class State(ctypes.Structure):
    """State of a worker that runs CTAs. Triples are x, y, z.

    fault: 0, or 1 + the index of an instruction that could not be run as it should; fault_cta,
        fault_warp: by whom.
    steps: how many instructions of warps may still run before it returns.
    cta, last: the CTA that is run, and where to end, counted along x, then y, then z.
    warp, phase: where it goes on in that CTA.
    host: the function for calls that the host carries out (host_calls.py).
    clock: the CTA's time in ns, from 0 on.
    idle: how often warps have waited in vain since one last went on from a wait, or arrived.
    polled, poll: the address that was read last with an order, or by an atomic operation, and 1 +
        the index of the instruction.
    workspace: of the grid's barrier.
    cluster, cluster_ctaid: CTAs of the cluster, and which of them this one is; cluster_ctas,
        cluster_rank: likewise as one number.  cluster_barrier: where its barrier's words lie.
    checks: what the code needs where checks are on (checks/state.py), else NULL.
    barriers: the sixteen named ones.
    """

    _fields_ = (
        ("ctaid", ctypes.c_uint32 * 3),
        ("nctaid", ctypes.c_uint32 * 3),
        ("ntid", ctypes.c_uint32 * 3),
        ("warps", ctypes.c_uint32),
        ("shared_bytes", ctypes.c_uint32),
        ("fault", ctypes.c_uint32),
        ("params", ctypes.c_void_p),
        ("shared", ctypes.c_void_p),
        ("contexts", ctypes.c_void_p),
        ("scratch", ctypes.c_void_p),
        ("steps", ctypes.c_int64),
        ("cta", ctypes.c_int64),
        ("last", ctypes.c_int64),
        ("host", ctypes.c_void_p),
        ("clock", ctypes.c_int64),
        ("warp", ctypes.c_uint32),
        ("phase", ctypes.c_uint32),
        ("idle", ctypes.c_uint32),
        ("polled", ctypes.c_uint64),
        ("workspace", ctypes.c_uint64),
        ("poll", ctypes.c_uint32),
        ("cluster", ctypes.c_uint32 * 3),
        ("cluster_ctaid", ctypes.c_uint32 * 3),
        ("cluster_ctas", ctypes.c_uint32),
        ("cluster_rank", ctypes.c_uint32),
        ("cluster_barrier", ctypes.c_void_p),
        ("checks", ctypes.c_void_p),
        ("fault_cta", ctypes.c_int64),
        ("fault_warp", ctypes.c_uint32),
        ("barriers", ctypes.c_uint32 * (16 * BARRIER_WORDS)),
    )


def state_offset(name: str) -> int:
    """Offset of a field of State, in bytes."""
    return int(getattr(State, name).offset)


# A context begins with these; vectors have one i32 a lane.  GENERATION: how often the named
# barrier that the warp came to last had opened before.  WAIT_ADDRESS, WAIT_PARITY: the mbarrier
# that it came to last, and the phase that it waited for there; WAIT_TRIED: whether in vain.
RESUME, WARP, VALID, GENERATION, NEXT, TID = 0, 4, 8, 12, 64, 192
WAIT_ADDRESS, WAIT_PARITY, WAIT_TRIED = 16, 20, 24
# How often the cluster's barrier had opened before, when the warp came to it.
CLUSTER_GENERATION = 28
# From the shared memory of one CTA of a cluster to that of the next, in bytes.
CLUSTER_STRIDE = 1 << 20
# Waits in vain, one after the other and nothing else, after which a CTA will never end.
IDLE_LIMIT = 1 << 16
# In a cluster, after which a CTA gives way to the others.
CLUSTER_PATIENCE = 32
# Steps that are left where a CTA ends, or gives way, before it has used its own.
GAVE_WAY = -(1 << 40)
# Nanoseconds that pass from one look at a clock to the next, whichever warp looks: runs repeat, and
# waits end soon.  It is as coarse as the timers of GPUs.
CLOCK_STEP = 1024
# In divergent control flow each lane has its own next block: lanes that are done have the largest
# number, lanes at a barrier the next block with a bit that puts it behind all others.
# ELSEWHERE: the block is one of another part of the entry (translate.py).
DONE, WAITING, ELSEWHERE = 0x7FFFFFFF, 0x40000000, 0x20000000
# What a warp as a whole goes on with is a block, with WAITING at a barrier, or this; and the phase
# of a CTA that has not begun.
FINISHED, FRESH = -1, 2
_HOMES = TID + 3 * LANES * 4


class Layout:
    """Offsets of the homes of registers that live across blocks, in bytes from a context."""

    def __init__(self, flow: Flow) -> None:
        crossing = set().union(*(block.live_in for block in flow.blocks))
        order = [r for r in _in_order(flow) if r in crossing]
        self._homes: dict[Register, int] = {}
        offset = _HOMES
        sizes = {r: _home_bytes(r, r in flow.varying) for r in order}
        # The widest first: so each is aligned to its size, up to a cache line.
        for register in sorted(order, key=lambda r: -sizes[r]):
            self._homes[register] = offset
            offset += sizes[register]
        # Local memory: all of one lane, then all of the next.
        self.local = -(-offset // 64) * 64
        self.local_bytes = -(-flow.local_bytes // 16) * 16
        offset = self.local + LANES * self.local_bytes
        # An odd number of cache lines: contexts of all warps then spread over the cache's sets.
        self.nbytes = (-(-offset // 64) | 1) * 64

    def home(self, register: Register) -> int | None:
        """Offset of a register's home, or None where it never leaves a block."""
        return self._homes.get(register)

    def special(self, name: str) -> tuple[str, int, int] | None:
        """Place of a special register: base pointer, offset, number of lanes."""
        stem, _, axis = name[1:].partition(".")
        if stem == "tid":
            return "%ctx", TID + "xyz".index(axis) * LANES * 4, LANES
        stem = {"cluster_nctaid": "cluster"}.get(stem, stem)
        if stem in ("ctaid", "nctaid", "ntid", "cluster", "cluster_ctaid"):
            return "%state", state_offset(stem) + "xyz".index(axis) * 4, 1
        if stem == "warpid":
            return "%ctx", WARP, 1
        fields = {
            "nwarpid": "warps",
            "dynamic_smem_size": "shared_bytes",
            "cluster_ctarank": "cluster_rank",
            "cluster_nctarank": "cluster_ctas",
        }
        return ("%state", state_offset(fields[stem]), 1) if stem in fields else None


def _in_order(flow: Flow) -> list[Register]:
    """All registers: those of each fragment one after another, as `Builder.held` wants them, and of
    products first; then the others in the order in which the blocks first mention them."""
    from . import table

    instructions = [i for block in flow.blocks for i in block.instructions]
    mentions = [table.written(i) for i in instructions if i.opcode.base in ("mma", "wgmma")]
    mentions += [its for i in instructions if len(its := table.written(i)) == 4]
    mentions += [table.read(i) + table.written(i) for i in instructions]
    mentions += [[b.last.guard] for b in flow.blocks if b.last and b.last.guard]
    return list(dict.fromkeys(register for its in mentions for register in its))


def _home_bytes(register: Register, vector: bool) -> int:
    # A predicate of all lanes is one 32-bit mask.
    return LANES * register.bits // 8 if vector and register.bits > 1 else 8
