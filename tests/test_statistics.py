"""Intervals hold what they promise, and words follow from them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollout.benchmarks.statistics import LEAST, Interval, Verdict, band, compare, holm, interval
from rollout.errors import RolloutError

TIMES = 8000
"""Simulated runs: a coverage of .95 is measured to +-.005."""
SIZES = [(10, 1), (24, 1), (42, 2), (42, 8)]
LATEST = 15
"""Where reaction times are cut."""


def coverage(differences: np.ndarray, truth: float, *, fixed: bool = False) -> float:
    """The share of runs, the last axis of (prompts, seeds, runs), whose interval holds the truth."""
    _, low, high = band(differences, fixed=fixed)
    return float(np.mean((low <= truth) & (truth <= high)))


def reaction(rng: np.random.Generator, means: np.ndarray, seeds: int) -> np.ndarray:
    """Exponential times of these means (prompts, 1, runs), cut where nothing had happened."""
    return np.minimum(LATEST, means * rng.exponential(1, (len(means), seeds, TIMES)))


def expected(means: np.ndarray) -> np.ndarray:
    """The means of such times."""
    return np.asarray(means * (1 - np.exp(-LATEST / means)))


@pytest.mark.parametrize(("prompts", "seeds"), SIZES)
def test_coverage_where_prompts_are_a_sample(prompts: int, seeds: int) -> None:
    rng = np.random.default_rng(prompts * seeds)
    normal = 0.3 + rng.normal(0, 0.5, (prompts, 1, TIMES)) + rng.normal(0, 1, (prompts, seeds, TIMES))
    assert 0.93 < coverage(normal, 0.3) < 0.97
    means = 6 * np.exp(rng.normal(0, 0.8, (prompts, 1, TIMES)))
    everyone = 6 * np.exp(rng.normal(0, 0.8, 1_000_000))
    truth = float(np.mean(expected(everyone / 2) - expected(everyone)))
    assert 0.93 < coverage(reaction(rng, means / 2, seeds) - reaction(rng, means, seeds), truth) < 0.97


@pytest.mark.parametrize(("prompts", "seeds"), SIZES)
def test_coverage_where_prompts_are_the_population(prompts: int, seeds: int) -> None:
    """Prompts differ in mean and in variance; under one seed, where they count as a sample, their means do not."""
    rng = np.random.default_rng(prompts * seeds)
    own = rng.normal(0, 1, (prompts, 1, 1)) * (seeds > 1)
    spread = rng.uniform(0.3, 2, (prompts, 1, 1))
    normal = own + spread * rng.normal(0, 1, (prompts, seeds, TIMES))
    assert 0.93 < coverage(normal, float(own.mean()), fixed=True) < 0.97
    means = 6 * np.exp(rng.normal(0, 0.8 * (seeds > 1), (prompts, 1, 1)))
    truth = float(np.mean(expected(means / 2) - expected(means)))
    cut = reaction(rng, means / 2, seeds) - reaction(rng, means, seeds)
    assert 0.93 < coverage(cut, truth, fixed=True) < 0.97
    if seeds > 1:  # a sample of prompts would have to allow for other prompts
        assert coverage(normal, float(own.mean())) > 0.97


@pytest.mark.parametrize(("prompts", "seeds"), SIZES)
def test_coverage_of_strongly_skewed_differences_is_what_is_stated(prompts: int, seeds: int) -> None:
    """No interval of this size is exact: log-normal differences, and a large one in every twentieth prompt."""
    rng = np.random.default_rng(prompts * seeds)
    skewed = coverage(np.exp(rng.normal(0, 1.2, (prompts, seeds, TIMES))), float(np.exp(0.72)))
    rare = (rng.random((prompts, 1, TIMES)) < 0.05) * rng.normal(5, 1, (prompts, seeds, TIMES))
    seldom = coverage(rare, 0.25)
    print(f"{prompts} x {seeds}: log-normal {skewed:.3f}, rare and large {seldom:.3f}")
    least, least_seldom = {10: (0.75, 0.35), 24: (0.8, 0.65), 42: (0.86, 0.85)}[prompts]
    assert least < skewed < 0.95
    assert least_seldom < seldom < 0.95


@pytest.mark.parametrize(("prompts", "seeds"), [(8, 1), (10, 1), (42, 2)])
@pytest.mark.parametrize("better", ["higher", "zero"])
def test_strategies_that_differ_in_nothing_are_seldom_told_apart(prompts: int, seeds: int, better: str) -> None:
    rng = np.random.default_rng(7)
    shape = (prompts, seeds)
    words = []
    for _ in range(2000):
        common = rng.normal(1, 1, (prompts, 1))
        runs = [common + rng.normal(size=shape) for _ in range(2)]
        words.append(compare(*runs, matters=0.01, better=better).word)
    wrong = np.mean([word in ("better", "worse") for word in words])
    assert wrong == 0 if prompts < LEAST else 0.02 < wrong <= 0.07
    if prompts < LEAST:
        assert set(words) == {"inconclusive"}


@pytest.mark.parametrize(("mine", "theirs"), [(0, 0), (1, 1), (1, -1), (1, 0), (0.2, 0), (0.3, -0.2)])
def test_coverage_of_distances_from_the_best(mine: float, theirs: float) -> None:
    """Never below, and wider than need be only where both means are at the best."""
    rng = np.random.default_rng(3)
    held = wrong = 0
    for _ in range(1500):
        common = rng.normal(0, 0.5, (24, 1))
        a, b = (1 + at + common + rng.normal(size=(24, 1)) for at in (theirs, mine))
        verdict = compare(a, b, matters=0, better="one")
        held += verdict.low <= abs(mine) - abs(theirs) <= verdict.high
        wrong += verdict.word == "better" and abs(mine) >= abs(theirs)
    assert held / 1500 > 0.93
    assert wrong / 1500 < 0.04


def test_scatter_about_the_best_is_no_distance_from_it() -> None:
    """Means at 0 are equally good, however far single rollouts lie from it on either side."""
    rng = np.random.default_rng(0)
    narrow, wide = (spread * rng.permutation(np.repeat([-1.0, 1.0], 20))[:, None] for spread in (0.01, 1))
    assert compare(narrow, wide, matters=0.5, better="zero").word == "equivalent"
    assert compare(narrow + 2, wide, matters=0.5, better="zero").word == "better"


def test_an_interval_by_hand() -> None:
    """Two prompts of 1 and 3: mean 2, standard error 1, and Student's t for one degree of freedom."""
    over = interval(np.array([[1.0], [3.0]]))
    assert over == Interval(2.0, pytest.approx(2 - 12.7062, abs=1e-4), pytest.approx(2 + 12.7062, abs=1e-4), 2)


