"""``Explanation``: what a gateway would do with a request, as values that are printed, compared or written as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from attrs import asdict, frozen
from typing_extensions import override

from proxyroutes.typing import JSONValue

__all__ = ["CandidateView", "Explanation", "ForwardedView", "RivalView"]


@frozen(kw_only=True)
class RivalView:
    """A route that does not serve the request.

    Attributes:
        route: Its name.
        path: Its template.
        methods: What it serves; None for every method.
        reason: Why it lost.
    """

    route: str
    path: str
    methods: tuple[str, ...] | None
    reason: str


@frozen(kw_only=True)
class CandidateView:
    """A destination of the pool.

    Attributes:
        url: As it was declared.
        available: Whether it may be asked now.
        reason: Why.
        picked: Whether it would be asked first.
    """

    url: str
    available: bool
    reason: str
    picked: bool


@frozen(kw_only=True)
class ForwardedView:
    """The head as it would be sent to the picked destination.

    Attributes:
        method: The method.
        target: The request target, the destination's base path in front.
        host: The value of ``Host``.
        fields: All other field lines, in order.
    """

    method: str
    target: str
    host: str
    fields: tuple[tuple[str, str], ...]


@frozen(kw_only=True)
class Explanation:
    """What the gateway would do with one request. Nothing was sent.

    Attributes:
        method: The request's method.
        url: Its URL, as it was given.
        route: The name of the route that serves it, or None.
        path: The route's template, behind the prefix of its inclusion.
        location: ``file:line`` of the route's stub.
        status: What the gateway answers by itself, or None where the upstream is asked.
        answer: Why, where ``status`` is not None.
        rivals: The other routes, and why each lost.
        pool: The pool's name; None where none is asked, or only the request itself will tell.
        balancing: The pool's policy.
        candidates: The pool's destinations.
        forwarded: What would be sent.
        timeouts: Seconds by name; None is no limit.
        retry: When another destination is asked, in words.
        steps: What the route does besides, in words.
        notes: What has to be known to read this rightly.
    """

    method: str
    url: str
    route: str | None = None
    path: str | None = None
    location: str | None = None
    status: int | None = None
    answer: str | None = None
    rivals: tuple[RivalView, ...] = ()
    pool: str | None = None
    balancing: str | None = None
    candidates: tuple[CandidateView, ...] = ()
    forwarded: ForwardedView | None = None
    timeouts: dict[str, float | None] | None = None
    retry: str | None = None
    steps: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def picked(self) -> str | None:
        """The URL of the destination that would be asked first, or None."""
        return next((one.url for one in self.candidates if one.picked), None)

    def to_dict(self) -> dict[str, JSONValue]:
        """The same for ``json.dumps``."""
        return {**asdict(self, value_serializer=_plain), "picked": self.picked}

    @override
    def __str__(self) -> str:
        lines = [f"{self.method} {self.url}"]
        for title, texts in self._sections():
            for number, text in enumerate(texts):
                lines.append(f"  {title if number == 0 else '':10} {text}".rstrip())
        return "\n".join(lines)

    def _sections(self) -> Iterator[tuple[str, list[str]]]:
        if self.route is not None:
            yield "route", [f"{self.route}  {self.path}  ({self.location})"]
        if self.status is not None:
            yield "answer", [f"{self.status}: {self.answer}"]
        elif self.answer is not None:
            yield "answer", [self.answer]
        if self.pool is not None:
            yield "pool", [f"{self.pool}, {self.balancing}"]
            yield "", [_candidate_line(one) for one in self.candidates]
        if self.forwarded is not None:
            sent = self.forwarded
            fields = (("host", sent.host), *sent.fields)
            yield (
                "forwarded",
                [f"{sent.method} {sent.target}", *(f"{name}: {value}" for name, value in fields)],
            )
        if self.timeouts is not None:
            yield "time-outs", [", ".join(map(_timeout, self.timeouts.items()))]
        if self.retry is not None:
            yield "retry", [self.retry]
        yield "steps", list(self.steps)
        yield "not taken", [_rival_line(one) for one in self.rivals]
        yield "notes", list(self.notes)


def _plain(instance: Any, attribute: Any, value: Any) -> Any:
    del instance, attribute
    return list(value) if isinstance(value, tuple) else value


def _candidate_line(one: CandidateView) -> str:
    mark = "->" if one.picked else "  "
    state = "available" if one.available else "not available"
    return f"{mark} {one.url}  {state}: {one.reason}"


def _timeout(item: tuple[str, float | None]) -> str:
    name, seconds = item
    return f"{name} {'none' if seconds is None else f'{seconds:g} s'}"


def _rival_line(one: RivalView) -> str:
    methods = "any" if one.methods is None else ",".join(one.methods)
    return f"{one.route}  {methods} {one.path}: {one.reason}"
