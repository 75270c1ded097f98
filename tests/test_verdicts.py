"""What verdicts are worth: controls, many claims at once, and the words that say so."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rollout.benchmarks.findings import ClaimFinding, Summary
from rollout.benchmarks.plan import ArmPlan, BackendPlan, ClaimPlan, MetricPlan, Plan
from rollout.benchmarks.report.tables import claims as shown_claims
from rollout.benchmarks.results import because, by_chance, overview, section
from rollout.benchmarks.statistics import Verdict, Word, compare
from rollout.benchmarks.summary import summarise
from rollout.benchmarks.verdicts import STILL, Control, Controls, controls_of, corrected
from tests.finished_run import write_run

ROLES = {"amnesia": Control("amnesia"), "oracle": Control("oracle"), "memrope, swapped": Control("swap", "memrope")}
NONE: Mapping[str, Control] = {}


def said(word: Word, p: float | None = 0.5, n: int = 12) -> Verdict:
    return Verdict(word, 0.0, -1.0, 1.0, 1.4, p=p, n=n, prompts=n, settles=40)


def controls(roles: Mapping[str, Control] = NONE, *others: Verdict, **words: Word) -> Controls:
    """Controls of which `oracle` and `swap` are the verdicts that are asked for; `others` are the pairs of the run."""
    by = {("amnesia", "oracle"): "oracle", ("memrope, swapped", "memrope"): "swap"}

    def compared(a: str, b: str) -> Verdict:
        return said(words.get(by[a, b], "worse"))

    return Controls(roles, compared, {(f"s{n}", "base"): verdict for n, verdict in enumerate(others)})


@pytest.mark.parametrize("word", ["better", "worse", "differs"])
def test_a_difference_proves_itself(word: Word) -> None:
    assert controls(ROLES, oracle="equivalent", swap="equivalent").judge("a", "b", said(word)).word == word
    assert controls().judge("a", "b", said(word)).word == word


@pytest.mark.parametrize("word", ["equivalent", "inconclusive"])
def test_nothing_seen_counts_where_the_controls_differ(word: Word) -> None:
    judge = controls(ROLES, oracle="worse", swap="worse")
    assert judge.judge("memrope", "base", said(word)) == said(word)


@pytest.mark.parametrize("word", ["equivalent", "inconclusive"])
@pytest.mark.parametrize("control", ["equivalent", "inconclusive"])
def test_an_oracle_that_is_as_good_as_amnesia_makes_a_metric_blind(word: Word, control: Word) -> None:
    verdict = controls(ROLES, said("better", 1e-9), oracle=control).judge("a", "b", said(word))
    assert (verdict.word, verdict.settles) == ("cannot tell", None)
    assert verdict.reason.startswith("amnesia and oracle are")
    assert ("equivalent" in verdict.reason) == (control == "equivalent")
    assert (verdict.difference, verdict.low, verdict.high) == (0.0, -1.0, 1.0)


def test_a_memory_that_may_be_anothers_is_none_for_its_own_strategy_alone() -> None:
    judge = controls(ROLES, oracle="worse", swap="equivalent")
    for pair in (("memrope", "base"), ("base", "memrope")):
        assert judge.judge(*pair, said("inconclusive")).reason == (
            "memrope and the same with another video's memory are equivalent"
        )
    assert judge.judge("fifo", "base", said("inconclusive")).word == "inconclusive"
    swap = {"memrope, swapped": ROLES["memrope, swapped"]}
    assert controls(swap, said("better", 1e-9), swap="equivalent").judge("memrope", "b", said("equivalent")).word == (
        "cannot tell"
    )
    assert controls(swap, swap="worse").judge("memrope", "b", said("equivalent")).word == "equivalent"


def test_without_controls_another_pair_must_move_the_metric() -> None:
    still = controls(NONE, said("inconclusive"), said("equivalent"))
    verdict = still.judge("a", "b", said("inconclusive"))
    assert because(verdict.to_dict()) == f"{STILL}; could have seen 1.40; about 28 more prompts would decide"
    assert (verdict.word, verdict.reason) == ("cannot tell", STILL)
    assert controls(NONE, said("better", 0.001)).judge("a", "b", said("equivalent")).word == "equivalent"
    many = [said("inconclusive")] * 39
    assert controls(NONE, said("better", 0.03), *many).judge("a", "b", said("equivalent")).word == "cannot tell"
    assert controls(NONE, said("better", 0.001), *many).judge("a", "b", said("equivalent")).word == "equivalent"


def test_controls_of_which_a_metric_says_nothing_are_none() -> None:
    judge = Controls(ROLES, lambda a, b: said("inconclusive", None, 0), {})
    assert judge.judge("memrope", "b", said("equivalent")).reason == STILL


def test_few_prompts_say_nothing_of_the_model_and_costs_need_none() -> None:
    few = said("inconclusive", None, 4)
    assert controls(ROLES, oracle="inconclusive").judge("a", "b", few) == few
    assert Controls({}, controls().compared, {}, measured=True).judge("a", "b", said("equivalent")).word == "equivalent"


def test_claims_are_corrected_for_their_number() -> None:
    verdicts = [said("better", 0.03), said("worse", 1e-6), said("equivalent", 0.9), said("inconclusive", None, 4)]
    alone, among = corrected(verdicts[:1]), corrected(verdicts)
    assert alone == verdicts[:1]
    assert [verdict.word for verdict in among] == ["inconclusive", "worse", "equivalent", "inconclusive"]
    assert among[0].reason == "does not survive the correction for 3 claims"
    assert [verdict.p for verdict in among] == pytest.approx([0.06, 3e-6, 0.9, None])
    assert corrected([]) == []


def test_claims_that_are_all_false_seldom_show() -> None:
    """Of twenty comparisons of equals one is marked; of twenty claims, in one run of twenty any is."""
    rng = np.random.default_rng(0)
    runs = []
    for _ in range(300):
        base = rng.normal(size=(12, 1))
        runs.append([compare(base, rng.normal(size=(12, 1)), matters=0.01) for _ in range(20)])
    marks = np.mean([sum(verdict.decided for verdict in run) for run in runs])
    assert 0.7 < marks < 1.3
    assert np.mean([any(verdict.decided for verdict in corrected(run)) for run in runs]) < 0.08


def test_the_plan_says_which_strategies_are_controls() -> None:
    strategies = {"a": ArmPlan(""), "b": ArmPlan("", control="swap", of="a"), "c": ArmPlan("", control="truth")}
    assert controls_of(strategies) == {"b": Control("swap", "a"), "c": Control("truth")}


@pytest.mark.parametrize(
    ("verdict", "text"),
    [
        (said("better"), ""),
        (said("inconclusive"), "could have seen 1.40; about 28 more prompts would decide"),
        (Verdict("inconclusive", 0, -1, 1, 0.5, 0.3, 24, 12, 3, True), "could have seen 0.50; about 1 more seed would decide"),
        (Verdict("inconclusive", 0, -1, 1, 9, None, 4, 4, 10, reason="few"), "few; about 6 more prompts would decide"),
        (Verdict("cannot tell", 0, -1, 1, 0.5, 0.3, 12, 12, None, reason="why"), "why"),
    ],
)  # fmt: skip
def test_a_verdict_says_why_it_is_no_clearer(verdict: Verdict, text: str) -> None:
    assert because(verdict.to_dict()) == text


def scores(rng: np.random.Generator, prompts: int = 24, **shifts: float) -> dict[str, dict[str, np.ndarray]]:
    """One metric in which strategies differ by shifts, beside one that does not move, and a cost that is the same."""
    common = rng.normal(0, 1, (prompts, 1))
    return {
        name: {
            "moves": common + shift + rng.normal(0, 0.3, (prompts, 1)),
            "still": common + rng.normal(0, 0.01, (prompts, 1)),
            "kv_mib": np.full((prompts, 1), 3.0),
        }
        for name, shift in shifts.items()
    }


def claim(better: str, than: str, metric: str) -> dict[str, Any]:
    return {"says": f"{better} {metric}", "source": "", "better": better, "than": than, "metric": metric}


def test_a_run_says_what_shows_and_what_cannot(tmp_path: Path) -> None:
    values = scores(np.random.default_rng(3), base=0.0, more=1.0, same=0.0, oracle=2.0, amnesia=-2.0)
    values["same"]["moves"] = values["base"]["moves"] + 1e-3
    roles = {"oracle": {"control": "oracle"}, "amnesia": {"control": "amnesia"}}
    claims = [
        claim("more", "base", "moves"),
        claim("base", "more", "moves"),
        claim("same", "base", "moves"),
        claim("same", "base", "still"),
        claim("same", "base", "kv_mib"),
    ]
    run = write_run(tmp_path / "run", values, controls=roles, claims=claims)
    found = summarise(run).to_dict()
    assert [c["shows"] for c in found["claims"]] == [
        "shows",
        "the opposite shows",
        "equal, within what matters",
        "this model cannot tell",
        "equal, within what matters",
    ]
    words = Counter(p["verdict"] for p in found["metrics"]["still"]["pairs"])
    assert set(words) == {"cannot tell"}
    assert {p["verdict"] for p in found["metrics"]["kv_mib"]["pairs"]} == {"equivalent"}
    text = section(run)
    assert "**this model cannot tell** (amnesia and oracle are equivalent)" in text
    assert "Of 6 comparisons with the baseline, 0.3 marks" in text  # controls are compared for other reasons
    assert "does not show" not in text
    assert [row["kind"] for row in shown_claims(found)] == ["yes", "no", "equal", "blind", "equal"]


def test_few_prompts_are_inconclusive_everywhere(tmp_path: Path) -> None:
    values = scores(np.random.default_rng(3), 4, base=0.0, more=9.0)
    summary = summarise(write_run(tmp_path / "run", values, claims=[claim("more", "base", "moves")]))
    assert {pair.verdict.word for metric in summary.metrics.values() for pair in metric.pairs} == {"inconclusive"}
    assert summary.claims[0].shows == "inconclusive"
    chance = by_chance(list(summary.metrics.values()), summary.plan)
    assert chance == "Nothing is marked: no comparison has 10 prompts."


def test_one_prompt_has_a_mean_and_no_interval(tmp_path: Path) -> None:
    values = scores(np.random.default_rng(3), 1, base=0.0, more=9.0)
    run = write_run(tmp_path / "run", values, claims=[claim("more", "base", "moves")])
    found = summarise(run).to_dict()
    mean = found["metrics"]["moves"]["means"]["more"]
    assert (mean["low"], mean["high"], mean["n"]) == (None, None, 1)
    assert "[-, -]" in section(run)
    assert shown_claims(found)[0]["gap"].endswith("[one prompt]")


def test_a_share_ends_where_shares_do(tmp_path: Path) -> None:
    values = {name: {"right": np.array([[1.0]] * 11 + [[0.5]])} for name in ("base", "other")}
    mean = summarise(write_run(tmp_path / "run", values, unit="share")).to_dict()["metrics"]["right"]["means"]["base"]
    assert mean["low"] < mean["mean"] < mean["high"] == 1


def test_a_population_of_prompts_is_compared_over_seeds(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    effect = np.repeat([3.0, -2.6], 6)[:, None] + rng.normal(0, 0.1, (12, 4))
    values = {"base": {"moves": 0 * effect}, "other": {"moves": effect}}
    for population, word in ((False, "cannot tell"), (True, "better")):
        run = write_run(tmp_path / str(population), values, fixed=population)
        pair = summarise(run).to_dict()["metrics"]["moves"]["pairs"][0]
        assert (pair["verdict"], pair["fixed"]) == (word, population)


def test_all_claims_stand_in_one_table_with_a_column_for_each_of_the_weights(tmp_path: Path) -> None:
    """Names and sentences of a suite are text: none of them opens a cell, a line or a tag."""
    claim = ClaimPlan("a <b> is\nbetter | `x`", "arXiv 1", "a", "b", "action")
    finding = ClaimFinding(claim, "shows", Verdict("better", 0.1, 0.0, 0.2, 0.1), 0.5, 0.4)

    def summary(model: str | None, *claims: ClaimFinding) -> Summary:
        backend = BackendPlan("sprites", {"model": model} if model else {}, None, "cpu")
        plan = Plan(
            suite="s",
            backend=backend,
            metrics=(MetricPlan("action", "share", "higher"),),
            baseline="a",
            primary="action",
            scripts=(),
            seeds=(),
            strategies={"a": ArmPlan(""), "b": ArmPlan("")},
            cells=(),
            machine={"processor": "p", "cores": 1, "torch": "t"},
        )
        return Summary(plan, {}, {}, claims, (), 0, 0, ())

    table = overview([summary(model, finding) for model in (None, "plain")])
    assert [line for line in table if line.startswith("| claim")] == ["| claim | source | suite | default | plain |"]
    rows = [line for line in table if line.startswith("| a ")]
    cell = "**shows**: `action` 0.50 : 0.40"
    assert rows == [f"| a &lt;b&gt; is better \\| \\`x\\` | arXiv 1 | s | {cell} | {cell} |"]
    assert overview([summary(None)]) == []
