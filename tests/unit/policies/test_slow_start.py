"""The curve of slow start."""

import pytest

from proxyroutes.policies import SlowStart


@pytest.mark.parametrize(
    ("recipe", "elapsed", "expected"),
    [
        (SlowStart(), 0.0, 0.1),
        (SlowStart(), 2.9, 0.1),
        (SlowStart(), 15.0, 0.5),
        (SlowStart(), 30.0, 1.0),
        (SlowStart(), 1e9, 1.0),
        (SlowStart(10.0), 5.0, 0.5),
        (SlowStart(10.0, aggression=2.0), 2.5, 0.5),
        (SlowStart(10.0, aggression=0.5), 5.0, 0.25),
        (SlowStart(10.0, min_weight_percent=60.0), 5.0, 0.6),
        (SlowStart(10.0), -1.0, 0.1),
    ],
)
@pytest.mark.requirement("R-35")
def test_the_curve(recipe, elapsed, expected):
    """Envoy's: the share of the window to the power of one over the aggression, a tenth at the least."""
    assert pytest.approx(expected) == recipe.factor(elapsed)


@pytest.mark.parametrize(
    "values",
    [
        {"window": 0},
        {"window": float("nan")},
        {"aggression": 0},
        {"min_weight_percent": 0},
        {"min_weight_percent": 101},
    ],
    ids=str,
)
def test_what_is_no_curve_is_refused(values):
    """Where it is written."""
    with pytest.raises(ValueError, match=next(iter(values))):
        SlowStart(**values)
