"""What may leave a silo: filtered, then encoded, and what the encoding leaves out applied once, whatever is killed."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from octopus_desktop.aggregation.fold import fold
from octopus_desktop.aggregation.strategies import make
from octopus_desktop.jobs.manifest import RunConfig
from octopus_desktop.storage.blobs import BlobStore, file_digest
from octopus_desktop.storage.mailbox import Mailbox
from octopus_desktop.training import leaving
from octopus_desktop.training.feedback import Feedback
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb.envelope_pb2 import BlobRef
from tests.aggregation.encoded import Desk, encoding
from tests.training.test_training_runner import Parent, parent

ENCODINGS = ("int8", "topk")


def files(root: Path) -> Desk:
    draw = np.random.default_rng(0)
    desk = Desk(root, {"w": draw.normal(size=(40, 100)).astype(np.float32), "b": np.zeros(3, np.float32)})
    model = load_file(desk.model)
    change = {"w": draw.normal(size=(40, 100)).astype(np.float32), "b": np.ones(3, np.float32)}
    save_file({name: model[name] + change[name] for name in model}, root / "written")
    return desk


@pytest.mark.parametrize("name", ["fp16", "int4"])
def test_filters_see_the_true_difference_and_the_encoding_what_they_left(tmp_path: Path, name: str) -> None:
    desk = files(tmp_path)
    config = RunConfig(encoding=name, privacy={"clip_norm": 1.0})
    done = leaving.prepare(
        tmp_path / "written", desk.model, config, private=tmp_path / "private", after=tmp_path / "private" / "after"
    )
    assert done.encoding == name and done.digest == file_digest(done.path) and done.size == done.path.stat().st_size
    assert done.metrics["filter/norm"] > 60 and done.full_size > done.size
    sent = desk.decoded(encoding(name), done.path)["w"]
    left = load_file(done.left_out)["w"] if done.left_out else 0.0
    assert (done.left_out is not None) == (name == "int4")
    assert np.linalg.norm(sent + left) == pytest.approx(1.0, rel=1e-2), "clipped before it was encoded"
    assert not (tmp_path / "written").exists()
    kept = {"encoded.safetensors"} | ({"after"} if done.left_out else set())
    assert {path.name for path in (tmp_path / "private").iterdir()} == kept


def test_without_feedback_nothing_is_kept_and_nothing_is_added(tmp_path: Path) -> None:
    desk = files(tmp_path)
    config = RunConfig(encoding="topk", encoding_parameters={"feedback": False})
    (tmp_path / "private").mkdir()
    after = tmp_path / "private" / "after"
    done = leaving.prepare(
        tmp_path / "written", desk.model, config, private=tmp_path / "private", before=tmp_path / "none", after=after
    )
    assert done.left_out is None and not after.exists()


def test_the_jobs_code_cannot_have_its_file_changed_after_it_was_looked_at(tmp_path: Path) -> None:
    desk = files(tmp_path)
    (tmp_path / "more").hardlink_to(tmp_path / "written")
    with pytest.raises(UserError) as error:
        leaving.prepare(tmp_path / "written", desk.model, RunConfig(), private=tmp_path / "private")
    assert error.value.code == "OCT-MODEL-SHAPE"
    assert not (tmp_path / "written").exists()
    (tmp_path / "target").write_bytes(b"mine")
    (tmp_path / "written").symlink_to(tmp_path / "target")
    with pytest.raises(UserError):
        leaving.prepare(tmp_path / "written", desk.model, RunConfig(), private=tmp_path / "private")
    assert (tmp_path / "target").read_bytes() == b"mine"


@pytest.mark.parametrize("name", ["none", "int8"])
def test_what_is_returned_beside_the_update_is_filtered_and_encoded_and_never_of_the_silos_own(
    tmp_path: Path, name: str
) -> None:
    desk = files(tmp_path)
    config = RunConfig(strategy="mime", encoding=name, privacy={"clip_norm": 1.0}, personal_layers=("b",))
    save_file({"w": np.full((40, 100), 3.0, np.float32), "b": np.ones(3, np.float32)}, tmp_path / "gradient")
    done = leaving.prepare_returned("gradient", tmp_path / "gradient", desk.model, config, private=tmp_path / "private")
    assert done.encoding == name and done.digest == file_digest(done.path) and done.left_out is None
    sent = desk.decoded(encoding(name), done.path) if name != "none" else load_file(done.path)
    assert np.linalg.norm(sent["w"]) == pytest.approx(1.0, rel=1e-2)
    assert not sent["b"].any() and not (tmp_path / "gradient").exists()
    save_file({"w": np.zeros((40, 99), np.float32), "b": np.zeros(3, np.float32)}, tmp_path / "gradient")
    with pytest.raises(UserError) as error:
        leaving.prepare_returned("gradient", tmp_path / "gradient", desk.model, config, private=tmp_path / "private")
    assert error.value.code == "OCT-MODEL-SHAPE" and not (tmp_path / "gradient").exists()


def test_only_what_the_journal_names_counts_and_the_rest_goes(tmp_path: Path) -> None:
    box = Mailbox(tmp_path / "mailbox.sqlite")
    kept = Feedback(tmp_path, box)
    assert kept.before() is None and not kept.lost
    kept.after(1).touch()
    kept.keep(kept.after(1))
    kept.after(2).touch()
    assert kept.before() == kept.after(1), "round 2 was not answered"
    kept.tidy()
    assert not kept.after(2).exists()
    kept.after(1).unlink()
    assert kept.before() is None and kept.lost
    with pytest.raises(ZeroDivisionError), box.transaction():
        kept.keep(kept.after(2))
        raise ZeroDivisionError
    assert Feedback(tmp_path, box).lost, "with the transaction, the name is rolled back"


# the runner


def three_rounds(daemon: Parent, encoded_as: str) -> list[str]:
    """Digests of the model and of three rounds' updates; each round begins with the model that the round before made,
    as this one silo's federation would have it."""
    how, ref = encoding(encoded_as), daemon.model()
    found = [ref.digest]
    for round_ in (1, 2, 3):
        daemon.give(ref, round_=round_)
        update = daemon.answer(round_=round_).update
        assert update.encoding == encoded_as
        done = fold(
            make("fedavg", {}),
            model=daemon.blobs.path(ref.digest),
            updates=[("st-marys", daemon.blobs.path(update.digest))],
            weights=[1.0],
            store=daemon.blobs,
            encoding=how,
        )
        ref = BlobRef(digest=done.model.digest, size=done.model.size)
        found += [update.digest, ref.digest]
    return found