def test_seeds_of_one_prompt_are_no_prompts_of_their_own() -> None:
    prompts = np.random.default_rng(0).normal(0, 1, (20, 1))
    one, ten = interval(prompts), interval(np.repeat(prompts, 10, 1))
    assert (one.low, one.high) == pytest.approx((ten.low, ten.high))
    assert (one.n, ten.n) == (20, 200)


def test_pairing_finds_what_spread_hides() -> None:
    rng = np.random.default_rng(2)
    common = rng.normal(0, 10, (24, 1))
    more, less = common + 0.5 + rng.normal(0, 0.1, (24, 1)), common + rng.normal(0, 0.1, (24, 1))
    assert compare(less, more, matters=0.1).word == "better"
    assert compare(less, more, matters=0.1, better="lower").word == "worse"
    assert compare(less, more, matters=0.1, better="neither").word == "differs"
    assert compare(more, less, matters=0.1).word == "worse"
    assert compare(more, less, matters=0.1).difference == pytest.approx(-0.5, abs=0.1)
    assert compare(less, rng.permutation(more), matters=0.1).word == "inconclusive"


def test_the_population_is_seen_more_sharply_than_a_sample_of_it() -> None:
    """An effect that changes with the prompt: certain for these prompts, not for prompts like them."""
    rng = np.random.default_rng(1)
    effect = np.repeat([3.0, -2.6], 6)[:, None] + rng.normal(0, 0.1, (12, 4))
    sample, population = (compare(0 * effect, effect, matters=0.1, fixed=fixed) for fixed in (False, True))
    assert (sample.word, population.word) == ("inconclusive", "better")
    assert (sample.fixed, population.fixed) == (False, True)
    single = compare(0 * effect[:, :1], effect[:, :1], matters=0.1, fixed=True)
    assert not single.fixed
    assert "for want of a second seed" in single.reason
    missing = effect.copy()
    missing[3, 1:] = np.nan
    assert not compare(0 * effect, missing, matters=0.1, fixed=True).fixed
    missing[3] = np.nan  # a prompt on which the metric says nothing is none of the population
    assert compare(0 * effect, missing, matters=0.1, fixed=True).fixed


