"""One SeaweedFS for the tests of a file: it takes some seconds to start, and a tenth of a core while it runs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from octopus_desktop.communication.seaweed import Seaweed
from tests.communication.store_parts import LIMITED


@pytest.fixture(scope="module")
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seaweed]:
    with Seaweed(tmp_path_factory.mktemp("seaweed"), identities={"limited": LIMITED}) as store:
        yield store
