"""The sprite transformer: a small causal video diffusion transformer of the Wan 2.1 kind.

Per-frame timestep modulation (adaLN), q/k RMS norm over all heads, text cross-attention, a feed-forward layer with
tanh-GELU. Self-attention hands normed, unrotated q, k, v (B, F*h*w, heads, D) to `attend`, which owns positions and
cache; training passes an `attend` that masks [clean | noisy] frames.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rollout.backend import Attend
from rollout.backends.sprites.grammar import SLOTS, TOKENS

__all__ = ["LAYOUT_GAIN", "ZERO", "Layer", "Pair", "Shape", "SpriteTransformer", "Texts", "Times", "Weights"]

Pair = tuple[Tensor, Tensor]
"""Keys and values."""


LAYOUT_GAIN = 16.0
"""An embedded token is about 20 long: without a gain the layout would need thousands of steps to be heard beside it."""


ZERO = -8.0
"""Below it GELU is 0, in float64 too, and its tanh meets subnormal numbers, which take a CPU three times as long."""


class Texts(NamedTuple):
    """A prompt as the layers read it: every layer's keys and values, and the layout (B, F or 1, h*w, d)."""

    pairs: list[Pair]
    layout: Tensor


class Times(NamedTuple):
    """Timesteps as the model reads them, each (B, F, 1, d): every layer's shift, 1 + scale, gate, twice; the head's two."""

    layers: list[tuple[Tensor, ...]]
    head: tuple[Tensor, Tensor]


class Weights(NamedTuple):
    """What a layer multiplies by after q, k and v: matrices with their biases, and the norms of its text and its query."""

    o: Pair
    norm_text: Pair
    text_q: Pair
    norm_text_q: Tensor
    text_o: Pair
    up: Pair
    down: Pair


@dataclass(frozen=True)
class Shape:
    """The sizes of a sprite transformer."""

    channels: int = 64
    grid: tuple[int, int] = (4, 4)
    dim: int = 192
    layers: int = 6
    heads: int = 4
    ffn: int = 576
    frequencies: int = 256

    @property
    def head_dim(self) -> int:
        return self.dim // self.heads

    @property
    def parameters(self) -> int:
        """The parameters of a model of these sizes."""
        d, linear = self.dim, self.dim * (self.dim + 1)
        layer = 8 * linear + 12 * d + self.ffn * (d + 1) + d * (self.ffn + 1)
        text = TOKENS * d * (1 + self.grid[0] * self.grid[1]) + 2 * linear
        time = d * (self.frequencies + 1) + 7 * linear
        ends = d * (self.channels + 1) + 2 * d + self.channels * (d + 1)
        return self.layers * layer + text + time + ends


