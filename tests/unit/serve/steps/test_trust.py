"""What a trusted peer says is kept and continued, what anybody else says is dropped."""

import base64
import logging
import ssl

import pytest
import trustme

from proxyroutes import Proxy
from proxyroutes._serve.head import make_head, read_request
from proxyroutes._serve.match import route_start, split_path
from proxyroutes.settings import Forwarding
from tests.unit.serve.scripted import make_scope, stub

TRUSTED = ["10.0.0.0/8", "fd00::/8", "192.0.2.7"]
APPEND = Forwarding(mode="append", trusted=TRUSTED)


def head_of(*fields, forwarding=APPEND, path="/<path>", rewrite=None, target=b"/x", **scope):
    """The forwarded head of a request from a trusted peer, unless another one is given."""
    proxy = Proxy(via="here", forwarding=forwarding)
    proxy.route(path, upstream="http://up", rewrite=rewrite)(stub)
    received = make_scope("GET", target, *fields, **{"client": ("10.0.0.1", 7), **scope})
    parts = split_path(target)
    found = proxy.compiled().index.match(
        parts, route_start(parts, received.get("root_path", "")), "GET", received
    )
    return make_head(received, found.plan, found, read_request(received, found.plan, found))


def values(head, name):
    """Values of a field."""
    return [value for known, value in head.fields if known == name]


@pytest.mark.requirement("S-22")
def test_a_trusted_peers_list_is_continued():
    """Its address stands behind those that it lists, in both spellings."""
    head = head_of(
        (b"x-forwarded-for", b"192.0.2.1, 2001:db8::1"),
        (b"forwarded", b'for=192.0.2.1, for="[2001:db8::1]"'),
    )

    assert [b"192.0.2.1, 2001:db8::1, 10.0.0.1"] == values(head, b"x-forwarded-for")
    assert [
        b'for=192.0.2.1, for="[2001:db8::1]", for=10.0.0.1;host="gateway.test";proto=http'
    ] == values(head, b"forwarded")


@pytest.mark.requirement("S-23")
def test_several_lines_are_one_list():
    """In their order."""
    head = head_of((b"x-forwarded-for", b"192.0.2.1"), (b"x-forwarded-for", b" 192.0.2.2 ,"))

    assert [b"192.0.2.1, 192.0.2.2, 10.0.0.1"] == values(head, b"x-forwarded-for")


@pytest.mark.requirement("S-22")
def test_what_else_a_trusted_peer_says_is_kept():
    """The public host, scheme and port are known to it alone."""
    said = [
        (b"x-forwarded-host", b"public.test"),
        (b"x-forwarded-proto", b"https"),
        (b"x-forwarded-port", b"443"),
        (b"x-real-ip", b"192.0.2.1"),
    ]
    head = head_of(*said)

    assert set(said) == {field for field in head.fields if field[0] in dict(said)}


def test_what_a_trusted_peer_does_not_say_is_ours():
    """As for any other one."""
    head = head_of()

    assert [[b"10.0.0.1"], [b"gateway.test"], [b"http"], []] == [
        values(head, b"x-forwarded-" + name) for name in (b"for", b"host", b"proto", b"port")
    ]


@pytest.mark.requirement("S-21")
@pytest.mark.parametrize(
    "client",
    [("192.0.2.8", 7), ("11.0.0.1", 7), ("::1", 7), ("testclient", 7), ("10.0.0.1", 0), None],
    ids=["address", "network", "ipv6", "no-address", "read-from-a-field", "unix"],
)
def test_what_anybody_else_says_is_dropped(client):
    """Only the peer's own address counts, and it must be the socket's."""
    head = head_of(
        (b"x-forwarded-for", b"evil"),
        (b"x-forwarded-host", b"evil"),
        (b"forwarded", b"for=evil"),
        (b"x-real-ip", b"evil"),
        (b"client-cert", b":evil:"),
        client=client,
    )

    assert not any(b"evil" in value for _, value in head.fields)


@pytest.mark.parametrize("name", [b"x-original-url", b"x-rewrite-url", b"x-original-host"])
def test_another_resources_name_is_dropped_from_everybody(name):
    """Some servers would serve it instead."""
    assert [] == values(head_of((name, b"/admin")), name)


