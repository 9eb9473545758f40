"""Who sees every launch of this process: nobody, until somebody asks.

One place for all devices.  Off, it costs a launch one comparison with None.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from ..abi import LaunchConfig

if TYPE_CHECKING:
    from .base import Invocation, Kernel
    from .lanes import Lane
    from .ledger import Ticket


class Observer(Protocol):
    """Sees launches while it is `current`."""

    def launch(self, kernel: Kernel, invocation: Invocation, stream: Any) -> None:
        """Stands for `kernel._enqueue(invocation, stream)`, which it has to call."""

    def ticket(self, lane: Lane) -> Ticket | None:
        """What the lane's launches go by, all at once, as long as they are as they are.

        None where they have to come through `launch` one by one.
        """

    def make_room(self, count: int) -> bool:
        """Let a ticket write so many rows; False where this observer has ended."""

    def lets_pass(self, lane: Lane) -> bool:
        """Whether launches that a ticket left to the observer may go by it after all."""

    def failed(self, number: int, error: Exception, count: int = 1) -> None:
        """Launches of a ticket, counted from 1, from `number` on were refused; it is raised."""

    def refused(
        self,
        kernel: Kernel,
        config: LaunchConfig,
        positional: Sequence[object],
        named: Mapping[str, object],
        error: Exception,
    ) -> None:
        """A launch whose arguments were refused; the error is raised afterwards."""


class Annotator(Protocol):
    """Says more about a launch whose arguments were refused."""

    def __call__(
        self,
        kernel: Kernel,
        config: LaunchConfig,
        positional: Sequence[object],
        named: Mapping[str, object],
        error: Exception,
    ) -> None:
        """Add notes to the error, which is raised afterwards."""


current: Observer | None = None
annotate: Annotator | None = None  # set once by the package, for what lies above devices
