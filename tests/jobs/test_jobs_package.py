"""Packages: the same bytes from the same files, and no way in for anything else."""

from __future__ import annotations

import io
import os
import stat
import time
import tracemalloc
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from octopus_desktop.identity.keys import SigningKey
from octopus_desktop.jobs import package
from octopus_desktop.wire.canonical import canonical_json, digest
from octopus_desktop.wire.errors import UserError

KEY = SigningKey.from_seed(b"a" * 32)
TOML = b'[job]\nname = "heart"\nversion = "1"\ntrainer = "trainer:T"\n'
TRAINER = b"class T(ClientTrainer): ...\n"


def make_job(folder: Path, files: dict[str, bytes] | None = None) -> Path:
    for name, data in {"job.toml": TOML, "code/trainer.py": TRAINER, **(files or {})}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def signed(folder: Path) -> Path:
    out = folder.parent / f"{folder.name}.octojob"
    package.build(make_job(folder), out)
    package.sign(out, KEY, "Dr. Lin")
    return out


def make_zip(
    path: Path, entries: list[tuple[str, bytes]], change: Callable[[zipfile.ZipInfo], None] | None = None
) -> Path:
    """A package made by somebody who does not use our tools; its manifest fits its content."""
    contents = {"job.toml": TOML, "code/trainer.py": TRAINER, **dict(entries)}
    manifest = {"files": {name: {"sha256": digest(data), "size": len(data)} for name, data in contents.items()}}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in [("job.toml", TOML), ("code/trainer.py", TRAINER), *entries]:
            info = zipfile.ZipInfo("placeholder")
            info.filename = name  # not cleaned by the constructor
            info.compress_type = zipfile.ZIP_DEFLATED
            if change and (name, data) in entries:
                change(info)
            archive.writestr(info, data)
        archive.writestr("MANIFEST.json", canonical_json(manifest))
    return path


def refused(path: Path, limits: package.Limits = package.LIMITS) -> UserError:
    """Both verify and unpack refuse, nothing is written, and the error says what to do."""
    target = path.parent / "unpacked"
    codes = []
    for act in (lambda: package.verify(path, limits=limits), lambda: package.unpack(path, target, limits=limits)):
        with pytest.raises(UserError) as told:
            act()
        assert told.value.what and told.value.next_step
        codes.append(told.value.code)
    assert codes[0] == codes[1]
    assert not target.exists() or not list(target.iterdir())
    return told.value


# what is good


def test_a_package_goes_round(tmp_path: Path) -> None:
    make_job(tmp_path / "job", {"code/deep/data.json": b"{}", "README.md": b"not packed"})
    out = tmp_path / "a.octojob"
    assert package.build(tmp_path / "job", out) == digest(out.read_bytes())
    assert not package.verify(out).signed
    whole = package.sign(out, KEY, "Dr. Lin")
    verified = package.verify(out)
    assert (verified.signed, verified.author, verified.author_key) == (True, "Dr. Lin", KEY.public)
    assert (verified.digest, verified.size) == (whole, out.stat().st_size)
    assert [f.path for f in verified.files] == ["code/deep/data.json", "code/trainer.py", "job.toml"]
    assert verified.manifest.name == "heart" and verified.toml.encode() == TOML
    package.unpack(out, tmp_path / "out")
    assert (tmp_path / "out/code/deep/data.json").read_bytes() == b"{}"
    assert (tmp_path / "out/job.toml").read_bytes() == TOML
    assert stat.S_IMODE((tmp_path / "out/code/trainer.py").stat().st_mode) == 0o600
    with pytest.raises(FileExistsError):
        package.unpack(out, tmp_path / "out")


def test_signing_again_replaces_the_signature_and_keeps_the_content(tmp_path: Path) -> None:
    out = signed(tmp_path / "job")
    first = out.read_bytes()
    package.sign(out, SigningKey.generate(), "Someone Else")
    assert package.verify(out).author == "Someone Else"
    package.sign(out, KEY, "Dr. Lin")
    assert out.read_bytes() == first


