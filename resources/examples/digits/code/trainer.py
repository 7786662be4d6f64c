"""Handwritten digits: an MLP 64-128-10. What is trained on and by which loss; the loop around it is the runtime's."""

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from octopus_desktop.training.sdk import ClientTrainer, Context, Rows

TEST_EVERY = 5


class DigitsTrainer(ClientTrainer):
    def build_model(self, ctx: Context) -> nn.Module:
        return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))

    def losses(self, ctx: Context, model: nn.Module, batch) -> torch.Tensor:
        images, labels = batch
        return F.cross_entropy(model(images), labels, reduction="none")

    def scores(self, ctx: Context, model: nn.Module, batch) -> dict[str, torch.Tensor]:
        images, labels = batch
        logits = model(images)
        return {
            "loss": F.cross_entropy(logits, labels, reduction="none"),
            "accuracy": (logits.argmax(1) == labels).float(),
        }

    def rows(self, ctx: Context) -> Rows:
        """Every fifth row only tests."""

        def make() -> Rows:
            arrays = ctx.dataset("digits").arrays()
            images = torch.from_numpy(np.asarray(arrays["images"], dtype=np.float32) / 16.0)
            labels = torch.from_numpy(np.array(arrays["labels"], dtype=np.int64))
            test = torch.arange(len(labels)) % TEST_EVERY == 0
            return Rows(train=(images[~test], labels[~test]), test=(images[test], labels[test]))

        return ctx.cached("rows", make)
