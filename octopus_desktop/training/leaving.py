"""From the file that the workers wrote to the update that may leave: checked, filtered, encoded, named by its digest.

In this order: the filters see the true difference to the model, the encoding sees what they left of it together with
what it left out of earlier rounds itself (``training.feedback``). The file that comes out is the one that leaves.

What the workers say of their own file counts for nothing: foreign code ran there. So the layers that stay at the silo
([personal] layers) are taken out here once more, whatever the workers left in them: in their place stand the values of
the model that came in. Knows neither mailbox nor rounds. No torch here.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from octopus_desktop.jobs.manifest import RunConfig
from octopus_desktop.jobs.personal import personal
from octopus_desktop.storage.blobs import disk_errors, file_digest
from octopus_desktop.training import feedback
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.tensors import Layout, read_layout, require_same

COPY_BYTES = 1 << 20
FLOATING = ("F64", "F32", "F16", "BF16")


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaving:
    """The file, its digest and bytes, as they may leave. ``full_size``: bytes of the update before it was encoded.
    ``left_out``: where the encoding wrote what is to be added to the next round. ``metrics`` is what the filters found
    ("filter/…"): it stays at home, since the norm of an update says something of the data."""

    path: Path
    digest: str
    size: int
    encoding: str = "none"
    full_size: int = 0
    left_out: Path | None = None
    metrics: dict[str, float] = field(default_factory=dict)


def prepare(
    written: Path,
    model: Path,
    config: RunConfig,
    *,
    private: Path,
    before: Path | None = None,
    after: Path | None = None,
    durable: bool = True,
) -> Leaving:
    """Check an update against the model it comes from, and make of it what the run's filters and encoding leave of it.
    Blocks.

    Args:
        written: taken away from where it is, also when this raises.
        private: a folder on the same disk in which the job's code cannot write.
        before, after: what the encoding left out until now, and where it is to write what is left out from now on.
        durable: see that the bytes are on the disk.

    Raises:
        UserError: OCT-MODEL-SHAPE when it is no plain file in the model's layout; OCT-MODEL-NAN; OCT-CONFIG-INVALID for
            a filter or an encoding that is not known; OCT-ENCODING-BAD for a change that the encoding cannot hold;
            OCT-DISK-FULL.
    """
    private.mkdir(exist_ok=True)
    update = private / "update.safetensors"
    try:
        _require_plain(written)
        os.replace(written, update)  # whatever the job's code now does with the name, it is not this file
        _require_plain(update)
        layout = read_layout(model)
        require_same(layout, read_layout(update), "The update")
        if config.personal_layers:
            _keep_back(update, model, config, layout)
        return _prepare(update, model, config, before, after, durable)
    except BaseException:
        for path in (written, update):
            if path.is_symlink() or not path.is_dir():
                path.unlink(missing_ok=True)
        raise


def prepare_returned(
    name: str, written: Path, model: Path, config: RunConfig, *, private: Path, durable: bool = True
) -> Leaving:
    """The same for what a strategy has the silo return beside the update: a file in the model's layout, which is
    checked, filtered and encoded as a difference is, but keeps no memory of what the encoding left out of it. Of the
    silo's own layers nought leaves, and of what is no number that training changes likewise."""
    private.mkdir(exist_ok=True)
    file = private / f"{name}.safetensors"
    try:
        _require_plain(written)
        os.replace(written, file)
        _require_plain(file)
        layout = read_layout(model)
        require_same(layout, read_layout(file), f"The {name}")
        _blank(file, layout, personal(config.personal_layers, (spec.name for spec in layout)))
        return _prepare(file, model, replace(config, update="difference"), None, None, durable)
    except BaseException:
        for path in (written, file):
            if path.is_symlink() or not path.is_dir():
                path.unlink(missing_ok=True)
        raise


