"""Affinity: the requests of one client go to one destination, as long as it is there.

A recipe is frozen and shareable; what it binds belongs to one pool on one event loop, and keeps nothing of any client:
the token or the field that the client sends says it all, to every process.
"""

from __future__ import annotations

import base64
import hmac
import re
from collections.abc import Iterable, Sequence
from hashlib import blake2b, sha256
from typing import Literal

from attrs import define, evolve, field, frozen

from proxyroutes.policies.hashing import ConsistentHash
from proxyroutes.typing import (
    Balancer,
    BoundAffinity,
    Candidate,
    Clock,
    Fields,
    ForwardedHead,
    RandomSource,
)

__all__ = ["CookieAffinity", "HeaderAffinity"]

OnLoss = Literal["redistribute", "reject"]

# RFC 9110 §5.6.2: a cookie's name and a field's name are tokens.
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_SAME_SITE = {"lax": b"Lax", "none": b"None", "strict": b"Strict"}


def _check_on_loss(value: str) -> None:
    if value not in {"redistribute", "reject"}:
        raise ValueError(f"on_loss is 'redistribute' or 'reject': {value!r}")


def _to_secrets(value: str | bytes | Iterable[str | bytes]) -> tuple[bytes, ...]:
    values = [value] if isinstance(value, str | bytes) else list(value)
    return tuple(one.encode() if isinstance(one, str) else bytes(one) for one in values)


@frozen(kw_only=True)
class CookieAffinity:
    """A cookie of the gateway's own says which destination a client belongs to.

    Its value names a destination by a keyed hash, with a signature: nothing of the destination's address can be read from
    it, none can be made without the secret, and processes that share the secret understand each other's, also after a
    restart or a change of the pool. One that is not valid is treated as none. The cookie is set with the response that
    begins an affinity, and with no other.

    Attributes:
        secret: What values are signed with: text or bytes that nobody can guess, at best 32 random bytes. Of a list the
            first one signs and all are accepted, so that a secret can be replaced.
        name: Name of the cookie. None makes one of the pool's name, so that two pools never share one.
        on_loss: What is done while the client's destination is not available: ``"redistribute"`` has it begin an
            affinity with another one, ``"reject"`` answers 503. Clients of a destination that is drained are
            redistributed in any case.
        same_site: ``"lax"``, ``"strict"`` or ``"none"``.
        secure: Whether the cookie is for https only. None sets it so where the client speaks https.
        max_age: Seconds that a browser keeps it. None is until it is closed.
        path: The path below which it is sent.

    Raises:
        ValueError: If the secret is empty, or a value is out of its range.

    Source:
        RFC 6265 §4.1 (Set-Cookie); RFC 2104 (HMAC).
    """

    secret: tuple[bytes, ...] = field(converter=_to_secrets, repr=False)
    name: str | None = None
    on_loss: OnLoss = "redistribute"
    same_site: Literal["lax", "strict", "none"] = "lax"
    secure: bool | None = None
    max_age: int | None = None
    path: str = "/"

    def __attrs_post_init__(self) -> None:
        if not self.secret or not all(self.secret):
            raise ValueError("secret must not be empty")
        if self.name is not None and not _TOKEN.fullmatch(self.name):
            raise ValueError(f"not a cookie's name: {self.name!r}")
        _check_on_loss(self.on_loss)
        if self.same_site not in _SAME_SITE:
            raise ValueError(f"same_site is 'lax', 'strict' or 'none': {self.same_site!r}")
        if self.same_site == "none" and self.secure is False:
            raise ValueError("browsers drop a cookie with SameSite=None that is not Secure")
        if self.max_age is not None and self.max_age < 1:
            raise ValueError(f"max_age must be at least 1 second, or None: {self.max_age!r}")
        if not re.fullmatch(r"/[!-:<-~]*", self.path):
            raise ValueError(f"not a cookie's path: {self.path!r}")

    def bind(self, *, pool: str, clock: Clock, random: RandomSource) -> BoundAffinity:
        """Make the affinity of one pool."""
        del clock, random
        name = self.name or "affinity-" + blake2b(pool.encode(), digest_size=4).hexdigest()
        return _BoundCookieAffinity(self, pool.encode(), name.encode("ascii"))


