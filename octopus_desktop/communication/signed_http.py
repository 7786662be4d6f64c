"""PUT and GET by signed URLs, for who has no credentials and who has them alike. Blocking, for threads; a transfer can
be stopped from outside. Knows neither sealing nor sessions: it takes and gives byte strings.
"""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from octopus_desktop.communication.object_store import CONNECT_S, READ_S, Access, tls_context
from octopus_desktop.communication.store_faults import store_down, store_fault, store_object

MOST_ERROR_BYTES = 4096
PIECE_BYTES = 64 << 10


class Stopped(Exception):
    """The transfer was stopped from outside."""


class Transfer:
    """One request under way, as the thread that waits for it and the one that works on it share it.

    Attributes:
        sent, received: bytes of the body so far.
    """

    def __init__(self) -> None:
        self.sent = self.received = 0
        self._stopped = threading.Event()
        self._connection: Any = None

    def stop(self) -> None:
        """Make the working thread end soon, also when it waits for the network. Callable from any thread."""
        self._stopped.set()
        sock = getattr(self._connection, "sock", None)
        if sock is not None:
            try:
                socket.socket.shutdown(sock, socket.SHUT_RDWR)
            except OSError:
                pass  # it was closed meanwhile

    def check(self) -> None:
        if self._stopped.is_set():
            raise Stopped

    @property
    def stopped(self) -> bool:
        return self._stopped.is_set()


_here = threading.local()  # the transfer that this thread works on, for the connection that urllib3 picks


class _Seen:
    def request(self, *args: Any, **kwargs: Any) -> None:
        transfer = getattr(_here, "transfer", None)
        if transfer is not None:
            transfer._connection = self
        super().request(*args, **kwargs)  # type: ignore[misc]


class _Connection(_Seen, HTTPConnection):
    pass


class _SecureConnection(_Seen, HTTPSConnection):
    pass


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _SecurePool(HTTPSConnectionPool):
    ConnectionCls = _SecureConnection


