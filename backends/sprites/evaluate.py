"""Score the sprite model against its world's truth: python -m rollout.backends.sprites.evaluate [--n 200] [--json FILE].

Accuracy of colour, shape and action and of the scene over the trained horizon, from text alone and from two true
blocks, beside the trackers on true videos; `--long`: 10 times the horizon under several compositions; `--reaction`: how
soon a prompt change shows, by transition; `--cut`: what a RoPE Cut changes and keeps.
"""

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rollout.backends.sprites.grammar import ACTIONS, BACKGROUNDS
from rollout.backends.sprites.trackers import WINDOW, Seen, torus, track
from rollout.backends.sprites.weights import Sprites, load_sprites
from rollout.backends.sprites.world import CENTRE, GROUNDS, World, motion, render, sample_world
from rollout.errors import RolloutError
from rollout.files import write_text
from rollout.loop import generate
from rollout.script import Script, Shot
from rollout.strategies import Absolute, Cut, Ema, Fifo, Flush, Keep, Online, Recache, Relativistic, Sink
from rollout.strategy import Strategy

BATCH = 24
"""Videos rolled out at once."""
PREFIX = 2
"""True blocks that a rollout with a known truth starts from."""
REACT = 15
"""Frames within which a prompt change must show."""
HORIZON = Strategy(Absolute(), Fifo(21), Keep())
"""Over the trained horizon every strategy with a window of 21 holds every frame."""
LONG = {
    "absolute fifo 21": HORIZON,
    "absolute sink 6/1": Strategy(Absolute(), Sink(6, 1), Keep()),
    "absolute sink 12/3": Strategy(Absolute(), Sink(12, 3), Keep()),
    "absolute sink 21/3": Strategy(Absolute(), Sink(21, 3), Keep()),
    "relativistic sink 6/1": Strategy(Relativistic(), Sink(6, 1), Keep()),
    "relativistic sink 12/3": Strategy(Relativistic(), Sink(12, 3), Keep()),
    "relativistic sink 21/3": Strategy(Relativistic(), Sink(21, 3), Keep()),
    "online ema 12/3": Strategy(Online(), Ema(12, 3), Keep()),
}
SWITCHES = {"keep": Keep(), "recache": Recache(), "flush": Flush()}
CUTS = {
    name: Strategy(Relativistic(cut=cut), Sink(9, 1), Flush())
    for name, cut in (("flush alone", Cut(8)), ("to 14", Cut(14)), ("to 20", Cut(20)), ("to 47", Cut(47)))
}


def videos(
    backend: Sprites, strategy: Strategy, scripts: Sequence[Script], *, seed: int, prefix: Tensor | None = None
) -> Tensor:
    """Roll out scripts of one timing, each under its own seed: frames (B, F, 3, 32, 32) in 0..1."""
    out = []
    for at in range(0, len(scripts), BATCH):
        rows = scripts[at : at + BATCH]
        start = None if prefix is None else prefix[at : at + BATCH]
        seeds = [seed * 1_000_003 + at + i for i in range(len(rows))]
        latents = torch.cat([r.latents for r in generate(backend, strategy, rows, seeds=seeds, prefix=start)], 1)
        out.append(backend.codec.decode(latents.float()).cpu())
    return torch.cat(out)


def shot(backend: Sprites, prompt: object, frames: int, *, cut: bool = False) -> Shot:
    """A segment of exactly `frames` latent frames."""
    return Shot(str(prompt), frames / backend.spec.fps, cut)


def true_start(backend: Sprites, world: World) -> Tensor:
    """Latents (B, 6, C, h, w) of the world's first two blocks."""
    frames = PREFIX * backend.spec.block
    some = replace(world, **{k: getattr(world, k)[:, :frames] for k in ("background", "ground", "place", "ink")})
    time_ = torch.arange(frames).expand(len(world.colour), frames)
    return backend.codec.encode(render(some, time_).to(backend.device))


def matches(world: World, seen: Seen) -> dict[str, Tensor]:
    """Per frame (B, F): does the video show the world's subject and scene, and how far is the sprite from its place?"""
    frames = seen.x.shape[1]
    x, y, _, _ = motion(world.action[:, None], world.phase[:, None], torch.arange(frames)[None])
    scene = {
        "background": seen.background == world.background,
        "landmark": (seen.place == world.place) & (seen.ink == world.ink),
    }
    return {
        "colour": seen.colour == world.colour[:, None],
        "shape": seen.shape == world.shape[:, None],
        "action": seen.action == world.action[:, None],
        **scene,
        "ground": seen.ground == torch.tensor(GROUNDS)[world.ground],
        "position": torch.hypot(torus(seen.x - CENTRE[0] - x), seen.y - CENTRE[1] - y),
    }


