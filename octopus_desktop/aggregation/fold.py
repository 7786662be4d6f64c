"""Folds N update files through a strategy into a new model file, tile by tile, hashing as it writes.

Memory is a few tiles a thread, whatever the model and the number of silos. Encoded updates are decoded while they are
read (``encodings.sources``), so that a strategy sees them as it sees plain ones. Tiles are computed by several threads
and hashed in the file's order; every operation is element-wise, so neither threads nor tiles change a bit. Knows the
blob store and files, but no round, no envelope and no process.

What becomes of a tensor:
    floating: the strategy's ``combine``, summed in the silos' order (see ``strategies.base`` and ``numbers``);
    integer (say, num_batches_tracked): the largest of the silos' values, with ``update`` "difference" the current
        value plus the largest difference, which is the same;
    boolean: true where any silo says true (they are sent as they are also with "difference").

An encoded update is numbers in the type that is computed in: it is not rounded to a half-precision model's type before
it is summed. With float32 and float64 models, the result is to the bit that of folding the decoded updates as files.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from octopus_desktop.aggregation.encodings.base import Encoding
from octopus_desktop.aggregation.encodings.sources import InMemory, Plain, Source, open_sequential
from octopus_desktop.aggregation.files import read_full, write_full
from octopus_desktop.aggregation.norms import too_long
from octopus_desktop.aggregation.numbers import WORK_TYPE, Array, finite, narrow, stored_type, widen
from octopus_desktop.aggregation.opening import RejectedUpdates, open_all
from octopus_desktop.aggregation.strategies.base import Strategy, Tile
from octopus_desktop.storage.blobs import BlobStore, disk_errors
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.tensors import Layout, make_layout, read_layout

TILE_BYTES = 256 << 10  # four arrays of a thread fit into a megabyte of cache
PRODUCT_BYTES = 32 << 20  # of all silos' rows at a time
FOLD_PREFIX = "fold-"

__all__ = ["FoldStopped", "Folded", "RejectedUpdates", "Written", "fold", "slot_layout", "sweep"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    digest: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Folded:
    """The new model and the strategy's new state, all in the store and on the disk."""

    model: Written
    slots: dict[str, Written]
    start: float
    end: float


class FoldStopped(Exception):
    """The caller's ``stop`` said so. Nothing is left behind."""


@dataclass(frozen=True, slots=True)
class _Run:
    """Neighbouring tensors of one type: they are one array to compute with. Offsets in bytes, length in elements."""

    dtype: str
    begin: int
    elements: int
    slot_begin: int  # where its elements begin in a slot's file; -1: not floating


def fold(
    strategy: Strategy,
    *,
    model: Path,
    updates: Sequence[tuple[str, Path | InMemory | None]],
    weights: Sequence[float] | Callable[[Array], Sequence[float]],
    store: BlobStore,
    round: int = 1,
    slots: Mapping[str, Path] | None = None,
    encoding: Encoding | None = None,
    bases: Sequence[Path | None] = (),
    most_norm: float = 0.0,
    returned: Mapping[str, Sequence[Path | None]] | None = None,
    label: str = "",
    threads: int = 2,
    tile_bytes: int = TILE_BYTES,
    stop: Callable[[], bool] = lambda: False,
) -> Folded:
    """Make the round's new model.

    Args:
        model: the current global model. updates: (silo, file) in the order of sums; None for a file that is not there;
            ``InMemory`` for one that this process holds in the model's layout.
        weights: one factor an update, from ``strategies.weighing``: a function wants the updates' inner products,
            for which all of them are read once more.
        slots: the strategy's state after the round before; {} or None in the first round.
        encoding: how the updates are encoded; None when they are not.
        bases: for each update the model that its silo trained from, None where that is the current one; empty: all.
            An encoded difference becomes weights by it.
        most_norm: the longest difference to the model that counts; 0: any.
        returned: by name, what the silos sent beside their updates (``Strategy.returns``), in the updates' order: files
            in the model's layout, encoded likewise. They are read as they are, and never become weights.
        label: goes into the names of unfinished files, by which ``sweep`` finds them.

    Raises:
        RejectedUpdates: names every update with another layout, with NaN or infinity, that cannot be decoded, or that
            is too long.
        UserError: OCT-MODEL-NAN when sound updates combine to NaN or infinity, OCT-DISK-FULL, OCT-MODEL-SHAPE when the
            global model itself is unsound.
        FoldStopped: by ``stop``.
    """
    begin = time.time()
    layout = read_layout(model)
    with ExitStack() as stack:
        sources = open_all(layout, encoding, updates, stack)
        silos = [silo for silo, _ in updates]
        beside = {
            name: open_all(layout, encoding, list(zip(silos, paths, strict=True)), stack, name)
            for name, paths in (returned or {}).items()
        }
        work = _Fold(strategy, layout, model, silos, sources, (), store, round, slots or {}, label, tile_bytes, stack)
        work.lifted = encoding is not None and strategy.update == "weights"
        if work.lifted:
            work.current = Plain(layout, model, "The global model", stack)
            work.bases = [Plain(layout, path, "An earlier global model", stack) if path else None for path in bases]
        work.stop, work.returned = stop, beside
        try:
            if most_norm and (faults := work.too_long(most_norm, bases)):
                raise RejectedUpdates(faults)
            work.weights = tuple(weights(work.products()) if callable(weights) else weights)
            work.compute(max(1, threads))
            written, new_slots = work.finish()
        except BaseException:
            work.discard()
            raise
    return Folded(model=written, slots=new_slots, start=begin, end=time.time())


