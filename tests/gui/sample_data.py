"""Sample data of a silo, realistic enough to look at: Cleveland Clinic in the Heart Alliance."""

from __future__ import annotations

import hashlib
import json
import math
import time
from dataclasses import replace

from octopus_desktop.jobs.manifest import Resources, RunConfig
from octopus_desktop.wire.pb import envelope_pb2 as envelope
from octopus_desktop.wire.pb import local_pb2 as pb

GIB = 1 << 30
SILOS = ("cleveland-clinic", "hungarian-institute", "va-long-beach", "university-hospital-zurich")
COLUMNS = (
    ("age", "number", 0),
    ("sex", "text", 0),
    ("cp", "text", 0),
    ("trestbps", "number", 1),
    ("chol", "number", 0),
    ("fbs", "text", 3),
    ("restecg", "text", 0),
    ("thalch", "number", 0),
    ("exang", "text", 0),
    ("oldpeak", "number", 0),
    ("slope", "text", 1),
    ("ca", "number", 5),
    ("thal", "text", 3),
    ("num", "integer", 0),
)
CODE = '''"""Logistic regression on the clinical table."""

import torch
from torch import nn

from octopus_desktop.training import ClientTrainer


class HeartTrainer(ClientTrainer):
    """Thirteen clinical values to one logit: sick or not."""

    def build_model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(13, 16), nn.ReLU(), nn.Linear(16, 1))

    def train(self, model, context):
        table = context.dataset("heart")
        loss = nn.BCEWithLogitsLoss()
        optimiser = torch.optim.SGD(model.parameters(), lr=context.hyperparameters["lr"])
        for epoch in range(context.hyperparameters["epochs"]):
            for x, y in context.loader(table):
                optimiser.zero_grad()
                value = loss(model(x), y)
                value.backward()
                optimiser.step()
                context.log("train/loss", float(value))
'''
EXTRA = '''"""Reads the columns that the trainer uses."""

import os
import subprocess

FEATURES = ("age", "sex", "cp", "trestbps", "chol", "fbs", "restecg", "thalch", "exang", "oldpeak", "slope", "ca")


def threads() -> int:
    return int(os.environ.get("OMP_NUM_THREADS", "1"))


def version() -> str:
    return subprocess.run(["git", "describe"], capture_output=True, text=True).stdout
'''
TOML = """[job]
name = "heart-risk"
version = "1.3.0"
purpose = "Estimate the risk of coronary heart disease from routine clinical values"
trainer = "trainer:HeartTrainer"

[[data]]
alias = "heart"
kind = "table"
min_rows = 100

[run]
rounds = 20
encoding = "none"

[strategy]
name = "fedavg"
"""


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def run_id(text: str) -> str:
    return "run-" + digest(text)[:20]


def make_daemon(now: float) -> pb.DaemonStatus:
    key = hashlib.sha256(b"approver").digest()
    return pb.DaemonStatus(
        organisation="Cleveland Clinic",
        administrator="Dr. Ruth Adler",
        version="0.1.0",
        boot_id="boot-1",
        started_at=now - 93_000,
        secrets="keyring",
        configured=True,
        home="/srv/octopus/cleveland",
        bytes_out_today=41_812_992,
        approvers=[
            pb.Approver(
                name="Dr. Ruth Adler",
                fingerprint="8d0e 51c7 22ba 90f4 6b1e 3d77 a9c0 54e2",
                key=key,
                added_at=now - 8_000_000,
                kind="person",
            ),
        ],
    )


