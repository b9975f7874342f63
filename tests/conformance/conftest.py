"""The fixtures of the integration tests, for the lines that are shown here."""

from tests.integration.conftest import (  # noqa: F401 - fixtures
    broken_relays,
    duplex,
    echo,
    http,
    lane,
    quick_stops,
    serve,
    serving,
    transport,
)