def test_caches_and_hidden_files_stay_out(tmp_path: Path) -> None:
    rubbish = ("code/__pycache__/trainer.pyc", "code/.git/config", "code/.DS_Store", "code/x.pyc", "code/trainer.py~")
    make_job(tmp_path / "job", {name: b"x" for name in rubbish})
    package.build(tmp_path / "job", tmp_path / "a")
    package.build(make_job(tmp_path / "plain"), tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


_PARTS = st.text(alphabet="abcdefgXYZ019_-é", min_size=1, max_size=6).map(lambda s: f"n{s}")
_NAMES = st.lists(_PARTS, min_size=1, max_size=3).map("/".join)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(_NAMES, st.binary(max_size=60), max_size=5), st.randoms(use_true_random=False))
def test_the_same_files_give_the_same_package_and_come_back(
    tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes], random: object
) -> None:
    tmp = tmp_path_factory.mktemp("round")
    names = [f"code/d{i}/{name}.txt" for i, name in enumerate(files)]
    contents = dict(zip(names, files.values(), strict=True))
    order = list(contents)
    random.shuffle(order)  # type: ignore[attr-defined]
    make_job(tmp / "a", contents)
    make_job(tmp / "b", {name: contents[name] for name in order})
    for path in (tmp / "b").rglob("*"):
        os.utime(path, (time.time() - 10_000, 12345))
        if path.is_file():
            path.chmod(0o755)
    assert package.build(tmp / "a", tmp / "a.octojob") == package.build(tmp / "b", tmp / "b.octojob")
    assert package.sign(tmp / "a.octojob", KEY, "x") == package.sign(tmp / "b.octojob", KEY, "x")
    package.unpack(tmp / "a.octojob", tmp / "out")
    assert {n: (tmp / "out" / n).read_bytes() for n in contents} == contents
    assert package.read_files(tmp / "a.octojob") == {"job.toml": TOML, "code/trainer.py": TRAINER, **contents}


# what is not


