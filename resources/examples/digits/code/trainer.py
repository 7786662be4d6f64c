"""Handwritten digits: an MLP 64-128-10."""

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from octopus_desktop.training.sdk import ClientTrainer, Context

TEST_EVERY = 5


class DigitsTrainer(ClientTrainer):
    def build_model(self, ctx: Context) -> nn.Module:
        return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))

    def train(self, ctx: Context, model: nn.Module) -> dict[str, float]:
        images, labels, test = self._rows(ctx)
        values = ctx.hyperparameters
        optimiser = torch.optim.SGD(model.parameters(), lr=values["learning_rate"])
        loader = ctx.loader((images[~test], labels[~test]), batch_size=int(values["batch_size"]))
        step, total, seen = 0, 0.0, 0
        for _ in ctx.epochs(int(values["epochs"])):
            for batch, target in loader:
                loss = F.cross_entropy(model(batch), target)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                step, total, seen = step + 1, total + loss.item() * len(target), seen + len(target)
                ctx.report(step, loss=loss.item())
        return {"loss": total / seen}

    def evaluate(self, ctx: Context, model: nn.Module) -> dict[str, float]:
        images, labels, test = self._rows(ctx)
        logits, target = model(images[test]), labels[test]
        ctx.examples = len(target)
        return {
            "loss": F.cross_entropy(logits, target).item(),
            "accuracy": (logits.argmax(1) == target).float().mean().item(),
        }

    def _rows(self, ctx: Context):
        """(images, labels, is a test row); every fifth row only tests."""

        def make():
            arrays = ctx.dataset("digits").arrays()
            images = torch.from_numpy(np.asarray(arrays["images"], dtype=np.float32) / 16.0)
            labels = torch.from_numpy(np.asarray(arrays["labels"], dtype=np.int64))
            return images, labels, torch.arange(len(labels)) % TEST_EVERY == 0

        return ctx.cached("rows", make)