class SignedHttp:
    """A pool of connections to one store. Thread-safe.

    Arguments:
        access: for its endpoint, CAs and proxy; no credentials are needed.
        connections: kept open between requests.
    """

    def __init__(self, access: Access, *, connections: int = 16) -> None:
        self._where, self._bucket = access.endpoint, access.bucket
        options: dict[str, Any] = {
            "timeout": urllib3.Timeout(connect=CONNECT_S, read=READ_S),
            "retries": False,
            "maxsize": connections,
            "blocksize": PIECE_BYTES,
        }
        if access.endpoint.startswith("https"):
            options["ssl_context"] = tls_context(access)
        self._pool: urllib3.PoolManager = (
            urllib3.ProxyManager(access.proxy, **options) if access.proxy else urllib3.PoolManager(**options)
        )
        self._pool.pool_classes_by_scheme = {"http": _Pool, "https": _SecurePool}

    def close(self) -> None:
        self._pool.clear()

    def allows(self, url: str) -> bool:
        """Whether a URL that the other side gave leads to this store and nowhere else."""
        ours, given = urlsplit(self._where), urlsplit(url)
        try:
            same = (ours.scheme, ours.port) == (given.scheme, given.port)
        except ValueError:
            return False
        return same and given.username is None and given.hostname in (ours.hostname, f"{self._bucket}.{ours.hostname}")

    def put(self, url: str, length: int, pieces: Iterable[bytes], transfer: Transfer) -> str:
        """Send ``length`` bytes and return the store's tag for them.

        Raises:
            UserError: OCT-STORE-…, as the store answers; or what ``pieces`` raises.
            Stopped: by ``transfer.stop``.
        """
        feed = _Feed(pieces, transfer)
        headers = {"Content-Length": str(length)}
        with self._errors(transfer, feed):
            response = self._pool.request("PUT", url, body=feed, headers=headers, redirect=False)
            if response.status != 200:
                self._fail(response.status, response.data[:MOST_ERROR_BYTES], writing=True)
            return str(response.headers.get("ETag", ""))

    def get(self, url: str, first: int, sizes: Iterable[int], total: int, transfer: Transfer) -> Iterator[bytes]:
        """The object's bytes from ``first`` on, in pieces of ``sizes``.

        Args:
            total: bytes that the object must have.

        Raises:
            UserError: OCT-STORE-…, as the store answers; OCT-STORE-OBJECT when the object has another length.
            Stopped: by ``transfer.stop``.
        """
        wanted = list(sizes)
        end = first + sum(wanted)
        with self._errors(transfer):
            headers = {"Range": f"bytes={first}-{end - 1}", "Accept-Encoding": "identity"}
            response = self._pool.request("GET", url, headers=headers, redirect=False, preload_content=False)
            whole = False
            try:
                if response.status not in (200, 206):
                    self._fail(response.status, response.read(MOST_ERROR_BYTES))
                self._check_range(response, first, end, total)
                for size in wanted:
                    transfer.check()
                    piece = response.read(size, decode_content=False)
                    transfer.received += len(piece)
                    if len(piece) != size:
                        raise store_down(self._where, "The connection ended in the middle of an object.")
                    yield piece
                whole = True
            finally:
                if whole:
                    response.drain_conn()
                    response.release_conn()
                else:
                    response.close()

    def _check_range(self, response: Any, first: int, end: int, total: int) -> None:
        said = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", response.headers.get("Content-Range", "").strip())
        if response.status == 206 and said and [int(x) for x in said.groups()] == [first, end - 1, total]:
            return
        length = response.headers.get("Content-Length", "")
        if response.status == 200 and (first, end) == (0, total) and length == str(total):
            return
        raise store_object(
            "Its length is another one, or the store gives no ranges.",
            f"Asked for bytes {first} to {end - 1} of {total}, got {response.status} "
            f"{response.headers.get('Content-Range', '')!r}.",
        )

    def _fail(self, status: int, body: bytes, *, writing: bool = False) -> None:
        text = body.decode(errors="replace")
        code, message = _between(text, "Code"), _between(text, "Message")
        raise store_fault(status, code, message, self._where, self._bucket, writing=writing)

    @contextmanager
    def _errors(self, transfer: Transfer, feed: _Feed | None = None) -> Iterator[None]:
        _here.transfer = transfer
        try:
            transfer.check()
            yield
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            if transfer.stopped:
                raise Stopped from error
            if feed is not None and feed.fault is not None:
                raise feed.fault from error
            if isinstance(error, ValueError) and not isinstance(error, urllib3.exceptions.HTTPError):
                raise
            raise store_down(self._where, _reason(error)) from error
        finally:
            _here.transfer = transfer._connection = None


class _Feed:
    """A body for urllib3 that counts, can be stopped, and remembers its source's own error apart from the network's."""

    def __init__(self, pieces: Iterable[bytes], transfer: Transfer) -> None:
        self._pieces, self._transfer = pieces, transfer
        self.fault: BaseException | None = None

    def __iter__(self) -> Iterator[bytes]:
        pieces = iter(self._pieces)
        while True:
            self._transfer.check()
            try:
                piece = next(pieces)
            except StopIteration:
                return
            except Exception as error:
                self.fault = error
                raise
            yield piece
            self._transfer.sent += len(piece)


def _between(text: str, tag: str) -> str:
    found = re.search(rf"<{tag}>([^<]*)</{tag}>", text)
    return found.group(1).strip()[:200] if found else ""


def _reason(error: Exception) -> str:
    """What went wrong, without the URL: its signature is a credential."""
    cause: BaseException = error
    while (inner := getattr(cause, "reason", None)) is not None and isinstance(inner, BaseException):
        cause = inner
    text = re.sub(r"\?[^\s)'\"]*", "?…", str(cause))
    return f"{type(cause).__name__}: {text}"[:300]


__all__ = ["SignedHttp", "Stopped", "Transfer"]