def test_an_unsigned_package_is_told(tmp_path: Path) -> None:
    package.build(make_job(tmp_path / "job"), tmp_path / "a")
    with pytest.raises(UserError) as told:
        package.require_signature(package.verify(tmp_path / "a"))
    assert told.value.code == "OCT-JOB-UNSIGNED"
    assert package.require_signature(package.verify(signed(tmp_path / "job"))).signed


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_changed_byte_passes_for_what_was_signed(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    tmp = tmp_path_factory.mktemp("flip")
    out = signed(tmp / "job")
    good = package.verify(out)
    raw = bytearray(out.read_bytes())
    place = data.draw(st.integers(0, len(raw) - 1))
    raw[place] ^= data.draw(st.integers(1, 255))
    out.write_bytes(raw)
    try:
        seen = package.verify(out)
    except UserError as error:
        assert error.code.startswith("OCT-JOB-")
    else:  # a byte without meaning, such as a time stamp: same content, same author, another digest
        assert (seen.files, seen.author_key) == (good.files, good.author_key) and seen.digest != good.digest


def _rewrite(path: Path, change: Callable[[dict[str, bytes]], None]) -> None:
    with zipfile.ZipFile(path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    change(contents)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in contents.items():
            archive.writestr(name, data)


TAMPERINGS: dict[str, Callable[[dict[str, bytes]], object]] = {
    "changed code": lambda c: c.update({"code/trainer.py": TRAINER + b"evil()\n"}),
    "added file": lambda c: c.update({"code/evil.py": b""}),
    "removed file": lambda c: c.pop("code/trainer.py"),
    "no manifest": lambda c: c.pop("MANIFEST.json"),
    "damaged manifest": lambda c: c.update({"MANIFEST.json": b"{"}),
    "manifest of another form": lambda c: c.update({"MANIFEST.json": c["MANIFEST.json"] + b" "}),
    "manifest is a list": lambda c: c.update({"MANIFEST.json": b"[]"}),
    "damaged signature": lambda c: c.update({"SIGNATURE.json": b"[" * 5000}),
    "another author": lambda c: c.update({"SIGNATURE.json": c["SIGNATURE.json"].replace(b"Dr. Lin", b"Dr. Lim")}),
    "a foreign file": lambda c: c.update({"setup.py": b""}),
    "no job.toml": lambda c: c.pop("job.toml"),
}


@pytest.mark.parametrize("what", TAMPERINGS)
def test_a_tampered_package_is_refused(tmp_path: Path, what: str) -> None:
    out = signed(tmp_path / "job")
    _rewrite(out, TAMPERINGS[what])
    with pytest.raises(UserError) as told:
        package.verify(out)
    assert told.value.code == "OCT-JOB-TAMPERED" and told.value.why


def test_a_signature_does_not_fit_another_package(tmp_path: Path) -> None:
    one = signed(tmp_path / "job")
    with zipfile.ZipFile(one) as archive:
        stolen = archive.read("SIGNATURE.json")
    make_job(tmp_path / "evil", {"code/trainer.py": TRAINER + b"evil()\n"})
    package.build(tmp_path / "evil", tmp_path / "evil.octojob")
    _rewrite(tmp_path / "evil.octojob", lambda c: c.update({"SIGNATURE.json": stolen}))
    with pytest.raises(UserError, match="not what its author signed"):
        package.verify(tmp_path / "evil.octojob")


PATHS = [
    "code/../../evil.py", "../evil.py", "/etc/evil.py", "code//evil.py", "code/./evil.py", "C:/evil.py", "code\\e.py",
    "code/..\\evil.py", "code/a\nb.py", "code/nul", "code/COM1.txt", "code/x. ", "code/trailing.", "code/a:b",
    "code/\u202egnp.py", "code/" + "d/" * 20 + "x", "code/" + "x" * 300, "code/dir/",
]  # fmt: skip


@pytest.mark.parametrize("name", PATHS)
def test_a_path_that_would_leave_the_folder_or_mislead_is_refused(tmp_path: Path, name: str) -> None:
    assert refused(make_zip(tmp_path / "a.zip", [(name, b"x")])).code == "OCT-JOB-PATH"


def test_a_name_with_a_nul_is_refused(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip", [("code/aXb.py", b"x")])
    path.write_bytes(path.read_bytes().replace(b"code/aXb.py", b"code/a\0b.py"))
    assert refused(path).code in ("OCT-JOB-PATH", "OCT-JOB-ZIP")


@pytest.mark.parametrize("mode", [0o120777, 0o020666, 0o010644, 0o040755])
def test_links_devices_and_folders_are_refused(tmp_path: Path, mode: int) -> None:
    def change(info: zipfile.ZipInfo) -> None:
        info.external_attr = mode << 16

    assert refused(make_zip(tmp_path / "a.zip", [("code/link", b"/etc/passwd")], change)).code == "OCT-JOB-PATH"


@pytest.mark.parametrize("other", ["code/Trainer.py", "code/TRAINER.PY", "code/trainer.py/x"])
def test_names_that_some_system_takes_for_one_another_are_refused(tmp_path: Path, other: str) -> None:
    assert refused(make_zip(tmp_path / "a.zip", [(other, b"x")])).code == "OCT-JOB-PATH"


def test_accents_in_two_spellings_are_one_name(tmp_path: Path) -> None:
    entries = [("code/\u00e9.py", b"1"), ("code/e\u0301.py", b"2")]
    assert refused(make_zip(tmp_path / "a.zip", entries)).code == "OCT-JOB-PATH"


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    told = refused(make_zip(tmp_path / "a.zip", [("code/trainer.py", b"evil")]))
    assert told.code == "OCT-JOB-ZIP" and "twice" in told.why


def test_an_encrypted_entry_is_refused(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip", [("code/secret.py", b"x")])
    raw = bytearray(path.read_bytes())
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):  # the flags of local and central headers
        at = raw.find(b"code/secret.py")
        while at >= 0:
            start = raw.rfind(mark, 0, at)
            if start >= 0 and at - start in (30, 46):
                raw[start + offset] |= 1
            at = raw.find(b"code/secret.py", at + 1)
    path.write_bytes(raw)
    told = refused(path)
    assert told.code == "OCT-JOB-ZIP" and "encrypted" in told.why


def test_a_zip_bomb_is_stopped_while_it_streams(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip", [(f"code/b{i}.txt", bytes(20 << 20)) for i in range(8)])
    assert path.stat().st_size < 400_000
    tracemalloc.start()
    told = refused(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert told.code == "OCT-JOB-TOO-LARGE" and "zip bomb" in told.why
    assert peak < 100 << 20


def test_a_size_that_the_header_understates_does_not_help(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip", [("code/big.txt", os.urandom(300_000))])
    raw = path.read_bytes().replace((300_000).to_bytes(4, "little"), (10).to_bytes(4, "little"))
    path.write_bytes(raw)
    assert refused(path, replace(package.LIMITS, one_file=100_000)).code in ("OCT-JOB-TOO-LARGE", "OCT-JOB-ZIP")


@pytest.mark.parametrize(
    "limits",
    [{"packed": 1000}, {"unpacked": 100_000}, {"one_file": 100_000}, {"files": 3}],
)
def test_each_limit_holds(tmp_path: Path, limits: dict[str, int]) -> None:
    entries = [(f"code/{i}.bin", os.urandom(60_000)) for i in range(2)] + [("code/c.bin", os.urandom(150_000))]
    path = make_zip(tmp_path / "a.zip", entries + [(f"code/x{i}", b"") for i in range(5)])
    assert refused(path, replace(package.LIMITS, **limits)).code == "OCT-JOB-TOO-LARGE"


@pytest.mark.parametrize("raw", [b"", b"PK", b"not a zip" * 100, b"PK\5\6" + bytes(18), b"PK\3\4" + bytes(200)])
def test_what_is_no_zip_is_told(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(raw)
    assert refused(path).code in ("OCT-JOB-ZIP", "OCT-JOB-TAMPERED")


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    assert refused(tmp_path / "nowhere.octojob").code == "OCT-JOB-ZIP"


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_damaged_zip_never_ends_in_anything_but_a_user_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    buffer = io.BytesIO(make_zip(folder / "a.zip", [("code/b.txt", b"hello " * 50)]).read_bytes())
    raw = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(1, 6))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    (folder / "a.zip").write_bytes(raw[: data.draw(st.integers(0, len(raw)))])
    try:
        package.verify(folder / "a.zip")
    except UserError as error:
        assert error.code.startswith("OCT-JOB-")


# folders that cannot become packages


def test_a_folder_without_job_toml_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError) as told:
        package.build(tmp_path, tmp_path / "a")
    assert told.value.code == "OCT-JOB-TOML" and "jobs new" in told.value.next_step


def test_a_link_in_code_is_refused(tmp_path: Path) -> None:
    make_job(tmp_path / "job")
    (tmp_path / "job/code/link").symlink_to("/etc/passwd")
    with pytest.raises(UserError) as told:
        package.build(tmp_path / "job", tmp_path / "a")
    assert told.value.code == "OCT-JOB-PATH"
    (tmp_path / "job/code/link").unlink()
    (tmp_path / "job/code/folder").symlink_to("/etc")
    with pytest.raises(UserError, match="folder"):
        package.build(tmp_path / "job", tmp_path / "a")


def test_a_trainer_that_is_not_in_the_folder_is_told(tmp_path: Path) -> None:
    make_job(tmp_path / "job", {"job.toml": TOML.replace(b"trainer:T", b"deep.other:T")})
    with pytest.raises(UserError) as told:
        package.build(tmp_path / "job", tmp_path / "a")
    assert told.value.code == "OCT-JOB-TRAINER" and "code/deep/other.py" in told.value.why


def test_a_job_toml_that_is_not_text_is_told_with_its_line(tmp_path: Path) -> None:
    make_job(tmp_path / "job", {"job.toml": TOML + b"# \xff\n"})
    with pytest.raises(UserError) as told:
        package.build(tmp_path / "job", tmp_path / "a")
    assert told.value.code == "OCT-JOB-TOML" and "line 5" in told.value.what


def test_too_large_a_folder_is_told(tmp_path: Path) -> None:
    make_job(tmp_path / "job", {"code/model.bin": bytes(2000)})
    for limits in ({"one_file": 1000}, {"unpacked": 1500}, {"files": 2}):
        with pytest.raises(UserError) as told:
            package.build(tmp_path / "job", tmp_path / "a", limits=replace(package.LIMITS, **limits))
        assert told.value.code == "OCT-JOB-TOO-LARGE"


@pytest.mark.parametrize("author", ["", " x", "a\nb", "x" * 65, "<b>"])
def test_an_impossible_author_is_refused(tmp_path: Path, author: str) -> None:
    package.build(make_job(tmp_path / "job"), tmp_path / "a")
    with pytest.raises(UserError) as told:
        package.sign(tmp_path / "a", KEY, author)
    assert told.value.code == "OCT-CONFIG-INVALID"
