"""The files of a new job, as text. Knows no command."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping

JOB_TOML = """# What this job is, needs and does. 'octopus jobs check' finds mistakes and names their place.

[job]
name = "{name}"
version = "0.1.0"
trainer = "trainer:Trainer"          # class Trainer in code/trainer.py
purpose = "Say here, for the silos' administrators, what this is good for."

# One [[data]] for each dataset that the code reads. Each silo chooses which of its datasets serves it.
[[data]]
alias = "measurements"               # the name that the code uses
kind = "table"                       # table | arrays | folder
min_rows = 20
description = "One row per measurement: two inputs and what was measured."

[data.columns]                       # number | integer | text | any
x1 = "number"
x2 = "number"
y = "number"

[resources]                          # of each silo
workers = 1                          # 0: one per GPU, or one on the processor
memory_mib = 512
hours = 0.1                          # what you expect, for the administrator to judge

[run]
rounds = 10
seed = 1
mode = "sync"                        # sync | async (with the strategies fedasync and fedbuff)
per_round = 0                        # how many silos, drawn anew, are asked in each round; 0: all
quorum = 0                           # least number of silos that close a round at its deadline; 0: all
round_deadline_s = 3600
update = "weights"                   # weights | difference
encoding = "none"                    # none | fp16 | bf16 | int8 | int4 | topk: in how many bytes updates leave
# best = "max eval/accuracy"         # which round's model is kept as the best: "max" or "min" and a metric
# patience = 5                       # end when so many rounds brought no better one, by more than min_delta
# late = "next"                      # an answer after its round's end counts in the next (update = "difference")
# most_norm = 100.0                  # a longer update (2-norm of its difference to the model) is refused
# keep_models = 3                    # the server keeps so many rounds' models beside the best; 0: all

# [personal]
# layers = ["*.bn*", "head.*"]       # tensors that are trained for each silo alone and stay there
# finetune_epochs = 1                # also evaluate after so many passes over the silo's data: eval_personal/...
# finetune_steps = 10                # the same after so many training steps
# keep = true                        # the fine-tuned final model stays at the silo, for its administrator

# [evaluation]
# central = true                     # the server evaluates as well, on data that is given at the run's start
# share = true                       # each silo sees every silo's metrics, not the federation's alone

# [encoding]                         # its parameters, where it has any
# block = 64                         # int8, int4: elements with one scale (64 | 128)
# fraction = 0.01                    # topk: the share of each tensor's elements that is sent
# values = "fp32"                    # topk: fp32 | fp16
# feedback = true                    # int8, int4, topk: what is left out is added to the next round

[strategy]
name = "fedavg"                      # its parameters follow here as further keys; "strategy:Mine" is the job's own

[communication]
carrier = "auto"

[hyperparameters]                    # free keys; the code reads them as ctx.hyperparameters
learning_rate = 0.1
batch_size = 16
epochs = 1
"""

TRAINER = '''"""A linear regression over two inputs: the smallest useful trainer. Replace it by your own PyTorch."""

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from octopus_desktop.training.sdk import ClientTrainer, Context


class Trainer(ClientTrainer):
    def build_model(self, ctx: Context) -> nn.Module:
        """The model's structure. The server makes the first weights with it, without any data."""
        return nn.Linear(2, 1)

    def train(self, ctx: Context, model: nn.Module) -> dict[str, float]:
        """One silo's training of one round. The model holds the global weights and is trained in place."""
        values = ctx.hyperparameters
        optimiser = torch.optim.SGD(model.parameters(), lr=values["learning_rate"])
        step, total, seen = 0, 0.0, 0
        loader = ctx.loader(self._rows(ctx), batch_size=int(values["batch_size"]))
        for _ in ctx.epochs(int(values["epochs"])):
            for inputs, target in loader:
                loss = F.mse_loss(model(inputs).squeeze(1), target)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                step, total, seen = step + 1, total + loss.item() * len(target), seen + len(target)
                ctx.report(step, loss=loss.item())  # a point of the silo's live curve; it does not leave the silo
        return {"loss": total / seen}

    def evaluate(self, ctx: Context, model: nn.Module) -> dict[str, float]:
        """How good the global model is on this silo's data."""
        inputs, target = self._rows(ctx)
        ctx.examples = len(target)
        return {"loss": F.mse_loss(model(inputs).squeeze(1), target).item()}

    def _rows(self, ctx: Context) -> tuple[torch.Tensor, torch.Tensor]:
        """The silo's rows as tensors; made once, kept for all rounds."""

        def make() -> tuple[torch.Tensor, torch.Tensor]:
            columns = ctx.dataset("measurements").columns(["x1", "x2", "y"])
            inputs = np.stack([columns["x1"], columns["x2"]], axis=1).astype(np.float32)
            return torch.from_numpy(inputs), torch.from_numpy(columns["y"].astype(np.float32))

        return ctx.cached("rows", make)
