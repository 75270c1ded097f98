"""What verdicts are worth: whether a model can tell at all, which its controls say, and what many claims at once leave."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import cast

from rollout.benchmarks.controls import Role
from rollout.benchmarks.plan import ArmPlan
from rollout.benchmarks.statistics import Verdict, holm

__all__ = ["CERTAIN", "SHOWS", "Control", "Controls", "controls_of", "corrected"]

CERTAIN = 0.05
"""How often a mark may be due to chance."""
SHOWS = {
    "better": "shows",
    "worse": "the opposite shows",
    "equivalent": "equal, within what matters",
    "inconclusive": "inconclusive",
    "cannot tell": "this model cannot tell",
    "differs": "differs, and neither is better",
}
"""What a verdict says of the claim that the first is better than the second."""
STILL = "the run has no control, and no two of its strategies are told apart"
Pair = tuple[str, str]


@dataclass(frozen=True)
class Control:
    """What a strategy is there for: `truth` is the world's own video; `oracle` keeps what the answer needs, `amnesia`
    the block before alone; `swap` is the strategy `of` with the sinks and the memory of another video."""

    role: Role
    of: str = ""


@dataclass(frozen=True)
class Controls:
    """Whether one metric can tell strategies of one run apart. `roles` by strategy; `compared(a, b)` is the verdict of
    a against b on any two strategies; `pairs` holds the verdicts that the run shows. `measured`: it is a cost, of which
    the model need not tell anything."""

    roles: Mapping[str, Control]
    compared: Callable[[str, str], Verdict]
    pairs: Mapping[Pair, Verdict]
    measured: bool = False

    def judge(self, a: str, b: str, verdict: Verdict) -> Verdict:
        """The verdict of a against b, or `cannot tell`.

        A difference proves itself. What is equivalent or inconclusive counts only where the metric is known to move: where
        oracle and amnesia differ, and another video's memory in the place of a's or b's own differs from it; or, without
        such controls, where any two strategies of the run differ, after correction for the number of pairs. Where the
        prompts are too few for a mark they are too few for the controls, and nothing is said of the model.
        """
        if self.measured or verdict.decided or verdict.p is None:
            return verdict
        doubt = self._doubt(a, b)
        if not doubt:
            return verdict
        settles = verdict.settles if doubt == STILL else None  # more prompts help where no control has spoken
        return replace(verdict, word="cannot tell", settles=settles, reason=doubt)

    def _doubt(self, a: str, b: str) -> str:
        """Why the metric may be blind to what tells a from b; nothing where it is known not to be."""
        keeping = self._tested((x, y) for x in self._names("amnesia") for y in self._names("oracle"))
        if keeping and not any(verdict.decided for verdict in keeping.values()):
            (amnesia, oracle), verdict = next(iter(keeping.items()))
            return f"{amnesia} and {oracle} {_same(verdict)}"
        swaps = self._tested((name, self.roles[name].of) for name in self._names("swap"))
        own_swaps = {name: verdict for (_, name), verdict in swaps.items() if name in (a, b)}
        for name, verdict in own_swaps.items():
            if not verdict.decided:
                return f"{name} and the same with another video's memory {_same(verdict)}"
        return "" if keeping or own_swaps or self._moves else STILL

    def _names(self, role: str) -> list[str]:
        return [name for name, control in self.roles.items() if control.role == role]

    def _tested(self, pairs: Iterable[Pair]) -> dict[Pair, Verdict]:
        """The verdicts of those pairs of which the metric says something."""
        verdicts = {pair: self.compared(*pair) for pair in pairs}
        return {pair: verdict for pair, verdict in verdicts.items() if verdict.n}

    @cached_property
    def _moves(self) -> bool:
        """Two strategies differ, and not by the chance that one of so many pairs had."""
        verdicts = [verdict for verdict in self.pairs.values() if verdict.p is not None]
        p_values = holm([verdict.p or 0.0 for verdict in verdicts])
        return any(verdict.decided and p < CERTAIN for verdict, p in zip(verdicts, p_values, strict=True))


def _same(verdict: Verdict) -> str:
    return "are equivalent" if verdict.word == "equivalent" else "are not told apart"


def controls_of(strategies: Mapping[str, ArmPlan]) -> dict[str, Control]:
    """The controls among a plan's strategies."""
    return {n: Control(cast(Role, arm.control), arm.of or "") for n, arm in strategies.items() if arm.control}


def corrected(verdicts: Sequence[Verdict], of: str = "claims") -> list[Verdict]:
    """The verdicts of a suite's claims: a difference that does not survive their number (Holm) is inconclusive.

    `p` becomes the adjusted one. Claims on fewer prompts than a mark needs are not counted. `of`: what they are, if not
    claims.
    """
    places = [n for n, verdict in enumerate(verdicts) if verdict.p is not None]
    p_values = dict(zip(places, holm([verdicts[n].p or 0.0 for n in places]), strict=True))
    out = []
    for n, verdict in enumerate(verdicts):
        p = p_values.get(n)
        if p is not None and p >= CERTAIN and verdict.decided:
            reason = f"does not survive the correction for {len(places)} {of}"
            out.append(replace(verdict, word="inconclusive", p=p, reason=reason))
        else:
            out.append(replace(verdict, p=p))
    return out
