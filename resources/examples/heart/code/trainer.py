"""Coronary heart disease from routine findings: logistic regression over standardised features, with PyTorch.

Scales are fixed, clinically sensible numbers, so that no hospital learns another's averages. A missing finding becomes
0 (the average) beside an indicator that it is missing: which tests a hospital makes is itself informative.
"""

import hashlib

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from octopus_desktop.training.sdk import ClientTrainer, Context

NUMBERS = {  # column: (centre, scale)
    "age": (54.0, 9.5),
    "trestbps": (132.0, 19.0),  # resting blood pressure, mm Hg
    "chol": (245.0, 58.0),  # serum cholesterol, mg/dl
    "thalch": (138.0, 26.0),  # highest heart rate reached
    "oldpeak": (0.9, 1.1),  # ST depression by exercise
    "ca": (0.7, 0.95),  # vessels coloured by fluoroscopy, 0 to 3
}
IMPOSSIBLE_ZERO = ("trestbps", "chol")  # where 0 stands for "not measured"
WORDS = {
    "sex": ("male",),
    "cp": ("typical angina", "atypical angina", "non-anginal", "asymptomatic"),
    "fbs": ("true",),
    "restecg": ("st-t abnormality", "lv hypertrophy"),
    "exang": ("true",),
    "slope": ("upsloping", "flat", "downsloping"),
    "thal": ("normal", "fixed defect", "reversable defect"),
}
FEATURES = 2 * len(NUMBERS) + sum(len(values) + 1 for values in WORDS.values())
TEST_SHARE = 0.3


class HeartTrainer(ClientTrainer):
    def build_model(self, ctx: Context) -> nn.Module:
        model = nn.Linear(FEATURES, 1)
        nn.init.zeros_(model.weight)
        nn.init.zeros_(model.bias)
        return model

    def train(self, ctx: Context, model: nn.Module) -> dict[str, float]:
        (features, labels), _ = self._rows(ctx)
        values = ctx.hyperparameters
        optimiser = torch.optim.SGD(
            model.parameters(), lr=values["learning_rate"], weight_decay=values["weight_decay"], momentum=0.9
        )
        loader = ctx.loader((features, labels), batch_size=int(values["batch_size"]))
        step, total, seen = 0, 0.0, 0
        for _ in ctx.epochs(int(values["epochs"])):
            for batch, target in loader:
                loss = F.binary_cross_entropy_with_logits(model(batch).squeeze(1), target)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                step, total, seen = step + 1, total + loss.item() * len(target), seen + len(target)
                ctx.report(step, loss=loss.item())
        return {"loss": total / seen}

    def evaluate(self, ctx: Context, model: nn.Module) -> dict[str, float]:
        _, (features, labels) = self._rows(ctx)
        ctx.examples = len(labels)
        logits = model(features).squeeze(1)
        return {
            "loss": F.binary_cross_entropy_with_logits(logits, labels).item(),
            "accuracy": ((logits > 0) == (labels > 0.5)).float().mean().item(),
        }

    def _rows(self, ctx: Context):
        """((train features, labels), (test features, labels)); the split depends on a row's content alone."""

        def make():
            columns = ctx.dataset("patients").columns([*NUMBERS, *WORDS, "num"])
            features = torch.from_numpy(np.stack(list(_features(columns)), axis=1)).float()
            labels = torch.from_numpy((columns["num"] > 0).astype(np.float32))
            test = torch.from_numpy(_held_out(columns))
            return (features[~test], labels[~test]), (features[test], labels[test])

        return ctx.cached("rows", make)


def _features(columns):
    for name, (centre, scale) in NUMBERS.items():
        values = columns[name].astype(np.float64)
        missing = np.isnan(values)
        if name in IMPOSSIBLE_ZERO:
            missing |= values == 0
        yield np.where(missing, 0.0, (values - centre) / scale)
        yield missing.astype(np.float64)
    for name, known in WORDS.items():
        values = np.array([str(value).strip().lower() for value in columns[name]])
        for word in known:
            yield (values == word).astype(np.float64)
        yield (values == "").astype(np.float64)


def _held_out(columns) -> np.ndarray:
    """True for the rows that only test the model: about 30 %, chosen by a hash of the row."""
    rows = zip(*(columns[name].tolist() for name in (*NUMBERS, *WORDS)), strict=True)
    shares = (int(hashlib.sha256(repr([str(v) for v in row]).encode()).hexdigest()[:8], 16) / 2**32 for row in rows)
    return np.array([share < TEST_SHARE for share in shares])
