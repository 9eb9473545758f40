"""Builds of kernels, inspected and compared: what a PTX and its sidecar say, without running it."""

from .census import Access, Census, Family, SourceFile, TensorUse
from .comparison import (
    BuildComparison,
    Change,
    Count,
    EntryComparison,
    SourceDifference,
    compare_builds,
)
from .inspection import (
    InspectedEntry,
    InspectedParameter,
    Inspection,
    Loading,
    Needs,
    SidecarVerdict,
    Unreadable,
    dotted,
    inspect_ptx,
    with_resources,
)
from .machine_code import (
    InspectedCode,
    InspectedCubin,
    InspectedMember,
    MachineCode,
    inspect_build,
    inspect_code,
)
from .ptxas_log import assembled_resources

__all__ = [
    "Access",
    "BuildComparison",
    "Census",
    "Change",
    "Count",
    "EntryComparison",
    "Family",
    "InspectedCode",
    "InspectedCubin",
    "InspectedEntry",
    "InspectedMember",
    "InspectedParameter",
    "Inspection",
    "Loading",
    "MachineCode",
    "Needs",
    "SidecarVerdict",
    "SourceDifference",
    "SourceFile",
    "TensorUse",
    "Unreadable",
    "assembled_resources",
    "compare_builds",
    "dotted",
    "inspect_build",
    "inspect_code",
    "inspect_ptx",
    "with_resources",
]