@pytest.mark.parametrize("encoded_as", ENCODINGS)
def test_a_run_is_to_the_bit_the_simulation_of_it(tmp_path: Path, encoded_as: str) -> None:
    from octopus_desktop.jobs.manifest import JobManifest
    from octopus_desktop.simulation.jobs import Job
    from octopus_desktop.simulation.simulator import simulate

    with parent(tmp_path, encoding=encoded_as) as daemon:
        digests = three_rounds(daemon, encoded_as)
        spec, blobs = daemon.spec, daemon.blobs
        private = {path.name for path in (daemon.run_dir / "leaving").iterdir()}
    assert private == {"left-out-3.safetensors"}, "one round's rest is kept, and no update"
    assert len({blobs.path(d).stat().st_size for d in digests[1::2]}) == 1
    job = Job(folder=Path(spec.package), manifest=JobManifest(name="x", version="1", trainer=spec.trainer))
    done = simulate(job, {"st-marys": spec.sources}, config=spec.run_config, work=tmp_path / "simulated")
    assert [row.model.digest for row in done.rounds] == digests[2::2]
    assert not (tmp_path / "simulated" / "leaving-st-marys").exists()


def test_killed_between_training_and_posting_what_was_left_out_is_applied_once(tmp_path: Path) -> None:
    with parent(tmp_path / "calm", encoding="topk") as daemon:
        calm = three_rounds(daemon, "topk")
    with parent(tmp_path / "storm", encoding="topk") as daemon:
        model = BlobRef(digest=calm[2], size=(tmp_path / "calm" / "blobs" / calm[2][:2] / calm[2]).stat().st_size)
        daemon.give(daemon.model())
        assert daemon.answer().update.digest == calm[1]
        daemon.blobs.adopt(tmp_path / "calm" / "blobs" / calm[2][:2] / calm[2])
        daemon.give(model, round_=2)
        with sqlite3.connect(daemon.run_dir / "mailbox.sqlite", isolation_level=None) as hold:
            hold.execute("BEGIN IMMEDIATE")  # the runner can train, encode and store, and cannot post
            while not daemon.blobs.has(calm[3]):
                os.sched_yield()
            assert (daemon.run_dir / "leaving" / "left-out-2.safetensors").exists()
            assert daemon.process
            daemon.process.kill()
            daemon.process.wait(20)
            hold.execute("ROLLBACK")
        daemon.start()
        assert daemon.answer(round_=2).update.digest == calm[3], "encoded again from what round 1 had left out"
        daemon.blobs.adopt(tmp_path / "calm" / "blobs" / calm[4][:2] / calm[4])
        daemon.give(BlobRef(digest=calm[4], size=model.size), round_=3)
        assert daemon.answer(round_=3).update.digest == calm[5]


def test_a_round_that_fails_changes_nothing_of_what_was_left_out(tmp_path: Path) -> None:
    with parent(tmp_path, encoding="int8", mode="nan") as daemon:
        daemon.give(daemon.model())
        assert daemon.answer().error_code == "OCT-MODEL-NAN"
        assert list((daemon.run_dir / "leaving").iterdir()) == []


def test_a_rest_that_somebody_removed_is_told(tmp_path: Path) -> None:
    with parent(tmp_path, encoding="int8") as daemon:
        model = daemon.model()
        daemon.give(model)
        first = daemon.answer().update
        (daemon.run_dir / "leaving" / "left-out-1.safetensors").unlink()
        daemon.give(model, round_=2)
        assert daemon.answer(round_=2).update.size == first.size
        daemon.wait(lambda: any(w["word"] == "log" and "gone from the disk" in w["text"] for w in daemon.words))
        assert any(w["word"] == "log" and "encoded as int8" in w["text"] for w in daemon.words)


def test_what_left_names_the_models_layers_of_an_encoded_update(tmp_path: Path) -> None:
    from octopus_desktop.daemon.mail import layers_of

    desk = files(tmp_path)
    done = leaving.prepare(
        tmp_path / "written", desk.model, RunConfig(encoding="int4"), private=tmp_path, after=tmp_path / "after"
    )
    store = BlobStore(tmp_path / "blobs")
    digest = store.adopt(done.path)
    layers = layers_of(store, BlobRef(digest=digest, size=done.size, encoding="int4"))
    assert [(layer.name, layer.shape, layer.elements) for layer in layers] == [("b", "3", 3), ("w", "40×100", 4000)]
