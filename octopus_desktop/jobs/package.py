"""Job packages: built from a folder, signed by an author, verified, unpacked. Knows no server, no silo and no torch.

A package is a zip of ``job.toml``, ``code/**``, ``MANIFEST.json`` (path -> sha256, size) and, when signed,
``SIGNATURE.json``. The bytes depend on the files' names and contents alone: names sorted, times and modes
fixed, nothing compressed. What a silo approves is the SHA-256 of the whole signed zip. Whatever a package says
of itself (sizes, counts, digests) is only believed once it was counted.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
import re
import unicodedata
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from octopus_desktop.identity.keys import PUBLIC_BYTES, SigningKey
from octopus_desktop.identity.keys import verify as verify_signature
from octopus_desktop.jobs import applications
from octopus_desktop.jobs.manifest import JobManifest
from octopus_desktop.jobs.requirements import IMPLIED
from octopus_desktop.jobs.toml import parse
from octopus_desktop.wire.canonical import canonical_json, digest
from octopus_desktop.wire.errors import UserError

JOB_TOML, MANIFEST, SIGNATURE, CODE = "job.toml", "MANIFEST.json", "SIGNATURE.json", "code/"
SIGNATURE_DOMAIN = "octopus-desktop/job-package/1"
SUFFIX = ".octojob"
_EPOCH = (1980, 1, 1, 0, 0, 0)
_BLOCK = 1 << 18
_LEFT_OUT = {"__pycache__", ".git", ".hg", ".svn", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".ipynb_checkpoints"}
_LEFT_OUT_SUFFIXES = (".pyc", ".pyo", "~", ".swp", ".DS_Store")
_AUTHOR = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._@+-]{0,63}")
_WINDOWS_NAMES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a package may cost. Bytes, except ``files`` and ``ratio`` (unpacked over packed, above ``ratio_from``)."""

    packed: int = 64 << 20
    unpacked: int = 256 << 20
    one_file: int = 128 << 20
    files: int = 2000
    ratio: int = 200
    ratio_from: int = 4 << 20


LIMITS = Limits()


@dataclass(frozen=True, slots=True, kw_only=True)
class FileInfo:
    """One file of a package as it was counted: bytes and hex SHA-256."""

    path: str
    size: int
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedPackage:
    """What a package is, after every byte was checked. ``digest``: SHA-256 of the zip. ``author`` and ``author_key``
    (raw Ed25519) are empty when it is not signed. ``toml``: the text of job.toml. Whether the key is an author's whom
    the federation knows is for the caller to say."""

    manifest: JobManifest
    toml: str
    author: str
    author_key: bytes
    signed: bool
    files: tuple[FileInfo, ...]
    digest: str
    size: int


def build(folder: Path, out: Path, *, limits: Limits = LIMITS) -> str:
    """Pack a job's folder into ``out``, unsigned; returns the zip's digest. The same files give the same bytes.

    Takes ``job.toml`` and everything below ``code/`` but caches and hidden files; nothing else of the folder.

    Raises:
        UserError: OCT-JOB-TOML, OCT-JOB-TRAINER (its file is not there), OCT-JOB-PATH, OCT-JOB-TOO-LARGE.
    """
    contents = read_folder(folder, limits=limits)
    _check_job(contents)
    _write(out, contents, None)
    return digest(out.read_bytes())


def read_folder(folder: Path, *, limits: Limits = LIMITS) -> dict[str, bytes]:
    """The files of a job's folder that a package holds: path -> content."""
    toml = folder / JOB_TOML
    if not toml.is_file():
        raise UserError(
            "OCT-JOB-TOML",
            f"{folder} is not a job's folder",
            f"there is no {JOB_TOML} in it",
            "Make a job with 'octopus jobs new DIR', or give the folder that holds job.toml",
        )
    contents = {JOB_TOML: _read_file(toml, limits)}
    total = len(contents[JOB_TOML])
    for path in _walk(folder / "code"):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            raise _path_error(name, "it is a symbolic link", "Put the file itself in its place")
        _check_path(name)
        contents[name] = _read_file(path, limits)
        total += len(contents[name])
        if len(contents) > limits.files or total > limits.unpacked:
            raise _too_large(f"over {limits.files} files or {limits.unpacked >> 20} MiB")
    _check_collisions(list(contents))
    return contents


