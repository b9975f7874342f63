"""``examples/custom_policy.py``."""

import httpx

from proxyroutes import HealthMonitor, UpstreamPool
from proxyroutes.testing import ManualClock, run_gateway
from proxyroutes.typing import ForwardedHead
from tests.examples.support import EXAMPLES, load

HEAD = ForwardedHead(b"GET", b"/", [], None, None)


async def test_each_half_has_its_shift():
    """The other half is asked as soon as the minute is over."""
    clock = ManualClock()
    pool = UpstreamPool(
        "p",
        [f"http://{name}" for name in "abcd"],
        monitor=HealthMonitor(clock=clock),
        balancing=load("custom_policy").Shifts(),
    )
    shifts = []
    for _ in range(3):
        leases = [pool.state().lease(HEAD) for _ in range(10)]
        shifts.append("".join(lease.destination.host for lease in leases))
        for lease in leases:
            lease.release()
        await clock.advance(60.0)
    await pool.close()

    assert ["acacacacac", "bdbdbdbdbd", "acacacacac"] == shifts


async def test_it_serves(monkeypatch):
    """The service is a second one of the example."""
    async with run_gateway(load("custom_policy").app) as service:
        monkeypatch.setenv("SERVICE_URL", service.url)
        async with (
            run_gateway(load("custom_policy").app) as gateway,
            httpx.AsyncClient(base_url=gateway.url) as client,
        ):
            answers = [(await client.get("/api/hello")).json() for _ in range(20)]

    assert all(answer.startswith("hello from ") for answer in answers)


def test_it_needs_public_imports_only():
    """As a policy outside of this package does."""
    source = (EXAMPLES / "custom_policy.py").read_text(encoding="utf-8")

    assert "proxyroutes._" not in source
