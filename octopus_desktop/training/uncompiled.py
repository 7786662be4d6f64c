"""Keeps torch's compiler out of a process that compiles nothing.

Every optimiser of torch imports ``torch._dynamo`` when it is made, to say that it does not want to be compiled: about a
second and 100 MiB in each process that trains. ``vmap`` imports sympy to check conditions that are plainly true. Here
both are done only when the compiler is there already, because a job asked for it; the arithmetic is torch's own either
way. Where a later torch is built otherwise, nothing is changed, and training is as slow to start as torch makes it.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer

_COMPILER = "torch._dynamo"
_DISABLED = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")


@functools.cache
def leave_compiler_out() -> None:
    """For all optimisers of torch, and for vmap, in this process; before the first of them is made."""
    for name in _DISABLED:
        _gate(getattr(Optimizer, name, None))
    for kind in vars(torch.optim).values():
        if isinstance(kind, type) and issubclass(kind, Optimizer) and "step" in vars(kind):
            kind.step = _step(kind.step)  # type: ignore[method-assign]
    check = getattr(torch, "_check_with", None)
    if check is not None:
        torch._check_with = _checked(check)


def _gate(outer: Any) -> None:
    """``outer`` calls what it finds here in place of the compiler's "disabled" form of ``inner``."""
    inner = getattr(outer, "__wrapped__", None)
    if inner is None or hasattr(inner, "__dynamo_disable"):
        return

    def plain(*arguments: Any, **named: Any) -> Any:
        if _COMPILER in sys.modules:
            if hasattr(inner, "__dynamo_disable"):
                del inner.__dynamo_disable
            return outer(*arguments, **named)
        return inner(*arguments, **named)

    inner.__dynamo_disable = plain


def _step(whole: Any) -> Any:
    """An optimiser's step, decorated by torch to set whether gradients flow and to tell the compiler."""
    inner = getattr(whole, "__wrapped__", None)
    if inner is None or "_use_grad" not in getattr(whole, "__code__", whole).co_name:
        return whole

    @functools.wraps(inner)
    def step(self: Any, *arguments: Any, **named: Any) -> Any:
        if _COMPILER in sys.modules:
            return whole(self, *arguments, **named)
        before = torch.is_grad_enabled()
        torch.set_grad_enabled(self.defaults["differentiable"])
        try:
            return inner(self, *arguments, **named)
        finally:
            torch.set_grad_enabled(before)

    return step


def _checked(check: Callable[..., None]) -> Callable[..., None]:
    def checked(error: type[Exception], condition: Any, message: Any) -> None:
        if condition is not True:
            check(error, condition, message)

    return checked
