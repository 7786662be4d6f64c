"""What an adapter needs of the package: its job.toml, the application's own pyproject.toml, its modules by name."""

from __future__ import annotations

import importlib
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from octopus_desktop.training.adapters import absent
from octopus_desktop.wire.errors import UserError

if TYPE_CHECKING:
    from torch import nn

    from octopus_desktop.training.sdk import Context

OWN_STEPS = ("proximal", "dynamic", "scaffold", "steps", "full_batch")
"""Words of a strategy that change the training's own steps, which an application takes by itself."""


class Application:
    """One application below a package's ``code/``.

    Attributes:
        name: what stands after the kind in ``trainer``.
        aliases: the job's needs of data, in order.
    """

    def __init__(self, root: Path, name: str) -> None:
        self.root, self.name = root, name
        job = _toml(root.parent / "job.toml")
        self._model = str(job.get("job", {}).get("model", ""))
        self.aliases = tuple(str(need["alias"]) for need in job.get("data", []))

    def project(self) -> dict[str, Any]:
        """The application's own pyproject.toml; {} where it has none."""
        return _toml(self.root / "pyproject.toml")

    def found(self, reference: str) -> Any:
        """The object that ``module:name`` names; raises OCT-JOB-TRAINER when it is not there."""
        module, _, name = reference.partition(":")
        try:
            return getattr(importlib.import_module(module), name)
        except ImportError as error:
            raise _unusable(
                f"{reference} cannot be imported: {error}.",
                "Install what it imports into the runtime, and name it under 'requirements'.",
            ) from error
        except AttributeError as error:
            raise _unusable(f"The module {module} has no {name!r}.", "Correct job.toml or pyproject.toml.") from error

    def build_model(self) -> nn.Module:
        """The model that ``[job] model`` names: a class or a function without required arguments. Its module may import
        packages that are not installed here, as the server's environment has neither the framework nor its data's
        loaders; its building may not need them."""
        if not self._model:
            raise _unusable(
                "job.toml does not say what the model is.", 'Add to [job]: model = "module:Class", such as "task:Net".'
            )
        with absent.stood_in(self.root):
            model: nn.Module = self.found(self._model)()
        return model

    def own_data(self, ctx: Context) -> dict[str, str]:
        """Alias -> path of the silo's approved data."""
        return {alias: str(ctx.dataset(alias).path) for alias in self.aliases}


def require_plain(ctx: Context, kind: str) -> None:
    """Raise for what cannot be asked of an application that trains by itself."""
    changed = [word for word in OWN_STEPS if ctx.config.get(word)]
    if changed:
        raise UserError(
            "OCT-STRATEGY-PARAMETER",
            f"This strategy cannot be used with a {kind}.",
            f"It changes each training step ({', '.join(changed)}), and a {kind} takes its steps by itself.",
            "Use a strategy that leaves them alone: fedavg, fedadam, fedyogi, krum and others.",
        )
    if ctx.world_size > 1:
        raise UserError(
            "OCT-CONFIG-INVALID",
            f"A {kind} trains in one worker, and the silo gave it {ctx.world_size}.",
            "It knows nothing of other workers, so each would train on all of the data.",
            "Set workers = 1 under [resources].",
        )


def plain_settings(values: Mapping[str, Any]) -> dict[str, float | int | str | bool]:
    """Nested tables as one, with dots in the names, as Flower flattens ``[tool.flwr.app.config]``."""
    flat: dict[str, float | int | str | bool] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= {f"{name}.{inner}": item for inner, item in plain_settings(value).items()}
        else:
            flat[name] = value
    return flat


def _toml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise _unusable(f"{path.name}: {error}.", "Correct the file.") from error


def _unusable(why: str, next_step: str) -> UserError:
    return UserError("OCT-JOB-TRAINER", "The job's application cannot be used.", why, next_step)
