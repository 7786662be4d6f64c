"""One simulation on several machines under ``torchrun``: rank 0 drives it, and every rank trains a share of the silos.

Silo i belongs to rank i mod W, so each rank opens only its own silos' data and keeps what such a silo remembers. Rank 0
has the round loop, the strategy, the reports and the files; the others follow it, one command after the other.

Updates come together in one of two ways:

- **summed**: each rank adds up its own silos' updates, each by its weight, and an all-reduce adds up the ranks' sums.
  One model a round travels from each machine, however many silos there are. For strategies that need the weighted sum
  alone (``SUMMED``), with models in float32 or float64. Sums come in another order than in one process, so a round's
  models differ from it by rounding: at most ``TOLERANCE`` in any weight on the digits example. As many ranks give the
  same bits again.
- **gathered**: each update comes to rank 0, which folds them in the silos' order: to the bit what one process gives. In
  all other strategies (robust, pairwise, with a state of the silos, the job's own), for encodings and filters, with a
  bound on norms, in async mode, and wherever ``exact`` asks for it.

Needs torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from octopus_desktop.aggregation.encodings.sources import InMemory
from octopus_desktop.aggregation.facts import AnswerFacts, Blob
from octopus_desktop.jobs.manifest import RunConfig
from octopus_desktop.simulation.cohort import Done, Outcome, Silos, Tasks, outcome_of, plain_tasks
from octopus_desktop.simulation.group import Group
from octopus_desktop.simulation.memory import Places
from octopus_desktop.storage.blobs import BlobStore
from octopus_desktop.training.state import TORCH_TYPES, Held
from octopus_desktop.wire.canonical import json_digest
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.tensors import Layout

SUMMED = frozenset({"fedavg", "fedprox", "fedsgd", "fedavgm", "fedadagrad", "fedadam", "fedyogi", "fednova"})
TOLERANCE = 1e-6
KEPT_FILES = 8  # of models and strategies' states, at the ranks that follow
Update = tuple[str, Path | InMemory | None]


class Spread:
    """All silos of a run, as rank 0 has them.

    Arguments:
        own: does the tasks of this rank's silos.
    """

    def __init__(
        self,
        group: Group,
        own: Silos,
        config: RunConfig,
        silos: Sequence[str],
        work: Path,
        *,
        batched: bool = False,
        exact: bool = False,
    ) -> None:
        require_plain(config)
        self._group, self._own, self._config = group, own, config
        self._rank = {name: number % group.size for number, name in enumerate(silos)}
        self._store = BlobStore(work / "blobs", durable=False)
        self._exact = exact or config.strategy not in SUMMED or config.mode == "async" or bool(config.most_norm)
        self._owed = False
        self._there: list[str] = []
        self._places: Places | None = None
        told = {"do": "begin", "config": config.to_dict(), "silos": names_digest(silos), "batched": batched}
        self._all(told)

    def use(self, places: Places | None, model: Path) -> None:
        self._own.use(places, model)
        self._places = places
        self._exact = self._exact or places is None or not summable(places.layout)
        digest = model.name
        self._share_file(digest, model)
        self._all({"do": "use", "model": digest, "places": places.count if places else 0})

    def run(self, tasks: Tasks, done: Done) -> None:
        for digest, path in [(tasks.orders[0].model.digest, None), *((p.name, p) for p in tasks.shared.values())]:
            self._share_file(digest, path or self._store.path(digest))
        self._group.tell({"do": "tasks", **plain_tasks(tasks)})
        self._owed = True
        if (mine := share_of(tasks, self._rank, 0)).orders:
            self._own.run(mine, done)
        for rank in range(1, self._group.size):
            for order, told in zip(share_of(tasks, self._rank, rank).orders, self._group.reported(rank), strict=True):
                outcome = outcome_of(order, told)
                for blob in blobs_in_files(outcome):
                    self._take_file(blob, rank)
                done(outcome)
        self._owed = False

    def together(
        self, answers: Sequence[AnswerFacts], held: Mapping[str, int], weights: Any
    ) -> tuple[list[Update], Any] | None:
        """What the fold gets of these answers: all updates by one sum with one weight; or None when they are to be
        folded one by one, and lie in rank 0's places then. ``held``: an update's name to its place."""
        pairs = [(a.silo, held[a.update.digest]) for a in answers if a.update and a.update.digest in held]
        if self._places is None:
            return None
        if self._exact or callable(weights) or len(pairs) < len(answers) or not math.fsum(weights):
            self._bring(pairs)
            return None
        per_rank: list[list[tuple[int, float]]] = [[] for _ in range(self._group.size)]
        for (silo, place), weight in zip(pairs, weights, strict=True):
            per_rank[self._rank[silo]].append((place, weight))
        whole = math.fsum(weights)
        self._group.tell({"do": "sum", "shares": per_rank, "whole": whole})
        body = add_up(self._group, self._places, per_rank[0], whole)
        return [("all silos", InMemory(self._places.layout, body.numpy().data))], [whole]

    def close(self) -> None:
        self._own.close()
        if self._owed:
            self._group.broken = True  # they still answer what nobody will hear
        if not self._group.broken:
            self._group.tell({"do": "end"})

    def _bring(self, pairs: Sequence[tuple[str, int]]) -> None:
        """Updates of other ranks' silos into this rank's places."""
        assert self._places is not None
        per_rank: list[list[int]] = [[] for _ in range(self._group.size)]
        for silo, place in pairs:
            per_rank[self._rank[silo]].append(place)
        self._group.tell({"do": "bring", "shares": per_rank})
        for rank, places in enumerate(per_rank[1:], 1):
            for place in places:
                self._group.take(self._places.held(place).body, rank)

    def _share_file(self, digest: str, path: Path) -> None:
        """A file of rank 0's store, to all who have not got it."""
        if digest in self._there:
            return
        self._there.append(digest)
        gone, self._there = self._there[:-KEPT_FILES], self._there[-KEPT_FILES:]
        raw = torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8)
        self._group.tell({"do": "file", "digest": digest, "size": raw.numel(), "drop": gone})
        self._group.spread(raw)

    def _take_file(self, blob: Blob, rank: int) -> None:
        raw = torch.empty(blob.size, dtype=torch.uint8)
        self._group.take(raw, rank)
        put(self._store, blob.digest, raw)

    def _all(self, command: Mapping[str, Any]) -> None:
        """A command that each rank answers: with nothing, or with what stands in its way."""
        self._group.tell(command)
        for rank in range(1, self._group.size):
            if error := self._group.reported(rank).get("error"):
                raise UserError(*error)