def make_carriers(now: float) -> list[pb.CarrierView]:
    """All five, as the Heart Alliance offers them: one in use, one ready, one refused, two for a run's data alone."""

    def view(
        name: str, title: str, settings: dict[str, object], own: dict[str, object], **more: object
    ) -> pb.CarrierView:
        return pb.CarrierView(
            name=name, title=title, settings_json=json.dumps(settings), own_json=json.dumps(own), **more
        )  # fmt: skip

    broker = {"host": "broker.heart-alliance.org", "port": 8883, "tls": True, "topics": "octopus"}
    store = {"endpoint": "https://s3.eu-central.heart-alliance.example", "bucket": "heart-alliance-rounds"}
    return [
        view("grpc", "gRPC, mutual TLS", {"chunk_bytes": 1 << 20}, {"proxy": "http://proxy.clevelandclinic.org:3128"},
             link="up", latency_ms=18.4, bytes_in=812 << 20, bytes_out=764 << 20, bytes_resumed=31 << 20,
             link_since=now - 70_000, control=True, in_use=True),
        view("mqtt", "MQTT 5, sealed, through a broker", broker, {"username": "cleveland-clinic"}, link="idle",
             secret_kept=True),
        view("mqtt_s3", "MQTT 5 and an S3 store, sealed", {**broker, **store}, {}, link="refused",
             error_code="OCT-BROKER-LOGIN", error="The MQTT broker refused user or password. No user is set here."),
        view("torch_rpc", "PyTorch RPC in a trusted network",
             {"host": "10.20.0.5", "port": 29500, "networks": ["10.20.0.0/16"], "sealed": False},
             {"accept_unsealed": True, "interface": "ib0"}, link="idle"),
        view("mpi", "MPI, one world", {"sealed": True}, {}, link="idle"),
    ]  # fmt: skip


def make_check(federation: pb.Federation) -> pb.CheckReply:
    """A check as the daemon makes it: all well, or a route that does not exist."""

    def step(name: str, detail: str, ms: float = 0.0, state: str = "ok", next_step: str = "", carrier: str = "grpc"):  # type: ignore[no-untyped-def]
        return pb.CheckStep(
            name=name, ok=state == "ok", state=state, detail=detail, next_step=next_step, ms=ms, carrier=carrier
        )

    if federation.link != "up":
        return pb.CheckReply(
            steps=[
                step("name", "203.0.113.17", 3.1),
                step("route", f"No connection to {federation.server}: connection refused.", 18.2, "failed",
                     "Ask the coordinator whether the server runs; look whether the firewall lets this port out."),
                step("TLS", "Not tried: the step before it failed.", 0, "untried"),
                step("certificate", "Ours is cleveland-clinic, valid for 9 more days.", 0.4),
                step("clock", "Not tried: nothing tells the other side's time.", 0, "untried", carrier=""),
            ]
        )  # fmt: skip
    return pb.CheckReply(
        steps=[
            step("name", "203.0.113.17", 3.1),
            step("proxy", "http://proxy.clevelandclinic.org:3128 gives a way to the server.", 21.4),
            step("TLS", "TLSv1.3, TLS_AES_256_GCM_SHA384; the server is server (3f9a 07d1 c4e8 5b60).", 31.0),
            step("certificate", "Ours is cleveland-clinic, valid for 71 more days; theirs for 340.", 0.4),
            step("link", "It is up, 18.4 ms.", 0.1),
            step("name", "198.51.100.44", 2.0, carrier="mqtt"),
            step("login", "The broker takes the user cleveland-clinic.", 44.0, carrier="mqtt"),
            step("own topics", "It may not subscribe to octopus/down/cleveland-clinic/# (reason 135).", 12.0, "failed",
                 "Ask the broker's administrator for read rights on it; an example ACL is in the documentation.",
                 carrier="mqtt"),
            step("foreign topics", "Not tried: the step before it failed.", 0, "untried", carrier="mqtt"),
            step("clock", "0.1 s from the server's.", 0.1, carrier=""),
        ]
    )  # fmt: skip


def make_federations(now: float) -> list[pb.Federation]:
    return [
        pb.Federation(
            id="fed-heart",
            name="Heart Alliance",
            server="federation.heart-alliance.org:8443",
            carrier="grpc",
            link="up",
            latency_ms=18.4,
            certificate_expires=now + 71 * 86_400,
            ca_fingerprint="3f9a 07d1 c4e8 5b60 11aa 9e27 d03c 7f45",
            certificate_fingerprint="b7c2 4410 9efd 3a58 60d3 f2c9 11e7 0b6a",
            silo_name="cleveland-clinic",
            enrolled_at=now - 4_200_000,
            bytes_in=812 << 20,
            bytes_out=764 << 20,
            bytes_resumed=31 << 20,
            link_since=now - 70_000,
            carriers=make_carriers(now),
        ),
        pb.Federation(
            id="fed-stroke",
            name="Stroke Imaging Consortium of the Great Lakes Region",
            carrier="grpc",
            link="down",
            server="fl.stroke-imaging-consortium.example:8443",
            certificate_expires=now + 9 * 86_400,
            ca_fingerprint="90b1 6e2d 8f47 c05a 7713 42dd 98ac 06fe",
            silo_name="cleveland-clinic",
            certificate_fingerprint="01fe 7a3c 55d2 b480 c6e9 3b17 d84f a260",
            enrolled_at=now - 900_000,
            bytes_in=19 << 20,
            bytes_out=3 << 20,
            link_since=now - 3_700,
            error_code="OCT-LINK-DOWN",
            error="The federation server cannot be reached: connection refused. It is tried again on its own.",
            carriers=[
                pb.CarrierView(
                    name="grpc",
                    title="gRPC, mutual TLS",
                    settings_json="{}",
                    own_json="{}",
                    link="down",
                    link_since=now - 3_700,
                    bytes_in=19 << 20,
                    bytes_out=3 << 20,
                    control=True,
                    in_use=True,
                    error_code="OCT-LINK-DOWN",
                    error="The federation server cannot be reached: connection refused.",
                )
            ],
        ),
    ]


