"""Writes docs/api.md from the docstrings of what `from rollout import ...` offers: python docs/api.py > docs/api.md."""

import inspect
import sys

import rollout
from rollout.text import first_paragraph

GROUPS = {
    "Compose and roll out": "Strategy preset load_backend Script Schedule seeded generate Rollout Result Timeline Moment",
    "See what a strategy does": "explain Trace",
    "Change a running rollout, or repeat what changed it": "Event Prompt Cut Once Use",
    "Write a rule": "Positions PositionsDefaults Policy PolicyDefaults Switch SwitchDefaults register load_plugin check_rule",
    "Write a refinement": "Spectrum SpectrumDefaults Reads ReadsDefaults Order OrderDefaults StoreRule StoreDefaults",
    "What a rule sees and returns": "Slot Role Block Edit Row Mix Pick View Pass Facts Replay keep flush of_role in_order admit",
    "Write a backend": "Backend BackendDefaults Spec Attend Decoder World check_backend",
    "Write a metric": "Metric Score Curve Sample check_metric",
    "Read a finished run": "RunFolder RunRecord",
    "Errors": "RolloutError SpecError CompositionError ScriptError PromptError CacheError BackendError",
}
HEAD = """# What a plugin may import

Everything here is imported flat, `from rollout import NAME`; `import rollout` alone needs no torch. Every module says in
its `__all__` what else is public. A rule's own fields are in [strategies.md](strategies.md), ten programs in
[python.md](python.md), rules, a metric and a model of one's own in [own.md](own.md). This page is written by
`python docs/api.py`; `mkdocs build` makes a page of every name.
"""


def page() -> str:
    """The page as Markdown."""
    parts = [HEAD]
    for title, names in GROUPS.items():
        parts += [f"## {title}\n", "| name | |", "|---|---|"]
        parts += [f"| `{name}{_signature(name)}` | {_about(name)} |" for name in names.split()]
        parts.append("")
    return "\n".join(parts)


def _signature(name: str) -> str:
    """The parameters of a function."""
    item = getattr(rollout, name)
    return f"({', '.join(inspect.signature(item).parameters)})" if inspect.isfunction(item) else ""


def _about(name: str) -> str:
    item = getattr(rollout, name)
    if isinstance(item, type) or inspect.isfunction(item):
        return first_paragraph(item).replace("|", "\\|")
    return {
        "Attend": "What a backend calls instead of its own attention: (layer, q, k, v) to the output, all (B, F·h·w, heads, D).",
        "Facts": "Numbers that the cache measured for a policy, one a slot, by the name of the fact.",
        "Row": "How a new slot comes of old ones: a Mix or a Pick.",
    }[name]


if __name__ == "__main__":
    sys.stdout.write(page())
