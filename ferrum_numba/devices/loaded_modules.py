"""The modules that a device has loaded: each once, and kept for a while after nobody holds it."""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

M = TypeVar("M")


@dataclass
class _Loaded(Generic[M]):
    """Reference to a module, once it is loaded; lock: of the thread that loads it."""

    module: Callable[[], M | None] = field(default=lambda: None)
    lock: threading.Lock = field(default_factory=threading.Lock)


class LoadedModules(Generic[M]):
    """Modules by what they were loaded from.  Safe from any thread."""

    def __init__(self, kept: int) -> None:
        """kept: how many modules that nobody holds stay loaded."""
        self._kept = kept
        self._modules: dict[Hashable, _Loaded[M]] = {}
        self._recent: OrderedDict[int, M] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, load: Callable[[], M]) -> M:
        """The module of a key, which `load` makes where it is not there.

        Different ones are loaded side by side where threads ask for them.
        """
        with self._lock:
            loaded = self._modules.setdefault(key, _Loaded())
        with loaded.lock:
            module = loaded.module()
            if module is None:
                module = load()
                loaded.module = weakref.ref(module, lambda _: self._modules.pop(key, None))
            self._keep(module)
            return module

    def _keep(self, module: M) -> None:
        """Hold a module for a while, though nobody else may."""
        with self._lock:
            self._recent[id(module)] = module
            self._recent.move_to_end(id(module))
            while len(self._recent) > self._kept:
                self._recent.popitem(last=False)