def keep_here(written: Path, model: Path, out: Path) -> None:
    """Move the silo's own model, which never leaves, from where the workers wrote it to where the job's code cannot
    write; durable when it returns. Blocks. Raises UserError OCT-MODEL-SHAPE, as ``prepare`` does."""
    fresh = out.with_suffix(".new")
    try:
        _require_plain(written)
        os.replace(written, fresh)
        _require_plain(fresh)
        require_same(read_layout(model), read_layout(fresh), "The silo's own model")
        _to_disk(fresh)
        os.replace(fresh, out)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise


def _blank(file: Path, layout: Layout, names: Collection[str]) -> None:
    """Noughts in place of these tensors, and of all that are not floating."""
    with disk_errors(file), file.open("r+b") as out:
        for spec in layout:
            if spec.name in names or spec.dtype not in FLOATING:
                out.seek(spec.begin)
                for start in range(spec.begin, spec.end, COPY_BYTES):
                    out.write(bytes(min(COPY_BYTES, spec.end - start)))


def _keep_back(update: Path, model: Path, config: RunConfig, layout: Layout) -> None:
    """The silo's own layers become the model's values in whole weights, and nought in a difference; booleans have none
    and are sent as they are."""
    names = personal(config.personal_layers, (spec.name for spec in layout))
    with disk_errors(update), update.open("r+b") as out, model.open("rb") as given:
        for spec in layout:
            if spec.name not in names:
                continue
            out.seek(spec.begin)
            given.seek(spec.begin)
            left = spec.end - spec.begin
            while left:
                part = given.read(min(left, COPY_BYTES))
                out.write(part if config.update == "weights" or spec.dtype == "BOOL" else bytes(len(part)))
                left -= len(part)


def _prepare(
    update: Path, model: Path, config: RunConfig, before: Path | None, after: Path | None, durable: bool
) -> Leaving:
    full = update.stat().st_size
    digest, metrics = "", {}
    if config.privacy:
        from octopus_desktop.aggregation import filters  # numpy, which most runners do not need

        if clean := filters.leave(config.privacy, update=update, base=model, kind=config.update):
            digest, metrics = clean.digest, clean.metrics
    if config.encoding != "none":
        return _encode(update, model, config, before, after, durable, full, metrics)
    digest = digest or _to_disk_and_digest(update, durable)
    return Leaving(path=update, digest=digest, size=full, full_size=full, metrics=metrics)


def _encode(
    update: Path,
    model: Path,
    config: RunConfig,
    before: Path | None,
    after: Path | None,
    durable: bool,
    full: int,
    metrics: dict[str, float],
) -> Leaving:
    from octopus_desktop.aggregation import encodings
    from octopus_desktop.aggregation.encodings.encode import encode

    encoding = encodings.make(config.encoding, config.encoding_parameters)
    assert encoding is not None
    out = update.with_name("encoded.safetensors")
    kept = after if encoding.feedback else None
    if not encoding.feedback:
        before = None
    done = encode(encoding, update=update, base=model, kind=config.update, out=out, before=before, after=kept)
    update.unlink()
    if kept and durable:
        feedback.durable(kept)
    digest = _to_disk_and_digest(out, durable)
    return Leaving(
        path=out,
        digest=digest,
        size=done.size,
        encoding=config.encoding,
        full_size=full,
        left_out=kept,
        metrics=metrics,
    )


def _to_disk_and_digest(path: Path, durable: bool) -> str:
    with ThreadPoolExecutor(1) as pool:  # the disk writes while the digest is computed
        syncing = pool.submit(_to_disk, path) if durable else None
        digest = file_digest(path)
        if syncing:
            syncing.result()
    return digest


def _require_plain(path: Path) -> None:
    found = path.lstat() if path.exists() or path.is_symlink() else None
    if found is None or not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
        raise UserError(
            "OCT-MODEL-SHAPE",
            "The workers' update is not a plain file of their own.",
            "There is none, or the job's code put a link in its place.",
            "Nothing was sent. Look at what the job's code does with files.",
        )


def _to_disk(path: Path) -> None:
    with disk_errors(path), path.open("rb") as file:
        os.fsync(file.fileno())
