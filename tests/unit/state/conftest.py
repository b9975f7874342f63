"""Time for the tests of state."""

import pytest

from proxyroutes.testing import ManualClock


@pytest.fixture
def clock():
    """Time that stands still."""
    return ManualClock()