def means(found: dict[str, Tensor], frames: slice) -> dict[str, float]:
    """The mean of every score over clips and some frames."""
    return {name: round(value[:, frames].float().mean().item(), 4) for name, value in found.items()}


def accuracy(backend: Sprites, *, n: int, prefix: int, seed: int) -> dict[str, Any]:
    """Scores over the trained horizon at 4 steps, from text alone (prefix 0) or from two true blocks."""
    frames = backend.spec.trained
    world = sample_world(n, frames, torch.Generator().manual_seed(seed))
    named = [bool(i % 2) for i in range(n)]
    start = true_start(backend, world) if prefix else None
    length = frames - (PREFIX * backend.spec.block if prefix else 0)
    scripts = [Script((shot(backend, world.caption(i, 0, background=named[i]), length),)) for i in range(n)]
    seen = track(videos(backend, HORIZON, scripts, seed=seed, prefix=start))
    found = matches(world, seen)
    later = slice(frames - length, None)
    if prefix:
        return means(found, later)
    out = means({k: found[k] for k in ("colour", "shape", "action")}, later)
    out["background_named"] = round(found["background"][torch.tensor(named)].float().mean().item(), 4)
    out["background_kept"] = round((seen.background == seen.background[:, :1]).float().mean().item(), 4)
    out["action_by"] = _by(world.action, found["action"], ACTIONS)
    return out


def _by(label: Tensor, right: Tensor, names: Sequence[str]) -> dict[str, float]:
    return {
        name: round(right[label == i].float().mean().item(), 3) for i, name in enumerate(names) if (label == i).any()
    }


def truth(n: int, seed: int) -> dict[str, float]:
    """The trackers on true videos; the landmark is judged where the sprite does not cover it."""
    world = sample_world(n, 21, torch.Generator().manual_seed(seed))
    return means(matches(world, track(render(world, torch.arange(21).expand(n, 21)))), slice(None))


def long(backend: Sprites, *, n: int, seed: int, frames: int = 210) -> dict[str, Any]:
    """Scores at 1, 2, 4 and 10 times the horizon, each over the 15 frames before it, from two true blocks."""
    world = sample_world(n, frames, torch.Generator().manual_seed(seed))
    start = true_start(backend, world)
    scripts = [
        Script((shot(backend, world.caption(i, 0, background=False), frames - start.shape[1]),)) for i in range(n)
    ]
    out: dict[str, Any] = {}
    for name, strategy in LONG.items():
        found = matches(world, track(videos(backend, strategy, scripts, seed=seed, prefix=start)))
        out[name] = {str(end): means(found, slice(end - 15, end)) for end in (21, 42, 84, frames)}
        print(f"  {name}: {_row(out[name][str(frames)])}", flush=True)
    return out


def reaction(backend: Sprites, *, n: int, seed: int, sinks: Sequence[int] = (1, 3)) -> dict[str, Any]:
    """A prompt change at frame 21 under keep, recache and flush at W = 21, over all transitions in turn.

    `reacted`: the share in which some window that begins within 15 frames of the change shows the new action; `frames`:
    the mean begin of the first such window; `new`, `old`: the shares of frames 5..20 after the change in each action.
    """
    pairs = [(a, b) for a in range(len(ACTIONS)) for b in range(len(ACTIONS)) if a != b]
    picks = [pairs[i % len(pairs)] for i in range(n)]
    world = sample_world(n, 21, torch.Generator().manual_seed(seed))
    world = replace(world, action=torch.tensor([a for a, _ in picks]))
    new = torch.tensor([b for _, b in picks])
    start = true_start(backend, world)
    begin, after = 21, 24
    scripts = [
        Script(
            (
                shot(backend, world.caption(i, 0, background=False), begin - start.shape[1]),
                shot(backend, replace(world.caption(i, 0, background=False), action=int(new[i])), after),
            )
        )
        for i in range(n)
    ]
    out: dict[str, Any] = {}
    for sink in sinks:
        for name, switch in SWITCHES.items():
            strategy = Strategy(Relativistic(), Sink(21, sink), switch)
            seen = track(videos(backend, strategy, scripts, seed=seed, prefix=start))
            half = WINDOW // 2
            shows = seen.action[:, begin + half : begin + half + REACT + 1] == new[:, None]
            reacted = shows.any(1)
            first = shows.float().argmax(1)
            late = seen.action[:, begin + 5 : begin + 21]
            by: dict[str, list[int | None]] = {}
            for i, (a, b) in enumerate(picks):
                by.setdefault(f"{ACTIONS[a]} > {ACTIONS[b]}", []).append(int(first[i]) if reacted[i] else None)
            key = f"{name}, sink {sink}"
            out[key] = {
                "reacted": round(reacted.float().mean().item(), 4),
                "frames": round(first[reacted].float().mean().item(), 2) if reacted.any() else None,
                "new": round((late == new[:, None]).float().mean().item(), 4),
                "old": round((late == world.action[:, None]).float().mean().item(), 4),
                "identity": round(
                    ((seen.colour == world.colour[:, None]) & (seen.shape == world.shape[:, None]))[:, begin:]
                    .float()
                    .mean()
                    .item(),
                    4,
                ),
                "by": by,
            }
            print(f"  {key}: {_row({k: v for k, v in out[key].items() if k != 'by'})}", flush=True)
    return out


