"""Intervals and verdicts."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollout.benchmarks.statistics import Bootstrap, compare, loss


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    rng = np.random.default_rng(1)
    boot = Bootstrap(30, 2, draws=1000)
    held = 0
    for _ in range(200):
        values = rng.normal(3.0, 1.0, (30, 1)) + rng.normal(0, 0.5, (30, 2))
        found = boot.interval(values)
        held += found.low <= 3.0 <= found.high
    assert 180 <= held <= 199


def test_seeds_of_one_prompt_are_no_prompts_of_their_own() -> None:
    """With all the spread between prompts, more seeds do not narrow an interval."""
    prompts = np.random.default_rng(0).normal(0, 1, (20, 1))
    one = Bootstrap(20, 1).interval(prompts)
    ten = Bootstrap(20, 10).interval(np.repeat(prompts, 10, 1))
    assert ten.high - ten.low == pytest.approx(one.high - one.low, rel=0.1)


def test_pairing_finds_what_spread_hides() -> None:
    rng = np.random.default_rng(2)
    common = rng.normal(0, 10, (24, 1))
    a, b = common + 0.5 + rng.normal(0, 0.1, (24, 1)), common + rng.normal(0, 0.1, (24, 1))
    boot = Bootstrap(24, 1)
    assert compare(boot, a, b, "higher")["verdict"] == "better"
    assert compare(boot, a, b, "lower")["verdict"] == "worse"
    assert compare(boot, a, b, "neither")["verdict"] == "differs"
    assert compare(boot, b, a, "higher")["verdict"] == "worse"
    assert compare(boot, rng.permutation(a), b, "higher")["verdict"] == "tie"


def test_equal_is_a_tie_and_few_pairs_are_no_verdict() -> None:
    values = np.arange(12.0).reshape(12, 1)
    boot = Bootstrap(12, 1)
    same = compare(boot, values, values, "higher")
    assert (same["mean"], same["low"], same["high"], same["verdict"]) == (0, 0, 0, "tie")
    some = values.copy()
    some[5:] = np.nan
    assert compare(boot, some + 1, values, "higher") | {"verdict": "few", "n": 5} == compare(
        boot, some + 1, values, "higher"
    )
    assert compare(boot, np.full((12, 1), np.nan), values, "higher") is None


def test_what_is_certain_may_still_be_slight() -> None:
    boot = Bootstrap(12, 1)
    a, b = np.full((12, 1), 0.501), np.full((12, 1), 0.5)
    assert compare(boot, a, b, "higher")["verdict"] == "better"
    assert compare(boot, a, b, "higher", 0.005)["verdict"] == "slight"


def test_the_best_may_lie_in_the_middle() -> None:
    boot = Bootstrap(10, 1)
    near, far = np.full((10, 1), 1.1), np.full((10, 1), 0.5)
    assert compare(boot, near, far, "one")["verdict"] == "better"
    assert compare(boot, near - 1, far - 1, "zero")["verdict"] == "better"
    assert (loss(np.array([-2.0]), "zero") == 2).all()


@settings(max_examples=30)
@given(st.integers(1, 8), st.integers(1, 3), st.integers(0, 2**31))
def test_a_mean_lies_in_its_interval_and_shifts_with_its_values(prompts: int, seeds: int, seed: int) -> None:
    values = np.random.default_rng(seed).normal(size=(prompts, seeds))
    values[np.random.default_rng(seed + 1).random((prompts, seeds)) < 0.2] = np.nan
    boot = Bootstrap(prompts, seeds, draws=500)
    found = boot.interval(values)
    if found is None:
        assert not np.isfinite(values).any()
        return
    assert found.n == np.isfinite(values).sum()
    shifted = boot.interval(values + 7)
    assert shifted.low == pytest.approx(found.low + 7)
    assert shifted.mean == pytest.approx(found.mean + 7)
    assert np.nanmin(values) - 1e-9 <= found.low <= found.high <= np.nanmax(values) + 1e-9
