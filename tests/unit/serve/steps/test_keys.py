"""Keys: the address that a connection came from."""

import pytest

from proxyroutes._serve.steps.keys import client_key


@pytest.mark.parametrize(
    ("client", "expected"),
    [
        pytest.param(("192.0.2.1", 5), b"192.0.2.1", id="ipv4"),
        pytest.param(("::ffff:192.0.2.1", 5), b"192.0.2.1", id="ipv4-in-ipv6"),
        pytest.param(("2001:db8:0:1::1", 5), bytes.fromhex("20010db800000001"), id="ipv6"),
        pytest.param(("fe80::1%eth0", 5), bytes.fromhex("fe80000000000000"), id="zone"),
        pytest.param(("not:an:address", 5), b"not:an:address", id="no-address"),
        pytest.param(("testclient", 5), b"testclient", id="name"),
        pytest.param(None, b"", id="unix-socket"),
    ],
)
def test_a_client_is_its_address(client, expected):
    """Of IPv6 it is the network of 64 bits, which one client has to itself."""
    assert expected == client_key({"client": client})


def test_two_addresses_of_one_ipv6_network_are_one_client():
    """Who changes the lower half is not counted anew."""
    keys = {client_key({"client": (f"2001:db8::{number:x}", 1)}) for number in range(9)}

    assert 1 == len(keys)
