"""check_backend: whether a model keeps the promises of the protocol Backend."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from rollout.backend import Backend, BackendDefaults, Decoder, Spec
from rollout.errors import BackendError, CheckError, RolloutError
from rollout.members import lacks

__all__ = ["ROUNDING", "check_backend"]

ROUNDING = 1
"""Grey levels by which block by block may differ from the whole."""


def check_backend(backend: Any, prompt: str | None = None) -> None:
    """Try a backend: spec, texts, one pass through every layer's `attend`, decoder, world; a few small passes long.

    `prompt` is one that it understands; None is its world's example. Raises CheckError (an AssertionError), in one line.
    """
    lack = lacks(backend, Backend, BackendDefaults)
    if lack:
        raise CheckError(f"the backend {type(backend).__name__} {lack}")
    _check_spec(backend.spec)
    if not isinstance(backend.digest, str | None) or not (backend.attention is None or callable(backend.attention)):
        raise CheckError("digest is a text or None, and attention a function or None.")
    if prompt is None:
        prompt = "a cat walks" if backend.world is None else backend.world.example
    try:
        text = _check_encode(backend, prompt)
        with torch.no_grad():
            _check_denoise(backend, text)
            _check_decoder(backend)
        _check_world(backend)
    except CheckError:
        raise
    except Exception as error:
        raise CheckError(f"the backend '{backend.spec.name}' failed: {type(error).__name__}: {error}") from error


def _check_spec(spec: Spec) -> None:
    """Sizes that fit each other."""
    counts = (spec.layers, spec.heads, spec.head_dim, *spec.latent, *spec.grid, spec.block, spec.stride, spec.trained)
    if min(counts) < 1 or spec.fps <= 0:
        raise CheckError(f"the spec has a size below 1: {spec}.")
    if 2 * sum(spec.axes) != spec.head_dim:
        raise CheckError(
            f"the spec's axes {spec.axes} are {sum(spec.axes)} pairs: head_dim {spec.head_dim} has half as many."
        )
    if spec.latent[1] % spec.grid[0] or spec.latent[2] % spec.grid[1]:
        raise CheckError(f"the spec's latents {spec.latent} do not split into a grid of {spec.grid} tokens.")
    if not spec.block <= spec.trained <= spec.table:
        raise CheckError(f"the spec's block {spec.block}, trained {spec.trained} and table {spec.table} do not rise.")


def _check_tensor(subject: str, x: object, shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Shape, kind, device and finite values."""
    if not isinstance(x, Tensor) or tuple(x.shape) != shape:
        raise CheckError(f"{subject} is {tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__}, not {shape}.")
    if not x.is_floating_point() or x.device.type != device.type:
        raise CheckError(f"{subject} is {x.dtype} on {x.device}: numbers with a point on {device} are asked for.")
    if not bool(x.isfinite().all()):
        raise CheckError(f"{subject} is not finite.")
    return x


def _check_encode(backend: Backend, prompt: str) -> Tensor:
    """Features of one prompt, the same each time, also once `ready` was called."""
    text = backend.encode(prompt)
    shape = (1, *text.shape[1:]) if text.ndim == 3 else (1, 0, 0)
    _check_tensor("encode's result", text, shape, backend.device)
    backend.ready()
    if not torch.equal(text, backend.encode(prompt)):
        raise CheckError("encode gives one prompt two results.")
    return text


class _Attends:
    """Plain attention that writes down how it was called."""

    def __init__(self, backend: Backend, batch: int, scale: float = 1.0) -> None:
        spec = backend.spec
        self.shape = (batch, spec.block * spec.tokens, spec.heads, spec.head_dim)
        self.device, self.scale, self.layers = backend.device, scale, list[int]()

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        self.layers.append(layer)
        for name, x in (("q", q), ("k", k), ("v", v)):
            _check_tensor(f"{name} of layer {layer}", x, self.shape, self.device)
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2) * self.scale