@pytest.mark.parametrize(
    "address", ["10.255.0.1", "fd00::1", "192.0.2.7", "::ffff:10.0.0.1"], ids=str
)
def test_networks_and_addresses_are_trusted(address):
    """Also as the mapped address that a socket of both families gives."""
    head = head_of((b"x-forwarded-proto", b"https"), client=(address, 7))

    assert [b"https"] == values(head, b"x-forwarded-proto")


@pytest.mark.parametrize("client", [None, ("", 0)], ids=["none", "empty"])
def test_peers_over_a_unix_socket_are_trusted_by_name(client):
    """They have no address, and none is added."""
    head = head_of(
        (b"x-forwarded-for", b"192.0.2.1"),
        forwarding=Forwarding(mode="append", trusted=["unix"]),
        client=client,
    )

    assert [b"192.0.2.1"] == values(head, b"x-forwarded-for")
    assert [b'for=192.0.2.1, for=unknown;host="gateway.test";proto=http'] == values(
        head, b"forwarded"
    )


@pytest.mark.requirement("S-25")
def test_an_address_that_the_server_has_read_from_the_list_is_not_said_twice():
    """Whatever the server says of its port."""
    head = head_of((b"x-forwarded-for", b"192.0.2.1, 10.0.0.1"))

    assert [b"192.0.2.1, 10.0.0.1"] == values(head, b"x-forwarded-for")


def test_one_spelling_is_made_of_the_other():
    """An upstream may read either one, and finds the same client."""
    newer = head_of(
        (b"x-forwarded-for", b"2001:db8::1, 192.0.2.1:80, unknown"),
        (b"x-forwarded-proto", b"https"),
        (b"x-forwarded-host", b"public.test:8443"),
    )
    older = head_of(
        (b"forwarded", b'For="[2001:db8::1]:80";proto=https;by=_a, proto=x;for=192.0.2.1,for=_b')
    )

    first = b'for="[2001:db8::1]";host="public.test:8443";proto="https"'
    others = b'for=192.0.2.1, for=_hidden, for=10.0.0.1;host="gateway.test";proto=http'

    assert [first + b", " + others] == values(newer, b"forwarded")
    assert [b"2001:db8::1, 192.0.2.1, unknown, 10.0.0.1"] == values(older, b"x-forwarded-for")


def test_a_value_that_would_end_its_parameter_is_not_converted():
    """It stays in its own field."""
    head = head_of((b"x-forwarded-for", b"192.0.2.1"), (b"x-forwarded-host", b'a";for=evil'))

    assert [b'for=192.0.2.1, for=10.0.0.1;host="gateway.test";proto=http'] == values(
        head, b"forwarded"
    )


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"x_forwarded": False}, {b"forwarded"}),
        (
            {"forwarded": False},
            {b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto", b"x-forwarded-port"},
        ),
    ],
)
def test_each_spelling_is_turned_off_by_itself(options, names):
    """What is not set is dropped, whoever says it."""
    head = head_of(
        (b"x-forwarded-for", b"192.0.2.1"),
        (b"x-forwarded-port", b"443"),
        (b"forwarded", b"for=192.0.2.1"),
        forwarding=Forwarding(mode="append", trusted=TRUSTED, **options),
    )

    assert names == {name for name, _ in head.fields if b"forwarded" in name}


@pytest.mark.parametrize(
    ("received", "expected"),
    [
        ([], [b"/api"]),
        ([b"/outer/"], [b"/outer/api"]),
        ([b"/outer"], [b"/outer/api"]),
        ([b"//evil"], []),
        ([b"evil"], []),
    ],
    ids=["none", "slash", "plain", "a-host", "relative"],
)
def test_prefixes_are_joined(received, expected):
    """What the peer has stripped stands in front of what is stripped here."""
    head = head_of(
        *((b"x-forwarded-prefix", one) for one in received),
        path="/api/<path>",
        rewrite="/<path>",
        target=b"/api/x",
    )

    assert expected == values(head, b"x-forwarded-prefix")


def test_a_trusted_peers_prefix_is_kept_where_none_is_stripped():
    """It is of the public address all the same."""
    head = head_of((b"x-forwarded-prefix", b"/outer"))

    assert [b"/outer"] == values(head, b"x-forwarded-prefix")
    assert [] == values(head_of((b"x-forwarded-prefix", b"//evil")), b"x-forwarded-prefix")


def test_a_peer_without_address_that_lists_nobody_has_no_list():
    """There is nothing to say."""
    head = head_of(forwarding=Forwarding(mode="append", trusted=["unix"]), client=None)

    assert [] == values(head, b"x-forwarded-for")


