"""What an object store's answers mean to a person. Knows status codes, S3's error codes and no client library."""

from __future__ import annotations

from octopus_desktop.wire.errors import UserError

_EXPIRED = ("ExpiredToken", "RequestExpired", "ExpiredPresignRequest", "ExpiredPresignedRequest")
_SKEWED = ("RequestTimeTooSkewed", "RequestNotReadyYet", "RequestInTheFuture")
_FULL = (
    "InsufficientStorage",
    "InsufficientCapacity",
    "QuotaExceeded",
    "QuotaExceededException",
    "XMinioStorageFull",
    "XMinioAdminBucketQuotaExceeded",
)
_GONE = ("NoSuchKey", "NoSuchUpload", "NoSuchVersion", "InvalidPart", "InvalidRange", "InvalidObjectState")


def store_fault(status: int, code: str, message: str, where: str, bucket: str, *, writing: bool = False) -> UserError:
    """The error for one answer of the store that was no success.

    Args:
        status: HTTP status.
        code, message: out of the answer's XML, where it had some.
        where: the endpoint.
        writing: something was to be stored. SeaweedFS, for one, says no more than "internal error" when it is full.
    """
    said = f"{where} answered {status} {code} {message}".strip()[:300]
    low = message.lower()
    if code in _EXPIRED or (status in (400, 403) and "expired" in low):
        return store_expired(said)
    if code in _SKEWED or "not yet valid" in low:
        return UserError(
            "OCT-CLOCK-OFF",
            "The object store refuses the request's time.",
            said,
            "Set this machine's clock (and the server's, which signs the URLs) by NTP.",
        )
    if code == "NoSuchBucket":
        return UserError(
            "OCT-STORE-BUCKET",
            f"The bucket {bucket!r} does not exist.",
            said,
            "Make it at the store, or correct the bucket's name in the carrier's settings; the work then goes on.",
        )
    if status == 507 or code in _FULL or "quota" in low or "no space" in low:
        return UserError(
            "OCT-STORE-FULL",
            f"The object store has no room left in the bucket {bucket!r}.",
            said,
            "Free room or raise its quota; the work goes on by itself where it stopped.",
        )
    if status in (404, 416) or code in _GONE:
        return store_object("It is not in the store (any more).", said)
    if status in (401, 403) or code in ("InvalidAccessKeyId", "SignatureDoesNotMatch", "AccessDenied"):
        return UserError(
            "OCT-STORE-DENIED",
            "The object store refused the credentials or the signed URL.",
            said,
            "Check the key, its secret and its policy (resources/brokers/s3 has an example), and that no proxy changes "
            "requests.",
        )
    if writing and (status == 500 or code == "InternalError"):
        return UserError(
            "OCT-STORE-FULL",
            f"The object store takes nothing for the bucket {bucket!r}.",
            f"{said}. Stores say so when they have no room left, or have a fault of their own.",
            "See whether it is full, and its log; the work goes on by itself where it stopped.",
        )
    return store_down(where, said)


def store_down(where: str, why: str) -> UserError:
    tls = "certificate" in why.lower() or "ssl" in why.lower()
    return UserError(
        "OCT-STORE-DOWN",
        f"The object store at {where} cannot be reached.",
        why[:300],
        "Give the CA of the store's certificate (store_ca_pem, or the silo's own CA file)."
        if tls
        else "Nothing is lost, it is tried again by itself. If it lasts, check the store, the network and the proxy.",
    )


def store_expired(why: str) -> UserError:
    return UserError(
        "OCT-STORE-EXPIRED",
        "A signed URL of the object store was past its time.",
        why,
        "A fresh one is asked for by itself. If this repeats, check the clocks of the server and the store.",
    )


def store_object(what: str, why: str) -> UserError:
    return UserError(
        "OCT-STORE-OBJECT",
        f"An object in the bucket is not what was agreed. {what}",
        why,
        "It is sent anew by itself; if this repeats, see who else changes objects below the federation's prefix.",
    )
