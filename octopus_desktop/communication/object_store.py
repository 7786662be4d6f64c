"""An S3-compatible store as this project uses it: a client with credentials, signed URLs, and one for those who have
none. Everything blocks and belongs into threads (``store_threads``). Knows nothing of blobs, sealing or sessions.

Uploads and downloads go by signed URLs on both sides: so whoever holds credentials and who does not move bytes by the
same code, and nothing is hashed twice for a signature, since the bytes are sealed.
"""

from __future__ import annotations

import ssl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from octopus_desktop.communication.store_faults import store_down, store_fault
from octopus_desktop.wire.errors import UserError

CONNECT_S, READ_S = 10.0, 60.0
_CODES = {"404": "NoSuchKey", "403": "AccessDenied"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Where a bucket is and who asks. ``ca_pem``, ``ca_file``: further CAs beside the system's; ``proxy``:
    ``http://host:port`` or ""."""

    endpoint: str
    bucket: str
    region: str = "us-east-1"
    key_id: str = ""
    secret: str = field(default="", repr=False)
    ca_pem: str = ""
    ca_file: str = ""
    proxy: str = field(default="", repr=False)


def tls_context(access: Access) -> ssl.SSLContext:
    """The system's CAs and those that ``access`` adds. Raises OCT-CONFIG-INVALID for a CA that cannot be read."""
    context = ssl.create_default_context()
    try:
        if access.ca_pem:
            context.load_verify_locations(cadata=access.ca_pem)
        if access.ca_file:
            context.load_verify_locations(cafile=access.ca_file)
    except (OSError, ssl.SSLError) as error:
        raise UserError(
            "OCT-CONFIG-INVALID",
            "A CA certificate for the object store cannot be read.",
            f"{access.ca_file or 'The offered one'}: {error}",
            "Give a file of PEM certificates.",
        ) from error
    return context


class ObjectStore:
    """One bucket, with credentials. Thread-safe; every method but the signing ones asks the store and blocks.

    Raises in every method:
        UserError: OCT-STORE-DOWN, OCT-STORE-DENIED, OCT-STORE-BUCKET, OCT-STORE-FULL, OCT-STORE-OBJECT, OCT-CLOCK-OFF.
    """

    def __init__(self, access: Access) -> None:
        import boto3  # 0.15 s and 30 MiB: only for who has credentials
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError

        tls_context(access)  # says what is wrong with a CA, which botocore would not
        self._bucket, self._where = access.bucket, access.endpoint
        self._bundle = _bundle(access)
        style = "auto" if (urlsplit(access.endpoint).hostname or "").endswith("amazonaws.com") else "path"
        system = ssl.get_default_verify_paths().cafile
        try:
            self._client: Any = boto3.session.Session().client(
                "s3",
                endpoint_url=access.endpoint,
                region_name=access.region,
                aws_access_key_id=access.key_id,
                aws_secret_access_key=access.secret,
                verify=str(self._bundle or system or "") or None,
                config=Config(
                    signature_version="s3v4",
                    s3={"addressing_style": style},
                    proxies={"http": access.proxy, "https": access.proxy} if access.proxy else {},  # no environment's
                    request_checksum_calculation="when_required",  # some stores cannot take what boto3 adds by default
                    response_checksum_validation="when_required",
                    retries={"total_max_attempts": 2, "mode": "standard"},
                    connect_timeout=CONNECT_S,
                    read_timeout=READ_S,
                ),
            )
        except (BotoCoreError, ValueError) as error:
            raise UserError(
                "OCT-CONFIG-INVALID",
                f"The object store's settings cannot be used: {access.endpoint}, region {access.region!r}.",
                str(error)[:300],
                "Correct the carrier's settings, or the AWS_… variables of this process's environment.",
            ) from error

    def close(self) -> None:
        self._client.close()
        if self._bundle:
            self._bundle.unlink(missing_ok=True)

    # the bucket

    def check(self) -> None:
        """The bucket is there and these credentials may use it."""
        with self._errors(missing="NoSuchBucket"):
            try:
                self._client.head_bucket(Bucket=self._bucket)
            except self._client.exceptions.ClientError as error:
                if error.response["ResponseMetadata"]["HTTPStatusCode"] != 403:
                    raise
                self._client.list_objects_v2(Bucket=self._bucket, MaxKeys=1)  # a HEAD's answer gives no reason
                raise

    def make_bucket(self) -> None:
        """Make the bucket unless it is there."""
        with self._errors(but=("BucketAlreadyOwnedByYou", "BucketAlreadyExists")):
            self._client.create_bucket(Bucket=self._bucket)

    def rules(self) -> list[dict[str, Any]]:
        """The bucket's lifecycle rules."""
        found: list[dict[str, Any]] = []
        with self._errors(but=("NoSuchLifecycleConfiguration",)):
            found = self._client.get_bucket_lifecycle_configuration(Bucket=self._bucket).get("Rules", [])
        return found

    def set_rules(self, rules: list[dict[str, Any]]) -> None:
        """Replace all of the bucket's lifecycle rules."""
        with self._errors():
            self._client.put_bucket_lifecycle_configuration(
                Bucket=self._bucket, LifecycleConfiguration={"Rules": rules}
            )

    def names(self, prefix: str) -> Iterator[tuple[str, float]]:
        """(object's name, Unix time of its last change) of all below ``prefix``."""
        with self._errors():
            for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=prefix):
                for entry in page.get("Contents", ()):
                    yield entry["Key"], _seconds(entry["LastModified"])

    def uploads(self, prefix: str) -> Iterator[tuple[str, str, float]]:
        """(object's name, upload id, Unix time of its beginning) of all unfinished multipart uploads."""
        with self._errors():
            pages = self._client.get_paginator("list_multipart_uploads").paginate(Bucket=self._bucket, Prefix=prefix)
            for page in pages:
                for entry in page.get("Uploads", ()):
                    yield entry["Key"], entry["UploadId"], _seconds(entry["Initiated"])

    # objects

    def put(self, name: str, data: bytes) -> None:
        """A small object at once."""
        with self._errors(writing=True):
            self._client.put_object(Bucket=self._bucket, Key=name, Body=data)

    def size(self, name: str) -> int | None:
        """Bytes of an object; None when it is not there."""
        size: int | None = None
        with self._errors(but=("404", "NoSuchKey")):
            size = self._client.head_object(Bucket=self._bucket, Key=name)["ContentLength"]
        return size

    def remove(self, name: str) -> None:
        """Remove an object; one that is gone already is no error."""
        with self._errors(but=("NoSuchKey",)):
            self._client.delete_object(Bucket=self._bucket, Key=name)

    def begin(self, name: str) -> str:
        """Begin a multipart upload and return its id."""
        with self._errors(writing=True):
            upload: str = self._client.create_multipart_upload(Bucket=self._bucket, Key=name)["UploadId"]
        return upload

    def parts(self, name: str, upload: str) -> dict[int, tuple[str, int]]:
        """(tag, bytes) of the parts that the store has. Raises OCT-STORE-OBJECT when there is no such upload."""
        found: dict[int, tuple[str, int]] = {}
        with self._errors():
            pages = self._client.get_paginator("list_parts").paginate(Bucket=self._bucket, Key=name, UploadId=upload)
            for page in pages:
                for part in page.get("Parts", ()):
                    found[part["PartNumber"]] = (part["ETag"], part["Size"])
        return found

    def complete(self, name: str, upload: str, tags: dict[int, str]) -> None:
        """Make one object of the parts. Raises OCT-STORE-OBJECT when there is no such upload or part."""
        parts = [{"PartNumber": number, "ETag": tags[number]} for number in sorted(tags)]
        with self._errors(writing=True):
            self._client.complete_multipart_upload(
                Bucket=self._bucket, Key=name, UploadId=upload, MultipartUpload={"Parts": parts}
            )

    def abort(self, name: str, upload: str) -> None:
        """Drop an upload's parts; one that is gone already is no error."""
        with self._errors(but=("NoSuchUpload",)):
            self._client.abort_multipart_upload(Bucket=self._bucket, Key=name, UploadId=upload)

    # signed URLs: for one object, one method, and for uploads one length, which the store enforces

    def sign_get(self, name: str, seconds: int) -> str:
        return self._sign("get_object", seconds, Key=name)

    def sign_put(self, name: str, length: int, seconds: int) -> str:
        return self._sign("put_object", seconds, Key=name, ContentLength=length)

    def sign_part(self, name: str, upload: str, part: int, length: int, seconds: int) -> str:
        return self._sign("upload_part", seconds, Key=name, UploadId=upload, PartNumber=part, ContentLength=length)

    def _sign(self, what: str, seconds: int, **fields: Any) -> str:
        url: str = self._client.generate_presigned_url(
            what, Params={"Bucket": self._bucket, **fields}, ExpiresIn=max(1, seconds)
        )
        return url

    @contextmanager
    def _errors(self, *, but: tuple[str, ...] = (), missing: str = "", writing: bool = False) -> Iterator[None]:
        """The client's errors as UserErrors. ``but``: codes that are fine; ``missing``: what a bare 404 means."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except ClientError as error:
            told = error.response.get("Error", {})
            code = str(told.get("Code", ""))
            if code in but:
                return
            status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
            code = missing if missing and code == "404" else _CODES.get(code, code)
            raise store_fault(
                status, code, str(told.get("Message", "")), self._where, self._bucket, writing=writing
            ) from error
        except BotoCoreError as error:
            raise store_down(self._where, str(error)) from error


def _bundle(access: Access) -> Path | None:
    """A file with all trusted CAs, for botocore takes nothing else; None where the system's alone are trusted."""
    if not (access.ca_pem or access.ca_file):
        return None
    texts = [access.ca_pem]
    for place in (access.ca_file, ssl.get_default_verify_paths().cafile):
        if place and Path(place).is_file():
            texts.append(Path(place).read_text(encoding="utf-8", errors="replace"))
    number, name = tempfile.mkstemp(suffix=".pem", prefix="octopus-ca-")
    with open(number, "w", encoding="utf-8") as file:
        file.write("\n".join(texts))
    return Path(name)


def _seconds(moment: datetime) -> float:
    return moment.timestamp()