def make_nodes(now: float) -> list[pb.Node]:
    def gpu(index: int, used: float, load: float, warm: float) -> pb.Gpu:
        return pb.Gpu(
            index=index,
            name="NVIDIA RTX A6000",
            memory_total=48 * GIB,
            memory_used=int(used * GIB),
            utilisation=load,
            temperature_c=warm,
            power_w=80 + 220 * load,
            driver="550.90.07",
        )

    return [
        pb.Node(
            id="node-ws1",
            name="cardio-ws-01",
            state="ready",
            cpu_model="AMD EPYC 7443P 24-Core Processor",
            cpu_count=48,
            cpu_load=0.37,
            ram_total=256 * GIB,
            ram_used=91 * GIB,
            disk_total=1900 * GIB,
            disk_free=1210 * GIB,
            gpus=[gpu(0, 21.4, 0.88, 71), gpu(1, 20.9, 0.91, 74)],
            os="Debian GNU/Linux 12",
            python="3.11.7",
            torch="2.13.0",
            local=True,
            registered_at=now - 4_100_000,
            seen_at=now - 1,
            workers_running=2,
        ),
        pb.Node(
            id="node-ws2",
            name="cardio-ws-02",
            state="draining",
            cpu_model="Intel(R) Xeon(R) Gold 6338 CPU @ 2.00GHz",
            cpu_count=64,
            cpu_load=0.08,
            ram_total=128 * GIB,
            ram_used=17 * GIB,
            disk_total=930 * GIB,
            disk_free=88 * GIB,
            gpus=[gpu(0, 0.6, 0.0, 34)],
            os="Ubuntu 24.04 LTS",
            python="3.12.3",
            torch="2.13.0",
            registered_at=now - 1_100_000,
            seen_at=now - 2,
        ),
        pb.Node(
            id="node-ct",
            name="radiology-ct-spare",
            state="offline",
            cpu_model="Intel(R) Core(TM) i9-10900X",
            cpu_count=20,
            ram_total=64 * GIB,
            disk_total=460 * GIB,
            disk_free=300 * GIB,
            os="Debian GNU/Linux 12",
            python="3.11.2",
            registered_at=now - 800_000,
            seen_at=now - 86_400,
        ),
    ]


def make_codes(now: float) -> list[pb.NodeCode]:
    """Codes for machines that have not joined: one that ends soon, one that was just given."""
    return [
        pb.NodeCode(id="code-mri", name="mri-reading-room", made_at=now - 80_000, expires_at=now + 6_400),
        pb.NodeCode(id="code-ws3", name="cardio-ws-03", made_at=now - 5_400, expires_at=now + 81_000),
    ]


def make_runtimes(now: float) -> list[pb.Runtime]:
    packages = {"torch": "2.13.0+cu128", "numpy": "2.4.0", "monai": "1.6.0", "scikit-learn": "1.8.0", "nibabel": "5.4"}
    return [
        pb.Runtime(
            id="v-imaging", name="imaging", path="/srv/environments/imaging/bin/python", state="ok", python="3.12.8",
            torch="2.13.0+cu128", cuda="12.8", packages=packages, added_at=now - 900_000, checked_at=now - 3_600,
            paths=["/srv/environments/imaging", "/opt/python/3.12.8"],
        ),
        pb.Runtime(
            id="v-flower", name="flower", path="/srv/environments/flower-with-a-long-name-of-a-folder/bin/python",
            state="broken", python="3.11.7", torch="2.6.0", packages={"flwr": "1.24.0", "numpy": "1.26.4"},
            added_at=now - 400_000, checked_at=now - 600,
            error="Training cannot run there: ImportError: libcudart.so.12: cannot open shared object file.",
        ),
    ]  # fmt: skip


