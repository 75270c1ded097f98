"""The model card, from evaluations and the training log: python -m rollout.backends.sprites.card EVAL.json... --log LOG.

Figures come from the files alone; later files add to earlier ones.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from rollout.files import write_text

HEAD = """# The sprite model

A causal video diffusion transformer of the Wan 2.1 kind, 3.5 M parameters, trained from nothing on a procedural world
whose truth is exact. It ships with rollout so that strategies can be compared anywhere; it is no model of real video.

| | |
|---|---|
| transformer | 6 layers, width 192, 4 heads of 48, feed-forward 576; predicts x0 inside |
| parts | per-frame timestep modulation, q/k RMS norm, text cross-attention |
| rotary pairs | 8 time, 8 height, 8 width, theta 10000 |
| video | 32x32 pixels, one latent frame a pixel frame, 8 fps; 64 x 4 x 4 latents, 16 tokens a frame |
| codec | 64 principal components of 8x8x3 patches, each divided by its standard deviation ^ 0.65 |
| sampling | blocks of 3, 4 flow-matching steps, shift 5, one clean pass; trained horizon 21 frames, position table 1024 |

## The world

One sprite (6 colours, 3 shapes) acts before a scene (6 backgrounds, 3 ground heights, a landmark in 8 places and 2
colours). Actions: walks right, walks left, jumps, stands, pulses, spins, sways; all stationary, all but the walks of period
8 in one of 8 phases. Ground height and landmark are never in a prompt: only the cache can carry them.

## What it saw in training, and what that hides or reveals

- The prompt's subject and action are constant within a clip, so cached frames always predict the action: a prompt change
  has the whole cache against it. Nothing in training shows a change of action.
- No position beyond index 20 and no distance beyond 20: what happens beyond is extrapolation.
- Random windows (0, 1 or 3 sinks and the last 1 to 9 frames) in 40% of the clips without a hidden jump, so that a small
  window is not new to it. This makes small windows and flushed caches look better than on a model that never saw one.
- Time skips, dated: in about a fifth of the clips time jumps once by k frames, positions say so, and the scene is another
  with probability 1 - exp(-k / 5) while subject and action go on. This is what a RoPE Cut acts on.
- Jumps that positions do not show, in about an eighth of the clips: a sink of long ago (as re-dated sinks are) or an
  undated scene change (as the frames before a cut are to later blocks). The block in which it happens carries no loss, so
  it is never taught to do it. This is a sink-trained model in the sense of Infinite-Forcing, and it hides some of the harm
  of re-dating a sink.
"""

RECIPE = """## The recipe

`python -m rollout.backends.sprites.train --out DIR --steps {steps} --decay {decay} --seed 0 --procs 2`, {minutes:.0f} minutes
of wall time on 2 CPU cores (AMD EPYC, one thread a process), shared with other work. It was stopped and resumed: the mix of
clips was changed twice, at step 1800 (3-frame clips added) and at step 5200 (more of them, and more windows of one frame,
because the first block was what it did worst); one run of the command above from the start uses the last mix throughout and
has not been made. {rates}
The clips were those of commit b50ff9d to step 1800, of 84882af to step 5200 and of 89254d8 from there.

