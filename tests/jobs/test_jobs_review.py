"""What an administrator reads: findings with their lines, plain sentences, changes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from octopus_desktop.jobs import findings, package, review
from octopus_desktop.jobs.manifest import DataNeed, JobManifest, Resources, RunConfig, Training
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb.envelope_pb2 import Offer
from octopus_desktop.wire.pb.local_pb2 import PolicyLine

EXAMPLES = Path(__file__).parents[2] / "resources" / "examples"


def rules(code: str) -> set[tuple[str, int]]:
    return {(f.rule, f.line) for f in findings.find({"code/trainer.py": code.encode()})}


@pytest.mark.parametrize(
    ("code", "rule"),
    [
        ("import socket", "network"),
        ("from urllib.request import urlopen", "network"),
        ("import http.client as h", "network"),
        ("from torch import hub", "network"),
        ("import torch\ntorch.hub.load('a', 'b')", "network"),
        ("import subprocess as s", "process"),
        ("import os\nos.system('ls')", "process"),
        ("import os as o\no.execv('a', [])", "process"),
        ("from os import fork as f\nf()", "process"),
        ("eval('1')", "eval"),
        ("e = exec", "eval"),
        ("compile('1', '', 'eval')", "eval"),
        ("import ctypes", "native"),
        ("from torch.utils import cpp_extension", "native"),
        ("import pickle", "pickle"),
        ("import torch\ntorch.load('x')", "pickle"),
        ("from torch import load\nload('x', weights_only=False)", "pickle"),
        ("import numpy as np\nnp.load('x', allow_pickle=True)", "pickle"),
        ("import numpy as np\nnp.load('x', **k)", "pickle"),
        ("import pandas as pd\npd.read_pickle('x')", "pickle"),
        ("open('/etc/passwd')", "file"),
        ("from pathlib import Path\nPath('x')", "file"),
        ("import numpy as np\nnp.load('x')", "file"),
        ("import torch\ntorch.load('x', weights_only=True)", "file"),
        ("import os\nos.environ['HOME']", "environment"),
        ("import platform", "environment"),
        ("import importlib", "dynamic-import"),
        ("__import__('o' + 's')", "dynamic-import"),
        ("().__class__.__subclasses__()", "introspection"),
        ("import sys\nsys.modules", "introspection"),
        ("from threading import Thread", "threads"),
        ("import multiprocessing", "threads"),
        ("getattr(a, b)", "obscure"),
        (f"x = '{'A' * 500}'", "obscure"),
        (f"x = [{'1, ' * 500}]", "obscure"),
        ("def (", "syntax"),
        ("x = '\u202e'", "hidden-text"),
        ("x = 1  # a\u200bb", "hidden-text"),
    ],
)
def test_what_deserves_a_second_look_is_found_on_its_line(code: str, rule: str) -> None:
    found = rules(code)
    lines = len(code.splitlines())
    assert (rule, lines) in found
    assert {r for r, line in found if line == lines} - {rule} <= {"file", "introspection", "eval"}


@pytest.mark.parametrize(
    "code",
    [
        "import re\nre.compile('a')\nmodel.eval()\nself.open()\n",
        "import torch, numpy as np\nfrom torch.nn import functional as F\ntorch.compile\ngetattr(a, 'b')\n",
        "'''import socket; eval'''\n# import subprocess\n",
        "x = 'größer — naïve 日本語'\n",
        "from .helpers import socket_size\nfrom octopus_desktop.training.sdk import ClientTrainer\n",
    ],
)
def test_ordinary_code_is_left_alone(code: str) -> None:
    assert rules(code) == set()


def test_the_example_jobs_give_no_grave_findings_and_have_good_trainers(tmp_path: Path) -> None:
    jobs = sorted(path.parent for path in EXAMPLES.glob("*/job.toml"))
    assert len(jobs) >= 2
    for job in jobs:
        package.build(job, tmp_path / "a.octojob")
        verified = package.verify(tmp_path / "a.octojob")
        files = package.read_files(tmp_path / "a.octojob")
        findings.check_trainer(files, verified.manifest.trainer)
        assert [f for f in findings.find(files) if f.severity == "high"] == []


@pytest.mark.parametrize(
    ("path", "data", "rule"),
    [
        ("code/fast.so", b"\x7fELF\0\0", "binary"),
        ("code/renamed.txt", b"\x7fELF\2\1\1\0\0", "binary"),
        ("code/x.pyd", b"MZ", "binary"),
        ("code/x.py", b"x = '\xff'", "binary"),
        ("code/x.py", b"x = 1\0", "binary"),
        ("code/weights.bin", b"\0\1\2\xff", "data-file"),
        ("code/run.sh", b"rm -rf /", "data-file"),
        ("code/big.csv", b"1,2\n" * 300_000, "large"),
    ],
)
def test_files_that_cannot_be_read_are_told(path: str, data: bytes, rule: str) -> None:
    assert rule in {f.rule for f in findings.find({path: data})}


def test_the_gravest_finding_comes_first_and_each_says_what_to_do() -> None:
    found = findings.find({"code/a.py": b"import threading\nopen('x')\nimport socket\n"}, ("scipy",))
    assert [f.severity for f in found] == ["high", "medium", "low", "low"]
    assert all(f.text and f.advice and f.path for f in found)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_reviewed_without_harm(data: bytes) -> None:
    findings.find({"code/a.py": data, "code/b.txt": data})


def test_deeply_nested_code_is_reviewed_without_harm() -> None:
    assert ("syntax", 0) in {(r, 0) for r, _ in rules("(" * 5000 + ")" * 5000)}


# the trainer, by its looks


@pytest.mark.parametrize(
    "code",
    [
        "from octopus_desktop.training.sdk import ClientTrainer\nclass T(ClientTrainer): ...",
        "from octopus_desktop.training import sdk as s\nclass T(s.ClientTrainer): ...",
        "from x import ClientTrainer as C\nclass Base(C): ...\nclass T(Base): ...",
        "from helpers import Base\nclass T(Base): ...",
    ],
)
def test_a_trainer_is_known_by_its_base(code: str) -> None:
    findings.check_trainer({"code/trainer.py": code.encode(), "code/helpers.py": b""}, "trainer:T")


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("class T: ...", "does not derive"),
        ("class T(T): ...", "does not derive"),
        ("class A(B): ...\nclass B(A): ...\nclass T(A): ...", "does not derive"),
        ("class TT(ClientTrainer): ...", "did you mean 'TT'"),
        ("class T(ClientTrainer: ...", "line 1"),
        ("from json import JSONEncoder\nclass T(JSONEncoder): ...", "does not derive"),
    ],
)
def test_what_is_no_trainer_is_told(code: str, reason: str) -> None:
    with pytest.raises(UserError) as told:
        findings.check_trainer({"code/trainer.py": code.encode()}, "trainer:T")
    assert told.value.code == "OCT-JOB-TRAINER" and reason in told.value.why


def test_a_trainer_whose_file_is_missing_is_told() -> None:
    with pytest.raises(UserError) as told:
        findings.check_trainer({}, "deep.trainer:T")
    assert "code/deep/trainer.py" in told.value.why


BASE = "from octopus_desktop.aggregation.sdk import Synchronous\n"


def test_a_strategy_of_the_packages_own_is_a_finding_at_its_class() -> None:
    files = {"code/deep/strategy.py": f"{BASE}\n\nclass S(Synchronous): ...".encode()}
    findings.check_strategy(files, "deep.strategy:S")
    (found,) = findings.find(files, strategy="deep.strategy:S")
    assert (found.rule, found.severity, found.path, found.line) == (
        "own-strategy",
        "medium",
        "code/deep/strategy.py",
        4,
    )
    assert findings.find(files, strategy="fedavg") == []
    rules = [f.rule for f in findings.find({"code/strategy.py": b"class S(:"}, strategy="strategy:S")]
    assert rules == ["syntax", "own-strategy"]


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("class S: ...", "does not derive from Synchronous or Asynchronous"),
        (f"{BASE}class SS(Synchronous): ...", "did you mean 'SS'"),
        ("class S(", "line 1"),
    ],
)
def test_what_is_no_strategy_is_told(code: str, reason: str) -> None:
    with pytest.raises(UserError) as told:
        findings.check_strategy({"code/strategy.py": code.encode()}, "strategy:S")
    assert told.value.code == "OCT-JOB-STRATEGY" and reason in told.value.why


# sentences

MANIFEST = JobManifest(
    name="heart",
    version="1",
    trainer="t:T",
    data=(
        DataNeed(alias="patients", columns={"age": "number", "sex": "text"}, min_rows=50, description="One row each."),
        DataNeed(alias="scans", kind="folder"),
    ),
)
CONFIG = RunConfig(rounds=30, resources=Resources(gpus=1, workers=2, memory_mib=2048, hours=1.5))
OFFER = Offer(silos=["a", "b"], federation="Heart Alliance")


def sentences(config: RunConfig = CONFIG, **more: object) -> dict[str, str]:
    lines = review.summary(MANIFEST, config, OFFER, {"patients": ["cardiology"]}, **more)  # type: ignore[arg-type]
    assert [line.topic for line in lines] == list(review.TOPICS)
    return {line.topic: line.text for line in lines}


def test_the_summary_says_what_the_training_table_changes() -> None:
    assert "bfloat16" not in sentences()["hardware"]
    chosen = Training(
        precision="bf16", accumulate=4, clip_norm=1.0, compile=True, parallel="fsdp", shares="measured", stall_s=90.0
    )
    said = sentences(replace(CONFIG, training=chosen))["hardware"]
    for words in ("bfloat16", "4 batches make one step", "longer than 1 ", "compiler", "spread", "measured", "90 sec"):
        assert words in said


def test_the_summary_says_in_plain_words_what_the_job_wants() -> None:
    said = sentences(model_bytes=10 << 20)
    assert "age, sex" in said["data"] and "50 rows" in said["data"] and "cardiology" in said["data"]
    assert "None of your registered datasets fits" in said["data"]
    assert "2 workers" in said["hardware"] and "1 GPU" in said["hardware"] and "2.0 GiB" in said["hardware"]
    assert "30 rounds" in said["duration"] and "1.5 hours" in said["duration"]
    assert "10.0 MiB a round and 300.0 MiB in all" in said["leaves"]
    assert "No noise" in said["privacy"]
    assert "2 silos" in said["silos"] and "Heart Alliance" in said["silos"]
    assert "fedavg" in said["strategy"]


def test_encodings_shrink_what_leaves_and_an_unknown_size_is_not_invented() -> None:
    assert "5.0 MiB a round" in sentences(replace(CONFIG, encoding="fp16"), model_bytes=10 << 20)["leaves"]
    assert "MiB" not in sentences()["leaves"]
    assert "MiB" not in sentences(replace(CONFIG, encoding="topk"))["leaves"]


@pytest.mark.parametrize(
    ("encoding", "parameters", "words", "size"),
    [
        ("fp16", {}, "rounded to fp16: about 50 % of the full size.", "5.0 MiB"),
        (
            "int8",
            {},
            "as int8 in blocks of 64: about 27 % of the full size; what rounding leaves out is added",
            "2.7 MiB",
        ),
        ("int4", {"block": 128, "feedback": False}, "int4 in blocks of 128: about 13 %", "1.3 MiB"),
        ("topk", {}, "only the largest 1 % (topk, values in fp32): about 2 % of the full size", "204.8 KiB"),
        ("topk", {"fraction": 0.001, "values": "fp16"}, "about 0.15 % of the full size", "15.4 KiB"),
    ],
)
def test_the_encoding_is_told_in_plain_words_with_its_size(
    encoding: str, parameters: dict[str, Any], words: str, size: str
) -> None:
    config = replace(CONFIG, encoding=encoding, encoding_parameters=parameters)
    said = sentences(config, model_bytes=10 << 20)["leaves"]
    assert words in said and f"about {size} a round" in said
    assert "the changes of the weights leave" in said, "whatever update says, encoded is the difference"
    assert ("is lost" in said) == (parameters.get("feedback") is False)


def test_the_review_does_not_hide_that_feedback_comes_after_the_filters() -> None:
    clipped = replace(CONFIG, privacy={"clip_norm": 1.0})
    assert "added after them" in sentences(replace(clipped, encoding="topk"))["privacy"]
    assert "added after them" not in sentences(replace(clipped, encoding="fp16"))["privacy"]
    assert "added after them" not in sentences(clipped)["privacy"]


def test_privacy_filters_and_other_settings_are_named() -> None:
    said = sentences(replace(CONFIG, privacy={"clip": 1.0}, carrier="mqtt", quorum=3, update="difference"))
    assert "clip = 1.0" in said["privacy"] and "mqtt" in said["carrier"] and "3 answers" in said["strategy"]
    assert "changes" in said["leaves"]


def test_a_job_without_data_says_so() -> None:
    lines = review.summary(replace(MANIFEST, data=()), CONFIG, OFFER, {})
    assert "none of your data" in lines[0].text


def test_what_the_policy_says_stands_beside_its_topic_and_the_rest_asks() -> None:
    policy = [PolicyLine(line="duration", verdict="forbidden", why="too long")]
    lines = {line.topic: line for line in review.summary(MANIFEST, CONFIG, OFFER, {}, policy=policy)}
    assert (lines["duration"].verdict, lines["duration"].why) == ("forbidden", "too long")
    assert lines["data"].verdict == "ask"


# changes


def test_changes_are_told_file_by_file() -> None:
    old = {"same": b"1", "gone": b"x\n", "code": b"a\nb\n", "bin": b"\0", "ends": b"a\nb\n"}
    new = {"same": b"1", "new": b"y\n", "code": b"a\nc\n", "bin": b"\0\0", "ends": b"a\r\nb\r\n"}
    changes = {c.path: c for c in review.diff(old, new)}
    assert {p: c.change for p, c in changes.items()} == {
        "gone": "removed", "new": "added", "code": "changed", "bin": "changed", "ends": "changed"
    }  # fmt: skip
    assert "-b\n+c" in changes["code"].unified_diff and "+y" in changes["new"].unified_diff
    assert "1 B before, 2 B now" in changes["bin"].unified_diff
    assert "line ends" in changes["ends"].unified_diff


def test_a_huge_change_is_cut_and_says_so() -> None:
    (change,) = review.diff({"a": b""}, {"a": b"x" * 50 + b"\n" * 1 + b"line\n" * 100_000})
    assert len(change.unified_diff) < 250_000 and "cut off" in change.unified_diff


def summary_of(**config: Any) -> dict[str, str]:
    manifest = JobManifest(name="a", version="1", trainer="t:T")
    return {line.topic: line.text for line in review.summary(manifest, RunConfig(**config), Offer(), {})}


def test_that_a_gradient_leaves_too_is_said_in_plain_words() -> None:
    said = summary_of(strategy="mimelite")["leaves"]
    assert "With them leaves the gradient of the model over all your training examples, as large as they are." in said
    assert "and encoded alike" in summary_of(strategy="mime", encoding="int8")["leaves"]
    assert review.update_bytes(RunConfig(strategy="mime"), 1000) == 2 * review.update_bytes(RunConfig(), 1000)


def test_what_stays_at_the_site_how_a_run_begins_and_when_it_ends_is_said_in_plain_words() -> None:
    said = summary_of(personal_layers=("head.*", "*.bn*"), personal_steps=5)["leaves"]
    assert "The layers head.*, *.bn* are trained for your site alone and stay there" in said
    assert "fine-tuned by 5 training steps on your data and judged; only the metrics of that leave" in said
    said = summary_of(personal_epochs=2, personal_keep=True)["leaves"]
    assert "fine-tuned by 2 passes over your data and judged; only the metrics of that leave" in said
    assert "The final model, as it is with what is your site's own, is kept here for you and never leaves." in said
    assert "30 rounds, fewer when 3 rounds bring no better model" in summary_of(rounds=30, patience=3)["duration"]
    said = summary_of(best="min eval/loss", late="next", central=True)["strategy"]
    assert "The model with the lowest eval/loss is kept as the best." in said
    assert "an answer that comes too late counts in the round after it" in said
    assert "The server evaluates each round's model on data of its own" in said
    said = summary_of(first_model="ab" * 32, forked_from="run-7:3", first_slots={"m": "cd" * 32})["strategy"]
    assert "It begins with the model of round 3 of the run run-7, and with what the strategy had gathered" in said
    assert "(SHA-256 abababababab…), not with a fresh one" in said


def test_the_summary_says_that_the_packages_own_code_combines() -> None:
    said = summary_of(strategy="deep.strategy:Mine", strategy_parameters={"norm": 2.0})["strategy"]
    assert said.startswith(
        "Updates are combined by the package's own code at the federation's server, Mine in code/deep/strategy.py "
        "(norm = 2.0), in rounds;"
    )
