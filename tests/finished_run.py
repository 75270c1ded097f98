"""A finished run's folder without a model: a plan and cells whose scores are given."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

BACKEND = {"name": "sprites", "device": "cpu", "weights": "0123456789abcdef", "options": {}, "fps": 8, "trained": 21}
MACHINE = {"torch": "2", "python": "3", "cores": 2, "processor": "a processor"}


def write_run(
    folder: Path,
    scores: Mapping[str, Mapping[str, np.ndarray]],
    *,
    better: Mapping[str, str] | None = None,
    unit: str = "px",
    matters: float = 0.1,
    seconds: float = 6.0,
    controls: Mapping[str, Mapping[str, str]] | None = None,
    **plan: Any,
) -> Path:
    """Write scores {strategy: {metric: (prompts, seeds)}}, NaN where the metric says nothing; `plan` overrides keys."""
    strategies = list(scores)
    metrics = list(scores[strategies[0]])
    shape = scores[strategies[0]][metrics[0]].shape
    cells = [
        {"address": f"{n:04d}{prompt:06d}{seed:06d}", "strategy": name, "prompt": prompt, "seed": seed}
        for n, name in enumerate(strategies)
        for prompt in range(shape[0])
        for seed in range(shape[1])
    ]
    said = {"about": "", "source": "", "unit": unit, "matters": matters}
    whole = {
        "rollout": "0",
        "suite": "little",
        "about": "",
        "backend": BACKEND,
        "metrics": [{"name": name, "better": (better or {}).get(name, "higher"), **said} for name in metrics],
        "baseline": strategies[0],
        "primary": metrics[0],
        "claims": [],
        "scripts": [f"prompt {n}[1.5s]" for n in range(shape[0])],
        "seeds": list(range(shape[1])),
        "prefix": 0,
        "strategies": {
            name: {"text": name, "window": 6, "spec": {}, "steps": [], **(controls or {}).get(name, {})}
            for name in strategies
        },
        "cells": cells,
        "skipped": {},
        "machine": MACHINE,
        "workers": 2,
        "threads": 1,
        "planned": "2026-01-01",
    }
    for cell in cells:
        home = folder / "cells" / cell["address"]
        home.mkdir(parents=True)
        values = {m: float(scores[cell["strategy"]][m][cell["prompt"], cell["seed"]]) for m in metrics}
        rows = [{"metric": m, "value": None if np.isnan(v) else v} for m, v in values.items()]
        (home / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (home / "DONE").write_text("{}")
    (folder / "plan.json").write_text(json.dumps(whole | plan))
    log = [{"event": "done", "cell": cell["address"], "seconds": seconds, "last": True} for cell in cells]
    (folder / "attempts.jsonl").write_text("".join(json.dumps(event) + "\n" for event in log))
    return folder
