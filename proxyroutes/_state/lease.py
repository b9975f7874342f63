"""A lease: the right to use one destination for one exchange or session, and what it tells the pool at its end."""

from __future__ import annotations

from typing import Protocol

from proxyroutes._state.destinations import DestinationState

__all__ = ["Lease", "Lender"]


class Lender(Protocol):
    """A pool that gives leases."""

    in_flight: int

    def refresh(self) -> None:
        """A destination has room again."""
        ...

    def eject(self, destination: DestinationState) -> None:
        """A destination has become an outlier."""
        ...


class Lease:
    """The right to use a destination for one exchange or session. Released once, whatever happens.

    Attributes:
        destination: What it is for.
        status: The status that the destination answered with, 0 before. Entered into its record at the release.
        failed: Whether the destination is to blame for how it ended.
    """

    __slots__ = ("_pool", "destination", "failed", "status")

    def __init__(self, pool: Lender, destination: DestinationState) -> None:
        self._pool: Lender | None = pool
        self.destination = destination
        self.status = 0
        self.failed = False

    def release(self) -> None:
        """Give it back; a second call does nothing."""
        pool = self._pool
        if pool is not None:
            self._pool = None
            destination = self.destination
            was_full = destination.limited and destination.full
            destination.in_flight -= 1
            pool.in_flight -= 1
            if was_full and not destination.full:
                pool.refresh()
            outlier = destination.outlier
            # Neither a status nor a failure: the client has left, which counts against nobody.
            if outlier is not None and (self.failed or self.status):
                bad = outlier.failed() if self.failed else outlier.answered(self.status)
                if bad:
                    pool.eject(destination)
