"""How the workers of one run are confined: what they may read, the one place they may write, and no network.

All workers of a node share one sandbox (``system.sandbox``) with a loopback of its own, so that gloo finds them. They
see the interpreter, the installed packages, the job's package, the approved datasets and the model of the task, all
read-only; they write below one work folder; they reach the runner's socket and nothing else. Knows nothing of tasks or
torch.
"""

from __future__ import annotations

from collections.abc import Mapping

from octopus_desktop.system import sandbox
from octopus_desktop.system.sandbox import SWITCH, Confinement

__all__ = ["SWITCH", "Confinement", "obstacle"]


async def obstacle(confinement: Confinement, environment: Mapping[str, str], python: str = "") -> str:
    """Why workers cannot be confined here; "" when they can."""
    return await sandbox.obstacle(confinement, environment, "numpy, octopus_desktop.training.frames", python)