def make_look(place: str) -> list[pb.CheckStep]:
    """What an environment shows of itself: a good one that lacks a waiting job's package, or no Python at all."""

    def step(name: str, detail: str, state: str = "ok", next_step: str = "") -> pb.CheckStep:
        return pb.CheckStep(name=name, ok=state == "ok", state=state, detail=detail, next_step=next_step)

    if "nowhere" in place:
        return [
            step("Python", f"There is no Python at {place}.", "failed", "Choose a virtual environment's folder."),
            *(step(name, "The step before it failed.", "untried") for name in ("packages", "torch", "training")),
        ]
    return [
        step("Python", f"3.12.8 at {place}/bin/python"),
        step("packages", "214 are installed."),
        step("torch", "2.13.0+cu128. CUDA 12.8 can be used."),
        step("training", "The training part of Octopus Desktop runs in it."),
        step("ejection-fraction-from-echo 0.9.2", "It lacks monai>=1.7 (1.6.0 is installed).", "failed",
             f"{place}/bin/python -m pip install 'monai>=1.7'"),
        step("heart-risk 1.3.0", "It has scikit-learn>=1.5."),
    ]  # fmt: skip


def make_datasets(now: float) -> list[pb.Dataset]:
    columns = [pb.Column(name=n, type=t, missing=m) for n, t, m in COLUMNS]
    return [
        pb.Dataset(
            id="data-heart",
            alias="heart",
            kind="csv",
            path="/srv/research/cardiology/heart_cleveland.csv",
            columns=columns,
            rows=304,
            bytes=23_911,
            digest=digest("heart"),
            state="ok",
            registered_at=now - 4_000_000,
            checked_at=now - 5_000,
            runs=[run_id("now"), run_id("old")],
            description="Angiography patients 1981–1988",
        ),
        pb.Dataset(
            id="data-echo",
            alias="echo-2025",
            kind="parquet",
            rows=48_213,
            bytes=912 << 20,
            digest=digest("echo"),
            path="/srv/research/cardiology/imaging/echocardiography/2025/exported/features_with_long_name.parquet",
            columns=[pb.Column(name=f"feature_{n:02d}", type="number") for n in range(24)],
            state="changed",
            registered_at=now - 2_000_000,
            checked_at=now - 600,
            error_code="OCT-DATA-CHANGED",
            error="The file's content differs from the digest of 2026-11-01.",
        ),
        pb.Dataset(
            id="data-ecg",
            alias="ecg-waveforms",
            kind="folder",
            path="/mnt/nas/ecg/waveforms",
            rows=12_004,
            bytes=38 * GIB,
            digest=digest("ecg"),
            state="missing",
            registered_at=now - 1_000_000,
            checked_at=now - 300,
            error_code="OCT-DATA-MISSING",
            error="The folder is not there; the network share may not be mounted.",
        ),
    ]


def make_config(rounds: int = 20) -> RunConfig:
    return RunConfig(
        rounds=rounds,
        quorum=3,
        best="max eval/accuracy",
        late="next",
        update="difference",
        share_metrics=True,
        personal_layers=("0.norm.*",),
        hyperparameters={"lr": 0.05, "epochs": 2, "batch": 32},
        privacy={"clip": 1.0, "noise_multiplier": 0.8},
        resources=Resources(gpus=1, memory_mib=2048, hours=1.5),
    )


def make_offer(name: str, now: float, state: str = "offered", version: str = "1.3.0", **more: object) -> pb.SiloOffer:
    config = make_config()
    purpose = more.pop("purpose", "Estimate the risk of coronary heart disease from routine clinical values")
    offer = envelope.Offer(
        job_name=name,
        job_version=version,
        package=envelope.BlobRef(digest=digest(name + version), size=18_244),
        config_json=config.to_json(),
        config_digest=config.digest(),
        author="Prof. Ingrid Vass, Semmelweis University",
        author_fingerprint="c19d 02be 7754 1f0a e3c8 660b 49d7 8a1f",
        purpose=str(purpose),
        expires_at=now + 3 * 86_400,
        silos=SILOS,
        federation="Heart Alliance",
        offered_at=now - 7_300,
        author_key=hashlib.sha256(b"author").digest(),
    )
    base = pb.SiloOffer(
        id=run_id(name + version),
        federation_id="fed-heart",
        offer=offer,
        state=state,
        received_at=now - 7_200,
        signature_verified=True,
        policy=[
            pb.PolicyLine(line="data", verdict="allowed", why="“heart” fits and may be used by this federation"),
            pb.PolicyLine(line="leaves", verdict="ask", why="No rule speaks of 8.1 MiB a round"),
        ],
    )
    base.MergeFrom(pb.SiloOffer(**more))
    return base


