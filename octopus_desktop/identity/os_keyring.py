"""The operating system's keyring, asked carefully: only its own back ends, only after a real write, read and delete,
never with a prompt, never longer than a few seconds. Knows no other place for secrets.

The ``keyring`` package's own choice is not used: with keyrings.alt installed it may ask on the terminal or keep plain
text. The probe runs in a process of its own, because a D-Bus call that waits for a person cannot be interrupted.
"""

from __future__ import annotations

import base64
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from octopus_desktop.wire.errors import UserError

PROBE_S = 10.0
CALL_S = 15.0
_T = TypeVar("_T")


class Keyring:
    """Named secrets of one store (``service``) in the OS keyring."""

    def __init__(self, service: str, backend: Any = None) -> None:
        self._service, self._backend = service, backend if backend is not None else _backend()

    def get(self, name: str) -> bytes | None:
        text = _bounded(lambda: self._backend.get_password(self._service, name))
        return None if text is None else base64.b64decode(text)

    def set(self, name: str, value: bytes) -> None:
        text = base64.b64encode(value).decode()
        _bounded(lambda: self._backend.set_password(self._service, name, text))

    def delete(self, name: str) -> None:
        if self.get(name) is not None:
            _bounded(lambda: self._backend.delete_password(self._service, name))


def usable(timeout_s: float = PROBE_S) -> str:
    """Whether the keyring works here and now: "" when it does, else the reason in a few words."""
    if sys.platform.startswith("linux") and not os.environ.get("DBUS_SESSION_BUS_ADDRESS"):
        runtime = os.environ.get("XDG_RUNTIME_DIR")
        if not runtime or not os.path.exists(os.path.join(runtime, "bus")):  # noqa: PTH110, PTH118 - plain look
            return "there is no D-Bus session"
    try:
        done = subprocess.run(
            [sys.executable, "-m", "octopus_desktop.identity.os_keyring"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )
    except subprocess.TimeoutExpired:
        return f"it did not answer within {timeout_s:.0f} s; it is probably locked"
    except OSError as error:
        return str(error)
    if done.returncode == 0:
        return ""
    lines = (done.stdout or done.stderr).strip().splitlines()
    return lines[-1] if lines else f"its probe ended with {done.returncode}"


def _backend() -> Any:
    """The platform's own back end. Raises UserError OCT-SECRET-STORE when there is none."""
    try:
        if sys.platform == "darwin":
            from keyring.backends import macOS

            return macOS.Keyring()
        if sys.platform == "win32":
            from keyring.backends import Windows

            return Windows.WinVaultKeyring()
        from keyring.backends import SecretService, kwallet

        for candidate in (SecretService.Keyring, kwallet.DBusKeyring):
            if candidate.viable:
                return candidate()
        raise RuntimeError("neither Secret Service nor KWallet answers")
    except Exception as error:  # each back end fails in ways of its own
        raise unavailable(str(error)) from error


def probe() -> None:
    """Write, read and delete a random value; raises when any of it fails. A locked keyring is refused, as unlocking
    it would prompt."""
    backend = _backend()
    if type(backend).__module__.endswith("SecretService"):
        import secretstorage

        connection = secretstorage.dbus_init()
        if secretstorage.Collection(connection, "/org/freedesktop/secrets/aliases/default").is_locked():
            raise RuntimeError("the keyring is locked")
    service, value = "octopus-desktop-probe-" + os.urandom(6).hex(), os.urandom(12).hex()
    backend.set_password(service, "probe", value)
    try:
        if backend.get_password(service, "probe") != value:
            raise RuntimeError("the keyring gave back something else than was written")
    finally:
        backend.delete_password(service, "probe")
    if backend.get_password(service, "probe") is not None:
        raise RuntimeError("the keyring did not delete")


def unavailable(why: str) -> UserError:
    return UserError(
        "OCT-SECRET-STORE",
        "The operating system's keyring cannot be used",
        why,
        "Unlock it (log in to the desktop, or unlock it in its own tool), then try again",
    )


def _bounded(call: Callable[[], _T]) -> _T:
    """Run a keyring call, but never wait longer than CALL_S: it may be waiting for a prompt that nobody sees."""
    result: list[_T] = []
    failure: list[BaseException] = []

    def work() -> None:
        try:
            result.append(call())
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=work, name="keyring", daemon=True)
    thread.start()
    thread.join(CALL_S)
    if failure:
        raise unavailable(str(failure[0]) or type(failure[0]).__name__) from failure[0]
    if not result:
        raise unavailable(f"it did not answer within {CALL_S:.0f} s; it is probably locked")
    return result[0]


def main() -> int:
    try:
        probe()
    except UserError as error:
        print(error.why)
        return 1
    except Exception as error:
        print(str(error).splitlines()[0] if str(error) else type(error).__name__)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
