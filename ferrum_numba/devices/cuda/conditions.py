"""Conditions in a graph: the device looks at a number, and runs a body once, again, or not.

Source: CUDA Driver API reference, "Graph Management", CUgraphNodeParams and
CUDA_CONDITIONAL_NODE_PARAMS; CUDA Programming Guide, "Conditional Graph Nodes".
"""

from __future__ import annotations

import ctypes
from ctypes import c_int, c_uint, c_uint64, c_void_p

from ...errors import DeviceError
from . import captures, driver

_CONDITIONAL = 13  # CU_GRAPH_NODE_TYPE_CONDITIONAL
_IF, _WHILE = 0, 1  # CU_GRAPH_COND_TYPE_...
ENTRY = "test_condition"
# cudaGraphSetConditional is the driver's own, which links it as it compiles this.
TEXT = f""".version 7.0
.target sm_70
.address_size 64

.extern .func cudaGraphSetConditional (.param .b64 handle, .param .b32 value);

.visible .entry {ENTRY} (.param .u64 handle, .param .u64 number)
{{
    .reg .b32 %value;
    .reg .b64 %handle, %number;
    ld.param.u64 %handle, [handle];
    ld.param.u64 %number, [number];
    cvta.to.global.u64 %number, %number;
    ld.global.u32 %value, [%number];
    {{
        .param .b64 condition;
        .param .b32 decision;
        st.param.b64 [condition], %handle;
        st.param.b32 [decision], %value;
        call.uni cudaGraphSetConditional, (condition, decision);
    }}
    ret;
}}
"""


class _Params(ctypes.Structure):
    """CUgraphNodeParams of a conditional node; 256 bytes."""

    _fields_ = (
        ("type", c_int),
        ("reserved", c_int * 3),
        ("handle", c_uint64),
        ("kind", c_int),
        ("size", c_uint),
        ("bodies", c_void_p),
        ("context", c_void_p),
        ("rest", c_uint64 * 26),
    )


def require() -> None:
    """Raise DeviceError for a driver that has no conditions."""
    needed = ("cuGraphConditionalHandleCreate", "cuGraphAddNode", "cuStreamBeginCaptureToGraph")
    if not all(hasattr(driver.library(), name) for name in needed):
        raise DeviceError(
            "the CUDA driver is too old",
            "one with conditions in graphs (CUDA 12.4)",
            "CUDA {}.{}".format(*driver.version()),
            "update the driver, or look at the number on the host",
        )


def create(stream: int, context: int) -> int:
    """A condition of the graph that a stream is captured into; it does not hold at first."""
    handle, graph = c_uint64(), captures.CaptureState(stream).graph
    code = driver.library().cuGraphConditionalHandleCreate(
        ctypes.byref(handle), graph, context, 0, 0
    )
    driver.check(code, "cuGraphConditionalHandleCreate")
    return handle.value


def add_body(stream: int, context: int, condition: int, *, repeats: bool) -> int:
    """Add what runs where a condition holds to the graph that a stream is captured into.

    What the stream is given from now on comes after it.  Returns the graph of the body, which is
    empty, and part of that one.
    """
    state, node = captures.CaptureState(stream), c_void_p()
    kind = _WHILE if repeats else _IF
    params = _Params(
        type=_CONDITIONAL, handle=condition, kind=kind, size=1, bodies=None, context=context
    )
    before = (c_uint64 * len(state.last))(*state.last)
    code = driver.library().cuGraphAddNode(
        ctypes.byref(node), state.graph, before, len(state.last), ctypes.byref(params)
    )
    driver.check(code, "cuGraphAddNode")
    captures.follow(stream, node.value or 0)
    return c_uint64.from_address(params.bodies).value