@define(eq=False)
class _BoundCookieAffinity:
    _recipe: CookieAffinity
    _pool: bytes
    _name: bytes
    _known: Sequence[Candidate] = ()
    _by_label: dict[bytes, Candidate] = field(factory=dict)

    @property
    def rejects(self) -> bool:
        return self._recipe.on_loss == "reject"

    def find(self, members: Sequence[Candidate], head: ForwardedHead, /) -> Candidate | None:
        if members is not self._known:
            self._known = members
            self._by_label = {
                self._label(one, secret): one for one in members for secret in self._recipe.secret
            }
        for value in self._values(head):
            label, _, signature = value.partition(b".")
            member = self._by_label.get(label)
            if member is not None and self._is_ours(label, signature):
                return member
        return None

    def find_another(
        self, available: Sequence[Candidate], head: ForwardedHead, /
    ) -> Candidate | None:
        """Anybody: the next cookie will name them."""
        del available, head
        return None

    def fields(self, chosen: Candidate, head: ForwardedHead, /) -> Fields:
        recipe = self._recipe
        secret = recipe.secret[0]
        label = self._label(chosen, secret)
        value = [
            self._name + b"=" + label + b"." + self._sign(label, secret),
            b"Path=" + recipe.path.encode("ascii"),
            b"HttpOnly",
            b"SameSite=" + _SAME_SITE[recipe.same_site],
        ]
        secure = head.secure if recipe.secure is None else recipe.secure
        # Browsers drop one with SameSite=None that is not Secure.
        if secure or recipe.same_site == "none":
            value.append(b"Secure")
        if recipe.max_age is not None:
            value.append(b"Max-Age=%d" % recipe.max_age)
        return [(b"set-cookie", b"; ".join(value))]

    def _values(self, head: ForwardedHead) -> list[bytes]:
        """What the client sent under our name; HTTP/2 may split its cookies into several fields."""
        wanted = self._name + b"="
        return [
            pair.strip()[len(wanted) :]
            for known, value in head.received or head.fields
            if known == b"cookie"
            for pair in value.split(b";")
            if pair.strip().startswith(wanted)
        ]

    def _label(self, member: Candidate, secret: bytes) -> bytes:
        """Names a destination to who has the secret, and says nothing to anybody else."""
        return self._mac(b"destination", member.identity, secret)[:12]

    def _sign(self, label: bytes, secret: bytes) -> bytes:
        return self._mac(b"signature", label, secret)[:32]

    def _mac(self, purpose: bytes, text: bytes, secret: bytes) -> bytes:
        whole = purpose + b"\0" + self._pool + b"\0" + text
        return base64.urlsafe_b64encode(hmac.digest(secret, whole, sha256)).rstrip(b"=")

    def _is_ours(self, label: bytes, signature: bytes) -> bool:
        # Every secret is tried, so that the time it takes tells nothing.
        found = [
            hmac.compare_digest(self._sign(label, secret), signature)
            for secret in self._recipe.secret
        ]
        return any(found)


@frozen
class HeaderAffinity:
    """Requests with one value of a field go to one destination: a tenant, a device, a session that the client names.

    The destination is found by consistent hashing over all that the pool has, available or not: it is the same in every
    process, and a change of the pool moves few values. A request without the field is balanced as any other.

    Attributes:
        name: Name of the field.
        on_loss: As for ``CookieAffinity``.

    Raises:
        ValueError: If the name is none.

    Source:
        D. Karger et al., "Consistent Hashing and Random Trees" (1997).
    """

    name: str
    on_loss: OnLoss = field(default="redistribute", kw_only=True)

    def __attrs_post_init__(self) -> None:
        if not _TOKEN.fullmatch(self.name):
            raise ValueError(f"not a field's name: {self.name!r}")
        _check_on_loss(self.on_loss)

    def bind(self, *, pool: str, clock: Clock, random: RandomSource) -> BoundAffinity:
        """Make the affinity of one pool."""
        del pool
        recipe = ConsistentHash(f"header:{self.name}")
        return _BoundHeaderAffinity(
            self.name.lower().encode("ascii"),
            self.on_loss,
            recipe.bind(clock=clock, random=random),
            recipe.bind(clock=clock, random=random),
        )


@define(eq=False)
class _BoundHeaderAffinity:
    _name: bytes
    _on_loss: str
    # A ring is made anew for other candidates, so that each kind of them has one.
    _of_all: Balancer
    _of_available: Balancer

    @property
    def rejects(self) -> bool:
        return self._on_loss == "reject"

    def find(self, members: Sequence[Candidate], head: ForwardedHead, /) -> Candidate | None:
        return self._pick(self._of_all, members, head)

    def find_another(
        self, available: Sequence[Candidate], head: ForwardedHead, /
    ) -> Candidate | None:
        """The next one on the ring, so that the requests stay together."""
        return self._pick(self._of_available, available, head)

    def _pick(
        self, balancer: Balancer, candidates: Sequence[Candidate], head: ForwardedHead
    ) -> Candidate | None:
        if not candidates:
            return None
        if not any(known == self._name for known, _ in head.fields):
            # A rule may have taken it out of what the upstream gets, and still it names a destination.
            received = head.received or []
            if not any(known == self._name for known, _ in received):
                return None
            head = evolve(head, fields=received)
        return balancer.pick(candidates, head) if len(candidates) > 1 else candidates[0]

    def fields(self, chosen: Candidate, head: ForwardedHead, /) -> Fields:
        """Nothing: the client knows its value."""
        del chosen, head
        return []