def make_offers(now: float) -> list[pb.SiloOffer]:
    return [
        make_offer("heart-risk", now),
        make_offer(
            "ejection-fraction-from-echo",
            now,
            version="0.9.2",
            received_at=now - 90_000,
            purpose="Predict the left-ventricular ejection fraction from echocardiography, to plan follow-up visits",
        ),
        make_offer(
            "heart-risk",
            now,
            state="approved",
            version="1.2.0",
            decided_by="Dr. Ruth Adler",
            decided_at=now - 400_000,
            received_at=now - 420_000,
        ),
        make_offer(
            "readmission",
            now,
            state="rejected",
            version="2.0.0",
            decided_by="Dr. Ruth Adler",
            decided_at=now - 800_000,
            received_at=now - 860_000,
            reason="Asks for the patients' postcodes.",
        ),
        make_offer(
            "sepsis-early-warning",
            now,
            state="invalid",
            version="0.1.0",
            received_at=now - 60_000,
            problem_code="OCT-JOB-TAMPERED",
            problem="The file code/trainer.py does not fit the signed digest.",
        ),
        make_offer(
            "frailty-index",
            now,
            state="changes_requested",
            version="1.0.0",
            decided_by="Dr. Ruth Adler",
            decided_at=now - 200_000,
            received_at=now - 260_000,
            reason="Please clip the update.",
        ),
    ]


def make_runs(now: float) -> list[pb.Run]:
    def run(key: str, job: str, state: str, round: int, **more: object) -> pb.Run:
        made = pb.Run(
            id=run_id(key),
            federation_id="fed-heart",
            job_name=job,
            job_version="1.2.0",
            package_digest=digest(job),
            state=state,
            round=round,
            rounds=20,
            approved_at=now - 6_000,
            started_at=now - 5_400,
            updated_at=now - 2,
            bytes_in=round * (2 << 20),
            bytes_out=round * (2 << 20),
            metrics={"eval/accuracy": 0.842, "train/loss": 0.3712},
            silos=SILOS,
            silos_present=SILOS[:3],
            workers=2,
            datasets=["data-heart"],
            approved_by="Dr. Ruth Adler",
            carrier="grpc",
            encoding="none",
        )
        made.MergeFrom(pb.Run(**more))
        return made

    return [
        run("now", "heart-risk", "training", 13, fraction=0.46, eta_s=412.0, carrier="mqtt_s3", encoding="fp16",
            link="up", latency_ms=41.0, bytes_resumed=6 << 20),
        run("paused", "ejection-fraction-from-echo", "paused", 4, fraction=0.1, started_at=now - 90_000),
        run("old", "heart-risk", "completed", 20, fraction=1.0, started_at=now - 400_000, ended_at=now - 396_000),
        run(
            "bad",
            "readmission-lasso",
            "failed",
            2,
            ended_at=now - 500_000,
            started_at=now - 501_000,
            reason="Worker 1 died three times: CUDA out of memory.",
            code="OCT-RUN-WORKERS",
        ),
        run(
            "halt",
            "frailty-index",
            "stopped",
            7,
            ended_at=now - 700_000,
            started_at=now - 701_000,
            reason="Stopped by Dr. Ruth Adler: maintenance of the cluster.",
            code="OCT-RUN-STOPPED",
        ),
    ]  # fmt: skip


def standing_of(run: pb.Run, number: int) -> dict[str, list[str]]:
    """Who answered a round: of several silos the last one is silent from round 11 on, the one before it is late in the
    newest round."""
    silos = list(run.silos)
    silent = silos[-1:] if len(silos) > 1 and number >= 11 else []
    late = silos[-2:-1] if len(silos) > 2 and number == run.round else []
    return {"answered": [s for s in silos if s not in (*silent, *late)], "missing": silent, "late": late}


