"""``Max-Forwards``: how far an OPTIONS request may go (RFC 9110 §7.6.2). Sans-I/O."""

from __future__ import annotations

from proxyroutes._serve.fields import ReceivedFields
from proxyroutes._serve.guard import EVERY_METHOD, refuse
from proxyroutes._serve.plan import Plan
from proxyroutes.exceptions import ClientRequestError

__all__ = ["count_hop"]

_NAME = b"max-forwards"


def count_hop(plan: Plan, received: ReceivedFields) -> None:
    """Take one hop off, or refuse to forward.

    Raises:
        ClientRequestError: With 204 and what the route serves if this is the last hop; with 400 if it is no number.
    """
    places = [place for place, field in enumerate(received.fields) if field[0] == _NAME]
    if not places:
        return
    value = received.fields[places[0]][1]
    if len(places) > 1 or not value.isdigit() or len(value) > 18:
        raise refuse("Max-Forwards is not a number")
    left = int(value)
    if left == 0:
        # "the intermediary MUST NOT forward the request; instead, the intermediary MUST respond as the final recipient."
        methods = plan.methods
        own = (b"allow", ", ".join(sorted(methods or ())).encode("ascii"))
        allow = EVERY_METHOD if methods is None else own
        raise ClientRequestError(
            "Max-Forwards is 0", status_code=204, title="No content", fields=(allow,)
        )
    received.fields[places[0]] = (_NAME, b"%d" % (left - 1))
