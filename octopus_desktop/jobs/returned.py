"""What a strategy has the silos send beside the update, in which words people read of it. Names only; no tensors.

It follows from the strategy's name, which the silo's administrator approved; what a task asks for changes nothing.
"""

from __future__ import annotations

_BY_STRATEGY = {"mime": ("gradient",), "mimelite": ("gradient",)}
_TOLD = {"gradient": "the gradient of the model over all your training examples"}


def returned(strategy: str) -> tuple[str, ...]:
    """Names of the further tensor files of each training answer, each in the layout of the model."""
    return _BY_STRATEGY.get(strategy, ())


def told(strategy: str) -> str:
    """The same for people; "" for nothing."""
    return " and ".join(_TOLD[name] for name in returned(strategy))