def make_detail(run: pb.Run, now: float) -> pb.RunDetail:
    """Rounds, points, spans and what left, up to the run's round."""
    config = make_config()
    if run.state in ("failed", "stopped"):
        config = replace(config, quorum=0, strategy="fedadam", strategy_parameters={"lr": 0.01}, share_metrics=False)
    detail = pb.RunDetail(run=run, config_json=config.to_json())
    start = run.started_at
    for number in range(1, run.round + 1):
        at = start + 30.0 * (number - 1)
        loss = 0.68 * math.exp(-number / 9) + 0.21 + 0.01 * math.sin(number * 2.3)
        accuracy = 0.86 - 0.3 * math.exp(-number / 5) - sum(map(ord, run.id)) % 7 * 0.008
        detail.rounds.add(
            round=number,
            local={"train/loss": loss, "eval/accuracy": accuracy - 0.02, "eval/loss": loss + 0.03},
            federation={"train/loss": loss * 1.04, "eval/accuracy": accuracy, "eval/loss": loss + 0.02},
            bytes_in=2 << 20,
            bytes_out=2 << 20,
            seconds=28.6 + math.sin(number),
            model_digest=digest(f"model{number}"),
            model_size=2 << 20,
            **standing_of(run, number),
        )
        for place, silo in enumerate(run.silos):
            if silo in detail.rounds[-1].answered:
                spread = 0.05 * math.sin(place * 1.7 + 0.4) + 0.006 * math.sin(number * 1.3 + place)
                numbers = {"train/loss": loss - spread, "eval/loss": loss + 0.03 - spread}
                detail.rounds[-1].silos[silo].values.update({**numbers, "eval/accuracy": accuracy + spread})
        for step in range(20):
            detail.points.add(
                name="train/loss",
                source="silo",
                round=number,
                step=step,
                value=loss * (1.1 - step / 150),
                at=at + 3 + step,
            )
        for source, value in (("silo", accuracy - 0.02), ("federation", accuracy)):
            detail.points.add(name="eval/accuracy", source=source, round=number, step=20, value=value, at=at + 25)
        bars = [
            ("silo", "download", 0.0, 1.2),
            ("worker 0", "load", 1.2, 2.0),
            ("worker 1", "load", 1.2, 2.2),
            ("worker 0", "train", 2.0, 20.0),
            ("worker 1", "train", 2.2, 21.4),
            ("worker 0", "wait", 20.0, 21.4),
            ("worker 0", "evaluate", 21.4, 24.0),
            ("worker 1", "evaluate", 21.4, 23.6),
            ("silo", "filter", 24.0, 24.5),
            ("silo", "upload", 24.5, 25.8),
            ("silo", "wait", 25.8, 29.6),
            ("server", "wait", 0.5, 26.4),
            ("server", "aggregate", 26.4, 29.5),
        ]
        for lane, step_name, begin, end in bars:
            detail.spans.add(
                round=number, span=envelope.Span(lane=lane, step=step_name, start=at + begin, end=at + end)
            )
        detail.left.add(
            at=at + 25.8,
            round=number,
            kind="update",
            bytes=2 << 20,
            digest=digest(f"update{number}"),
            encoding="none",
            carrier=run.carrier,
            recipient="Heart Alliance",
            layers=[
                pb.LayerSummary(name="0.weight", shape="16 × 13", norm=1.83 / number, elements=208),
                pb.LayerSummary(name="0.bias", shape="16", norm=0.22 / number, elements=16),
                pb.LayerSummary(name="2.weight", shape="1 × 16", norm=0.91 / number, elements=16),
                pb.LayerSummary(name="2.bias", shape="1", norm=0.08 / number, elements=1),
            ],
        )
    return detail


