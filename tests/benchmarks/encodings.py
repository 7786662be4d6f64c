"""What encodings save, cost and do to accuracy: ``python -m tests.benchmarks.encodings [--mib 256] [--no-accuracy]``.

Two tables come out. The first: the encoded file's size against float32's, MiB of float32 a second for encoding (from
the workers' file to the file that leaves, with the error feedback of the round before read and this round's written),
and for a whole fold of four encoded updates, each of them counted; in the first row the same fold of plain updates.
Beside both the floor: the same arithmetic in plain NumPy over a whole array in memory, without files, checks, feedback,
sums or bounded memory.

The second: final loss and accuracy of the example jobs on their real data over the same rounds and seeds.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from octopus_desktop.aggregation.encodings import Encoding, make
from octopus_desktop.aggregation.encodings.encode import encode
from octopus_desktop.aggregation.fold import fold
from octopus_desktop.aggregation.numbers import Array
from octopus_desktop.aggregation.strategies import make as make_strategy
from octopus_desktop.storage.blobs import BlobStore
from octopus_desktop.wire.tensors import make_layout

RUNS = 5
SILOS = 4
ROW = 1 << 10
CHOICES: list[tuple[str, dict[str, Any]]] = [
    ("none", {}),
    ("fp16", {}),
    ("bf16", {}),
    ("int8", {}),
    ("int8", {"block": 128}),
    ("int4", {}),
    ("int4", {"block": 128}),
    ("topk", {"fraction": 0.1}),
    ("topk", {}),
    ("topk", {"values": "fp16"}),
]
WITHOUT: list[tuple[str, dict[str, Any]]] = [
    ("int4", {"feedback": False}),
    ("topk", {"fraction": 0.1, "feedback": False}),
    ("topk", {"feedback": False}),
]
EXAMPLES = Path(__file__).parents[2] / "resources" / "examples"


def best(work: Callable[[], object]) -> float:
    """Least seconds of some runs."""
    taken = []
    for _ in range(RUNS):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return min(taken)


def named(name: str, parameters: dict[str, Any]) -> str:
    return " ".join([name, *(f"{key}={value}" for key, value in parameters.items())])


class Files:
    """A model of 4-MiB matrices and an update of it, both in float32."""

    def __init__(self, root: Path, mib: int) -> None:
        self.root, self.mib = root, mib
        layout = make_layout([(f"layer{i:04d}", "F32", (ROW, ROW)) for i in range(max(1, mib // 4))])
        draw = np.random.default_rng(0)
        self.model, self.update = root / "model", root / "update"
        with self.model.open("wb") as model, self.update.open("wb") as update:
            model.write(layout.header)
            update.write(layout.header)
            for _ in layout:
                weights = draw.normal(size=ROW * ROW).astype(np.float32)
                model.write(weights.tobytes())
                update.write((weights + draw.normal(size=ROW * ROW).astype(np.float32) * 1e-3).tobytes())
        self.full = layout.size
        self.change = draw.normal(size=(mib << 18,)).astype(np.float32) * np.float32(1e-3)
        self.store = BlobStore(root / "blobs")

    def fold(self, how: Encoding | None, update: Path) -> float:
        def once() -> None:
            updates: list[tuple[str, Path | None]] = [(str(i), update) for i in range(SILOS)]
            done = fold(
                make_strategy("fedavg", {}),
                model=self.model,
                updates=updates,
                weights=[1 / SILOS] * SILOS,
                store=self.store,
                encoding=how,
            )
            self.store.remove(done.model.digest)

        return SILOS * self.mib / best(once)

    def encode(self, how: Encoding) -> tuple[int, float]:
        kept = self.root / "before"
        given = {"update": self.update, "base": self.model, "kind": "weights", "out": self.root / "encoded"}
        encode(how, **given, after=kept)  # type: ignore[arg-type]
        more = {"before": kept, "after": self.root / "after"} if how.feedback else {}
        seconds = best(lambda: encode(how, **given, **more))  # type: ignore[arg-type]
        return (self.root / "encoded").stat().st_size, self.mib / seconds


def floor(name: str, parameters: dict[str, Any], change: Array) -> tuple[float, float]:
    """MiB/s of encoding and decoding in plain NumPy, over one array in memory."""
    mib = change.nbytes / 2**20
    if name in ("fp16", "bf16"):

        def to_half() -> Array:
            if name == "fp16":
                return change.astype(np.float16)
            bits = change.view(np.uint32)
            return ((bits + ((bits >> 16) & 1) + 0x7FFF) >> 16).astype(np.uint16)

        half = to_half()

        def back() -> Array:
            return half.astype(np.float32) if name == "fp16" else (half.astype(np.uint32) << 16).view(np.float32)

        return mib / best(to_half), mib / best(back)
    if name in ("int8", "int4"):
        levels, rows = (127 if name == "int8" else 7), change.reshape(-1, parameters.get("block", 64))

        def quantise() -> tuple[Array, Array]:
            scales = np.abs(rows).max(axis=1) / levels
            codes = np.rint(rows / scales[:, None]).astype(np.int8)
            if name == "int8":
                return codes, scales
            flat = (codes + 8).astype(np.uint8).reshape(-1)
            return flat[0::2] | flat[1::2] << 4, scales

        held, scales = quantise()

        def restore() -> Array:
            if name == "int8":
                return held * scales[:, None]
            flat = np.empty(change.size, np.int8)
            flat[0::2], flat[1::2] = (held & 15).astype(np.int8) - 8, (held >> 4).astype(np.int8) - 8
            return flat.reshape(rows.shape) * scales[:, None]

        return mib / best(quantise), mib / best(restore)
    count = round(parameters.get("fraction", 0.01) * change.size)

    def choose() -> tuple[Array, Array]:
        index = np.sort(np.argpartition(np.abs(change), change.size - count)[-count:]).astype(np.int32)
        return index, change[index]

    index, values = choose()

    def spread() -> Array:
        out = np.zeros_like(change)
        out[index] = values
        return out

    return mib / best(choose), mib / best(spread)


def costs(mib: int) -> None:
    print(f"\n{mib} MiB of float32 in 4-MiB matrices; MiB of float32 a second; best of {RUNS}\n")
    print("| encoding | size | encode | NumPy | fold of 4 | NumPy decode |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory(prefix="octopus-encodings-") as folder:
        files = Files(Path(folder), mib)
        print(f"| none | 100 % | | | {files.fold(None, files.update):.0f} | |", flush=True)
        for name, parameters in CHOICES[1:]:
            how = make(name, parameters)
            assert how is not None
            size, encoded = files.encode(how)
            folded = files.fold(how, files.root / "encoded")
            there, back = floor(name, parameters, files.change)
            share = f"{100 * size / files.full:.1f} %"
            print(
                f"| {named(name, parameters)} | {share} | {encoded:.0f} | {there:.0f} | {folded:.0f} | {back:.0f} |",
                flush=True,
            )


def accuracies() -> None:
    from octopus_desktop.simulation import example_data, layout
    from octopus_desktop.simulation.jobs import open_job
    from octopus_desktop.simulation.simulator import simulate

    jobs = {"heart": ("patients", example_data.heart), "digits": ("digits", example_data.digits)}
    print("\n| job | encoding | rounds | loss | accuracy | KiB up a round and silo |")
    print("| --- | --- | ---: | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory(prefix="octopus-encodings-") as folder:
        for name, (alias, lay_out) in jobs.items():
            root = Path(folder) / name
            paths = lay_out(root / "data")
            with open_job(EXAMPLES / name, root) as job:
                data = layout.explicit(job, [f"{silo}:{alias}={path}" for silo, path in paths.items()])
                for number, (encoding, parameters) in enumerate(CHOICES + WITHOUT):
                    wish = {"run": {"encoding": encoding}, "encoding": parameters}
                    done = simulate(job, data, wish, work=root / f"run{number}")
                    rounds = len(done.rounds)
                    down = (rounds + 1) * len(data) * done.size
                    up = (done.transferred - down) / rounds / len(data) / 1024
                    loss, accuracy = done.metrics["eval/loss"], done.metrics["eval/accuracy"]
                    told = named(encoding, parameters)
                    print(f"| {name} | {told} | {rounds} | {loss:.4f} | {accuracy:.4f} | {up:.1f} |", flush=True)


def main() -> None:
    words = argparse.ArgumentParser(prog="python -m tests.benchmarks.encodings")
    words.add_argument("--mib", type=int, default=256)
    words.add_argument("--no-accuracy", action="store_true", help="the table of sizes and speeds alone")
    given = words.parse_args()
    costs(given.mib)
    if not given.no_accuracy:
        accuracies()


if __name__ == "__main__":
    main()
