"""A network is left exactly as it was found, whatever happens while it runs."""

import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

__all__ = ["as_found", "uncheckpointed"]

_LOCKS: "weakref.WeakKeyDictionary[nn.Module, threading.RLock]" = weakref.WeakKeyDictionary()
_ONE = threading.Lock()


@contextmanager
def as_found(net: nn.Module) -> Iterator[None]:
    """Evaluation mode without parameter gradients, undone on leaving, whatever happens; one thread at a time."""
    with _ONE:
        lock = _LOCKS.setdefault(net, threading.RLock())
    with lock:  # another thread would take this one's evaluation mode for what was found
        training = [(m, m.training) for m in net.modules() if hasattr(m, "training")]  # frozen TorchScript has none
        wanted = [(p, p.requires_grad) for p in net.parameters()]
        try:
            for m, _ in training:
                m.training = False  # what eval() does, which exported programs refuse
            for p, _ in wanted:
                p.requires_grad_(False)
            yield
        finally:
            for m, flag in training:
                m.training = flag
            for p, flag in wanted:
                p.requires_grad_(flag)


@contextmanager
def uncheckpointed(net: nn.Module) -> Iterator[None]:
    """Without MONAI's activation checkpointing, which would run parts of the network anew outside the rules."""
    checkpointing: list[Any] = [m for m in net.modules() if getattr(m, "use_checkpoint", False) is True]
    try:
        for m in checkpointing:
            m.use_checkpoint = False
        yield
    finally:
        for m in checkpointing:
            m.use_checkpoint = True