class Layer(nn.Module):
    """Self-attention through `attend`, cross-attention to the text, feed-forward; each modulated per frame."""

    def __init__(self, shape: Shape, index: int) -> None:
        super().__init__()
        d = shape.dim
        self.index, self.heads = index, shape.heads
        self.modulation = nn.Parameter(torch.randn(6, d) / math.sqrt(d))
        self.q, self.k, self.v, self.o = (nn.Linear(d, d) for _ in range(4))
        self.norm_q, self.norm_k = nn.RMSNorm(d, eps=1e-6), nn.RMSNorm(d, eps=1e-6)
        self.norm_text = nn.LayerNorm(d, eps=1e-6)
        self.text_q, self.text_k, self.text_v, self.text_o = (nn.Linear(d, d) for _ in range(4))
        self.norm_text_q, self.norm_text_k = nn.RMSNorm(d, eps=1e-6), nn.RMSNorm(d, eps=1e-6)
        self.up, self.down = nn.Linear(d, shape.ffn), nn.Linear(shape.ffn, d)

        self.qkv: Pair | None = None
        self.norm_qk: Tensor | None = None
        self.weights: Weights | None = None

    def fuse(self) -> None:
        """One matrix for q, k and v, and one norm, which are no part of the state; the others laid out as `_by_input` does."""
        parts = self.q, self.k, self.v
        self.qkv = _by_input(torch.cat([p.weight for p in parts])), torch.cat([p.bias for p in parts])
        self.norm_qk = torch.stack([self.norm_q.weight, self.norm_k.weight])
        for linear in (self.o, self.text_q, self.text_o, self.up, self.down):
            linear.weight.data = _by_input(linear.weight.data)
        self.weights = self.collect()

    def collect(self) -> Weights:
        """The weights as functions take them: calling a small module costs more than dispatching what it does."""
        o, text_q, text_o, up, down, norm_text = (
            (m.weight, m.bias) for m in (self.o, self.text_q, self.text_o, self.up, self.down, self.norm_text)
        )
        return Weights(o, norm_text, text_q, self.norm_text_q.weight, text_o, up, down)

    def times(self, time: Tensor) -> tuple[Tensor, ...]:
        """What time (B, F, 6, d) does to the layer: shift, 1 + scale and gate of attention, then of feed-forward."""
        shift1, scale1, gate1, shift2, scale2, gate2 = (time + self.modulation)[:, :, :, None].unbind(2)
        return shift1, 1 + scale1, gate1, shift2, 1 + scale2, gate2

    def project(self, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Normed q and k, and v, of y (B, F*hw, d): each (B, F*hw, heads, D)."""
        if self.qkv is None or self.norm_qk is None:
            q, k, v = self.norm_q(self.q(y)), self.norm_k(self.k(y)), self.v(y)
            q, k = (part.unflatten(-1, (self.heads, -1)) for part in (q, k))
        else:
            qkv = F.linear(y, *self.qkv).view(*y.shape[:2], 3, -1)
            qk, v = qkv[:, :, :2], qkv[:, :, 2]
            scale = (qk * qk).mean(-1, keepdim=True).add_(1e-6).rsqrt_()
            q, k = (qk * scale).mul_(self.norm_qk).view(*y.shape[:2], 2, self.heads, -1).unbind(2)
        return q, k, v.view(q.shape)

    def text(self, text: Tensor) -> Pair:
        """Cross-attention's keys (B, F or 1, heads, D, tokens) and values (..., tokens, D) of text (B, F or 1, tokens, d)."""
        k, v = self.norm_text_k(self.text_k(text)), self.text_v(text)
        k, v = (x.unflatten(-1, (self.heads, -1)) for x in (k, v))
        return k.permute(0, 1, 3, 4, 2).contiguous(), v.transpose(2, 3).contiguous()

    def forward(self, x: Tensor, times: tuple[Tensor, ...], text: Pair, attend: Attend) -> Tensor:
        """x (B, F, hw, d), times and text as `times` and `text` give them."""
        shift1, scale1, gate1, shift2, scale2, gate2 = times
        weights = self.weights or self.collect()
        y = _norm(x) * scale1 + shift1
        q, k, v = self.project(y.flatten(1, 2))
        x = x + F.linear(attend(self.index, q, k, v).flatten(2), *weights.o).view_as(x) * gate1
        x = x + self.cross(F.layer_norm(x, x.shape[-1:], *weights.norm_text, 1e-6), text, weights)
        y = _norm(x) * scale2 + shift2
        hidden = F.linear(y, *weights.up).clamp_(min=ZERO)
        out: Tensor = x + F.linear(F.gelu(hidden, approximate="tanh"), *weights.down) * gate2
        return out

    def cross(self, x: Tensor, text: Pair, weights: Weights) -> Tensor:
        """Attention of every frame's tokens to that frame's text, or of all to one."""
        k, v = text
        q = F.rms_norm(F.linear(x, *weights.text_q), x.shape[-1:], weights.norm_text_q, 1e-6)
        q = q.view(len(x), k.shape[1], -1, *k.shape[2:4]).transpose(2, 3)
        shares = (q @ k).div_(math.sqrt(q.shape[-1])).softmax(-1)
        return F.linear((shares @ v).transpose(2, 3).reshape(x.shape), *weights.text_o)


def _by_input(weight: Tensor) -> Tensor:
    """The same matrix, laid out input by input: a product with a block's few rows takes a fifth less, bit for bit the same."""
    return weight.t().contiguous().t()


def _norm(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


class SpriteTransformer(nn.Module):
    """Predicts x0 of latent frames (B, F, C, h, w) from noisy ones, their timesteps (B, F) and text tokens."""

    def __init__(self, shape: Shape | None = None) -> None:
        super().__init__()
        self.shape = shape = shape or Shape()
        d = shape.dim
        self.embed = nn.Linear(shape.channels, d)
        self.words = nn.Embedding(TOKENS, d)
        # where in the picture a word acts: cross-attention alone never learned which column "mark left" is
        self.layout = nn.Embedding(TOKENS, shape.grid[0] * shape.grid[1] * d)
        self.text_in, self.text_out = nn.Linear(d, d), nn.Linear(d, d)
        self.time_in, self.time_out = nn.Linear(shape.frequencies, d), nn.Linear(d, d)
        self.time_modulation = nn.Linear(d, 6 * d)
        self.layers = nn.ModuleList(Layer(shape, i) for i in range(shape.layers))
        self.head_modulation = nn.Parameter(torch.randn(2, d) / math.sqrt(d))
        self.head = nn.Linear(d, shape.channels)
        for name, p in self.named_parameters():
            if p.ndim == 2 and "modulation" not in name:
                nn.init.normal_(p, std=0.02) if "words" in name else nn.init.xavier_uniform_(p)
            elif name.endswith("bias"):
                nn.init.zeros_(p)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.layout.weight)

    def fuse(self) -> None:
        """Make the model ready for inference, once the weights are where they stay."""
        for linear in (self.embed, self.head):
            linear.weight.data = _by_input(linear.weight.data)
        for layer in self.blocks():
            layer.fuse()

    def encode(self, tokens: Tensor) -> Tensor:
        """Features (..., tokens + h*w, d) of token ids (..., tokens): a prompt's words, then its layout."""
        words = self.text_out(F.gelu(self.text_in(self.words(tokens)), approximate="tanh"))
        layout = (LAYOUT_GAIN * self.layout(tokens).sum(-2)).unflatten(-1, (-1, words.shape[-1]))
        return torch.cat([words, layout.to(words.dtype)], -2)

    def texts(self, text: Tensor) -> Texts:
        """What the layers read of features (B, F or 1, tokens + h*w, d): once a prompt is enough."""
        words, layout = text.split([len(SLOTS), text.shape[-2] - len(SLOTS)], -2)
        return Texts([layer.text(words) for layer in self.blocks()], layout)

    def blocks(self) -> Iterator[Layer]:
        """The layers, as what they are."""
        for layer in self.layers:
            assert isinstance(layer, Layer)
            yield layer

    def times(self, t: Tensor) -> Times:
        """What the layers read of timesteps (B or 1, F or 1) in 0..1000: once a timestep is enough."""
        time = self.time_out(F.silu(self.time_in(_sinusoid(t, self.shape.frequencies).to(self.head.weight.dtype))))
        modulation = self.time_modulation(F.silu(time)).unflatten(-1, (6, -1))
        shift, scale = (time[:, :, None] + self.head_modulation)[:, :, :, None].unbind(2)
        return Times([layer.times(modulation) for layer in self.blocks()], (shift, 1 + scale))

    def forward(self, x: Tensor, t: Tensor | Times, texts: Texts, attend: Attend) -> Tensor:
        """x (B, F, C, h, w), timesteps or what `times` gives of them, texts as `texts` gives them; x0 in x's shape."""
        times = t if isinstance(t, Times) else self.times(t)
        y = self.embed(x.flatten(3).transpose(2, 3)) + texts.layout
        for layer, time, text in zip(self.layers, times.layers, texts.pairs, strict=True):
            y = layer(y, time, text, attend)
        shift, scale = times.head
        out: Tensor = self.head(_norm(y) * scale + shift)
        return out.transpose(2, 3).reshape(x.shape)


def _sinusoid(t: Tensor, size: int) -> Tensor:
    half = size // 2
    angle = t.double()[..., None] * 10000 ** (-torch.arange(half, device=t.device, dtype=torch.float64) / half)
    return torch.cat([angle.cos(), angle.sin()], -1)