def sign(package: Path, key: SigningKey, author: str) -> str:
    """Sign a package in place (also one that bears a signature already); returns the digest of the signed zip.

    Raises OCT-CONFIG-INVALID for an impossible author's name, and whatever ``verify`` raises.
    """
    if not _AUTHOR.fullmatch(author):
        raise UserError(
            "OCT-CONFIG-INVALID",
            f"The author's name {author!r} is not allowed",
            "it has 1 to 64 letters, digits, spaces and . _ @ + -",
            "Choose another name",
        )
    verify(package, signature_must_fit=False)
    contents = {name: data for name, data in _read_all(package, LIMITS).items() if name not in (MANIFEST, SIGNATURE)}
    signature = {
        "domain": SIGNATURE_DOMAIN,
        "author": author,
        "key": base64.b64encode(key.public).decode(),
        "signature": base64.b64encode(key.sign(_signed_bytes(_manifest(contents), author, key.public))).decode(),
    }
    _write(package, contents, signature)
    return digest(package.read_bytes())


def verify(path: Path, *, limits: Limits = LIMITS, signature_must_fit: bool = True) -> VerifiedPackage:
    """Count and check everything in a package; nothing is written.

    Raises:
        UserError: OCT-JOB-ZIP (not a zip, encrypted, duplicate names), OCT-JOB-TOO-LARGE (also zip bombs), OCT-JOB-PATH
            (a name that would leave the folder, a link, names that collide), OCT-JOB-TAMPERED (content, manifest and
            signature do not fit one another), OCT-JOB-TOML, OCT-JOB-TRAINER.
    """
    contents = _read_all(path, limits)
    stated = contents.pop(MANIFEST, None)
    raw_signature = contents.pop(SIGNATURE, None)
    manifest_bytes = _manifest(contents)
    _compare_manifest(stated, manifest_bytes)
    author, key = "", b""
    if raw_signature is not None and signature_must_fit:
        author, key = _check_signature(raw_signature, manifest_bytes)
    toml, manifest = _check_job(contents)
    return VerifiedPackage(
        manifest=manifest,
        toml=toml,
        author=author,
        author_key=key,
        signed=bool(key),
        files=tuple(
            FileInfo(path=name, size=len(data), digest=digest(data)) for name, data in sorted(contents.items())
        ),
        digest=_file_digest(path),
        size=path.stat().st_size,
    )


def require_signature(package: VerifiedPackage) -> VerifiedPackage:
    """Raises OCT-JOB-UNSIGNED when the package bears no signature."""
    if not package.signed:
        raise UserError(
            "OCT-JOB-UNSIGNED",
            f"The package of {package.manifest.name} bears no signature",
            "only signed jobs are taken: the signature says who answers for the code",
            "Sign it with 'octopus jobs sign PACKAGE' and submit it again",
        )
    return package


def read_files(path: Path, *, limits: Limits = LIMITS) -> dict[str, bytes]:
    """The checked contents (job.toml and code/**) by path, for review. Raises like ``verify``."""
    contents = _read_all(path, limits)
    stated = contents.pop(MANIFEST, None)
    contents.pop(SIGNATURE, None)
    _compare_manifest(stated, _manifest(contents))
    return contents


def unpack(path: Path, folder: Path, *, limits: Limits = LIMITS) -> None:
    """Write the package's checked contents below ``folder``, which must be empty or absent. Files are 0600.

    Everything is checked before the first byte is written. Raises like ``verify``.
    """
    contents = read_files(path, limits=limits)
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty")
    for name, data in contents.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(data)


# --- writing -------------------------------------------------------------------------------------------------------


def _manifest(contents: dict[str, bytes]) -> bytes:
    return canonical_json(
        {"files": {name: {"sha256": digest(data), "size": len(data)} for name, data in contents.items()}}
    )


def _signed_bytes(manifest: bytes, author: str, key: bytes) -> bytes:
    """What the author's signature is over: domain, digest of the manifest, name and key."""
    return canonical_json(
        {"domain": SIGNATURE_DOMAIN, "manifest": digest(manifest), "author": author, "key": key.hex()}
    )


def _write(out: Path, contents: dict[str, bytes], signature: dict[str, Any] | None) -> None:
    whole = {**contents, MANIFEST: _manifest(contents)}
    if signature is not None:
        whole[SIGNATURE] = canonical_json(signature)
    temporary = out.with_name(out.name + ".new")
    with zipfile.ZipFile(temporary, "w") as archive:
        for name in sorted(whole):
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.create_system = 3
            entry.external_attr = 0o100644 << 16
            # Stored: deflate's bytes differ between zlib and zlib-ng, and the digest must not.
            archive.writestr(entry, whole[name], zipfile.ZIP_STORED)
    os.replace(temporary, out)