'''

STRATEGY = '''"""How the silos' updates become the next model: FedAvg with Nesterov's momentum. Replace it.

It runs at the federation's server, whose operator has to allow it, and in a simulation in the same way: with NumPy, and
without network, files and other processes.
"""

import numpy as np

from octopus_desktop.aggregation.sdk import Array, Range, Synchronous, Tile, pseudo_gradient


class Strategy(Synchronous):
    """v <- b v + d and x <- x + r (d + b v), with d the silos' mean difference to the model x, weighted by examples."""

    known = {                                        # what [strategy] may set: default, least, most
        "momentum": Range(0.9, 0.0, 1.0, open_most=True),
        "server_rate": Range(1.0, 0.0, open_least=True),
    }

    def slots(self) -> dict[str, float]:
        """State as large as the model, with its start. All that is to be known in the next round belongs here."""
        return {"velocity": 0.0}

    def combine(self, tile: Tile) -> Array:
        """The new model's elements for one run of elements of everything. Element by element; any length may come."""
        momentum, rate = self.values["momentum"], self.values["server_rate"]
        delta, velocity = pseudo_gradient(tile, self.update), tile.slots["velocity"]
        np.multiply(velocity, momentum, out=velocity)
        np.add(velocity, delta, out=velocity)
        np.multiply(velocity, momentum, out=tile.scratch)
        np.add(delta, tile.scratch, out=delta)
        np.multiply(delta, rate, out=delta)
        return np.add(tile.current, delta, out=delta)
'''

README = """# {name}

`job.toml` says what the job needs; `code/` is what runs at the silos; `data/` is made-up data to try it with, and is
not part of the package.

Try it on this machine, with two virtual silos:

    octopus simulate {folder} \\\\
        --silo site-a:measurements={folder}/data/site-a.csv \\\\
        --silo site-b:measurements={folder}/data/site-b.csv

Then check, build, sign and submit it. The package that was simulated is the one that is deployed, byte for byte:

    octopus jobs check {folder}
    octopus jobs build {folder} -o {name}.octojob
    octopus jobs sign {name}.octojob
    octopus jobs submit {name}.octojob
"""


def files(name: str, folder: str) -> dict[str, str]:
    """Path -> text of a working job."""
    readme = README.replace("\\\\", "\\")
    return {
        "job.toml": JOB_TOML.format(name=name),
        "code/trainer.py": TRAINER,
        "README.md": readme.format(name=name, folder=folder),
        "data/site-a.csv": _rows(1),
        "data/site-b.csv": _rows(2),
    }


def with_strategy(made: Mapping[str, str]) -> dict[str, str]:
    """The job's files with a strategy of its own among them."""
    line = 'name = "strategy:Strategy"           # class Strategy in code/strategy.py'
    toml = re.sub('(?m)^name = "fedavg".*$', line, made["job.toml"])
    if toml == made["job.toml"]:
        toml += f"\n[strategy]\n{line}\n"
    return {**made, "job.toml": toml, "code/strategy.py": STRATEGY}


def _rows(seed: int, count: int = 60) -> str:
    """y = 2 x1 - x2 + 0.5 and a little noise."""
    draw = random.Random(seed)
    lines = ["x1,x2,y"]
    for _ in range(count):
        x1, x2 = draw.uniform(-1, 1), draw.uniform(-1, 1)
        lines.append(f"{x1:.4f},{x2:.4f},{2 * x1 - x2 + 0.5 + draw.gauss(0, 0.05):.4f}")
    return "\n".join(lines) + "\n"
