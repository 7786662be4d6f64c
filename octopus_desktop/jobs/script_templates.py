"""The text of a trainer around a script, in parts. Knows no script."""

TRAINER = '''"""Runs the training of {script}, which lies beside this file as it was, at a silo."""

{argparse}import {module} as script
{numpy}import torch
from torch import nn

from octopus_desktop.training.sdk import ClientTrainer, Context


class Trainer(ClientTrainer):
    def build_model(self, ctx: Context) -> nn.Module:
        """The model's structure. The server makes the first weights with it, without any data."""
{build}

    def train(self, ctx: Context, model: nn.Module) -> dict[str, float] | None:
        """One silo's training of one round, in place."""
{train}
{evaluate}{data}{arguments}'''

EVALUATE = '''
    def evaluate(self, ctx: Context, model: nn.Module) -> dict[str, float]:
        """How good the global model is on this silo's data."""
{body}
'''

ARGUMENTS = '''
    def _arguments(self, ctx: Context) -> Namespace:
        """What the command line gave; now [hyperparameters] of job.toml."""
        return Namespace(**{{{missing}**ctx.hyperparameters}})
'''

OWN_DATA = '''
    def _data(self, ctx: Context) -> torch.utils.data.Dataset:
        """The silo's examples; made once, kept for all rounds."""
        return ctx.cached("data", lambda: script.{name}(str(ctx.dataset("{alias}").path)))
'''

ALL = """
    def _data(self, ctx: Context) -> tuple[torch.Tensor, torch.Tensor]:
        {maker}
        return ctx.cached("data", make)
"""

HELD_OUT = """
    def _data(self, ctx: Context, test: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
        {maker}
        inputs, target = ctx.cached("data", make)
        chosen = (torch.arange(len(target)) % 5 == 0) == test  # every fifth example is for tests alone
        return ctx.cached("test" if test else "train", lambda: (inputs[chosen], target[chosen]))
"""

ARRAYS = '''"""The silo's examples, from the arrays x and y; made once, kept for all rounds."""

        def make() -> tuple[torch.Tensor, torch.Tensor]:
            arrays = ctx.dataset("{alias}").arrays()
            target = np.array(arrays["y"])
            kind = np.int64 if np.issubdtype(target.dtype, np.integer) else np.float32
            return torch.from_numpy(arrays["x"].astype(np.float32)), torch.from_numpy(target.astype(kind))
'''

TABLE = '''"""The silo's examples: the table's last column is what to predict; made once, kept for all rounds."""

        def make() -> tuple[torch.Tensor, torch.Tensor]:
            *inputs, target = ctx.dataset("{alias}").columns().values()
            kind = np.int64 if np.issubdtype(target.dtype, np.integer) else np.float32
            rows = np.stack(inputs, axis=1).astype(np.float32)
            return torch.from_numpy(rows), torch.from_numpy(target.astype(kind))
'''
