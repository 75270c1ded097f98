"""Controls: a cache that keeps what the answer needs, and one that gets another video's memory."""

from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from torch import Tensor

from rollout import generate
from rollout.backends.sprites.codec import fit_codec
from rollout.backends.sprites.weights import Sprites
from rollout.benchmarks.controls.policies import Oracle
from rollout.cache import KVCache
from rollout.errors import OutputError, RolloutError
from rollout.fork import History
from rollout.job import Job
from rollout.latents import read_latents
from rollout.loop import Rollout
from rollout.recipe import Donor, Recipe
from rollout.record import read_record
from rollout.slots import Role
from rollout.strategies import Absolute, Ema, Fifo, Keep, Online, Recache, Relativistic, Sink
from rollout.strategy import Strategy
from tests.conftest import MICRO, micro_backend

OWN, OTHER = "a red circle jumps[3s] | a red circle spins[1.5s]", "a blue square spins[3s] | a blue square jumps[1.5s]"
PINNING = [
    Strategy(Relativistic(), Sink(6, 1), Keep()),
    Strategy(Absolute(), Sink(12, 3), Recache()),
    Strategy(Online(), Ema(12, 3, (0.1, 0.3)), Keep()),
    Strategy(Online(), Ema(9, 0, (0.3,)), Keep()),
    Strategy(Relativistic(), Oracle(12, 0, 3), Keep()),
]


def pair(backend: Sprites, strategy: Strategy, exchange: int | None = None) -> Rollout:
    return generate(backend, strategy, [OWN, OTHER], seeds=[1, 2], exchange=exchange)


def latents(run: Rollout) -> Tensor:
    return torch.cat([result.latents for result in run], 1)


def held(cache: KVCache) -> list[Tensor]:
    return [x.clone() for slot in range(len(cache.slots)) for layer in range(2) for x in cache.raw(slot, layer)]


def pinned(cache: KVCache) -> list[int]:
    return [i for i, slot in enumerate(cache.slots) if slot.role is not Role.RECENT]


@pytest.mark.parametrize("strategy", PINNING, ids=str)
def test_an_exchange_moves_the_pinned_slots_alone_and_twice_is_the_identity(micro: Sprites, strategy: Strategy) -> None:
    run = pair(micro, strategy)
    list(islice(run, 7))
    cache = run.cache
    before, stored = held(cache), [x.clone() for x in (*cache._rows.keys, *cache._rows.values)]
    cache.exchange(pinned(cache))
    for n, (was, now) in enumerate(zip(before, held(cache), strict=True)):
        moved = n // 4 in pinned(cache)  # two layers of keys and values a slot
        assert torch.equal(now, was.flip(0) if moved else was)
        assert not moved or not torch.equal(now, was)
    cache.exchange(pinned(cache))
    assert all(map(torch.equal, before, held(cache)))
    assert all(map(torch.equal, stored, (*cache._rows.keys, *cache._rows.values)))


@pytest.mark.parametrize("strategy", PINNING, ids=str)
def test_a_video_goes_on_as_if_the_other_had_made_its_memory(micro: Sprites, strategy: Strategy) -> None:
    """Row 0 after the exchange equals a rollout alone whose pinned rows are written by the other video's rollout."""
    at = 8
    both = latents(pair(micro, strategy, at))
    own, other = (generate(micro, strategy, s, seeds=n) for s, n in ((OWN, 1), (OTHER, 2)))
    parts = [result.latents for result in islice(own, at)]
    list(islice(other, at))
    for i in pinned(own.cache):
        mine, theirs = own.cache._entries[i], other.cache._entries[i]
        assert mine.row == theirs.row
        for ours, others in zip(
            (own.cache._rows.keys, own.cache._rows.values),
            (other.cache._rows.keys, other.cache._rows.values),
            strict=True,
        ):
            for a, b in zip(ours, others, strict=True):
                a[:, mine.row] = b[:, theirs.row]
        mine.raw, mine.exact = theirs.raw, theirs.exact
    own.cache._changed(own.cache.slots, own.cache._entries)
    parts += [result.latents for result in own]
    torch.testing.assert_close(both[:1], torch.cat(parts, 1), rtol=0, atol=1e-8)
    plain = latents(pair(micro, strategy))
    assert torch.equal(both[:, : 3 * at], plain[:, : 3 * at])
    assert (both - plain)[:, 3 * at :].abs().max() > 1e-3


def test_without_pinned_slots_nothing_changes(micro: Sprites) -> None:
    strategy = Strategy(Relativistic(), Fifo(9), Keep())
    assert torch.equal(latents(pair(micro, strategy)), latents(pair(micro, strategy, 8)))


def test_a_block_that_failed_after_the_exchange_is_not_exchanged_again(
    micro: Sprites, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, whole = pair(micro, PINNING[0], 4), latents(pair(micro, PINNING[0], 4))
    parts = [result.latents for result in islice(run, 4)]
    with monkeypatch.context() as broken:
        broken.setattr(type(micro), "denoise", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            next(run)
    assert torch.equal(torch.cat([*parts, *(result.latents for result in run)], 1), whole)


@pytest.mark.parametrize(("scripts", "block"), [([OWN], 4), ([OWN, OTHER], 0), ([OWN, OTHER], 12)])
def test_an_exchange_takes_two_videos_and_a_block_within(micro: Sprites, scripts: list[str], block: int) -> None:
    with pytest.raises(RolloutError, match="cannot exchange their memory before block"):
        generate(micro, PINNING[0], scripts, seeds=[1] * len(scripts), exchange=block)


def test_a_job_writes_its_own_video_and_says_whose_memory_it_got(tmp_path: Path) -> None:
    micro = micro_backend(torch.float32, replace(MICRO, grid=(4, 4)), fit_codec(MICRO.channels, clips=100))
    donor = Donor(OTHER, 2, 8)
    recipe = Recipe(PINNING[0], OWN, 1, prefix="2", donor=donor)
    job = Job(micro, recipe, tmp_path, latents=True)
    found = torch.cat([result.latents for result in job.run()], 1)
    assert found.shape[0] == 2
    start = torch.stack([micro.truth(s.partition("[")[0], 2, n) for s, n in ((OWN, 1), (OTHER, 2))])
    run = generate(micro, PINNING[0], [OWN, OTHER], seeds=[1, 2], prefix=start, exchange=8)
    assert torch.equal(found, latents(run))
    assert torch.equal(read_latents(tmp_path / "latents.safetensors"), found[0])
    record = read_record(tmp_path)
    assert record["donor"] == {"text": OTHER, "seed": 2, "block": 8}
    assert Recipe.from_dict(record) == recipe
    with pytest.raises(OutputError, match="another video's memory"):
        History.of(tmp_path).branch(9, micro.spec)
    assert "donor" not in Recipe(PINNING[0], OWN).to_dict()
