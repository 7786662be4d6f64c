"""The rank table of an MPI world: which rank serves whom. A file that every rank reads; holds places, no secrets.

Rank 0 is the federation server's, rank k the k-th silo's. A rank finds socket and token in the home it is given, which
lies on its own machine or on a shared file system. Knows nothing of MPI.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from octopus_desktop.communication.contract import SERVER
from octopus_desktop.system.paths import federation_home, silo_home
from octopus_desktop.wire.errors import UserError


def endpoint_socket(runtime: Path) -> Path:
    """Where daemon or server listens for its rank: in the private directory of its own socket."""
    return runtime / "mpi.sock"


@dataclass(frozen=True, slots=True, kw_only=True)
class RankPlace:
    """Whom one rank serves.

    Attributes:
        name: "server", or the silo's enrolled name.
        home: the directory of that server or silo, as this rank's machine sees it.
        socket: where the end listens; "": where the home has it.
    """

    name: str
    home: str = ""
    socket: str = ""

    @property
    def is_server(self) -> bool:
        return self.name == SERVER

    def end(self) -> Path:
        """The socket at which this rank's end listens."""
        if self.socket:
            return Path(self.socket)
        return endpoint_socket((federation_home if self.is_server else silo_home)(self.home).runtime)

    def lock(self) -> Path | None:
        """The lock file of whoever works on the home; None where only a socket is known."""
        if not self.home:
            return None
        return federation_home(self.home).lock if self.is_server else silo_home(self.home).lock


@dataclass(frozen=True, slots=True, kw_only=True)
class RankTable:
    """``ranks[k]`` is rank k's place; ``ranks[0]`` the server's."""

    ranks: tuple[RankPlace, ...]

    @classmethod
    def of(cls, server_home: str, silo_homes: Mapping[str, str]) -> RankTable:
        """Raises OCT-CONFIG-INVALID."""
        silos = (RankPlace(name=name, home=home) for name, home in silo_homes.items())
        table = cls(ranks=(RankPlace(name=SERVER, home=server_home), *silos))
        table._check()
        return table

    def to_json(self) -> str:
        return json.dumps({"ranks": [asdict(place) for place in self.ranks]}, indent=1)

    @classmethod
    def load(cls, path: Path) -> RankTable:
        """Raises OCT-CONFIG-INVALID."""
        try:
            value = json.loads(path.read_text())
        except OSError as error:
            raise _bad(f"{path} cannot be read: {error.strerror}.") from error
        except ValueError as error:
            raise _bad(f"{path} is no JSON: {error}.") from error
        table = cls(ranks=tuple(_place(row) for row in _rows(value)))
        table._check()
        return table

    def fits(self, size: int) -> None:
        """Raises OCT-CONFIG-INVALID unless a world of ``size`` ranks has one for each place."""
        if size != len(self.ranks):
            names = ", ".join(place.name for place in self.ranks)
            raise _bad(
                f"It names {len(self.ranks)} ranks ({names}), and the world has {size}.",
                f"Start exactly {len(self.ranks)} ranks: one for the server and one for each silo.",
            )

    def _check(self) -> None:
        names = [place.name for place in self.ranks]
        if not names or names[0] != SERVER:
            raise _bad("Rank 0 is not the server's.")
        if len(names) < 2:
            raise _bad("It names no silo.")
        if twice := {name for name in names if names.count(name) > 1}:
            raise _bad(f"It names {', '.join(sorted(twice))} more than once.")
        if lost := [place.name for place in self.ranks if not place.home and not place.socket]:
            raise _bad(f"It gives no home for {', '.join(lost)}.")


def _rows(value: Any) -> list[Any]:
    rows = value.get("ranks") if isinstance(value, dict) else None
    if not isinstance(rows, list):
        raise _bad("It has no list of ranks.")
    return rows


def _place(row: Any) -> RankPlace:
    known = ("name", "home", "socket")
    if not isinstance(row, dict) or not all(key in known and isinstance(item, str) for key, item in row.items()):
        raise _bad(f"{row!r} is no rank: {', '.join(known)} are known, each a text.")
    if not row.get("name"):
        raise _bad("A rank has no name.")
    return RankPlace(**row)


def _bad(why: str, next_step: str = "Give one home for the server and one for each silo.") -> UserError:
    return UserError("OCT-CONFIG-INVALID", "The rank table of the MPI world cannot be used.", why, next_step)
