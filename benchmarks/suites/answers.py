"""What a suite answers for the leaderboard: which of its metrics says how well a strategy serves which use."""

from rollout.benchmarks.suites.source import Source

__all__ = ["USES", "read_answers"]

USES = {
    "obey": "how soon a new prompt shows",
    "remember": "what comes back after it was out of sight",
    "follow": "a change of the scene stays changed",
    "identity": "the subject keeps looks that no prompt names",
    "cut": "a hard cut reaches the scene that it names",
    "long": "what is still known far beyond the trained length",
}
"""The uses of a strategy, in the order of the leaderboard's columns, and what is asked of each."""


def read_answers(source: Source) -> dict[str, str]:
    """The table [answers]: a metric of the suite by use. Raises SuiteError at the line of what is unknown."""
    metrics, answers = source.texts("metrics"), {}
    for use, metric in source.file.answers.items():
        source.known(use, USES, "answers", use)
        if metric not in metrics:
            source.refuse(
                f"{use} is answered by {metric!r}, which is none of the metrics: {', '.join(metrics)}.", "answers", use
            )
        answers[use] = metric
    return answers