def make_review(offer: pb.SiloOffer, now: float) -> pb.ReviewReply:
    files = {"code/trainer.py": CODE, "code/columns.py": EXTRA, "job.toml": TOML}
    diff = (
        "--- a/code/trainer.py\n+++ b/code/trainer.py\n@@ -16,8 +16,8 @@\n     def train(self, model, context):\n"
        '         table = context.dataset("heart")\n-        loss = nn.MSELoss()\n+        loss = nn.HuberLoss()\n'
        "         optimiser = torch.optim.SGD(model.parameters(), lr=0.05)\n"
    )
    refused = next((line.why for line in offer.policy if line.verdict == "cannot"), "")
    return pb.ReviewReply(
        offer=offer,
        manifest_toml=TOML,
        files=[pb.FileEntry(path=p, size=len(t), digest=digest(t)) for p, t in files.items()],
        findings=[
            pb.Finding(
                severity="warning",
                rule="subprocess",
                path="code/columns.py",
                line=14,
                text="Starts another program (subprocess.run).",
                advice="Ask what it is for; the sandbox denies it.",
            ),
            pb.Finding(
                severity="info",
                rule="environment",
                path="code/columns.py",
                line=10,
                text="Reads an environment variable.",
                advice="Harmless here: OMP_NUM_THREADS.",
            ),
        ],
        summary=[
            pb.SummaryLine(
                topic="data",
                text="Reads “heart”: 14 columns, at least 100 rows (yours: 304).",
                verdict="allowed",
                why="The rule “Heart Alliance may use heart” allows it.",
            ),
            pb.SummaryLine(topic="hardware", text="One GPU with 2 GiB for about 1.5 hours.", verdict="allowed"),
            pb.SummaryLine(
                topic="duration", text="20 rounds, about 10 minutes.", verdict="ask", why="No rule speaks of it."
            ),
            pb.SummaryLine(
                topic="leaves",
                text="2.0 MiB a round, 40 MiB in all: the model's weights, as float32.",
                verdict="ask",
                why="No rule speaks of it.",
            ),
            pb.SummaryLine(
                topic="privacy",
                text="Updates are clipped to norm 1.0, with noise of multiplier 0.8.",
                verdict="allowed",
            ),
            pb.SummaryLine(
                topic="carrier",
                text="Messages travel by gRPC, mutual TLS.",
                verdict="cannot" if refused else "allowed",
                why=refused,
            ),
            pb.SummaryLine(
                topic="silos",
                text="With Hungarian Institute, VA Long Beach and University Hospital Zurich.",
                verdict="allowed",
            ),
            pb.SummaryLine(
                topic="strategy", text="FedAvg: the mean of the weights, by number of examples.", verdict="allowed"
            ),
        ],
        previous_digest=digest("heart-risk1.2.0"),
        changes=[
            pb.FileChange(path="code/trainer.py", change="changed", unified_diff=diff),
            pb.FileChange(path="code/columns.py", change="added", unified_diff=""),
        ],
        runtimes=[
            pb.RuntimeMatch(name="built-in", lacks=["monai>=1.6 (not installed)"]),
            pb.RuntimeMatch(runtime_id="v-imaging", name="imaging", fits=True),
            pb.RuntimeMatch(runtime_id="v-flower", name="flower", fault="Training cannot run there: ImportError."),
        ],
        requirements=["monai>=1.6"],
        data=[
            pb.DataMatch(need="heart", dataset_id="data-heart", fits=True, columns=[c[0] for c in COLUMNS]),
            pb.DataMatch(need="heart", dataset_id="data-echo", fits=False, problem="lacks the column “age”"),
        ],
        history=[
            pb.HistoryEntry(
                at=now - 420_000,
                who="Prof. Ingrid Vass",
                what="offered",
                text="Version 1.2.0",
                digest=digest("heart-risk1.2.0"),
            ),
            pb.HistoryEntry(
                at=now - 400_000,
                who="Dr. Ruth Adler",
                what="approved",
                text="Twenty rounds, nights only",
                digest=digest("heart-risk1.2.0"),
            ),
            pb.HistoryEntry(
                at=now - 7_200,
                who="Prof. Ingrid Vass",
                what="offered",
                text="Version 1.3.0",
                digest=digest("heart-risk1.3.0"),
            ),
        ],
    )