def _walk(top: Path) -> Iterator[Path]:
    for path in sorted(top.iterdir()) if top.is_dir() else []:
        if path.name in _LEFT_OUT or path.name.startswith(".") or path.name.endswith(_LEFT_OUT_SUFFIXES):
            continue
        if path.is_dir() and not path.is_symlink():
            yield from _walk(path)
        else:
            yield path


def _read_file(path: Path, limits: Limits) -> bytes:
    if not path.is_file():
        raise _path_error(path.name, "it is not an ordinary file", "Remove it from the job's folder")
    if path.stat().st_size > limits.one_file:
        raise _too_large(f"{path.name} alone is over {limits.one_file >> 20} MiB")
    return path.read_bytes()


# --- reading -------------------------------------------------------------------------------------------------------


def _read_all(path: Path, limits: Limits) -> dict[str, bytes]:
    """Every entry by name, counted while it streams; names checked. Headers are never believed."""
    try:
        size = path.stat().st_size
        if size > limits.packed:
            raise _too_large(f"its file has {size >> 20} MiB, and {limits.packed >> 20} MiB are allowed")
        with _zip_errors(path), zipfile.ZipFile(path) as archive:
            return _read_entries(archive, size, limits)
    except FileNotFoundError:
        raise UserError("OCT-JOB-ZIP", f"There is no file {path}", "", "Give the path of a .octojob file") from None


def _read_entries(archive: zipfile.ZipFile, size: int, limits: Limits) -> dict[str, bytes]:
    entries = archive.infolist()
    if len(entries) > limits.files + 3:
        raise _too_large(f"it has {len(entries)} files, and {limits.files} are allowed")
    contents: dict[str, bytes] = {}
    total = 0
    for entry in entries:
        name = entry.filename
        # ZipInfo cuts names at a NUL and turns the platform's separators: the raw name is what counts
        _check_entry(entry, entry.orig_filename)
        if name in contents:
            raise _zip_error(f"it holds {name!r} twice")
        room = min(limits.one_file, limits.unpacked - total)
        data = _stream(archive, entry, room, size, total, limits)
        total += len(data)
        contents[name] = data
    _check_collisions(list(contents))
    strangers = [name for name in contents if not (name in (JOB_TOML, MANIFEST, SIGNATURE) or name.startswith(CODE))]
    if strangers:
        raise _tampered(f"{strangers[0]!r} does not belong into a package")
    return contents


def _stream(
    archive: zipfile.ZipFile, entry: zipfile.ZipInfo, room: int, packed: int, before: int, limits: Limits
) -> bytes:
    parts: list[bytes] = []
    count = 0
    with archive.open(entry) as file:
        while block := file.read(_BLOCK):
            count += len(block)
            if count > room:
                raise _too_large(f"unpacked it goes over {limits.unpacked >> 20} MiB, or one file over its limit")
            whole = before + count
            if whole > limits.ratio_from and whole > packed * limits.ratio:
                raise _too_large(f"it unpacks to more than {limits.ratio} times its size, as a zip bomb does")
            parts.append(block)
    return b"".join(parts)


def _check_entry(entry: zipfile.ZipInfo, name: str) -> None:
    if entry.flag_bits & 0x1:
        raise _zip_error(f"{name!r} is encrypted, so that nobody could review it")
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise _zip_error(f"{name!r} is compressed in a way that packages do not use")
    kind = (entry.external_attr >> 16) & 0o170000
    if kind == 0o120000:
        raise _path_error(name, "it is a symbolic link")
    if kind not in (0, 0o100000) or name.endswith("/"):
        raise _path_error(name, "it is not an ordinary file")
    _check_path(name)


def _check_path(name: str) -> None:
    """A relative path with forward slashes that means the same on every system."""
    parts = name.split("/")
    if name.startswith("/") or re.match(r"[A-Za-z]:", name):
        raise _path_error(name, "it is absolute")
    if ".." in parts:
        raise _path_error(name, "it climbs out of the folder")
    if "\\" in name or ":" in name or any(unicodedata.category(c)[0] == "C" for c in name):
        raise _path_error(name, "it has a character that is not allowed")
    if any(part in ("", ".") or part != part.strip() or part.endswith(".") for part in parts):
        raise _path_error(name, "one of its parts is empty, or begins or ends with a space or a dot")
    if any(_WINDOWS_NAMES.fullmatch(part) for part in parts):
        raise _path_error(name, "Windows keeps this name for a device")
    if len(name.encode()) > 240 or len(parts) > 16:
        raise _path_error(name, "it is too long or too deep")


