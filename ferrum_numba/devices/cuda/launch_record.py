"""One launch in the driver's own structures, made once.

Source: CUDA Driver API reference, cuLaunchKernelEx, CUlaunchConfig, CUlaunchAttribute.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from ctypes import c_int, c_size_t, c_uint, c_uint8, c_uint64, c_void_p
from typing import Any

from ...abi import LaunchConfig, ParameterBlock
from .. import launch_log as log
from . import driver

# CUlaunchAttributeID
_COOPERATIVE, _CLUSTER_DIMENSION, _PROGRAMMATIC, _PRIORITY = 2, 4, 6, 8
# CU_LAUNCH_PARAM_BUFFER_POINTER, CU_LAUNCH_PARAM_BUFFER_SIZE, CU_LAUNCH_PARAM_END
_BUFFER_POINTER, _BUFFER_SIZE, _END = 1, 2, 0
MARK = 5  # words of `extra` before its mark, of which the driver reads nothing


class _Value(ctypes.Union):
    """CUlaunchAttributeValue, as far as it is used; 64 bytes in all."""

    _fields_ = (("extent", c_uint * 3), ("number", c_int), ("bytes", c_uint8 * 64))


class _Attribute(ctypes.Structure):
    """CUlaunchAttribute; a value begins at byte 8."""

    _fields_ = (("id", c_uint), ("padding", c_uint), ("value", _Value))


class _Config(ctypes.Structure):
    """CUlaunchConfig."""

    _fields_ = (
        ("grid", c_uint * 3),
        ("block", c_uint * 3),
        ("shared_bytes", c_uint),
        ("stream", c_void_p),
        ("attributes", ctypes.POINTER(_Attribute)),
        ("attribute_count", c_uint),
    )


STREAM = _Config.stream.offset // 8


class LaunchRecord:
    """One launch on one stream, in the driver's structures, at addresses that do not change.

    row: the addresses of the configuration, of the function and of the `extra` that names the
    parameter block: cuLaunchKernelEx(row[0], row[1], NULL, row[2]).
    block: whose bytes the launch hands over.  marked, calls: for a log of launches; see `Markable`.
    """

    __slots__ = ("_attributes", "_config", "_extra", "_nbytes", "block", "calls", "marked", "row")

    def __init__(
        self, function: int, config: LaunchConfig, block: ParameterBlock, stream: int
    ) -> None:
        self.block = block
        self._config = _Config(stream=stream)
        self._nbytes = c_size_t(block.nbytes)
        self.marked = False
        self.calls: dict[object, Any] = {}
        self._extra = (c_uint64 * (MARK + log.MARK_WORDS))(
            *(_BUFFER_POINTER, block.address, _BUFFER_SIZE, ctypes.addressof(self._nbytes), _END)
        )
        self.row = (ctypes.addressof(self._config), function, ctypes.addressof(self._extra))
        self.configure(config)

    def configure(self, config: LaunchConfig) -> None:
        """Launch with this configuration from now on."""
        target = self._config
        target.grid[:] = config.grid
        target.block[:] = config.block
        target.shared_bytes = config.shared_bytes
        found = _attributes(config)
        self._attributes = (_Attribute * len(found))(*found)
        target.attributes, target.attribute_count = self._attributes, len(found)

    def mark(self, call: int, recording: int) -> None:
        """Be logged as the call at an address, within the recording of a number."""
        self._extra[MARK + log.MARK_CALL] = call
        self._extra[MARK + log.MARK_RECORDING] = recording
        self.marked = True

    def unmark(self) -> None:
        """Be asked about, as arrays lie elsewhere."""
        self._extra[MARK + log.MARK_RECORDING] = 0
        self.marked = False

    def forget(self) -> None:
        """Be asked about, as anything may be another."""
        self.unmark()
        self.calls.clear()

    @property
    def number(self) -> int:
        """The number of its last launch that was logged, from 1 on."""
        return self._extra[MARK + log.MARK_NUMBER]

    def launch(self, describe: Callable[[], str]) -> None:
        """Launch it; describe: the launch in one line, for the message of the LaunchError."""
        config, function, extra = self.row
        code = driver.launcher()(config, function, None, extra)
        if code:
            raise driver.refusal(code, describe())


def _attributes(config: LaunchConfig) -> list[_Attribute]:
    found = []
    if config.cluster is not None:
        found.append(_Attribute(_CLUSTER_DIMENSION, 0, _Value(extent=config.cluster)))
    if config.cooperative:
        found.append(_Attribute(_COOPERATIVE, 0, _Value(number=1)))
    if config.programmatic:
        found.append(_Attribute(_PROGRAMMATIC, 0, _Value(number=1)))
    if config.priority is not None:
        found.append(_Attribute(_PRIORITY, 0, _Value(number=config.priority)))
    return found
