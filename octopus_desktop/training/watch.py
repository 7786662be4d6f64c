"""When a task's workers have had long enough, and whether they still can come to an end. Knows no sockets. No torch.

Two things hold a task up that no death ends: code that does not go on, and workers that take unequal numbers of steps,
so that one waits in a step for another that has finished. The first is told by the clock, the second by comparison.
"""

from __future__ import annotations

import time

from octopus_desktop.wire.errors import UserError

UNEVEN_S = 3.0  # from the first worker's end until the others are asked where they are, and between two questions


class Patience:
    """One task's time.

    Args:
        deadline_s: for the whole task, restarts included. stall_s: from one sign of progress to the next; 0: any.
    """

    def __init__(self, deadline_s: float, stall_s: float) -> None:
        self._deadline_s, self._stall_s = deadline_s, stall_s
        self._began = self._moved = time.monotonic()

    def moved(self) -> None:
        self._moved = time.monotonic()

    def left(self, beginning: bool = False) -> float:
        """Seconds, as it looks now. ``beginning``: the workers still start, of which there is no progress to see."""
        now = time.monotonic()
        left = self._began + self._deadline_s - now
        return min(left, self._moved + self._stall_s - now) if self._stall_s and not beginning else left

    def fault(self) -> dict[str, str]:
        stalled = self._stall_s and time.monotonic() < self._began + self._deadline_s
        why = (
            f"It made no progress for {self._stall_s:g} seconds, the limit in the job's [training]."
            if stalled
            else f"It did not end within the round's deadline of {self._deadline_s:g} seconds."
        )
        return as_fault(
            UserError(
                "OCT-RUN-STALLED",
                "The job's code did not go on, and its workers were ended.",
                why,
                "If it was only slow, ask the author for a longer deadline, or give it more workers; otherwise for a"
                " correction.",
            )
        )


def uneven(finished: int, passes: int, waiting: int, more: int) -> dict[str, str]:
    """Worker ``finished`` ended after ``passes`` passes through the model, ``waiting`` has begun ``more``."""
    return as_fault(
        UserError(
            "OCT-RUN-UNEVEN",
            "The job's workers took unequal numbers of steps, and were ended.",
            f"Worker {finished} finished after {passes} steps, and worker {waiting} waits for it in step {more}.",
            "Ask the author to take batches from ctx.loader, or to set uneven_steps = True in the trainer.",
        )
    )


def as_fault(error: UserError) -> dict[str, str]:
    """An error of ours, which quotes no data: all of it may leave."""
    public = f"{error.what} {error.why}"
    return {"code": error.code, "what": error.what, "why": error.why, "next": error.next_step, "public": public}