def _check_collisions(names: list[str]) -> None:
    """Names that some file system takes for one another, or a file that is also a folder."""
    seen: dict[str, str] = {}
    for name in names:
        folded = unicodedata.normalize("NFC", name).casefold()
        if folded in seen:
            raise _path_error(name, f"it differs from {seen[folded]!r} in case or accents only", "Rename one of them")
        seen[folded] = name
    for folded, name in seen.items():
        parents = folded.split("/")[:-1]
        if any("/".join(parents[: i + 1]) in seen for i in range(len(parents))):
            raise _path_error(name, "a part of it is a file and a folder at once", "Rename one of them")


def _compare_manifest(stated: bytes | None, counted: bytes) -> None:
    if stated is None:
        raise _tampered(f"{MANIFEST} is missing")
    if stated == counted:
        return
    try:
        said, found = json.loads(stated)["files"], json.loads(counted)["files"]
        for name in sorted(set(said) | set(found)):
            if name not in said:
                raise _tampered(f"{name!r} is not in {MANIFEST}")
            if name not in found:
                raise _tampered(f"{name!r} is in {MANIFEST} and not in the package")
            if said[name] != found[name]:
                raise _tampered(f"{name!r} was changed after the package was built")
    except (ValueError, KeyError, TypeError, RecursionError):
        raise _tampered(f"{MANIFEST} is damaged") from None
    raise _tampered(f"{MANIFEST} is not in its one canonical form")


def _check_signature(raw: bytes, manifest: bytes) -> tuple[str, bytes]:
    try:
        value = json.loads(raw)
        author, key = value["author"], base64.b64decode(value["key"], validate=True)
        signature = base64.b64decode(value["signature"], validate=True)
        good = isinstance(author, str) and _AUTHOR.fullmatch(author) and len(key) == PUBLIC_BYTES
        if not good or value["domain"] != SIGNATURE_DOMAIN or canonical_json(value) != raw:
            raise ValueError("a field is off")
    except (ValueError, KeyError, TypeError, RecursionError, binascii.Error):
        raise _tampered(f"{SIGNATURE} is damaged") from None
    if not verify_signature(key, _signed_bytes(manifest, author, key), signature):
        raise _tampered(f"the signature of {author!r} does not fit the content")
    return author, key


def _check_job(contents: dict[str, bytes]) -> tuple[str, JobManifest]:
    """job.toml's text and its typed form; the trainer's file must be there."""
    raw = contents.get(JOB_TOML)
    if raw is None:
        raise _tampered(f"{JOB_TOML} is missing")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise UserError(
            "OCT-JOB-TOML", f"{JOB_TOML}, line {line}: it is not UTF-8 text", "", "Save the file as UTF-8"
        ) from None
    manifest = parse(text)
    module, _, name = manifest.trainer.partition(":")
    base = CODE + module.replace(".", "/")
    if module in IMPLIED and base + ".py" not in contents:
        applications.check(contents, module, name)
    elif not (base + ".py" in contents or base + "/__init__.py" in contents):
        raise UserError(
            "OCT-JOB-TRAINER",
            f"The trainer {manifest.trainer!r} is not in the package",
            f"there is neither {base}.py nor {base}/__init__.py",
            "Correct 'trainer' in job.toml, or put the file below code/",
        )
    return text, manifest


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _zip_errors(path: Path) -> Iterator[None]:
    """What zipfile raises at foreign bytes, as one error."""
    try:
        yield
    except UserError:
        raise
    except (zipfile.BadZipFile, zipfile.LargeZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise _zip_error(str(error) or type(error).__name__) from error
    except (ValueError, OverflowError, OSError, MemoryError, UnicodeError) as error:
        if isinstance(error, OSError) and not path.is_file():
            raise
        raise _zip_error(str(error) or type(error).__name__) from error
    except Exception as error:
        if type(error).__module__ == "zlib" or type(error).__name__ == "error":
            raise _zip_error(str(error)) from error
        raise


def _zip_error(why: str) -> UserError:
    return UserError("OCT-JOB-ZIP", "The package is not a usable zip archive", why, "Build and sign it again")


def _path_error(name: str, why: str, next_step: str = "Do not trust this package; ask its author") -> UserError:
    return UserError("OCT-JOB-PATH", f"The path {name!r} is not allowed in a package", why, next_step)


def _too_large(why: str) -> UserError:
    return UserError(
        "OCT-JOB-TOO-LARGE",
        "The package is too large",
        why,
        "Leave data and model files out of code/; jobs read datasets",
    )


def _tampered(why: str) -> UserError:
    return UserError(
        "OCT-JOB-TAMPERED",
        "The package is not what its author signed",
        why,
        "Do not use it; get it again from its author, or build and sign it anew",
    )
