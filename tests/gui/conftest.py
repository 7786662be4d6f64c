"""Window tests draw without a screen, and leave no thread and no window behind."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import pytest

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """Fail a test that leaves one of our threads running."""
    yield
    left = [thread.name for thread in threading.enumerate() if thread.name.startswith(("octopus-", "sample-"))]
    assert left == []