def cuts(backend: Sprites, *, n: int, seed: int) -> dict[str, Any]:
    """A cut at frame 12, to a named other background and to none named, over the frames after the cut's block."""
    world = sample_world(n, 12, torch.Generator().manual_seed(seed))
    other = (
        world.background[:, 0]
        + torch.randint(1, len(BACKGROUNDS), (n,), generator=torch.Generator().manual_seed(seed + 1))
    ) % len(BACKGROUNDS)
    start = true_start(backend, world)
    out: dict[str, Any] = {}
    for name, strategy in CUTS.items():
        for named in (True, False):
            scripts = []
            for i in range(n):
                before = world.caption(i, 0, background=named)
                after = replace(before, background=int(other[i]) if named else None)
                scripts.append(Script((shot(backend, before, 12 - start.shape[1]), shot(backend, after, 18, cut=True))))
            seen = track(videos(backend, strategy, scripts, seed=seed, prefix=start))
            late = slice(15, None)
            row = {
                "changed": (seen.background[:, late] != world.background[:, :1]).float().mean().item(),
                "colour": (seen.colour[:, late] == world.colour[:, None]).float().mean().item(),
                "shape": (seen.shape[:, late] == world.shape[:, None]).float().mean().item(),
                "action": (seen.action[:, 18:] == world.action[:, None]).float().mean().item(),
            }
            if named:
                row["reached"] = (seen.background[:, late] == other[:, None]).float().mean().item()
            key = f"{name}, background {'named' if named else 'not named'}"
            out[key] = {k: round(v, 4) for k, v in row.items()}
            print(f"  {key}: {_row(out[key])}", flush=True)
    return out


def _row(scores: dict[str, Any]) -> str:
    return "  ".join(
        f"{k} {v:.3f}" if isinstance(v, float) else f"{k} {v}" for k, v in scores.items() if not isinstance(v, dict)
    )


def main() -> None:
    """Parse the command line, print the scores, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--n", type=int, default=200, help="videos a score")
    parser.add_argument("--weights", type=Path, help="other weights than the shipped ones")
    parser.add_argument("--json", type=Path, help="write all scores to this file")
    parser.add_argument("--long", action="store_true", help="10 times the horizon under several compositions")
    parser.add_argument("--reaction", action="store_true", help="reaction to prompt changes by transition")
    parser.add_argument("--cut", action="store_true", help="what a RoPE Cut changes and keeps")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=20_000, help="far from training's")
    args = parser.parse_args()
    if args.n < 2:
        parser.error("--n is 2 or more")
    try:
        backend = load_sprites(args.weights, device=args.device)
    except RolloutError as error:
        parser.error(str(error))
    begun = time.monotonic()
    out: dict[str, Any] = {"weights": backend.digest, "n": args.n, "seed": args.seed}
    parts: dict[str, Any] = {
        "truth": lambda: truth(args.n, args.seed),
        "text": lambda: accuracy(backend, n=args.n, prefix=0, seed=args.seed),
        "prefix": lambda: accuracy(backend, n=args.n, prefix=PREFIX, seed=args.seed),
    }
    for name, function in parts.items():
        out[name] = function()
        print(f"{name}: {_row(out[name])}", flush=True)
    for name, wanted, rest in (
        ("long", args.long, long),
        ("reaction", args.reaction, reaction),
        ("cut", args.cut, cuts),
    ):
        if wanted:
            print(f"{name}:", flush=True)
            out[name] = rest(backend, n=args.n, seed=args.seed)
    out["seconds"] = round(time.monotonic() - begun, 1)
    print(f"{out['seconds']} s, weights {out['weights']}")
    if args.json:
        write_text(args.json, json.dumps(out, indent=1) + "\n")


if __name__ == "__main__":
    main()
