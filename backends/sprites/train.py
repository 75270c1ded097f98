"""Train the sprite model: python -m rollout.backends.sprites.train --out runs/sprites.

Teacher forcing on [clean | noisy] frames in one pass, x0 prediction, independent noise a block, Muon for hidden
matrices and AdamW for the rest, an exponential average of the weights, a constant learning rate and a linear decay to
zero over the last steps. Stopped runs go on from their checkpoint; --steps may be raised meanwhile. How good
the weights are, the suites model-* say: rollout bench run model-start --model DIR/weights.safetensors. Needs torch >= 2.9.
"""

import argparse
import json
import os
import time
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from rollout.backend import split_pairs
from rollout.backends.sprites.clips import BLOCK, Clip, sample_clip
from rollout.backends.sprites.codec import CHANNELS, Codec, fit_codec
from rollout.backends.sprites.model import Shape, SpriteTransformer
from rollout.backends.sprites.weights import read_weights, save_weights
from rollout.backends.sprites.world import render
from rollout.documents import append_line
from rollout.files import write_whole
from rollout.rope import rotate, table
from rollout.text import Json

__all__ = [
    "DIRT",
    "MARKED",
    "SIGMAS",
    "average_gradients",
    "draw_sigma",
    "loss_of",
    "main",
    "optimizers",
    "rate",
    "train",
    "write_log",
]

SIGMAS = (1.0, 0.9375, 0.8333333, 0.625)
"""The noise levels of the 4-step schedule; three in ten blocks are trained exactly there."""
MARKED = 2.0
"""How much the upper half of a frame counts whose prompt names the landmark: 36 pixels of 4096 are learned too late."""
DIRT = 0.12
"""The most noise on a clean context, a share."""


def draw_sigma(batch: int, blocks: int, generator: torch.Generator) -> Tensor:
    """Noise levels (B, blocks): 30% on the sampler's own, 8% pure noise, the rest uniform under shift 3."""
    u = torch.rand(batch, blocks, generator=generator)
    sigma = (3 * u / (1 + 2 * u)).clamp_min(1e-3)
    levels = torch.tensor(SIGMAS)[torch.randint(len(SIGMAS), u.shape, generator=generator)]
    pick = torch.rand(u.shape, generator=generator)
    return torch.where(pick < 0.3, levels, torch.where(pick < 0.38, torch.ones(()), sigma))