def _check_denoise(backend: Backend, text: Tensor) -> None:
    """One pass: every layer asks `attend` once, in order, and uses the answer; the same again, and nothing changed."""
    spec = backend.spec
    for batch in (1, 2):
        draw = torch.Generator().manual_seed(batch)
        x = torch.randn(batch, spec.block, *spec.latent, generator=draw).to(backend.device)
        prompt = text.expand(batch, -1, -1).contiguous()
        inputs = x.clone(), prompt.clone()
        for t in (0.0, 500.0):
            attend = _Attends(backend, batch)
            flow = _check_tensor(
                "denoise's flow", backend.denoise(x, t, prompt, attend), tuple(x.shape), backend.device
            )
            if attend.layers != list(range(spec.layers)):
                raise CheckError(
                    f"denoise calls attend for the layers {attend.layers}: each of {spec.layers} once, in order."
                )
            if not (torch.equal(x, inputs[0]) and torch.equal(prompt, inputs[1])):
                raise CheckError("denoise changes its input.")
            if not torch.equal(flow, backend.denoise(x, t, prompt, _Attends(backend, batch))):
                raise CheckError("denoise gives one input two results.")
            # Other answers of attend must show in the result.
            if torch.equal(flow, backend.denoise(x, t, prompt, _Attends(backend, batch, 0.5))):
                raise CheckError("denoise does not use what attend returns.")


def _check_decoder(backend: Backend) -> None:
    """Frames (N, height, width, 3), uint8; block by block as the whole; and back to a state."""
    spec = backend.spec
    latents = torch.randn(2 * spec.block, *spec.latent, generator=torch.Generator().manual_seed(3)).to(backend.device)
    before = latents.clone()
    video = backend.decoder().push(latents)
    frames = spec.pixel_frames(len(latents))
    if video.dtype != torch.uint8 or video.ndim != 4 or len(video) != frames or video.shape[3] != 3:
        raise CheckError(
            f"the decoder gives {video.dtype} {tuple(video.shape)}, not uint8 ({frames}, height, width, 3)."
        )
    decoder, first, second = backend.decoder(), latents[: spec.block], latents[spec.block :]
    start = decoder.push(first)
    state = decoder.state()
    end = decoder.push(second)
    if _off(torch.cat([start, end]), video) > ROUNDING:
        raise CheckError("the decoder gives other frames block by block than at once.")
    for again in (decoder, backend.decoder()):
        again.restore(state)
        _check_again(again, second, end)
    if not torch.equal(latents, before):
        raise CheckError("the decoder changes its input.")
    _check_video(backend, video)


def _check_again(decoder: Decoder, latents: Tensor, frames: Tensor) -> None:
    if _off(decoder.push(latents), frames) > 0:
        raise CheckError(
            "the decoder, gone back to a state, gives other frames: its state is not all that it depends on."
        )


def _off(frames: Tensor, others: Tensor) -> float:
    if frames.shape != others.shape:
        return float("inf")
    return (frames.float() - others.float()).abs().max().item()


def _check_video(backend: Backend, frames: Tensor) -> None:
    """Where a video can be encoded, its latents are whole blocks."""
    try:
        latents = backend.encode_video(frames.cpu().numpy())
    except BackendError:
        return
    shape = (2 * backend.spec.block, *backend.spec.latent)
    _check_tensor("encode_video's result", latents, shape, backend.device)


def _check_world(backend: Backend) -> None:
    """A world reads its own example, at the size of the frames."""
    world = backend.world
    if world is None:
        return
    try:
        labels = world.parse(world.example)
    except RolloutError as error:
        raise CheckError(f"the world does not understand its own example {world.example!r}: {error}") from error
    unknown = sorted(set(labels) - set(world.properties))
    if unknown:
        raise CheckError(f"the world's example names {unknown[0]!r}, which is none of its properties.")
