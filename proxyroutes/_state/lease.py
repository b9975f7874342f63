"""A lease: the right to use one destination for one exchange or session, and what it tells the pool at its end."""

from __future__ import annotations

from typing import Protocol

from typing_extensions import override

from proxyroutes._state.destinations import DestinationState
from proxyroutes._state.transforms import Transformed
from proxyroutes.typing import Clock, ForwardedHead

__all__ = ["WITHOUT_CONTENT", "Lease", "Lender", "MeasuredLease"]

WITHOUT_CONTENT = frozenset({b"GET", b"HEAD", b"OPTIONS"})
"""Methods whose time to the first byte is the destination's alone."""


class Lender(Transformed, Protocol):
    """A pool that gives leases."""

    in_flight: int

    def returned(self, destination: DestinationState) -> None:
        """A lease of a destination that is limited was given back."""
        ...

    def eject(self, destination: DestinationState) -> None:
        """A destination has become an outlier."""
        ...


class Lease:
    """The right to use a destination for one exchange or session. Released once, whatever happens.

    Attributes:
        destination: What it is for.
        lender: The pool that has given it.
        status: The status that the destination answered with, 0 before. Entered into its record at the release.
        failed: Whether the destination is to blame for how it ended.
        held: Whether it was not given back yet.
    """

    __slots__ = ("destination", "failed", "held", "lender", "status")

    def __init__(self, pool: Lender, destination: DestinationState) -> None:
        self.held = True
        self.lender = pool
        self.destination = destination
        self.status = 0
        self.failed = False

    def release(self) -> None:
        """Give it back; a second call does nothing."""
        if self.held:
            self.held = False
            pool = self.lender
            destination = self.destination
            destination.in_flight -= 1
            pool.in_flight -= 1
            if destination.limited:
                pool.returned(destination)
            if self.failed:
                destination.failures += 1
            outlier = destination.outlier
            # Neither a status nor a failure: the client has left, which counts against nobody.
            if outlier is not None and (self.failed or self.status):
                bad = outlier.failed() if self.failed else outlier.answered(self.status)
                if bad:
                    pool.eject(destination)


class MeasuredLease(Lease):
    """A lease that takes the time to the first byte, for pools whose balancing goes by it.

    ``status`` is set when the head of the response is there: that is the moment.
    """

    __slots__ = ("_began", "_clock", "_status")

    def __init__(
        self, pool: Lender, destination: DestinationState, clock: Clock, head: ForwardedHead
    ) -> None:
        self._clock = clock
        self._status = 0
        # Content comes as fast as the client sends it: that says nothing of the destination.
        plain = head.method in WITHOUT_CONTENT and not head.content_length
        self._began = clock.monotonic() if plain else None
        super().__init__(pool, destination)

    @property  # type: ignore[explicit-override]  # mypy does not see it on an accessor of a slot.
    def status(self) -> int:
        """The status that the destination answered with, 0 before."""
        return self._status

    @status.setter
    def status(self, value: int) -> None:
        self._status = value
        if value:
            self._measure(failed=False)

    def _measure(self, *, failed: bool) -> None:
        measure = self.destination.measure
        if self._began is not None and measure is not None:
            seconds, self._began = self._clock.monotonic() - self._began, None
            if failed:
                measure.fail(seconds)
            else:
                measure.observe(seconds)
            self.destination.estimate()

    @override
    def release(self) -> None:
        """Give it back; a second call does nothing."""
        if self.failed and self.held:
            self._measure(failed=True)
        super().release()