def loss_of(
    model: SpriteTransformer, codec: Codec, clip: Clip, generator: torch.Generator, device: str, *, dirt: float
) -> Tensor:
    """The weighted squared error of x0; half of the clips' clean frames carry noise of up to `dirt`."""
    frames = clip.time.shape[1]
    with torch.no_grad():
        clean = codec.encode(render(clip.world.to(device), clip.time.to(device)))
    batch = len(clean)
    sigma = draw_sigma(batch, frames // BLOCK, generator).repeat_interleave(BLOCK, 1)
    noise = torch.randn(clean.shape, generator=generator).to(device)
    dirty = torch.rand(batch, 1, generator=generator) * dirt * (torch.rand(batch, 1, generator=generator) < 0.5)
    context = torch.randn(clean.shape, generator=generator).to(device)
    wide = (slice(None), slice(None), None, None, None)
    s, d = sigma.to(device)[wide], dirty.expand(batch, frames).to(device)[wide]
    x = torch.cat([(1 - d) * clean + d * context, (1 - s) * clean + s * noise], 1)
    t = torch.cat([torch.zeros_like(sigma), sigma * 1000], 1).to(device)
    shape = model.shape
    at = table(clip.positions * 2, shape.grid, split_pairs(shape.head_dim), device=device)
    tokens = shape.grid[0] * shape.grid[1]
    mask = clip.visible.to(device).repeat_interleave(tokens, 0).repeat_interleave(tokens, 1)
    bias = torch.zeros(mask.shape, dtype=torch.bfloat16, device=device).masked_fill_(~mask, -1e4)

    def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (p.to(v.dtype).transpose(1, 2).flatten(0, 1) for p in (rotate(q, at), rotate(k, at), v))
        half = q.shape[1] // 2  # clean frames see clean frames only; plain matrices beat CPU flash attention's backward
        parts = [
            _attention(q[:, :half], k[:, :half], v[:, :half], bias[:half, :half]),
            _attention(q[:, half:], k, v, bias[half:]),
        ]
        return torch.cat(parts, 1).unflatten(0, (batch, -1)).transpose(1, 2)

    with torch.autocast(torch.device(device).type, dtype=torch.bfloat16):
        text = model.encode(clip.tokens.to(device)).repeat(1, 2, 1, 1)
        x0 = model(x, t, model.texts(text), attend)[:, frames:]
    rows = torch.arange(shape.grid[0], device=device) < shape.grid[0] / 2
    space = 1 + (MARKED - 1) * (clip.marked.to(device)[..., None, None] & rows[:, None]).float()
    error = ((x0.float() - clean).square().mean(2) * space).sum((2, 3)) / space.expand(-1, -1, *shape.grid).sum((2, 3))
    weight = clip.learn.to(device) / sigma.to(device).clamp_min(0.25).square()
    return (error * weight).sum() / weight.sum()


def _attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    scores = torch.baddbmm(bias.expand(len(q), -1, -1), q * q.shape[-1] ** -0.5, k.transpose(1, 2))
    return scores.softmax(-1).to(v.dtype) @ v


def rate(step: int, steps: int, decay: int, warmup: int = 200) -> float:
    """The learning rate's factor: warm-up, constant, linear decay to zero over the last `decay` steps."""
    return min(1.0, (step + 1) / warmup, (steps - step) / max(1, decay))


def optimizers(model: nn.Module, factor: float) -> list[torch.optim.Optimizer]:
    """Muon for the layers' matrices, AdamW for embeddings, head, norms and biases; `factor` scales both rates."""
    hidden = [
        p for n, p in model.named_parameters() if n.startswith("layers.") and n.endswith("weight") and p.ndim == 2
    ]
    muon_ids = {id(p) for p in hidden}
    rest = [p for p in model.parameters() if id(p) not in muon_ids]
    return [
        torch.optim.Muon(hidden, lr=0.02 * factor, weight_decay=0.01, momentum=0.95),
        torch.optim.AdamW(rest, lr=2e-3 * factor, betas=(0.9, 0.98), weight_decay=0.01),
    ]


def average_gradients(model: nn.Module) -> None:
    """One all-reduce over all processes."""
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    flat = torch.cat([g.flatten() for g in grads])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for g, part in zip(grads, flat.split([g.numel() for g in grads]), strict=True):
        g.copy_(part.view_as(g))


def train(rank: int, args: argparse.Namespace) -> None:
    """One process of a run."""
    torch.set_num_threads(args.threads or max(1, (os.cpu_count() or 1) // args.procs))
    if args.procs > 1:
        dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{args.port}", rank=rank, world_size=args.procs)
    torch.manual_seed(args.seed)
    if args.start is None:
        codec = fit_codec(args.channels)
        model = SpriteTransformer(Shape(channels=args.channels))
    else:
        model, codec = read_weights(args.start)
    model, codec = model.to(args.device), codec.to(args.device)
    average = {n: p.detach().clone() for n, p in model.state_dict().items()}
    opts = optimizers(model, args.rate)
    base = [o.param_groups[0]["lr"] for o in opts]
    path = args.out / "checkpoint.pt"
    step, seconds = 0, 0.0
    if path.exists():
        state = torch.load(path, map_location=args.device, weights_only=True)
        model.load_state_dict(state["model"])
        average = state["average"]
        for o, s in zip(opts, state["optimizers"], strict=True):
            o.load_state_dict(s)
        step, seconds = state["step"], state["seconds"]
    begun, last_line = time.monotonic() - seconds, time.monotonic()
    losses: list[float] = []
    while step < args.steps:
        generator = torch.Generator().manual_seed((args.seed * args.procs + rank) * 10_000_019 + step)
        for o, lr in zip(opts, base, strict=True):
            o.param_groups[0]["lr"] = lr * rate(step, args.steps, args.decay)
        clip = sample_clip(generator, args.frames, plain=args.plain)
        loss = loss_of(model, codec, clip, generator, args.device, dirt=0.0 if args.plain else DIRT)
        for o in opts:
            o.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        if args.procs > 1:
            average_gradients(model)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for o in opts:
            o.step()
        step += 1
        losses.append(loss.item())
        if rank == 0:
            blend = 1 - min(args.ema, (1 + step) / (10 + step))
            for n, p in model.state_dict().items():
                average[n].lerp_(p, blend)
            if step % args.log == 0 or step == args.steps:
                now = time.monotonic()
                row: Json = {
                    "step": step,
                    "loss": round(sum(losses) / len(losses), 5),
                    "ms": round((now - last_line) * 1000 / len(losses)),
                    "minutes": round((now - begun) / 60, 2),
                }
                write_log(args.out, row)
                losses, last_line = [], time.monotonic()
            if step % args.save == 0 or step == args.steps:
                state = {
                    "model": model.state_dict(),
                    "average": average,
                    "optimizers": [o.state_dict() for o in opts],
                    "step": step,
                    "seconds": time.monotonic() - begun,
                }
                write_whole(path, partial(torch.save, state))
    if rank == 0:
        save_weights(args.out / "weights.safetensors", model.shape, average, codec)
    if args.procs > 1:
        dist.barrier()
        dist.destroy_process_group()


def write_log(folder: Path, row: Json) -> None:
    """Append one JSON line to log.jsonl, and show it."""
    print(json.dumps(row), flush=True)
    append_line(folder / "log.jsonl", row)


def main() -> None:
    """Parse the command line and run the processes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of checkpoint, log and weights")
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--decay", type=int, default=3_000, help="last steps over which the learning rate falls to 0")
    parser.add_argument("--frames", type=int, default=63, help="clips x frames of one process's step")
    parser.add_argument("--plain", action="store_true", help="no small windows, hidden jumps or noise in the context")
    parser.add_argument("--start", type=Path, help="weights to start from, with their codec; default: nothing")
    parser.add_argument("--rate", type=float, default=1.0, help="factor of the learning rates")
    parser.add_argument("--channels", type=int, default=CHANNELS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--procs", type=int, default=2 if not torch.cuda.is_available() else 1)
    parser.add_argument("--threads", type=int, help="of each process; default: the cores divided by --procs")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--ema", type=float, default=0.998)
    parser.add_argument("--log", type=int, default=50)
    parser.add_argument("--save", type=int, default=200)
    parser.add_argument("--port", type=int, default=29511)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.procs > 1:
        torch.multiprocessing.spawn(train, args=(args,), nprocs=args.procs)
    else:
        train(0, args)


if __name__ == "__main__":
    main()