Loss (mean of 50 steps): {losses}.
"""


def percent(value: Any) -> str:
    """A share as it is printed."""
    return "-" if value is None else f"{value:.3f}"


def rows(head: list[str], body: list[list[str]]) -> str:
    """A Markdown table."""
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *body])


def scores(found: dict[str, Any]) -> str:
    """The basic scores."""
    keys = ["colour", "shape", "action", "background", "ground", "landmark", "position"]
    body = [
        [label, *(percent(found[name].get(key)) for key in keys)]
        for name, label in (
            ("truth", "true videos (the trackers)"),
            ("text", "text alone"),
            ("prefix", "two true blocks"),
        )
    ]
    by = ", ".join(f"{k} {v:.2f}" for k, v in found["text"]["action_by"].items())
    extra = (
        f"From text alone the named background is right in {percent(found['text']['background_named'])} of the frames and the "
        f"first frame's background is kept in {percent(found['text']['background_kept'])}. Action by kind: {by}."
    )
    return rows(["21 frames from", *keys[:-1], "position, px"], body) + "\n\n" + extra


def long(found: dict[str, Any]) -> str:
    """Scores at multiples of the horizon."""
    body = []
    for name, at in found["long"].items():
        cells = [f"{v['action']:.2f} / {v['colour']:.2f} {v['shape']:.2f} / {v['position']:.2f}" for v in at.values()]
        body.append([name, *cells])
    ends = list(next(iter(found["long"].values())))
    return rows(["composition", *(f"frames to {end}" for end in ends)], body)


def reaction(found: dict[str, Any]) -> str:
    """Reaction to prompt changes, over all and from where the worst come."""
    body = []
    for name, r in found["reaction"].items():
        missed = {}
        for pair, times in r["by"].items():
            to = pair.split(" > ")[1]
            missed[to] = missed.get(to, 0) + sum(t is None for t in times)
        worst = ", ".join(f"{k} {n}" for k, n in sorted(missed.items(), key=lambda item: -item[1])[:3] if n) or "none"
        frames = "-" if r["frames"] is None else f"{r['frames']:.1f}"
        body.append(
            [name, percent(r["reacted"]), frames, percent(r["new"]), percent(r["old"]), percent(r["identity"]), worst]
        )
    return rows(
        [
            "switch",
            "reacted within 15",
            "mean frames",
            "new in 5-20",
            "old in 5-20",
            "identity",
            "missed, by new action",
        ],
        body,
    )


def cut(found: dict[str, Any]) -> str:
    """What a cut changes and keeps."""
    keys = ["changed", "reached", "colour", "shape", "action"]
    return rows(["cut", *keys], [[name, *(percent(r.get(key)) for key in keys)] for name, r in found["cut"].items()])


def card(found: dict[str, Any], log: list[dict[str, Any]], steps: int, decay: int, rates: str) -> str:
    """The whole card."""
    picks = [log[int(i * (len(log) - 1) / 7)] for i in range(8)]
    losses = ", ".join(f"{row['loss']:.4f} at {row['step']}" for row in picks)
    parts = [HEAD, RECIPE.format(steps=steps, decay=decay, minutes=log[-1]["minutes"], rates=rates, losses=losses)]
    parts.append(f"## What it reaches\n\nWeights `{found['weights']}`, seed {found['seed']}.\n\n" + scores(found))
    for name, title, function in (
        (
            "long",
            "Ten times the horizon, from two true blocks: action / colour shape / position error (pixels), "
            "over the 15 frames before",
            long,
        ),
        ("reaction", "A prompt change at frame 21, relativistic, window 21, all 42 transitions in turn", reaction),
        (
            "cut",
            "A cut at frame 12, relativistic, sink 1, window 9, flush last 1; shares of the frames after the cut's block",
            cut,
        ),
    ):
        if name in found:
            parts.append(f"### {title}\n\nn = {found[name + '_n']}.\n\n" + function(found))
    return "\n\n".join(part.strip() for part in parts) + "\n"


def main() -> None:
    """Write MODEL_CARD.md beside this file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("evaluations", type=Path, nargs="+", help="files that evaluate --json wrote")
    parser.add_argument("--log", type=Path, required=True, help="log.jsonl of the training run")
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--decay", type=int, required=True)
    parser.add_argument("--rates", default="", help="a sentence on how the learning rate really went")
    parser.add_argument("--to", type=Path, default=Path(__file__).parent / "MODEL_CARD.md")
    args = parser.parse_args()
    found: dict[str, Any] = {}
    for path in args.evaluations:
        one = json.loads(path.read_text())
        if found and one["weights"] != found["weights"]:
            parser.error(f"{path} is of other weights")
        kept = {"n", "seed", *(k for k in ("truth", "text", "prefix") if k in found)}
        found |= {k: v for k, v in one.items() if k not in kept or k not in found}
        found |= {f"{k}_n": one["n"] for k in ("long", "reaction", "cut") if k in one}
    log = [json.loads(line) for line in args.log.read_text().splitlines()]
    write_text(args.to, card(found, log, args.steps, args.decay, args.rates))


if __name__ == "__main__":
    main()
