"""A browser for the tests of pages; see tests/browsing.py, which is imported by the tests that need it only."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.browsing import Visit


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """One browser for a module's tests."""
    from tests.browsing import launched

    with launched() as browser:
        yield browser


@pytest.fixture
def visit(chromium: Any) -> Iterator[Visit]:
    """Opens pages in contexts of this test's own; what they complained of, and the test did not clear, fails it."""
    from tests.browsing import Visit

    made = Visit(chromium)
    yield made
    said = list(made.complaints())
    made.close()
    assert said == []