def require_plain(config: RunConfig) -> None:
    if config.resources.workers > 1:
        raise UserError(
            "OCT-CONFIG-INVALID",
            "Silos with several DDP workers cannot be simulated under torchrun.",
            "Each of torchrun's processes trains its silos itself.",
            "Add --ddp-workers 1, or leave torchrun out.",
        )


def names_digest(silos: Sequence[str]) -> str:
    return json_digest({"silos": list(silos)})


def share_of(tasks: Tasks, rank_of: Mapping[str, int], rank: int) -> Tasks:
    mine = [(o, p) for o, p in zip(tasks.orders, tasks.places, strict=True) if rank_of[o.silo] == rank]
    return Tasks(orders=[o for o, _ in mine], places=[p for _, p in mine], words=tasks.words, shared=tasks.shared)


def blobs_in_files(outcome: Outcome) -> list[Blob]:
    """Of an outcome, what lies in the store of the rank that has it."""
    facts = outcome.facts
    return [blob for blob in facts.blobs if not (outcome.place >= 0 and blob is facts.update)]


def put(store: BlobStore, digest: str, raw: torch.Tensor) -> None:
    partial = store.root / "partial" / f"spread-{digest}"
    partial.write_bytes(raw.numpy().data)
    store.adopt_hashed(partial, digest)


def summable(layout: Layout) -> bool:
    """Whether the sum of updates can be written down in the model's own types without a rounding that counts."""
    return all(t.dtype not in ("F16", "BF16") for t in layout)


def add_up(group: Group, places: Places, share: Sequence[tuple[int, float]], whole: float) -> torch.Tensor:
    """Σ_k (w_k / whole) u_k over all ranks' silos, as the bytes of one update; ``share``: this rank's (place, w_k). Of
    integers and booleans the largest, as the fold takes it. All ranks call it alike."""
    layout = places.layout
    body = torch.zeros_like(places.rows[0][: sum(t.end - t.begin for t in layout)])
    result = Held(layout, body)
    for number, total in enumerate(result.floating):
        for place, weight in share:
            total.add_(places.held(place).floating[number], alpha=weight / whole)
        group.add(total)
    for spec in layout:
        if TORCH_TYPES[spec.dtype].is_floating_point:
            continue
        values = [places.held(place).tensors[spec.name] for place, _ in share]
        wide = torch.full(spec.shape, torch.iinfo(torch.int64).min)
        for value in values:
            wide = torch.maximum(wide, value.to(torch.int64))
        group.largest(wide)
        result.tensors[spec.name].copy_(wide)
    return body