def make_trial() -> list[pb.TryUpdate]:
    """A trial as the daemon tells it."""
    result = pb.TryResult(
        seconds=21.4, train_seconds=12.8, examples=304, steps=20, metrics={"train/loss": 0.6123, "eval/accuracy": 0.58},
        memory=612 << 20, bytes=2 << 20, encoding="none",
        layers=[
            pb.LayerSummary(name="0.weight", shape="16×13", elements=208),
            pb.LayerSummary(name="0.bias", shape="16", elements=16),
            pb.LayerSummary(name="2.weight", shape="1×16", elements=16),
        ],
    )  # fmt: skip
    return [
        pb.TryUpdate(state="build", text="Building the job's first model."),
        pb.TryUpdate(state="train", text="Training its first round.", memory=388 << 20),
        pb.TryUpdate(state="log", text="epoch 1 of 2, loss 0.6431"),
        pb.TryUpdate(state="train", fraction=0.5, memory=612 << 20),
        pb.TryUpdate(state="log", text="epoch 2 of 2, loss 0.6123"),
        pb.TryUpdate(state="done", memory=612 << 20, result=result),
    ]


FILES = {"code/trainer.py": CODE, "code/columns.py": EXTRA, "job.toml": TOML}


def make_policies(now: float) -> list[pb.Policy]:
    return [
        pb.Policy(
            id="pol-1",
            name="Heart Alliance may use heart",
            enabled=True,
            created_at=now - 3_000_000,
            created_by="Dr. Ruth Adler",
            rule_json=json.dumps({"effect": "allow", "federation": "Heart Alliance"}),
        ),
    ]


def make_audit(now: float, count: int = 240) -> list[pb.AuditEntry]:
    acts = [
        (
            "Dr. Ruth Adler",
            "offer.approved",
            "heart-risk 1.2.0",
            {"digest": digest("heart-risk1.2.0")[:16], "rounds": 20},
        ),
        ("daemon", "run.started", "heart-risk", {"workers": 2, "node": "cardio-ws-01"}),
        ("daemon", "message.left", "heart-risk", {"round": 3, "bytes": 2 << 20, "recipient": "Heart Alliance"}),
        ("daemon", "run.round", "heart-risk", {"round": 3, "seconds": 28.6}),
        ("Dr. Ruth Adler", "dataset.registered", "heart", {"rows": 304}),
        ("daemon", "link.up", "Heart Alliance", {"latency_ms": 18.4}),
        ("Dr. Ruth Adler", "offer.rejected", "readmission 2.0.0", {"reason": "Asks for the patients' postcodes."}),
    ]
    entries = []
    for seq in range(1, count + 1):
        actor, action, subject, detail = acts[(seq * 5) % len(acts)]
        entries.append(
            pb.AuditEntry(
                seq=seq,
                at=now - (count - seq) * 431.7,
                actor=actor,
                action=action,
                subject=subject,
                detail_json=json.dumps(detail),
                hash=hashlib.sha256(f"audit{seq}".encode()).digest(),
            )
        )
    return entries


def make_logs(now: float, count: int = 400) -> list[pb.LogLine]:
    said = [
        ("info", "link", "Link to Heart Alliance is up (18 ms)"),
        ("info", "runner", "Round 13: training, epoch 1 of 2, loss 0.3712"),
        ("debug", "reducer", "lease of task train/13 renewed until 16:22:41, epoch 3"),
        ("info", "supervisor", "Worker 0 uses cuda:0, worker 1 uses cuda:1"),
        ("warning", "link", "Stroke Imaging Consortium of the Great Lakes Region is away: connection refused"),
        ("info", "mailbox", "Answer 12/train delivered: 2.00 MiB in 0.4 s"),
        ("error", "runner", "Worker 1 died with signal 9 (out of memory?); it is started again, attempt 1 of 3"),
    ]
    return [
        pb.LogLine(
            seq=n,
            at=now - (count - n) * 1.37,
            level=level,
            source=source,
            text=text,
            run_id=run_id("now") if source in ("runner", "supervisor") else "",
        )
        for n in range(1, count + 1)
        for level, source, text in (said[(n * 3) % len(said)],)
    ]


def make_snapshot(now: float | None = None, empty: bool = False) -> pb.Snapshot:
    """The whole silo; with ``empty`` a daemon that was just installed."""
    now = time.time() if now is None else now
    if empty:
        return pb.Snapshot(
            daemon=pb.DaemonStatus(version="0.1.0", boot_id="boot-1", started_at=now - 40, secrets="passphrase file")
        )
    return pb.Snapshot(
        daemon=make_daemon(now),
        federations=make_federations(now),
        nodes=make_nodes(now),
        datasets=make_datasets(now),
        offers=make_offers(now),
        runs=make_runs(now),
        policies=make_policies(now),
        runtimes=make_runtimes(now),
        audit_tail=make_audit(now)[-10:],
    )
