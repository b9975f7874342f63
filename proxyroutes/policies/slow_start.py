"""Slow start: a destination that has come, or come back, gets its share little by little.

The recipe is a curve. Whom it holds for, and when it begins, is the pool's to say.
"""

from __future__ import annotations

from attrs import field, frozen

__all__ = ["SlowStart", "to_slow_start"]


@frozen(kw_only=True)
class SlowStart:
    """How the weight of a destination grows after it was added, has recovered, or is no longer ejected or drained.

    Its weight is multiplied by ``(t / window) ** (1 / aggression)``, and by no less than the least share. It holds in
    every balancing policy. What a pool starts with is used in full from its first request on.

    Attributes:
        window: Seconds until it has its whole weight.
        aggression: 1.0 grows in a straight line; more than that faster at first, less slower at first.
        min_weight_percent: The least share, of 100; above 0, or nothing would warm it up.

    Raises:
        ValueError: If a number is out of its range.

    Source:
        Slow start of Envoy, with its numbers; and of HAProxy, which never begins it when the proxy starts.
    """

    window: float = field(default=30.0, kw_only=False)
    aggression: float = 1.0
    min_weight_percent: float = 10.0

    def __attrs_post_init__(self) -> None:
        if not self.window > 0:
            raise ValueError(f"window must be greater than 0 seconds: {self.window!r}")
        if not self.aggression > 0:
            raise ValueError(f"aggression must be greater than 0: {self.aggression!r}")
        if not 0 < self.min_weight_percent <= 100:
            raise ValueError(
                f"min_weight_percent is above 0, at most 100: {self.min_weight_percent!r}"
            )

    def factor(self, elapsed: float) -> float:
        """What is left of a weight so many seconds after the beginning: up to 1.0, which is the end."""
        if elapsed >= self.window:
            return 1.0
        grown: float = max(0.0, elapsed / self.window) ** (1.0 / self.aggression)
        return max(self.min_weight_percent / 100.0, grown)


def to_slow_start(value: SlowStart | float | None) -> SlowStart | None:
    """Take seconds for ``SlowStart(seconds)``."""
    return value if value is None or isinstance(value, SlowStart) else SlowStart(value)
