"""RoPE's invariances, as properties."""

import cmath

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rollout import rope
from rollout.backend import split_pairs
from rollout.backends.sprites import spec
from rollout.rope import coherence, rotate, table

AXES = (4, 2, 2)
GRID = (2, 3)
index = st.integers(0, 1_000_000)
seed = st.integers(0, 2**20)


def draw(seed: int, frames: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, frames * 6, 3, 16, generator=generator, dtype=torch.float64)


def at(*frames: int, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    return table(frames, GRID, AXES, dtype=dtype)


def scores(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    return torch.einsum("bihd,bjhd->bhij", q, k)


def test_split_is_wans() -> None:
    assert split_pairs(128) == (22, 21, 21)
    assert split_pairs(32) == (6, 5, 5)


@given(seed, index)
def test_rotation_keeps_norms(seed: int, frame: int) -> None:
    x = draw(seed)
    torch.testing.assert_close(rotate(x, at(frame)).norm(dim=-1), x.norm(dim=-1), rtol=1e-12, atol=1e-12)


@given(seed, st.integers(-500_000, 500_000), st.integers(-500_000, 500_000))
def test_rotations_compose_and_invert(seed: int, a: int, b: int) -> None:
    x = draw(seed)
    undo = table([0], GRID, AXES, dtype=torch.float64).conj()  # the spatial angles would count twice
    twice = rotate(rotate(rotate(x, at(a)), undo), at(b))
    torch.testing.assert_close(twice, rotate(x, at(a + b)), rtol=0, atol=1e-9)
    torch.testing.assert_close(rotate(rotate(x, at(a)), at(a).conj()), x, rtol=0, atol=1e-12)


@given(seed, index, index, st.integers(-1000, 1_000_000))
def test_scores_depend_on_differences_in_time(seed: int, a: int, b: int, shift: int) -> None:
    q, k = draw(seed), draw(seed + 1)
    one = scores(rotate(q, at(a)), rotate(k, at(b)))
    other = scores(rotate(q, at(a + shift)), rotate(k, at(b + shift)))
    torch.testing.assert_close(one, other, rtol=0, atol=1e-8)


def test_scores_depend_on_differences_in_space() -> None:
    grid = (5, 7)
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(1, 1, 1, 16, generator=generator, dtype=torch.float64).expand(1, 35, 1, 16) for _ in range(2))
    full = table([3], grid, AXES, dtype=torch.float64)
    found = scores(rotate(q, full), rotate(k, full))[0, 0].view(5, 7, 5, 7)
    torch.testing.assert_close(found[0, 1, 2, 4], found[2, 2, 4, 5], rtol=0, atol=1e-12)
    assert not torch.isclose(found[0, 1, 2, 4], found[0, 1, 3, 4])
    assert not torch.isclose(found[0, 1, 2, 4], found[0, 1, 2, 5])


def test_each_axis_has_its_own_channels() -> None:
    x = draw(0)[:, :1].expand(2, 6, 3, 16)
    turned = rotate(x, at(5))
    torch.testing.assert_close(turned[:, 0, :, :8], turned[:, 5, :, :8])  # time: the same over the frame
    torch.testing.assert_close(turned[:, 0, :, 8:12], turned[:, 2, :, 8:12])  # height: along a row
    assert not torch.allclose(turned[:, 0, :, 8:12], turned[:, 3, :, 8:12])
    torch.testing.assert_close(turned[:, 0, :, 12:], turned[:, 3, :, 12:])  # width: down a column
    assert not torch.allclose(turned[:, 0, :, 12:], turned[:, 1, :, 12:])


@given(seed, st.integers(0, 20))
def test_a_million_frames_on_is_as_exact(seed: int, distance: int) -> None:
    q, k = draw(seed).float(), draw(seed + 1).float()
    near = scores(rotate(q, at(distance, dtype=torch.float32)), rotate(k, at(0, dtype=torch.float32)))
    far = scores(rotate(q, at(10**6 + distance, dtype=torch.float32)), rotate(k, at(10**6, dtype=torch.float32)))
    torch.testing.assert_close(far, near, rtol=0, atol=2e-5)


@pytest.mark.parametrize("chunk", [1, 100, 2**20])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_16_bits_a_rotation_is_that_of_float32_rounded_once(
    chunk: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit, however many tokens go at once; also into rows of a larger tensor, and where it lies."""
    monkeypatch.setattr(rope, "CHUNK", chunk)
    x, rows = draw(0, 3).to(dtype), torch.zeros(2, 30, 3, 16, dtype=dtype)
    turns = at(7, 8, 9, dtype=torch.float32)
    exact = rotate(x.float(), turns)
    assert exact.dtype is torch.float32
    assert torch.equal(rotate(x, turns), exact.to(dtype))
    assert rotate(x, turns, out=rows[:, 6:24]).data_ptr() == rows[:, 6:24].data_ptr()
    assert torch.equal(rows[:, 6:24], exact.to(dtype))
    assert not rows[:, :6].any()
    assert not rows[:, 24:].any()
    times = x[..., :8]
    frame = turns[:1, :4]  # one for all tokens
    turned = rotate(times.float().contiguous(), frame).to(dtype)
    assert torch.equal(rotate(times, frame, out=times), turned)
    assert torch.equal(x[..., :8], turned)


@given(index, st.integers(1, 40))
def test_coherence_is_the_mean_turn_of_all_pairs(distance: int, pairs: int) -> None:
    turns = [cmath.exp(1j * distance * 10000 ** (-k / pairs)) for k in range(pairs)]
    value = float(coherence([distance], pairs))
    assert value == pytest.approx(abs(sum(turns)) / pairs, abs=1e-9)
    assert 0 <= value <= 1 + 1e-12
    assert float(coherence([-distance], pairs)) == pytest.approx(value, abs=1e-12)
    assert float(coherence([0], pairs)) == pytest.approx(1)


def test_the_sprites_clock_comes_round_at_57_and_half_way_at_38() -> None:
    """Where walkers were seen to slip onto a sink: at distance 57 under window 6, at 38 under window 12."""
    values = coherence(range(61), spec().axes[0], spec().theta)
    assert float(values[57]) == pytest.approx(0.760, abs=1e-3)
    assert float(values[38]) == pytest.approx(0.667, abs=1e-3)
    assert int(values[21:].argmax()) + 21 == 57
    assert values[38] > values[37]
    assert values[38] > values[39]
