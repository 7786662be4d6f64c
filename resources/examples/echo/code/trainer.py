"""A trainer that returns its input with one number changed: a model of ``mib`` MiB in 4-MiB layers, and no data.

One number, so that no update and no model was ever sent before: each round's bytes have to pass.
"""

import torch
from torch import nn

from octopus_desktop.training.sdk import ClientTrainer, Context

LAYER_MIB = 4


class EchoTrainer(ClientTrainer):
    def build_model(self, ctx: Context) -> nn.Module:
        left, model = int(ctx.hyperparameters["mib"]), nn.Module()
        for number in range(-(-left // LAYER_MIB)):
            part = min(LAYER_MIB, left - number * LAYER_MIB)
            model.register_parameter(f"layer{number:04d}", nn.Parameter(torch.full((part << 18,), 0.5)))
        return model

    def train(self, ctx: Context, model: nn.Module) -> None:
        with torch.no_grad():
            next(model.parameters()).view(-1)[0] = ctx.seed % 65521 / 65521
        ctx.examples = 1
