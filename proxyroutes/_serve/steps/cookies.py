"""The upstream's cookies are made to fit the gateway's address. Sans-I/O."""

from __future__ import annotations

from attrs import frozen

from proxyroutes._serve.head import public_prefix
from proxyroutes._serve.location import public_path
from proxyroutes._serve.match import Found
from proxyroutes.settings import CookieRules
from proxyroutes.typing import Endpoint, Fields

__all__ = ["CookieEdit", "compile_cookies"]

_WHITE = b" \t"


@frozen(kw_only=True, eq=False)
class CookieEdit:
    """Compiled ``CookieRules``.

    Attributes:
        domain: What is written, ``b""`` deletes it, None leaves it.
        path: What is written, or None.
        maps_path: Whether a path that is there is mapped to the public address.
        secure: Whether it is written or deleted; None leaves it.
    """

    domain: bytes | None
    path: bytes | None
    maps_path: bool
    secure: bool | None

    def __call__(self, fields: Fields, found: Found | None, destination: Endpoint) -> Fields:
        """The field lines with every ``Set-Cookie`` edited."""
        return [
            (name, self._edit(value, found, destination))
            if name == b"set-cookie"
            else (name, value)
            for name, value in fields
        ]

    def _edit(self, value: bytes, found: Found | None, destination: Endpoint) -> bytes:
        cookie, *attributes = value.split(b";")
        name = cookie.strip(_WHITE).lower()
        # RFC 6265bis §4.1.3: what a browser would refuse with another domain or path, or without Secure.
        host_bound = name.startswith(b"__host-")
        if not host_bound:
            if self.domain is not None:
                attributes = _write(attributes, b"domain", b"Domain", self.domain)
            if self.path is not None:
                attributes = _write(attributes, b"path", b"Path", self.path)
            elif self.maps_path and found is not None:
                attributes = [_map(one, found, destination) for one in attributes]
        if self.secure is True:
            attributes = [one for one in attributes if _name(one) != b"secure"]
            attributes.append(b" Secure")
        elif self.secure is False and not host_bound and not name.startswith(b"__secure-"):
            attributes = [one for one in attributes if _name(one) != b"secure"]
        return b";".join([cookie, *attributes])


def _name(attribute: bytes) -> bytes:
    return attribute.partition(b"=")[0].strip(_WHITE).lower()


def _write(attributes: list[bytes], name: bytes, spelled: bytes, value: bytes) -> list[bytes]:
    kept = [one for one in attributes if _name(one) != name]
    return [*kept, b" " + spelled + b"=" + value] if value else kept


def _map(attribute: bytes, found: Found, destination: Endpoint) -> bytes:
    if _name(attribute) != b"path":
        return attribute
    path = attribute.partition(b"=")[2].strip(_WHITE)
    mapped = _public(path, found, destination.base_path)
    return attribute if mapped is None or b";" in mapped else b" Path=" + mapped


def _public(path: bytes, found: Found, base: bytes) -> bytes | None:
    """The public path of a cookie's, or None where it has none.

    A cookie's path stands for all that is below it. One that is above everything the route shows is therefore the public
    path of the whole route.
    """
    if not path.startswith(b"/"):
        # RFC 6265 §5.2.4: such a path counts as none, and the browser takes that of the request.
        return None
    if base:
        if path == base or path.startswith(base + b"/"):
            path = path[len(base) :] or b"/"
        elif _covers(path, base + b"/"):
            path = b"/"
        else:
            return None
    plan = found.plan
    if plan.rewrite is not None and plan.inverse is not None:
        first = plan.rewrite[0]
        shown = first if isinstance(first, bytes) else b"/"
        if _covers(path, shown) and plan.inverse:
            start = plan.public[0]
            prefix = start if isinstance(start, bytes) else b"/"
            return _without_slash(public_prefix(found) + prefix, path)
    mapped = public_path(path, found)
    if mapped is None and not path.endswith(b"/"):
        mapped = public_path(path + b"/", found)
    return None if mapped is None else _without_slash(mapped, path)


def _without_slash(public: bytes, path: bytes) -> bytes:
    """With a slash at its end, a cookie's path would not be sent for the path without: only where it had one itself."""
    return public if path.endswith(b"/") and path != b"/" else public.rstrip(b"/") or b"/"


def _covers(path: bytes, other: bytes) -> bool:
    """Whether a cookie with this path is sent for all of another path (RFC 6265 §5.1.4)."""
    return path == other or (
        other.startswith(path) and (path.endswith(b"/") or other[len(path) :].startswith(b"/"))
    )


def compile_cookies(rules: CookieRules) -> CookieEdit:
    """Compile rules for cookies."""
    maps = rules.path == "rewrite"
    return CookieEdit(
        domain=None if rules.domain is None else rules.domain.encode("ascii"),
        path=None if maps or rules.path is None else rules.path.encode("ascii"),
        maps_path=maps,
        secure=rules.secure,
    )
