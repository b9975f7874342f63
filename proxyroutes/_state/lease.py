"""A lease: the right to use one destination for one exchange or session, and what it tells the pool at its end."""

from __future__ import annotations

from typing import Protocol

from proxyroutes._state.destinations import DestinationState
from proxyroutes._state.transforms import Transformed

__all__ = ["Lease", "Lender"]


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
