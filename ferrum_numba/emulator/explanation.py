"""The error that says where and why a CTA could not go on."""

from __future__ import annotations

from ..abi.signature import Signature
from ..errors import LaunchError, PtxError
from . import table
from .flow import analyse
from .job import Job
from .origin import origins
from .ptx import Body, Instruction
from .seat import StoppedError
from .standstill import Polls, describe
from .translate import threads_of


def explain(
    stopped: StoppedError, job: Job, body: Body, text: str, signature: Signature
) -> PtxError | LaunchError:
    """The error that names the instruction at which a CTA stopped."""
    entry = signature.entry
    flow = analyse(body, threads_of(signature), masked=False)
    if stopped.waits:
        polls = Polls(body, flow.blocks, origins(text, entry), signature, job.parameter_block)
        ended = job.ctas - len(stopped.waits)
        return LaunchError(entry, polls.describe(stopped.waits, ended))
    if stopped.fault:
        instruction = body.statements[stopped.fault - 1]
        assert isinstance(instruction, Instruction)
        row = table.find(instruction)
        if stopped.places and row.ends:
            return LaunchError(
                entry,
                f"CTA {stopped.cta} will never end, for all of its warps "
                f"wait:\n{describe(flow.blocks, stopped.places)}",
                remedy="look for an arrival that is missing, a wait for the wrong phase, or "
                "an mbarrier that expects too many arrivals",
            )
        place = body.place_of(instruction)
        fault = row.fault.format(
            cta=stopped.cta,
            warp=stopped.warp,
            place=f" at {place}" if place else "",
            failure=stopped.failure,
        )
        refusal = instruction.refuse(fault)
        # What the kernel asked for itself is no fault of the PTX.
        if row.family != "control":
            return refusal
        return LaunchError(str(refusal), where=refusal.where, data=refusal.data)
    after = [i for b in flow.blocks[stopped.block :] for i in (*b.instructions, b.last) if i]
    return LaunchError(
        entry,
        f"CTA {stopped.cta} was stopped after {stopped.steps} instructions, its warp "
        f"{stopped.warp} at PTX line {after[0].line}:\n    {after[0].text.strip().rstrip(';')}",
        remedy="if this is no endless loop, set the environment variable FERRUM_CPU_STEPS to "
        "more (instructions of all warps of one CTA)",
    )