def sweep(store: BlobStore, label: str) -> None:
    """Remove what a killed fold of this label left behind."""
    for leftover in (store.root / "partial").glob(f"{FOLD_PREFIX}{label}-*"):
        leftover.unlink(missing_ok=True)


class _Fold:
    def __init__(
        self,
        strategy: Strategy,
        layout: Layout,
        model: Path,
        silos: Sequence[str],
        sources: Sequence[Source],
        weights: Sequence[float],
        store: BlobStore,
        round: int,
        slots: Mapping[str, Path],
        label: str,
        tile_bytes: int,
        stack: ExitStack,
    ) -> None:
        self.strategy, self.layout, self.round = strategy, layout, round
        self.weights = tuple(weights)
        self.silos, self.sources = silos, sources
        self.lifted = False  # differences come, and weights are wanted
        self.current: Plain
        self.bases: Sequence[Plain | None] = ()
        self.returned: Mapping[str, Sequence[Source]] = {}
        self.stop: Callable[[], bool] = lambda: False
        self.runs, of_slots = _plan(layout)
        self.tiles = list(_tiles(self.runs, tile_bytes))
        self.most = max((count for _, _, count in self.tiles), default=0)
        self.model = open_sequential(model, stack)
        self.model_path, self.stack = model, stack
        self.slots = {name: open_sequential(slots[name], stack) if name in slots else None for name in strategy.slots()}
        self.out = _Output(store, layout, label, stack)
        self.slots_out = {name: _Output(store, of_slots, label, stack) for name in strategy.slots()}
        self.turn = threading.Condition()
        self.next_tile = self.next_hash = 0
        self.error: BaseException | None = None

    def compute(self, threads: int) -> None:
        """All tiles; the first error ends every thread."""
        more = range(1, threads) if len(self.tiles) > 1 else ()
        helpers = [threading.Thread(target=self._work, name=f"fold-{i}", daemon=True) for i in more]
        for helper in helpers:
            helper.start()
        self._work()
        for helper in helpers:
            helper.join()
        if self.error:
            raise self.error

    def products(self) -> Array:
        """⟨Δ_i, Δ_j⟩ of all differences to the model, (silos, silos), float64; tile after tile in the file's order."""
        count = len(self.sources)
        total = np.zeros((count, count))
        most = max(1, PRODUCT_BYTES // (8 * max(1, count)))
        for run, first, length in self.tiles:
            if run.dtype not in WORK_TYPE:
                continue
            stored, kind = stored_type(run.dtype), WORK_TYPE[run.dtype]
            for start in range(first, first + length, most):
                size = min(most, first + length - start)
                at = run.begin + start * stored.itemsize
                raw, wide, rows = np.empty(size, stored), np.empty(size, kind), np.empty((count, size))
                current = None
                if self.strategy.update == "weights":
                    read_full(self.model, raw, at)
                    current = widen(raw, run.dtype, wide).copy()
                for i, source in enumerate(self.sources):
                    rows[i] = source.floating(run.dtype, at, raw, wide, current)
                if current is not None:
                    rows -= current
                self.check()
                with np.errstate(all="ignore"):
                    total += rows @ rows.T
        if not np.isfinite(total).all():
            raise self.culprits()
        return total

    def too_long(self, most: float, bases: Sequence[Path | None]) -> dict[str, UserError]:
        origins: list[Source | None] = [None] * len(self.sources)
        if self.strategy.update == "weights":
            paths = [path or self.model_path for path in bases or [None] * len(self.sources)]
            plain = {path: Plain(self.layout, path, "A global model", self.stack) for path in paths}
            origins = [plain[path] for path in paths]
        tiles = ((run.dtype, run.begin + start * _item(run.dtype), count) for run, start, count in self.tiles)
        return too_long(most, self.silos, self.sources, origins, tiles, self.check)

    def check(self) -> None:
        if self.stop():
            raise FoldStopped

    def finish(self) -> tuple[Written, dict[str, Written]]:
        slots = {name: output.install() for name, output in self.slots_out.items()}
        return self.out.install(), slots

    def discard(self) -> None:
        for output in (self.out, *self.slots_out.values()):
            output.path.unlink(missing_ok=True)

    def _work(self) -> None:
        try:
            desk = _Desk(self)
            while (index := self._claim()) is not None:
                desk.do(index)
        except BaseException as error:
            with self.turn:
                self.error = self.error or error
                self.turn.notify_all()

    def _claim(self) -> int | None:
        with self.turn:
            if self.error or self.next_tile >= len(self.tiles):
                return None
            if self.stop():
                self.error = FoldStopped()
                self.turn.notify_all()
                return None
            self.next_tile += 1
            return self.next_tile - 1

    def hash_in_turn(self, index: int, parts: Sequence[tuple[_Output, memoryview]]) -> None:
        with self.turn:
            self.turn.wait_for(lambda: self.next_hash == index or self.error is not None)
            if self.error:
                return
        for output, view in parts:  # nobody else hashes until the turn is passed on
            output.sha.update(view)
        with self.turn:
            self.next_hash += 1
            self.turn.notify_all()

    def culprits(self) -> UserError | RejectedUpdates:
        """Who sent the NaN or infinity that was met, or codes that mean nothing: a second look at every update, in the
        silos' order."""
        faults = {}
        sent = [("update", source, self.lifted, self.base_of(i)) for i, source in enumerate(self.sources)]
        sent += [(name, source, False, None) for name, sources in self.returned.items() for source in sources]
        for i, (what, source, lifted, own) in enumerate(sent):
            silo = self.silos[i % len(self.silos)]
            try:
                tensor = self._first_bad(source, lifted, own)
            except UserError as error:
                faults[silo] = error
                continue
            if tensor:
                faults[silo] = UserError(
                    "OCT-MODEL-NAN",
                    f"The {what} of {silo} holds NaN or infinity.",
                    f"The first is in tensor {tensor!r}.",
                    "Lower the learning rate, or look at this silo's data.",
                )
        if faults:
            return RejectedUpdates(faults)
        return UserError(
            "OCT-MODEL-NAN",
            "The round's updates are finite, but their combination is not.",
            f"Strategy {self.strategy.name!r} overflowed in round {self.round}.",
            "Lower the learning rates of silos and server, or compute the model in a wider type.",
        )

    def base_of(self, i: int) -> Plain | None:
        """The model by which update ``i`` becomes weights, where it is not the current one."""
        return self.bases[i] if self.bases else None

    def _first_bad(self, source: Source, lifted: bool, own: Plain | None) -> str:
        """The tensor with the first element that is not finite; "" when there is none."""
        for run, start, count in self.tiles:
            if run.dtype not in WORK_TYPE:
                continue
            stored, kind = stored_type(run.dtype), WORK_TYPE[run.dtype]
            at = run.begin + start * stored.itemsize
            raw, base = np.empty(count, stored), None
            if lifted:
                base = (own or self.current).floating(run.dtype, at, raw, np.empty(count, kind), None).copy()
            with np.errstate(all="ignore"):
                values = source.floating(run.dtype, at, raw, np.empty(count, kind), base)
            if not finite(values, "F64"):
                place = at + int(np.argmax(~np.isfinite(values))) * stored.itemsize
                return next(t.name for t in self.layout if t.begin <= place < t.end)
        return ""


class _Desk:
    """One thread's buffers, used again for every tile."""

    def __init__(self, work: _Fold) -> None:
        self.work = work
        self.raw = np.empty(work.most * 8, np.uint8)
        self.current = np.empty(work.most * 8, np.uint8)
        self.wide = [np.empty(work.most * 8, np.uint8) for _ in range(7 if work.lifted else 4)]
        self.slots = {name: np.empty(work.most * 8, np.uint8) for name in work.slots}

    def do(self, index: int) -> None:
        work = self.work
        run, start, count = work.tiles[index]
        at, parts = run.begin + start * _item(run.dtype), []
        with np.errstate(all="ignore"):
            if run.dtype in WORK_TYPE:
                values, slots = self._floating(run, at, start, count)
                result = narrow(values, run.dtype)
            else:
                result, slots = self._integer(run.dtype, at, count), {}
        if not finite(result, run.dtype) or not all(finite(s, "F64") for s in slots.values()):
            raise work.culprits()
        view = np.ascontiguousarray(result).data.cast("B")
        work.out.write(view, at)
        parts.append((work.out, view))
        for name, values in slots.items():
            slot_view = values.data.cast("B")
            work.slots_out[name].write(slot_view, run.slot_begin + start * values.itemsize)
            parts.append((work.slots_out[name], slot_view))
        work.hash_in_turn(index, parts)

    def _floating(self, run: _Run, at: int, start: int, count: int) -> tuple[Array, dict[str, Array]]:
        work, kind = self.work, WORK_TYPE[run.dtype]
        stored = stored_type(run.dtype)
        wide = [buffer.view(kind)[:count] for buffer in self.wide]
        raw = self.raw.view(stored)[:count]

        held = self.current.view(stored)[:count]
        read_full(work.model, held, at)
        current = widen(held, run.dtype, wide[1])
        base = wide[4] if work.lifted else None
        if base is not None:  # the strategy may write over the current model between two reads
            np.copyto(base, current)

        def read(i: int) -> Array:
            from_here, own = base, work.base_of(i)
            if own is not None:
                from_here = own.floating(run.dtype, at, self.wide[5].view(stored)[:count], wide[6], None)
            try:
                return work.sources[i].floating(run.dtype, at, raw, wide[0], from_here)
            except UserError as error:
                raise work.culprits() from error

        def beside(sources: Sequence[Source]) -> Callable[[int], Array]:
            def read(i: int) -> Array:
                try:
                    return sources[i].floating(run.dtype, at, raw, wide[0], None)
                except UserError as error:
                    raise work.culprits() from error

            return read

        slots = {name: buffer.view(kind)[:count] for name, buffer in self.slots.items()}
        for name, values in slots.items():
            file = work.slots[name]
            if file is None:
                values.fill(work.strategy.slots()[name])
            else:
                read_full(file, values, run.slot_begin + start * values.itemsize)
        tile = Tile(
            current=current,
            read=read,
            weights=work.weights,
            slots=slots,
            returned={name: beside(sources) for name, sources in work.returned.items()},
            round=work.round,
            out=wide[2],
            scratch=wide[3],
        )
        return work.strategy.combine(tile), slots

    def _integer(self, dtype: str, at: int, count: int) -> Array:
        work = self.work
        stored = stored_type(dtype)
        raw, most = self.raw.view(stored)[:count], self.wide[0].view(stored)[:count]
        for i, source in enumerate(work.sources):
            source.stored(at, most if i == 0 else raw)
            if i:
                np.maximum(most, raw, out=most)
        if work.strategy.update == "difference" and dtype != "BOOL":
            read_full(work.model, raw, at)
            np.add(most, raw, out=most)
        return most


class _Output:
    """A new tensor file that grows out of order and is hashed in order."""

    def __init__(self, store: BlobStore, layout: Layout, label: str, stack: ExitStack) -> None:
        self.store, self.size = store, layout.size
        self.path = store.root / "partial" / f"{FOLD_PREFIX}{label}-{os.getpid()}-{os.urandom(6).hex()}"
        with disk_errors(self.path):
            self._file = stack.enter_context(self.path.open("xb", buffering=0))
            try:
                if hasattr(os, "posix_fallocate") and layout.size:
                    os.posix_fallocate(self._file.fileno(), 0, layout.size)  # a full disk shows before the work
                os.pwrite(self._file.fileno(), layout.header, 0)
            except OSError:
                self.path.unlink(missing_ok=True)
                raise
        self.sha = hashlib.sha256(layout.header)

    def write(self, view: memoryview, at: int) -> None:
        with disk_errors(self.path):
            write_full(self._file.fileno(), view, at)

    def install(self) -> Written:
        if self.store.durable:
            with disk_errors(self.path):
                os.fsync(self._file.fileno())
        return Written(digest=self.store.adopt_hashed(self.path, self.sha.hexdigest()), size=self.size)


def _plan(layout: Layout) -> tuple[list[_Run], Layout]:
    """The runs of equal type, and the layout of a slot: the floating tensors alone, in the type that is computed in."""
    names = {np.float32: "F32", np.float64: "F64"}
    floating = [t for t in layout if t.dtype in WORK_TYPE]
    of_slots = make_layout([(t.name, names[WORK_TYPE[t.dtype]], t.shape) for t in floating])
    begins = {t.name: t.begin for t in of_slots}
    runs: list[_Run] = []
    for t in layout:
        if not t.elements:
            continue
        last = runs[-1] if runs else None
        if last and last.dtype == t.dtype:
            runs[-1] = _Run(last.dtype, last.begin, last.elements + t.elements, last.slot_begin)
        else:
            runs.append(_Run(t.dtype, t.begin, t.elements, begins.get(t.name, -1)))
    return runs, of_slots


def slot_layout(layout: Layout) -> Layout:
    """The layout of a strategy's slots for a model of this one."""
    return _plan(layout)[1]


def _tiles(runs: Sequence[_Run], tile_bytes: int) -> Iterator[tuple[_Run, int, int]]:
    for run in runs:
        step = max(1, tile_bytes // max(4, _item(run.dtype)))
        for start in range(0, run.elements, step):
            yield run, start, min(step, run.elements - start)


def _item(dtype: str) -> int:
    return stored_type(dtype).itemsize
