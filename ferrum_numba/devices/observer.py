"""Who sees every launch of this process: nobody, until somebody asks.

One place for all devices.  Off, it costs a launch one comparison with None.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from ..abi import LaunchConfig

if TYPE_CHECKING:
    from .base import Invocation, Kernel
    from .prepared import PreparedLaunch


class Observer(Protocol):
    """Sees launches while it is `current`."""

    def launch(self, kernel: Kernel, invocation: Invocation, stream: Any) -> None:
        """Stands for `kernel._enqueue(invocation, stream)`, which it has to call."""

    def passes(self, kernel: Kernel, invocation: Invocation, handle: int) -> int:
        """See a launch that goes to the device at once, the fast way; its number, from 1 on.

        0, and nothing is seen, where it has to come through `launch`.  handle: the stream's.
        """

    def all_pass(self, launches: Sequence[PreparedLaunch], handle: int, graph: bool = False) -> int:
        """As `passes`, several launches; the number of the first.

        graph: whether it is a graph that launches them.
        """

    def failed(self, number: int, error: Exception, count: int = 1) -> None:
        """Launches that were let pass, from `number` on, were refused; the error is raised."""

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