# Certificates.


@pytest.fixture(scope="module")
def chain():
    """A client's certificate and its authority's, as a server gives them."""
    authority = trustme.CA()
    issued = authority.issue_cert("client.test")
    return [
        issued.cert_chain_pems[0].bytes().decode(),
        authority.cert_pem.bytes().decode(),
    ]


def tls(chain, **more):
    """The TLS extension of a server."""
    return {"tls": {"client_cert_chain": chain, "client_cert_name": 'CN="client"', **more}}


def test_a_clients_certificate_is_told_as_rfc_9440_says(chain):
    """The certificate itself, and what it was signed by."""
    head = head_of(
        forwarding=Forwarding(client_cert="rfc9440"),
        client=("192.0.2.1", 7),
        extensions=tls(chain),
    )
    raw = [base64.b64encode(ssl.PEM_cert_to_DER_cert(pem.strip())) for pem in chain]

    assert [b":" + raw[0] + b":"] == values(head, b"client-cert")
    assert [b":" + raw[1] + b":"] == values(head, b"client-cert-chain")


def test_a_clients_certificate_is_told_as_envoy_does(chain):
    """Its hash, itself and its subject."""
    head = head_of(forwarding=Forwarding(client_cert="xfcc"), extensions=tls(tuple(chain[:1])))
    (value,) = values(head, b"x-forwarded-client-cert")

    assert value.startswith(b"Hash=")
    assert b';Cert="-----BEGIN%20CERTIFICATE' in value
    assert value.endswith(b';Subject="CN=\\"client\\""')


def test_a_subject_that_no_field_can_carry_is_left_out(chain):
    """The certificate has it."""
    head = head_of(
        forwarding=Forwarding(client_cert="xfcc"),
        extensions=tls(chain, client_cert_name="CN=日\r\nX-Admin: 1"),
    )

    assert b"Subject" not in values(head, b"x-forwarded-client-cert")[0]


def test_a_certificate_that_came_alone_has_no_chain(chain):
    """The upstream knows its signer."""
    head = head_of(
        forwarding=Forwarding(client_cert="rfc9440"),
        client=("192.0.2.1", 7),
        extensions=tls(chain[:1]),
    )

    assert (1, []) == (len(values(head, b"client-cert")), values(head, b"client-cert-chain"))


@pytest.mark.parametrize("kind", ["off", "rfc9440", "xfcc"])
@pytest.mark.requirement("S-28")
def test_what_a_client_says_of_its_certificate_is_dropped(kind):
    """Whether or not the gateway says anything of it."""
    head = head_of(
        (b"client-cert", b":evil:"),
        (b"client-cert-chain", b":evil:"),
        (b"x-forwarded-client-cert", b"Hash=evil"),
        (b"client_cert", b":evil:"),
        forwarding=Forwarding(client_cert=kind),
    )

    assert not any(b"evil" in value for _, value in head.fields)


def test_a_trusted_peers_word_on_the_certificate_is_passed_on(chain):
    """The certificate of its own connection is not the client's."""
    forwarding = Forwarding(mode="append", trusted=TRUSTED, client_cert="rfc9440")
    told = head_of((b"client-cert", b":eA==:"), forwarding=forwarding, extensions=tls(chain))
    silent = head_of(forwarding=forwarding, extensions=tls(chain))

    assert ([b":eA==:"], []) == (values(told, b"client-cert"), values(silent, b"client-cert"))


@pytest.mark.parametrize(
    "extensions",
    [
        None,
        {},
        {"tls": None},
        {"tls": {"client_cert_chain": []}},
        {"tls": {"client_cert_chain": ["x"], "client_cert_error": "expired"}},
    ],
)
def test_no_certificate_is_told_where_there_is_none(extensions):
    """Nor one that the server has refused."""
    head = head_of(forwarding=Forwarding(client_cert="rfc9440"), extensions=extensions)

    assert [] == values(head, b"client-cert")


@pytest.mark.parametrize("pem", ["no certificate", 3], ids=["text", "number"])
def test_a_certificate_that_cannot_be_read_is_logged(caplog, pem):
    """The request is forwarded without it."""
    caplog.set_level(logging.WARNING)
    head = head_of(forwarding=Forwarding(client_cert="rfc9440"), extensions=tls([pem]))

    assert [] == values(head, b"client-cert")
    assert "cannot be read" in caplog.text