def spread_about(mean: float, half: float, prompts: int = 12) -> np.ndarray:
    """Differences whose 95% interval is mean +- half."""
    values = np.repeat([-1.0, 1.0], prompts // 2)[:, None]
    return mean + values * half / interval(values).high


@pytest.mark.parametrize(
    ("mean", "half", "word"),
    [
        (0.5, 0.4, "better"),
        (-0.5, 0.4, "worse"),
        (0.5, 0.6, "inconclusive"),
        (0.0, 0.09, "equivalent"),
        (0.05, 0.04, "equivalent"),  # certain, and too small to matter
        (0.08, 0.05, "inconclusive"),  # certain, and perhaps too small to matter
        (0.12, 0.1, "better"),
        (0.0, 0.11, "inconclusive"),
    ],
)
def test_words(mean: float, half: float, word: str) -> None:
    verdict = compare(np.zeros((12, 1)), spread_about(mean, half), matters=0.1)
    assert verdict.word == word
    assert (verdict.low, verdict.high) == pytest.approx((mean - half, mean + half))
    assert verdict.decided == (word in ("better", "worse"))
    assert (verdict.settles is None) == (word != "inconclusive")
    assert (verdict.p < 0.05) == (verdict.low > 0 or verdict.high < 0)


def test_below_ten_prompts_nothing_is_marked() -> None:
    values = np.arange(9.0)
    verdict = compare(values, values + 1, matters=0.1)
    assert (verdict.word, verdict.p, verdict.settles, verdict.prompts) == ("inconclusive", None, LEAST, 9)
    assert verdict.reason == "9 prompts, and 10 are the least for a mark"
    assert compare(values, values, matters=0.1).word == "inconclusive"
    several = np.repeat(values[:, None], 3, 1)
    assert compare(several, several + 1, matters=0.1).n == 27
    assert compare(np.arange(10.0), np.arange(10.0) + 1, matters=0.1).word == "better"


def test_missing_values_are_left_out_in_pairs() -> None:
    values = np.arange(24.0).reshape(12, 2)
    other = values + 1
    other[0, 0] = np.nan
    values[1] = np.nan
    verdict = compare(values, other, matters=0)
    assert (verdict.n, verdict.prompts, verdict.difference) == (21, 11, 1.0)
    nothing = compare(values, np.full((12, 2), np.nan), matters=0)
    assert (nothing.word, nothing.n, nothing.reason) == ("inconclusive", 0, "no prompt has both")
    assert nothing.to_dict()["mean"] is None
    one = compare(values[:1], other[:1], matters=0)
    assert (one.low, one.high, one.visible) == (-np.inf, np.inf, np.inf)
    assert one.to_dict()["low"] is None
    assert interval(np.full((3, 1), np.nan)) is None


def test_what_a_run_is_said_to_see_it_sees_in_four_of_five() -> None:
    rng = np.random.default_rng(4)
    runs = rng.normal(size=(24, 1, TIMES))
    reach = np.median([compare(np.zeros((24, 1)), runs[..., n], matters=0).visible for n in range(500)])
    _, low, _ = band(runs + reach)
    assert 0.76 < np.mean(low > 0) < 0.84


@pytest.mark.parametrize(("truth", "matters", "wanted"), [(0.4, 0.1, "better"), (0.0, 0.5, "equivalent")])
def test_as_many_prompts_as_are_said_settle_it(truth: float, matters: float, wanted: str) -> None:
    rng = np.random.default_rng(5)
    pilot = rng.normal(size=(12, 1))
    pilot = truth + (pilot - pilot.mean()) / pilot.std(ddof=1)
    verdict = compare(np.zeros((12, 1)), pilot, matters=matters)
    assert verdict.word == "inconclusive"
    words = [
        compare(np.zeros((verdict.settles, 1)), rng.normal(truth, 1, (verdict.settles, 1)), matters=matters).word
        for _ in range(500)
    ]
    assert words.count(wanted) / 500 > 0.75


def test_seeds_settle_what_is_asked_of_a_population() -> None:
    values = np.random.default_rng(6).normal(0, 1, (12, 2))
    values += 0.2 - values.mean()
    verdict = compare(0 * values, values, matters=0.01, fixed=True)
    assert verdict.word == "inconclusive"
    assert verdict.settles > 2


def test_what_cannot_be_compared_is_refused_in_one_line() -> None:
    values = np.zeros((12, 1))
    with pytest.raises(RolloutError, match="same prompts and seeds"):
        compare(values, values[1:], matters=0)
    with pytest.raises(RolloutError, match="Use one of higher, lower"):
        compare(values, values, matters=0, better="more")
    for matters in (-1, np.nan):
        with pytest.raises(RolloutError, match="0 or more"):
            compare(values, values, matters=matters)
    with pytest.raises(RolloutError, match="no \\(prompts, seeds\\)"):
        compare(np.zeros((2, 2, 2)), np.zeros((2, 2, 2)), matters=0)


def test_rounding_is_no_difference() -> None:
    values = np.linspace(0.1, 0.9, 12)
    verdict = compare(values, (values * 3) / 3 + 1e-17, matters=0)
    assert (verdict.word, verdict.low, verdict.high, verdict.p) == ("equivalent", 0, 0, 1)


def test_holm_by_hand() -> None:
    """Holm's example: the smallest times their number, the next times one less, and never below the one before."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


@settings(max_examples=30)
@given(st.integers(1, 8), st.integers(1, 3), st.integers(0, 2**31), st.booleans())
def test_a_mean_lies_in_its_interval_and_shifts_with_its_values(
    prompts: int, seeds: int, seed: int, fixed: bool
) -> None:
    values = np.random.default_rng(seed).normal(size=(prompts, seeds))
    values[np.random.default_rng(seed + 1).random((prompts, seeds)) < 0.2] = np.nan
    over = interval(values, fixed=fixed)
    if over is None:
        assert not np.isfinite(values).any()
        return
    assert over.n == np.isfinite(values).sum()
    shifted = interval(values + 7, fixed=fixed)
    assert (shifted.low, shifted.mean) == pytest.approx((over.low + 7, over.mean + 7))
    assert over.low <= over.mean <= over.high
    swapped = compare(np.zeros_like(values), values, matters=0.1), compare(values, np.zeros_like(values), matters=0.1)
    assert swapped[0].difference == -swapped[1].difference
    assert isinstance(swapped[0], Verdict)
