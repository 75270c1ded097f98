"""Curves over a numeric axis: half-lives and rates that are found again, intervals that hold, and reasons where there is none."""

import numpy as np
import pytest

from rollout.benchmarks.intervals import band
from rollout.benchmarks.sweep import Fit, Unfit, fit_half_life, fit_rate, kind_of, sweep

DELAYS = [3, 6, 12, 24, 48, 60]


def decay(half_life: float, level: float = 0.17, start: float = 1.0) -> np.ndarray:
    return level + (start - level) * 2.0 ** (-(np.array(DELAYS) - 3) / half_life)


def noisy(curve: np.ndarray, prompts: int = 24, spread: float = 0.1, seed: int = 0) -> np.ndarray:
    return curve + np.random.default_rng(seed).normal(0, spread, (prompts, len(curve)))


@pytest.mark.parametrize("half_life", [4.0, 12.0, 40.0])
@pytest.mark.parametrize("level", [0.0, 0.3])
def test_a_half_life_without_noise_is_exact(half_life: float, level: float) -> None:
    found = fit_half_life(DELAYS, np.tile(decay(half_life, level), (4, 1)))
    assert isinstance(found, Fit)
    assert found.value == pytest.approx(half_life, rel=1e-3)
    assert found.levels_at == pytest.approx(level, abs=1e-3)
    assert found.low == pytest.approx(found.high, rel=1e-6)
    assert found.explained == pytest.approx(1)


def test_the_order_of_the_axis_does_not_matter() -> None:
    curves, order = noisy(decay(12.0)), [4, 0, 5, 2, 1, 3]
    one = fit_half_life(DELAYS, curves)
    other = fit_half_life([DELAYS[i] for i in order], curves[:, order])
    assert isinstance(one, Fit)
    assert isinstance(other, Fit)
    assert (one.value, one.low, one.high) == pytest.approx((other.value, other.low, other.high))


def test_the_interval_of_a_half_life_holds_it_as_often_as_it_says() -> None:
    """Of 100 runs of 24 prompts 95 should; between .89 and .99 is within what 100 runs can tell."""
    held = fitted = 0
    for seed in range(100):
        found = fit_half_life(DELAYS, noisy(decay(15.0), seed=seed))
        if isinstance(found, Fit):
            fitted += 1
            held += found.low <= 15.0 <= found.high
    assert fitted >= 99
    assert 0.89 <= held / fitted <= 0.99


def test_the_interval_of_a_rate_holds_it_as_often_as_it_says() -> None:
    held = 0
    for seed in range(300):
        found = fit_rate(DELAYS, noisy(0.02 * np.array(DELAYS), 12, seed=seed))
        assert isinstance(found, Fit)
        held += found.low <= 0.02 <= found.high
    assert 0.92 <= held / 300 <= 0.98


@pytest.mark.parametrize(
    ("curves", "x", "says"),
    [
        (noisy(np.ones(6)), DELAYS, "does not fall along the axis"),
        (noisy(decay(12.0)[::-1]), DELAYS, "does not fall along the axis"),
        (noisy(decay(500.0, 0.0), spread=0.002), DELAYS, "the half-life lies beyond 60"),
        (noisy(decay(0.5), spread=0.02), DELAYS, "has fallen before 3"),
        (noisy(np.array([0.6, 1, 0.3, 0.9, 0.5, 0.2]), spread=0.01), DELAYS, "not as an exponential does"),
        (noisy(decay(20.0), prompts=3), DELAYS, "3 prompts have a value everywhere"),
        (noisy(decay(20.0))[:, :3], DELAYS[:3], "3 values of the axis are too few"),
        (noisy(decay(20.0), prompts=5, spread=0.5), DELAYS, "does not fall along the axis|within a factor of 10"),
    ],
)
def test_a_curve_that_has_no_half_life_says_why(curves: np.ndarray, x: list[int], says: str) -> None:
    found = fit_half_life(x, curves)
    assert isinstance(found, Unfit)
    assert np.array([part in found.reason for part in says.split("|")]).any(), found.reason
    assert found.to_dict() == {"kind": "half-life", "value": None, "reason": found.reason}


def test_a_curve_that_is_no_line_has_no_rate_and_one_that_stays_has_none() -> None:
    bent = fit_rate(DELAYS, noisy(np.array([0, 1, 1, 0.2, 0.2, 1.4]), spread=0.01))
    assert isinstance(bent, Unfit)
    assert "not along a line" in bent.reason
    still = fit_rate(DELAYS, noisy(np.zeros(6)))
    assert isinstance(still, Fit)
    assert still.low < 0 < still.high


def test_what_a_metric_comes_to_is_its_units() -> None:
    assert kind_of("share", "higher") == "half-life"
    assert kind_of("px", "lower") == "rate"
    assert kind_of("share", "lower") == "rate"
    assert kind_of("share", "neither") is None
    assert kind_of("frames", "higher") is None


def test_a_sweep_is_a_band_over_prompt_means_and_a_fit_of_whole_prompts() -> None:
    values = np.stack([noisy(decay(12.0), seed=seed) for seed in (1, 2)], 1)
    values[0, :, 3] = np.nan  # one prompt lacks one delay
    values[1, 0, 2] = np.nan  # another has one seed there
    found = sweep(DELAYS, values, "half-life")
    mean, low, high = band(values)
    assert np.array_equal(found.mean, mean)
    assert np.array_equal(found.low, low)
    assert np.array_equal(found.high, high)
    assert found.mean[3] == pytest.approx(values[1:, :, 3].mean())
    whole = np.nanmean(values[1:], 1)
    assert found.fit == fit_half_life(DELAYS, whole)
    told = found.to_dict()
    assert set(told) == {"mean", "low", "high", "fit"}
    assert set(told["fit"]) == {"kind", "value", "low", "high", "explained", "levels_at"}
    assert sweep(DELAYS, values, None).to_dict()["fit"]["value"] is None


def test_a_sweep_with_nothing_in_it_says_so() -> None:
    found = sweep(DELAYS, np.full((4, 1, 6), np.nan), "half-life")
    assert found.to_dict()["mean"] == [None] * 6
    assert isinstance(found.fit, Unfit)
