"""Encodings of updates: what leaves a silo in fewer bytes, and how the coordinator reads it. NumPy only, tile by tile.

What is encoded is always the **difference** to the global model that the silo was given, whatever ``update`` says:
differences are small and centred on zero, so that rounding them costs least; the reader adds the model back where
``update`` is "weights". The filters of ``aggregation.filters`` come before: they see the true difference, the encoding
sees what they left of it. The file that leaves is exactly the encoded one.

**The file** is a safetensors file. For a tensor ``w`` of the global model it holds, in the model's order:

    fp16   ``w:fp16``  F16, the shape of w
    bf16   ``w:bf16``  BF16, the shape of w
    int8   ``w:int8``  I8, the shape of w            ``w:scale``  F32, one for each block
    int4   ``w:int4``  U8, two elements a byte       ``w:scale``  F32, one for each block
    topk   ``w:index`` I32, ascending, each once     ``w:value``  F32 or F16, one for each index

A block is ``block`` neighbouring elements of one tensor in row-major order, the last one maybe shorter. What passes as
it is, under its own name and in the form that ``update`` asks for: integer and boolean tensors, and floating tensors of
at most one dimension with fewer than ``FEW`` elements (biases, running statistics: hardly any bytes, and a running
variance that rounding makes negative would break the model). The header's ``__metadata__`` names the encoding and the
names, types and shapes of the model's tensors. All of the header follows from the model and the encoding's parameters,
so a reader knows it beforehand, and whatever differs is refused (OCT-ENCODING-BAD, with the tensor and the reason).

**Error feedback** (int8, int4, topk; ``feedback = false`` turns it off): with C for encoding and decoding, Δ_t for what
the filters left in round t,

    sent_t = C(Δ_t + e_t)        e_{t+1} = (Δ_t + e_t) - sent_t        e_1 = 0

so what an encoding leaves out in one round is added to the next, and nothing is lost over the rounds.
    Seide, Fu, Droppo, Li, Yu: 1-Bit Stochastic Gradient Descent and its Application to Data-Parallel Distributed
        Training of Speech DNNs. Interspeech 2014, section 3.1.
    Stich, Cordonnier, Jaggi: Sparsified SGD with Memory. NeurIPS 2018, Algorithm 1.
    Karimireddy, Rebjock, Stich, Jaggi: Error Feedback Fixes SignSGD and other Gradient Compression Schemes. ICML 2019,
        Algorithm 2.
The residual e is a tensor file of the encoded tensors in float32 (float64 where the model is). It never leaves the
silo. Where it is kept, and what a crash does to it, is ``training.feedback``'s.

``base.py``: the contract and the file's layout. ``halves.py`` (fp16, bf16), ``blocks.py`` (int8, int4), ``topk.py``.
``encode.py``: from an update to the file that leaves. ``sources.py``: how the fold reads updates, encoded or not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from octopus_desktop.aggregation.encodings.base import FEW, Encoding
from octopus_desktop.aggregation.encodings.blocks import Blocks
from octopus_desktop.aggregation.encodings.halves import Halves
from octopus_desktop.aggregation.encodings.topk import TopK
from octopus_desktop.jobs import encodings as words
from octopus_desktop.wire.errors import UserError

MAKERS: dict[str, Callable[[Mapping[str, Any]], Encoding]] = {
    "fp16": lambda given: Halves("fp16"),
    "bf16": lambda given: Halves("bf16"),
    "int8": lambda given: Blocks("int8", block=given["block"], feedback=given["feedback"]),
    "int4": lambda given: Blocks("int4", block=given["block"], feedback=given["feedback"]),
    "topk": lambda given: TopK(fraction=given["fraction"], values=given["values"], feedback=given["feedback"]),
}


def make(name: str, given: Mapping[str, Any]) -> Encoding | None:
    """The encoding of a run's configuration; None for "none".

    Raises:
        UserError: OCT-CONFIG-INVALID, for an encoding or a parameter that there is not.
    """
    if name not in words.ENCODINGS:
        raise UserError(
            "OCT-CONFIG-INVALID",
            f"There is no encoding {name!r}.",
            f"This version knows {', '.join(words.ENCODINGS)}.",
            "Set encoding in [run] of job.toml to one of these.",
        )
    if found := words.mistakes(name, given):
        key, what, advice = found[0]
        raise UserError(
            "OCT-CONFIG-INVALID",
            f"The parameter {key!r} of the encoding {name!r} cannot be kept.",
            f"Of it, {what}.",
            f"Correct [encoding] in job.toml. {advice}.",
        )
    return None if name == "none" else MAKERS[name](words.settings(name, given))


__all__ = ["FEW", "MAKERS", "Encoding", "make"]
