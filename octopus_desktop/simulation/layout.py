"""From a person's words to silos with data: ``--silo``, ``--silos``, ``--data`` and ``--partition``. No torch."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from octopus_desktop.jobs.manifest import DataNeed
from octopus_desktop.simulation import example_data
from octopus_desktop.simulation.jobs import Job
from octopus_desktop.simulation.partition import Source, partition
from octopus_desktop.training.spec import DataSource
from octopus_desktop.wire.errors import UserError

KINDS = {".csv": "csv", ".parquet": "parquet", ".npz": "npz"}
SILO_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


def explicit(job: Job, words: Iterable[str]) -> dict[str, dict[str, DataSource]]:
    """``name:alias=path`` for each silo and each of its datasets (``name`` alone for a job without data)."""
    silos: dict[str, dict[str, DataSource]] = {}
    needs = {need.alias: need for need in job.manifest.data}
    for word in words:
        name, _, rest = word.partition(":")
        alias, equals, path = rest.partition("=")
        if not SILO_NAME.fullmatch(name) or (rest and not equals):
            raise _usage(f"{word!r} is no silo.", "Write name:alias=path, such as charite:patients=charite.csv.")
        silo = silos.setdefault(name, {})
        if not rest:
            continue
        if alias not in needs:
            raise _usage(f"The job asks for no data {alias!r}.", f"It asks for {', '.join(needs) or 'none'}.")
        silo[alias] = source(needs[alias], Path(path))
    return _complete(job, silos)


def choose(
    job: Job,
    silos: str,
    data: Sequence[Path],
    how: str,
    work: Path,
    *,
    label: str = "",
    seed: int = 0,
) -> dict[str, dict[str, DataSource]]:
    """``silos``: a number, a folder with a file or folder for each silo, "heart" or "digits", or "" for whatever lies
    beside the job. Numbers cut ``data``, or the data beside the job, by ``how``."""
    if silos and not silos.isdigit() and silos not in EXAMPLES:
        if not Path(silos).is_dir():
            raise _usage(f"{silos!r} is neither a number nor a folder.", "Give a number, a folder, heart or digits.")
        return _complete(job, from_folder(job, Path(silos)))
    if silos.isdigit() and not job.manifest.data:
        return {f"silo-{number}": {} for number in range(1, int(silos) + 1)}
    if len(job.manifest.data) != 1:
        raise _usage(
            f"The job asks for {len(job.manifest.data)} datasets.", "Give each silo's data: --silo name:alias=path."
        )
    (need,) = job.manifest.data
    given = {path.stem: path for path in data} or _beside(job, silos, work)
    if silos in EXAMPLES or (not silos and not how):
        return _complete(job, {name: {need.alias: source(need, path)} for name, path in given.items()})
    whole = Source(list(given.values()))
    parts = partition(whole, how or "iid", int(silos or 0), seed=seed, label=label)
    folder = work / "data"
    folder.mkdir(parents=True, exist_ok=True)
    return {name: {need.alias: source(need, whole.write(rows, folder / name))} for name, rows in parts.items()}


def from_folder(job: Job, folder: Path) -> dict[str, dict[str, DataSource]]:
    """A file for each silo, named by it (a job with one dataset); or a folder for each silo, with a file or folder for
    each alias, named by it."""
    needs = {need.alias: need for need in job.manifest.data}
    silos: dict[str, dict[str, DataSource]] = {}
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith("."):
            continue
        if entry.is_dir() and not (len(needs) == 1 and next(iter(needs.values())).kind == "folder"):
            found = {path.stem: path for path in sorted(entry.iterdir()) if path.stem in needs}
            if found:
                silos[entry.name] = {alias: source(needs[alias], path) for alias, path in found.items()}
        elif len(needs) == 1 and (entry.is_dir() or entry.suffix.lower() in KINDS):
            (need,) = needs.values()
            silos[entry.stem] = {need.alias: source(need, entry)}
    if not silos:
        raise _usage(f"There are no silos in {folder}.", "It should hold a data file, or a folder, for each silo.")
    return silos


def source(need: DataNeed, path: Path) -> DataSource:
    """A dataset as a silo would have registered it. Its digest counts only where approvals are checked."""
    kind = "folder" if path.is_dir() else KINDS.get(path.suffix.lower(), "")
    if not path.exists():
        raise UserError("OCT-DATA-MISSING", f"There is nothing at {path}.", "", "Give the path of the silo's data.")
    if not kind:
        raise UserError(
            "OCT-DATA-KIND", f"{path.name} is no CSV, Parquet or NPZ file.", "", "Convert it to one of these."
        )
    return DataSource(alias=need.alias, path=str(path.absolute()), kind=kind, digest="", columns=dict(need.columns))


def _heart(work: Path) -> dict[str, Path]:
    return example_data.heart(work / "examples")


def _digits(work: Path) -> dict[str, Path]:
    return example_data.digits(work / "examples")


EXAMPLES = {"heart": _heart, "digits": _digits}
_EXAMPLE_OF_JOB = {"heart-disease": "heart", "digits": "digits"}


def _beside(job: Job, silos: str, work: Path) -> dict[str, Path]:
    """The data that lie beside the job, or those of the examples."""
    folder = job.home / "data" if job.home else None
    if folder and folder.is_dir() and silos not in EXAMPLES:
        files = {p.stem: p for p in sorted(folder.iterdir()) if p.suffix.lower() in KINDS}
        if files:
            return files
    example = silos if silos in EXAMPLES else _EXAMPLE_OF_JOB.get(job.manifest.name, "")
    if not example:
        raise _usage("There are no data to simulate with.", "Give --data FILE, or --silo name:alias=path for each.")
    return EXAMPLES[example](work)


def _complete(job: Job, silos: dict[str, dict[str, DataSource]]) -> dict[str, dict[str, DataSource]]:
    """The same, in the order of the silos' names: a deployed run adds up in that order, whatever was typed here."""
    for name, sources in silos.items():
        for need in job.manifest.data:
            if need.alias not in sources:
                raise _usage(f"Silo {name!r} has no data {need.alias!r}.", f"Add --silo {name}:{need.alias}=PATH.")
    if not silos:
        raise _usage("There are no silos.", "Give --silo name:alias=path, or --silos with a number or folder.")
    return dict(sorted(silos.items()))


def _usage(what: str, next_step: str) -> UserError:
    return UserError("OCT-CLI-USAGE", what, "", next_step)
