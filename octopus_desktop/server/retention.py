"""Which rounds' models a run need not keep any longer ([run] keep_models). Pure.

The newest rounds' stay, two at least: silos may still be fetching the one before the newest. So does the best one, and
what another run has, which may have come to the same bytes or begin with them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from octopus_desktop.storage.federation_db import RoundRow

LEAST = 2


def spent(rounds: Sequence[RoundRow], keep: int, best_round: int, elsewhere: Callable[[str], bool]) -> list[str]:
    """Digests of models that can go. ``keep`` 0: all stay. ``elsewhere``: does another run have this one?"""
    models = [(row.round, row.model_digest) for row in rounds if row.model_digest]
    newest = max((number for number, _ in models), default=0)
    old = {digest for number, digest in models if keep and number <= newest - max(keep, LEAST)}
    kept = {digest for number, digest in models if number > newest - max(keep, LEAST) or number == best_round}
    return sorted(digest for digest in old - kept if not elsewhere(digest))
