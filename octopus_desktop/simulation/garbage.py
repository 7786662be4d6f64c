"""Python's cycle collector during a simulation. A thousand silos are some 100,000 objects that live as long as the run;
looking through all of them again and again would cost a fifth of a small model's training. Knows no silo."""

from __future__ import annotations

import gc


def settle() -> None:
    """Look once through what is new, and then no more: for when silos were opened. Garbage of later tasks is collected
    as ever."""
    gc.collect()
    gc.freeze()


def released() -> None:
    """The run is over: its objects are looked through again."""
    gc.unfreeze()
