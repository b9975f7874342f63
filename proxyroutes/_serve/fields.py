"""Field rules of both directions. Sans-I/O: bytes in, bytes or a refusal out.

Hop-by-hop fields and all that ``Connection`` names go before any user code sees a message (RFC 9110 §7.6.1). What is
ours is added afterwards, so that no client can have it removed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from proxyroutes._serve.guard import (
    MAX_FIELD_BYTES,
    MAX_FIELDS,
    MAX_NAME_BYTES,
    check_host,
    refuse,
)
from proxyroutes.typing import Field, Fields

__all__ = [
    "FIELD_ACTIONS",
    "ReceivedFields",
    "check_edit",
    "field_actions",
    "filter_response",
    "has_bad_name",
    "has_bad_value",
    "read_fields",
]

DROP, PASS, HOST, LENGTH, CODING, CONNECTION, EXPECT, VIA, COOKIE, EMPTY = range(10)

_HOP_BY_HOP = (
    b"http2-settings keep-alive proxy-authenticate proxy-authentication-info "
    b"proxy-authorization proxy-connection te trailer upgrade "
).split()
# What an untrusted client says of the hops before us (CONFORMANCE S-21).
_FORWARDING = (
    b"client-cert client-cert-chain forwarded x-forwarded-client-cert "
    b"x-forwarded-for x-forwarded-host x-forwarded-port x-forwarded-prefix "
    b"x-forwarded-proto x-forwarded-server x-original-host x-original-url "
    b"x-proxyroutes-shadow x-real-ip x-rewrite-url "
).split()

# Names that need no look at their spelling; what is not here is checked and passes too.
_USUAL = (
    b"accept accept-charset accept-encoding accept-language "
    b"access-control-request-headers access-control-request-method authorization "
    b"cache-control content-disposition content-encoding content-language content-type "
    b"date dnt from if-match if-modified-since if-none-match if-range if-unmodified-since "
    b"last-event-id origin pragma priority range referer sec-ch-ua sec-ch-ua-mobile "
    b"sec-ch-ua-platform sec-fetch-dest sec-fetch-mode sec-fetch-site sec-fetch-user "
    b"traceparent tracestate upgrade-insecure-requests user-agent x-request-id "
    b"x-requested-with "
).split()

FIELD_ACTIONS: Mapping[bytes, int] = {
    **dict.fromkeys(_USUAL, PASS),
    **dict.fromkeys(_HOP_BY_HOP, DROP),
    **dict.fromkeys(_FORWARDING, DROP),
    b"host": HOST,
    b"content-length": LENGTH,
    b"transfer-encoding": CODING,
    b"connection": CONNECTION,
    b"expect": EXPECT,
    b"via": VIA,
    b"cookie": COOKIE,
    b"": EMPTY,
}
"""What is done with a received field; a name that is not here passes if it is one."""

# RFC 9110 §7.6.1 forbids a sender to name end-to-end fields in Connection: these keep their meaning whatever it says.
_NEVER_NAMED = frozenset(
    {
        b"authorization",
        b"content-encoding",
        b"content-length",
        b"content-range",
        b"content-type",
        b"cookie",
        b"host",
        b"max-forwards",
        b"set-cookie",
        b"transfer-encoding",
    }
)
_USUAL_CONNECTION = frozenset({b"keep-alive", b"close", b"Keep-Alive", b"Close"})

_FIELD_SHARE = max(MAX_NAME_BYTES, MAX_FIELD_BYTES // MAX_FIELDS + 1)
_LOWER_TOKEN = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz"
_TOKEN = _LOWER_TOKEN + _LOWER_TOKEN.upper()
# RFC 9110 §5.5: visible bytes, space, tab and obs-text.
_VALUE = b"\t" + bytes(range(0x20, 0x7F)) + bytes(range(0x80, 0x100))


def field_actions(identity: Iterable[str]) -> Mapping[bytes, int]:
    """The actions of a route that also deletes identity fields."""
    names = [name.lower().encode("ascii") for name in identity]
    return {**FIELD_ACTIONS, **dict.fromkeys(names, DROP)} if names else FIELD_ACTIONS


def has_bad_name(name: bytes) -> bool:
    """Whether it is no field name (RFC 9110 §5.1)."""
    return not name or bool(name.translate(None, _TOKEN))


def has_bad_value(value: bytes) -> bool:
    """Whether it is no field value (RFC 9110 §5.5): CR, LF, NUL or another control byte."""
    return bool(value.translate(None, _VALUE))


def check_edit(name: str, value: str) -> Field:
    """Encode a field that the application sets.

    Raises:
        ValueError: If the name is no token or the value holds CR, LF, NUL or another control character.
    """
    try:
        raw_name, raw_value = name.lower().encode("ascii"), value.encode("latin-1")
    except UnicodeEncodeError as error:
        raise ValueError(f"not a field that HTTP can carry: {name!r}") from error
    if has_bad_name(raw_name):
        raise ValueError(f"not a field name: {name!r}")
    if has_bad_value(raw_value):
        raise ValueError(f"the value of {name!r} has a control character")
    return raw_name, raw_value.strip(b" \t")


class ReceivedFields:
    """The field section of a received request, read once.

    Attributes:
        fields: What passes, in order.
        host: The one value of ``Host``, or ``b""`` where HTTP/1.0 had none.
        content_length: Its value, or None.
        chunked: Whether the content is in the chunked coding.
        via: Values of ``Via``.
        named: What ``Connection`` names.
        expects_continue: Whether the client waits for 100.
    """

    # Class attributes are what a section begins with: most of it is never written.
    host: bytes | None = None
    content_length: int | None = None
    chunked = False
    via: Sequence[bytes] = ()
    named: Sequence[bytes] = ()
    cookie: Field | None = None
    expects_continue = False

    def __init__(self) -> None:
        self.fields: Fields = []


def read_fields(
    headers: list[Field], http_version: str, actions: Mapping[bytes, int]
) -> ReceivedFields:
    """Read, check and filter a received field section.

    Raises:
        ClientRequestError: If it must not be forwarded.
    """
    values = b"".join([field[1] for field in headers])
    # No name that passes is longer than this, and more fields than allowed exceed it too: else there is no need to count.
    if len(values) + _FIELD_SHARE * len(headers) > MAX_FIELD_BYTES:
        _check_sizes(headers, values)
    if values.translate(None, _VALUE):
        raise refuse("a field value has a control character")
    received = ReceivedFields()
    passed = received.fields
    for field in headers:
        action = actions.get(field[0])
        if action == PASS:
            passed.append(field)
        elif action is None:
            _pass_unusual(passed, field, actions)
        elif action:
            _READERS[action](received, field)
    if received.chunked or received.host is None:
        _check_whole(received, http_version)
    if received.named:
        received.fields = _without_named(passed, received.named)
    return received


def _without_named(fields: Fields, named: Sequence[bytes]) -> Fields:
    gone = {name.strip(b" \t") for name in named} - _NEVER_NAMED
    return [field for field in fields if field[0] not in gone]


def _names(connection: bytes) -> list[bytes]:
    """What a ``Connection`` field names, but for what every peer says."""
    return [] if connection in _USUAL_CONNECTION else connection.lower().split(b",")


def _check_whole(received: ReceivedFields, http_version: str) -> None:
    """Check what only all of the fields together tell."""
    if received.chunked and received.content_length is not None:
        # RFC 9112 §6.1: "ought to be handled as an error"; whoever reads them differently could be fooled.
        raise refuse("Content-Length with Transfer-Encoding")
    if received.chunked and http_version == "1.0":
        raise refuse("Transfer-Encoding in HTTP/1.0")
    if received.host is None:
        # RFC 9112 §3.2: only HTTP/1.0 may be without.
        if http_version != "1.0":
            raise refuse("no Host")
        received.host = b""


def _check_sizes(headers: list[Field], values: bytes) -> None:
    if len(headers) > MAX_FIELDS:
        raise refuse("too many fields", 431, "Request header fields too large")
    if len(values) + sum([len(field[0]) for field in headers]) > MAX_FIELD_BYTES:
        raise refuse("the fields are too large", 431, "Request header fields too large")


def _pass_unusual(passed: Fields, field: Field, actions: Mapping[bytes, int]) -> None:
    """Pass a field whose name is not known, if it is a name."""
    name = field[0]
    if name.translate(None, _LOWER_TOKEN):
        if name.translate(None, _TOKEN):
            raise refuse("a field name is not a token")
        raise refuse("a field name is not in lower case")
    if len(name) > MAX_NAME_BYTES:
        raise refuse("a field name is too long", 431, "Request header fields too large")
    # Many applications read both spellings as one variable (CONFORMANCE S-06).
    if b"_" in name and actions.get(name.replace(b"_", b"-"), PASS) != PASS:
        return
    passed.append(field)


def _read_host(received: ReceivedFields, field: Field) -> None:
    if received.host is not None:
        raise refuse("two Host fields")
    check_host(field[1])
    received.host = field[1]


def _read_length(received: ReceivedFields, field: Field) -> None:
    value = field[1]
    if received.content_length is not None:
        raise refuse("two Content-Length fields")
    # isdigit() of bytes takes ASCII digits only; 18 of them are an exabyte.
    if not value.isdigit() or len(value) > 18:
        raise refuse("Content-Length is not a length")
    received.content_length = int(value)


def _read_coding(received: ReceivedFields, field: Field) -> None:
    if received.chunked or field[1].lower() != b"chunked":
        raise refuse("Transfer-Encoding is not chunked alone")
    received.chunked = True


def _read_expect(received: ReceivedFields, field: Field) -> None:
    if field[1].lower() != b"100-continue":
        raise refuse("an expectation that is not 100-continue", 417, "Expectation failed")
    # The server sends 100 when the content is first read (RFC 9110 §10.1.1); it is not forwarded.
    received.expects_continue = True


def _read_connection(received: ReceivedFields, field: Field) -> None:
    named = _names(field[1])
    if named:
        received.named = [*received.named, *named]


def _read_via(received: ReceivedFields, field: Field) -> None:
    received.via = [*received.via, field[1]]


def _read_cookie(received: ReceivedFields, field: Field) -> None:
    first = received.cookie
    if first is None:
        received.cookie = field
        received.fields.append(field)
    else:
        # RFC 9113 §8.2.3: pieces are joined "using the two-octet delimiter of 0x3B, 0x20".
        place = received.fields.index(first)
        received.fields[place] = received.cookie = (b"cookie", first[1] + b"; " + field[1])


def _read_empty(received: ReceivedFields, field: Field) -> None:
    del received
    raise refuse(f"a field without a name: {field[1][:16]!r}")


_READERS = {
    HOST: _read_host,
    LENGTH: _read_length,
    CODING: _read_coding,
    CONNECTION: _read_connection,
    EXPECT: _read_expect,
    VIA: _read_via,
    COOKIE: _read_cookie,
    EMPTY: _read_empty,
}

_RESPONSE_DROPPED = frozenset(
    {*_HOP_BY_HOP, b"alt-svc", b"connection", b"date", b"server", b"transfer-encoding"}
)
_LOCATIONS = frozenset({b"content-location", b"location"})
_RESPONSE_SPECIAL = _RESPONSE_DROPPED | _LOCATIONS


def filter_response(
    fields: Fields,
    status: int,
    *,
    server_fields: frozenset[bytes],
    relocate: Callable[[bytes], bytes] | None = None,
) -> Fields:
    """The fields of a received response as the client gets them.

    Args:
        fields: As they came, names in lower case.
        status: The response's status.
        server_fields: Which of ``Date`` and ``Server`` the server in front adds by itself.
        relocate: Maps the value of ``Location`` and ``Content-Location``, or None to leave it.
    """
    passed: Fields = []
    named: list[bytes] = []
    for field in fields:
        name = field[0]
        if name not in _RESPONSE_SPECIAL:
            passed.append(field)
        elif name in _LOCATIONS:
            passed.append(field if relocate is None else (name, relocate(field[1])))
        elif name == b"connection":
            named += _names(field[1])
        elif (name == b"date" or name == b"server") and name not in server_fields:  # noqa: PLR1714 - faster than a set.
            passed.append(field)
    if named:
        passed = _without_named(passed, named)
    if status == 204 or status == 304:  # noqa: PLR1714 - faster than a set.
        # RFC 9110 §8.6: no length in a 204. A length in a 304 is that of another message; servers wait for its bytes.
        passed = [field for field in passed if field[0] != b"content-length"]
    elif status == 205:
        # RFC 9110 §15.3.6: a server must not generate content in a 205.
        passed = [field for field in passed if field[0] != b"content-length"]
        passed.append((b"content-length", b"0"))
    return passed
