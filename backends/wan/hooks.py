"""Where rollout touches diffusers' transformers of the Wan families, and how they are put back, bit for bit.

Three hook points, tested against the diffusers range in pyproject.toml: self-attention processors (`attn1`) that hand
normed, unrotated q, k, v to `attend`; cross-attention processors (`attn2`) that project a prompt's keys and values once;
`rope`, which then has nothing to do, and `condition_embedder.timesteps_proj`, in float64 (diffusers' float32 sinusoid
costs 3e-5). SkyReels-V2's transformer is touched in two more: it makes no mask of whole videos, and its embedding of
the frame rate, which it adds for one row only, is added for all.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from rollout.opaque import Opaque

__all__ = [
    "WHOLE_VIDEO",
    "Calls",
    "CrossAttention",
    "ExactTimesteps",
    "NoRope",
    "Processor",
    "SelfAttention",
    "compile_blocks",
    "hooked",
    "project_text",
]


class Processor:
    """A processor of one layer; all layers share one Calls."""

    def __init__(self, layer: int, calls: "Calls") -> None:
        self.layer, self.calls = layer, calls


class SelfAttention(Processor):
    """An `attn1` processor: project, norm, hand over to `attend`, project back."""

    def __init__(self, layer: int, calls: "Calls") -> None:
        super().__init__(layer, calls)
        self.place = calls.place(layer)

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: object = None,
    ) -> Tensor:
        """hidden_states (B, F*h*w, dim)."""
        if getattr(attn, "fused_projections", False):
            q, k, v = attn.to_qkv(hidden_states).chunk(3, dim=-1)
        else:
            q, k, v = attn.to_q(hidden_states), attn.to_k(hidden_states), attn.to_v(hidden_states)
        q, k, v = (x.unflatten(2, (attn.heads, -1)) for x in (attn.norm_q(q), attn.norm_k(k), v))
        if torch.compiler.is_compiling():
            out = Opaque.call(self.place, q, k, v)
        elif self.calls.attend is None:
            raise RuntimeError("the model was called outside a denoise pass")
        else:
            out = self.calls.attend(self.layer, q, k, v)
        out = out.flatten(2).type_as(q)
        return attn.to_out[1](attn.to_out[0](out))  # type: ignore[no-any-return]


class CrossAttention(Processor):
    """An `attn2` processor that projects the text's keys and values once for each text tensor, and holds them.

    Held by the processor they look alike in every layer to a compiler.
    """

    def __init__(self, layer: int, calls: "Calls") -> None:
        super().__init__(layer, calls)
        self.text: tuple[Tensor, ...] | None = None
        calls.readers.append(self)

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: object = None,
    ) -> Tensor:
        """hidden_states (B, F*h*w, dim), encoder_hidden_states (B, text tokens, dim), or one text a frame."""
        assert encoder_hidden_states is not None
        if self.text is None:  # weights that are offloaded come with their block
            self.text = project_text(attn, encoder_hidden_states)
        k, v = self.text
        q = attn.norm_q(attn.to_q(hidden_states))
        if k.ndim == 5:  # each frame's tokens read that frame's text
            q = q.unflatten(1, (k.shape[1], -1))
        q = q.unflatten(-1, (attn.heads, -1)).transpose(-3, -2)
        out = nn.functional.scaled_dot_product_attention(q, k, v).transpose(-3, -2)
        out = out.reshape(hidden_states.shape[0], -1, k.shape[-3] * k.shape[-1]).type_as(hidden_states)
        return attn.to_out[1](attn.to_out[0](out))  # type: ignore[no-any-return]


def project_text(attn: Any, text: Tensor) -> tuple[Tensor, ...]:
    """A cross-attention's keys and values (B, [F,] heads, tokens, D) of the embedded text (B, [F,] tokens, dim)."""
    if getattr(attn, "fused_projections", False):
        k, v = attn.to_kv(text).chunk(2, dim=-1)
    else:
        k, v = attn.to_k(text), attn.to_v(text)
    return tuple(x.unflatten(-1, (attn.heads, -1)).transpose(-3, -2) for x in (attn.norm_k(k), v))


class Calls(Opaque):
    """What the processors share within one pass: `attend`; `readers` hold the projected text."""

    def __init__(self) -> None:
        super().__init__()
        self.readers: list[CrossAttention] = []

    def forget(self) -> None:
        """The text is another: project it anew."""
        for reader in self.readers:
            reader.text = None


class NoRope(nn.Module):
    """Stands in for `rope`: positions belong to `attend`."""

    def forward(self, hidden_states: Tensor) -> None:
        """Nothing."""


class ExactTimesteps(nn.Module):
    """The timestep sinusoid [cos, sin] (..., channels), in float64."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pairs = channels // 2

    def forward(self, timesteps: Tensor) -> Tensor:
        """Timesteps (N,), or (B, F), in 0..1000."""
        steps = torch.arange(self.pairs, dtype=torch.float64, device=timesteps.device)
        angle = timesteps.double()[..., None] * 10000 ** (-steps / self.pairs)
        return torch.cat([angle.cos(), angle.sin()], -1)


def compile_blocks(model: Any, **options: Any) -> None:
    """torch.compile the transformer's blocks: one graph for all layers, whatever the cache does."""
    model.compile_repeated_blocks(**options)


WHOLE_VIDEO = {"num_frame_per_block": 1, "inject_sample_info": False}
"""What SkyReels-V2's forward does only for whole videos of one row, by the setting that leaves it out."""


def _adds_frame_rate(model: Any) -> Any:
    """A forward hook of SkyReels-V2's condition embedder: its own embedding of 24 frames a second, for every row."""

    def add(module: Any, args: Any, out: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        rate = torch.ones(1, dtype=torch.long, device=out[1].device)  # 0 is 16 frames a second, 1 all others
        times: Tensor = model.fps_projection(model.fps_embedding(rate))
        return out[0], out[1] + times, *out[2:]

    return add


@contextmanager
def hooked(model: Any) -> Iterator[Calls]:
    """Hook a transformer of diffusers; whatever happens inside, it leaves as it came."""
    calls = Calls()
    embedder = model.condition_embedder
    before = model.attn_processors
    rope, steps = model.rope, embedder.timesteps_proj
    hooks: list[Any] = []
    config = {name: model.config[name] for name in WHOLE_VIDEO if name in model.config}
    try:
        if config.get("inject_sample_info"):
            hooks.append(embedder.register_forward_hook(_adds_frame_rate(model)))
        if config:
            model.register_to_config(**{name: WHOLE_VIDEO[name] for name in config})
        model.rope, embedder.timesteps_proj = NoRope(), ExactTimesteps(model.config.freq_dim)
        for layer, block in enumerate(model.blocks):
            block.attn1.set_processor(SelfAttention(layer, calls))
            block.attn2.set_processor(CrossAttention(layer, calls))

        def project(module: Any, args: Any, out: tuple[Tensor, ...]) -> None:
            """All layers' text before the first block, so that compiled blocks find it there and never compile without."""
            text = out[2]
            if calls.readers[0].text is None and all(b.attn2.norm_k.weight.device == text.device for b in model.blocks):
                for reader, block in zip(calls.readers, model.blocks, strict=True):
                    reader.text = project_text(block.attn2, text)

        hooks.append(embedder.register_forward_hook(project))
        yield calls
    finally:
        for hook in hooks:
            hook.remove()
        if config:
            model.register_to_config(**config)
        model.rope, embedder.timesteps_proj = rope, steps
        model.set_attn_processor(before)
