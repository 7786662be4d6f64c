"""A trainer that returns its input: a model of ``mib`` MiB in 4-MiB layers, and no data."""

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
        ctx.examples = 1
