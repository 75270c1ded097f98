"""One rollout over several processes equals that of one, whatever the strategy; they write, speak and end as one."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from diffusers import AutoencoderKLWan
from safetensors.torch import load_file
from torch import Tensor

from rollout import Schedule, Strategy, generate, load_backend, preset
from rollout.backends.guidance import Guided
from rollout.backends.wan import SIZES
from rollout.backends.wan.family import geometry
from rollout.backends.wan.model import Wan
from rollout.backends.wan.parallel import Parallel, tiles
from rollout.backends.wan.text import TextEncoder
from rollout.cli import main, parallel
from rollout.errors import BackendError, CompositionError, OutputError, RolloutError
from rollout.lanes import Lane, lanes_here
from rollout.loop import Rollout
from rollout.memory import cache_bytes
from rollout.parts import PolicyDefaults
from rollout.picks import participation_by_head
from rollout.ranks import Ranks
from rollout.registry import registered
from rollout.run.beside import Beside
from rollout.run.output import Output
from rollout.run.record import RunFolder
from rollout.run.video import read_video
from rollout.slots import NO_FACTS, Block, Edit, Facts, Pick, Role, Slot
from rollout.strategies import Absolute, Deep, Fifo, Keep
from rollout.strategies.presets import PRESETS
from tests import test_families as families
from tests.sockets import LOOPBACK, listening
from tests.spread import Ended, command, spread
from tests.test_next_core import LeastRead
from tests.test_wan import TINY, Worded, small_parts, transformer

DOCS = Path(__file__).parent.parent / "docs"
SCRIPT, CUT = "a cat[2.25s] | b dog[1.5s]", "a cat[2.25s] | b dog[1.5s#]"
DEEP = "absolute deep:window=9,sink=2,budget=8,recent=4+keep"
BY_HEAD = "absolute by-head:near=4,far=9,map=Fn/fs+keep"
STRATEGIES = {
    "a cut and a flush": "infinity-rope",
    "frames encoded again": "longlive",
    "averages": "memrope",
    "several blocks in a pass": "rolling-forcing",
    "heads sorted on the way": "dummy-forcing",
    "a base angle a head": "lol",
    "tokens picked by all heads": DEEP,
    "heads of a map": BY_HEAD,
    "a store of 8 bits": "relativistic sink+flush store=int8",
}
UNEVEN = {"heads sorted on the way", "heads of a map"}
"""Where one process's heads may hold more than the other's."""


class Part(Parallel, Worded):
    """A Wan over processes whose text features are drawn in the first of them."""


class FamilyPart(Parallel, families.Worded):
    """The same of another family."""


def model(ranks: Ranks | None, height: int = 32, width: int = 48, **config: Any) -> Wan:
    whole = transformer()
    if config:
        torch.manual_seed(0)
        whole = type(whole)(**TINY | config).eval().requires_grad_(False)
    return (
        Worded(whole, height=height, width=width) if ranks is None else Part(whole, ranks, height=height, width=width)
    )


def rollout(ranks: Ranks | None, strategy: str, **options: Any) -> Rollout:
    schedule = PRESETS[strategy].schedule if strategy in PRESETS else None
    script = CUT if strategy == "infinity-rope" else SCRIPT
    return generate(model(ranks), Strategy.of(strategy), script, schedule=schedule, **options)


def latents(run: Any) -> Tensor:
    return torch.cat([result.latents for result in run], 1)


def outcome(ranks: Ranks | None, strategy: str) -> tuple[Tensor, int, int]:
    """Latents, and bytes of the cache and of copies."""
    run = rollout(ranks, strategy)
    video = latents(run)
    if run.strategy.policy.memory:  # or nothing was averaged or picked, and all would be alike
        assert Role.MEMORY in {slot.role for slot in run.cache.slots}
    return video, run.engine.bytes, run.engine.extra_bytes


def close(ours: Tensor, one: Tensor, strategy: str = "") -> None:
    """Equal but for the order of sums, which may take a number over the edge between two of 8 bits."""
    tolerance = 1e-3 if "int8" in strategy else 1e-5
    torch.testing.assert_close(
        ours, one, rtol=0, atol=tolerance * float(one.abs().max()), msg=lambda m: f"{strategy}: {m}"
    )


def test_two_processes_roll_out_what_one_does_and_hold_half_of_it_each(tmp_path: Path) -> None:
    parts = spread(2, lambda ranks: {name: outcome(ranks, text) for name, text in STRATEGIES.items()}, tmp_path)
    for name, text in STRATEGIES.items():
        one, held, copies = outcome(None, text)
        for part in parts:
            close(part[name][0], one, text)
            assert part[name][0].equal(parts[0][name][0]), name
        if name in UNEVEN:
            assert [sum(part[name][n] for part in parts) for n in (1, 2)] == [held, copies], name
        else:
            assert [part[name][1:] for part in parts] == [(held // 2, copies // 2)] * 2, name


@pytest.mark.slow
@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_the_same_over_two_processes(name: str, tmp_path: Path) -> None:
    """Over 30 frames, with a prompt change, beyond every window."""

    def outcome(ranks: Ranks | None) -> Tensor:
        return latents(generate(model(ranks), preset(name), "a cat[4.5s] | b dog[3s]", schedule=PRESETS[name].schedule))

    one = outcome(None)
    for part in spread(2, outcome, tmp_path):
        close(part, one)


@pytest.mark.parametrize(("height", "width", "rows", "columns"), [(32, 32, 2, 2), (16, 64, 1, 4)])
def test_four_processes_have_a_tile_and_a_head_each(
    height: int, width: int, rows: int, columns: int, tmp_path: Path
) -> None:
    """Tiles lie in a grid where neither side divides; a batch, guidance, and blocks at noise levels of their own."""

    def outcome(ranks: Ranks | None) -> Tensor:
        wan = model(ranks, height, width, num_attention_heads=4)
        run = generate(
            Guided(wan, 3.0, "bad"),
            preset("rolling-forcing"),
            "a cat[0.75s] | b dog[0.75s]",
            seeds=[1, 2],
            schedule=Schedule.of(2),
        )
        return latents(run)

    assert tiles(model(None, height, width, num_attention_heads=4).spec, 4) == (rows, columns)
    one = outcome(None)
    for part in spread(4, outcome, tmp_path):
        close(part, one)


@pytest.mark.parametrize("kind", ["wan2.2-ti2v", "skyreels-with-rate"])
def test_every_family_goes_over_two_processes(kind: str, tmp_path: Path) -> None:
    """Those that take timesteps by frame or by token, and latents of other sizes, get them for their tile."""

    def outcome(ranks: Ranks | None) -> Tensor:
        side = families.small_family(kind).spatial
        network, size = families.transformer(kind), {"height": 4 * side, "width": 6 * side}
        wan = families.Worded(network, **size) if ranks is None else FamilyPart(network, ranks, **size)
        window = Strategy.of("online sink:window=25,sink=1+keep reads=newest:frames=25 order=rolling")
        return latents(generate(wan, window, "a cat[2s] | b dog[1s]", schedule=Schedule.of(2)))

    one = outcome(None)
    for part in spread(2, outcome, tmp_path):
        torch.testing.assert_close(part, one, rtol=0, atol=1e-12 * float(one.abs().max()))


@pytest.mark.parametrize(
    ("size", "counts"), [("1.3b", {2, 3, 4, 6, 12}), ("14b", {2, 4, 5, 8, 10, 20, 40}), ("5b", {2, 3, 4, 6, 8, 12, 24})]
)
def test_models_go_on_as_many_processes_as_divide_heads_and_tokens(size: str, counts: set[int]) -> None:
    spec = geometry(SIZES[size], 480, 832)
    for count in range(2, 48):
        if count in counts and spec.tokens % count == 0:
            rows, columns = tiles(spec, count)
            assert rows * columns == count
            assert spec.grid[0] % rows == spec.grid[1] % columns == 0
        else:
            with pytest.raises(BackendError, match=f"{count} processes cannot share wan.s {spec.heads} heads"):
                tiles(spec, count)


def resumed(ranks: Ranks | None, state: Any) -> Tensor:
    """The rest of a rollout from a state on; of several processes the last one's."""
    run = rollout(ranks, state["strategy"])
    run.restore(*state["state"])
    return latents(run)


def stopped(ranks: Ranks | None, strategy: str) -> tuple[Any, Tensor]:
    """The state of a rollout after some blocks, and the rest of it."""
    run = rollout(ranks, strategy)
    for _ in range(4):
        next(run)
    return {"strategy": strategy, "state": run.state()}, latents(run)


def shapes(tensors: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Of all but counts of wins, which are one row where all heads have won alike."""
    return {name: tuple(x.shape) for name, x in tensors.items() if ".wins." not in name}


def test_a_state_goes_on_under_another_number_of_processes(tmp_path: Path) -> None:
    texts = [STRATEGIES[name] for name in ("averages", *sorted(UNEVEN), "tokens picked by all heads")]
    texts += [
        "relativistic sink+flush store=int8",
        DEEP.replace("deep", "deep-by-head"),
        "absolute halves+keep",
        "absolute halves:by_layer=true+keep",
    ]
    with registered("policies", "deep-by-head", DeepByHead), registered("policies", "halves", Halves):
        one = [stopped(None, text) for text in texts]
        several = spread(2, lambda ranks: [stopped(ranks, text) for text in texts], tmp_path / "stop")
        again = spread(2, lambda ranks: [resumed(ranks, state) for state, _ in several[0]], tmp_path / "same")
        more = spread(2, lambda ranks: [resumed(ranks, state) for state, _ in one], tmp_path / "more")
        fewer = [resumed(None, state) for state, _ in several[0]]
    for n, (text, (state, rest)) in enumerate(zip(texts, one, strict=True)):
        saved, tensors = several[0][n][0]["state"]
        assert saved["cache"]["slots"] == state["state"][0]["cache"]["slots"], text
        assert shapes(tensors) == shapes(state["state"][1]), text
        assert again[1][n].equal(several[1][n][1]), f"{text}: not bit for bit"
        for other in (fewer[n], more[0][n], more[1][n]):
            close(other, rest, text)


def test_what_happens_in_the_first_process_happens_in_all(tmp_path: Path) -> None:
    """A prompt, a cut, a switch and another strategy; what another process says is of no account."""
    later = Strategy.of("relativistic sink:window=12,sink=1+flush:last=2")

    def outcome(ranks: Ranks | None) -> tuple[Tensor, list[str]]:
        run, parts = rollout(ranks, "infinity-rope"), []
        for result in run:
            parts.append(result.latents)
            if ranks is None or ranks.first:
                actions: dict[int, Callable[[], None]] = {0: lambda: run.prompt("dogs run"), 1: run.cut}
                actions |= {2: lambda: run.switch("flush:last=2"), 3: lambda: run.use(later)}
                actions.get(result.block.index, lambda: None)()
            else:
                run.prompt("nobody hears this")
        return torch.cat(parts, 1), [str(event) for event in run.timeline.log]

    one, log = outcome(None)
    assert len(log) == 4
    for part, seen in spread(2, outcome, tmp_path):
        close(part, one)
        assert seen == log


def test_facts_are_of_all_heads(tmp_path: Path) -> None:
    """A policy that decides by them decides alike in every process, and as in one."""

    def outcome(ranks: Ranks | None) -> tuple[Tensor, list[list[int]], tuple[float, ...]]:
        run, parts, frames = generate(model(ranks), Strategy(Absolute(), LeastRead(), Keep()), SCRIPT), [], []
        for result in run:
            parts.append(result.latents)
            frames.append([slot.frame for slot in result.slots])
        return torch.cat(parts, 1), frames, run.cache.facts["mass"]

    one, frames, facts = outcome(None)
    parts = spread(2, outcome, tmp_path)
    assert parts[0][2] == parts[1][2]
    for part, slots, mass in parts:
        assert slots == frames
        assert mass == pytest.approx(facts, abs=1e-6)
        close(part, one)


@dataclass(frozen=True)
class DeepByHead(Deep):
    """As deep, every head with tokens of its own."""

    kind: ClassVar[str] = "deep-by-head"
    score: ClassVar[str] = "participation-by-head"

    def make_room(self, slots: Sequence[Slot], frames: int, facts: Facts = NO_FACTS) -> Edit:
        edit = super().make_room(slots, frames, facts)
        return Edit(
            edit.slots, tuple(replace(row, by=self.score) if isinstance(row, Pick) else row for row in edit.rows)
        )


class DeepByMost(DeepByHead):
    """As deep, by what one head asks for most."""

    kind: ClassVar[str] = "deep-by-most"
    score: ClassVar[str] = "most"


def most(queries: Tensor, keys: Tensor) -> Tensor:
    """The score of the head that asks most."""
    return participation_by_head(queries, keys).amax(1, keepdim=True)


@dataclass(frozen=True)
class Halves(PolicyDefaults):
    """Two lanes, each with picks of its own: of a head in every layer, or of all heads in every other layer."""

    kind: ClassVar[str] = "halves"
    window: int = 9
    by_layer: bool = False

    @property
    def inner(self) -> Deep:
        return Deep(window=9, sink=2, budget=8, recent=4)

    @property
    def sink(self) -> int:
        return self.inner.sink

    @property
    def memory(self) -> int:
        return self.inner.memory

    def lanes(self, spec: Any, masses: Any) -> tuple[Lane, ...]:
        heads = range(spec.heads)

        def part(lane: int, layer: int) -> tuple[int, ...]:
            return tuple(heads) * (layer % 2 == lane) if self.by_layer else (*heads[lane::2],)

        return tuple(Lane(f"{n}", tuple(part(n, layer) for layer in range(spec.layers)), self.inner) for n in (0, 1))

    def make_room(self, slots: Sequence[Slot], frames: int, facts: Facts = NO_FACTS) -> Edit:
        return self.inner.make_room(slots, frames, facts)

    def admit(self, block: Block) -> tuple[Slot, ...]:
        return self.inner.admit(block)


def test_picks_are_by_the_heads_that_they_are_meant_for(tmp_path: Path) -> None:
    """A head's own tokens, and those of lanes of which some processes have no head."""
    strategies = [
        Strategy(Absolute(), policy, Keep()) for policy in (DeepByHead(9, 2, 8, 4), Halves(), Halves(by_layer=True))
    ]

    def outcome(ranks: Ranks | None) -> list[Tensor]:
        return [latents(generate(model(ranks), strategy, SCRIPT)) for strategy in strategies]

    one = outcome(None)
    for parts in spread(2, outcome, tmp_path):
        for part, whole in zip(parts, one, strict=True):
            close(part, whole)


def test_what_looks_at_all_heads_in_a_way_of_its_own_is_refused(tmp_path: Path) -> None:
    def refusal(ranks: Ranks) -> str:
        run = generate(model(ranks), Strategy(Absolute(), DeepByMost(9, 2, 8, 4), Keep()), SCRIPT)
        with pytest.raises(CompositionError) as refused:
            list(run)
        return str(refused.value)

    with registered("scores", "most", most):
        for text in spread(2, refusal, tmp_path):
            assert "the score 'most' looks at all heads together" in text


class Apart:
    """The second of two processes, without the first."""

    number, count, first = 1, 2, False
    heads = Ranks.heads


@pytest.mark.parametrize(
    ("lane", "why"),
    [
        (Lane("a", ((0, 1),) * 2, LeastRead()), "lane 'a' measures 'mass' over its heads"),
        (Lane("a", ((1, 0),) * 2, Fifo()), "lane 'a' names its heads out of order"),
    ],
)
def test_lanes_that_several_processes_cannot_have_are_refused(lane: Lane, why: str) -> None:
    ranks: Any = Apart()
    with pytest.raises(CompositionError, match=why):
        lanes_here([lane], ranks, model(None).spec)


def test_a_lane_has_the_heads_that_are_here() -> None:
    ranks: Any = Apart()
    spec = replace(model(None).spec, heads=4)
    lanes = [Lane("a", ((0, 2), (0, 1)), Fifo()), Lane("b", ((1, 3), (2, 3)), Fifo())]
    assert [lane.heads for lane in lanes_here(lanes, ranks, spec)] == [((0,), ()), ((1,), (0, 1))]
    assert [lane.heads for lane in lanes_here(lanes, None, spec)] == [lane.heads for lane in lanes]


def test_memory_is_counted_for_the_heads_that_are_here() -> None:
    spec, whole = model(None).spec, Strategy.of(BY_HEAD)
    for strategy in (preset("memrope"), preset("deep-forcing"), whole):
        parts = [cache_bytes(strategy, spec, 4, heads=range(n, n + 1)) for n in range(2)]
        assert sum(parts) == cache_bytes(strategy, spec, 4)
    assert parts[0] > parts[1], "the first head of both layers holds more: F and f, beside n and s"


def test_another_process_decodes_nothing(folder: Path, tmp_path: Path) -> None:
    """Whole folders: text and video are encoded in the first process alone, whose errors all raise."""
    frames = torch.randint(0, 255, (9, 32, 48, 3), dtype=torch.uint8).numpy()

    def outcome(ranks: Ranks | None) -> tuple[Tensor, Tensor, Tensor]:
        wan = load_backend(
            "wan", model=str(folder), height=32, width=48, **({} if ranks is None else {"parallel": True})
        )
        if ranks is not None and not ranks.first:
            TextEncoder.encode = AutoencoderKLWan._encode = None  # type: ignore[method-assign,assignment]
            assert wan.vae is None
        prefix = wan.encode_video(frames)
        video = generate(wan, preset("infinity-rope"), "a cat[0.75s] | a dog[0.75s]", prefix=prefix).frames()
        with pytest.raises(RolloutError, match="the model runs at 48x32"):
            wan.encode_video(frames[:, :16])
        return prefix, wan.encode("a dog walks"), torch.from_numpy(video)

    prefix, text, video = outcome(None)
    first, second = spread(2, outcome, tmp_path)
    for part in (first, second):
        assert part[0].equal(prefix)
        assert part[1].equal(text)
    assert (first[2].short() - video.short()).abs().max() <= 1
    assert second[2].shape == (0, 32, 48, 3)


def test_the_documentations_program_runs(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (program,) = re.findall(r"```python\n(.*?)```", (DOCS / "parallel.md").read_text(), re.S)
    for text, here in {
        'model="DIR", device="cuda"': f'model="{folder}", height=32, width=48',
        "[10s]": "[0.75s]",
    }.items():
        assert text in program
        program = program.replace(text, here)
    spread(2, lambda ranks: exec(program, {}), tmp_path / "meet")
    assert len(read_video(Path("cat.mp4"))) == 9


# the command line


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole Wan folder with random weights."""
    path = tmp_path_factory.mktemp("parallel") / "tiny"
    transformer().save_pretrained(path / "transformer")
    small_parts(path)
    return path


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def gen(folder: Path, out: Path, *more: object) -> tuple[object, ...]:
    model = ("--backend", "wan", "--model", folder, "--height", 32, "--width", 48)
    return ("gen", "a cat[1.5s] | a dog[1.5s]", *model, "--latents", "--out", out, *more)


def one_line(ended: Sequence[Ended], text: str) -> None:
    """All processes failed, and one line says why."""
    assert all(process.code for process in ended)
    (line,) = "".join(process.err for process in ended).splitlines()
    assert line.startswith("rollout: ")
    assert text in line


def number() -> int:
    """Of the process that this runs in."""
    return int(os.environ.get("RANK", 0))


def after_block(patch: pytest.MonkeyPatch, index: int, act: Callable[[], object]) -> None:
    """Have something happen in the process that writes once it has written a block, before the next one begins."""
    write = Output.write

    def other(self: Output, result: Any, *decoded: Any) -> None:
        write(self, result, *decoded)
        if result.block.index == index:
            act()

    patch.setattr(Output, "write", other)
    patch.setattr(Beside, "start", lambda self, work: work())


def test_the_first_process_writes_and_speaks_and_a_run_goes_on_with_one(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    ended = command(2, gen(folder, whole, "--gif"))
    assert [process.code for process in ended] == [0, 0]
    assert "MiB of keys and values in each of 2 processes" in ended[0].out
    assert ended[0].out.count("contact.png") == 1
    assert ended[0].err + ended[1].out + ended[1].err == ""
    files = ["contact.png", "latents.safetensors", "run.json", "video.gif", "video.mp4"]
    assert sorted(path.name for path in whole.iterdir()) == files
    versions = RunFolder.open(whole).record.versions
    assert versions is not None
    assert versions["processes"] == 2

    def stop() -> None:
        """As a terminal does, and torchrun once more."""
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        after_block(patch, 1, stop)
        ended = command(2, gen(folder, cut))
    assert [process.code for process in ended] == [143, 130]
    assert "stopped after block 2 of 4. Go on with" in ended[0].err
    assert ended[1].out + ended[1].err == ""
    assert (cut / "snapshot-000002.safetensors").is_file()
    capfd.readouterr()
    monkeypatch.setattr(sys, "argv", ["rollout", "resume", str(cut)])
    with pytest.raises(SystemExit, match="0"):
        main()
    assert "processes was 2 and is 1: the last bits may differ" in capfd.readouterr().out
    ours, theirs = (load_file(path / "latents.safetensors")["latents"] for path in (cut, whole))
    close(ours, theirs)


def test_a_run_goes_on_with_two_processes_bit_for_bit(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one whose last snapshot was cut off: all take the one before."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    command(2, gen(folder, whole))
    with monkeypatch.context() as patch:
        after_block(patch, 3, lambda: _raise(OutputError("the disk is full. Make room.")))
        one_line(command(2, gen(folder, cut, "--snapshot-every", 1)), "the disk is full. Make room.")
    left = cut / "snapshot-000003.safetensors"
    left.write_bytes(left.read_bytes()[:-100])
    ended = command(2, ("resume", cut))
    assert [process.code for process in ended] == [0, 0]
    assert "cannot be used" in ended[0].err
    assert "going on after block 2 of 4" in ended[0].out
    assert RunFolder.open(cut).record.digests == RunFolder.open(whole).record.digests


def test_a_file_of_prompts_goes_over_two_processes(folder: Path, tmp_path: Path) -> None:
    file, out = tmp_path / "prompts.txt", tmp_path / "out"
    file.write_text("a cat[0.75s]\na dog[0.75s]\n")
    arguments = [word for word in gen(folder, out, "--prompts", file) if not str(word).startswith("a cat")]
    for finished, more in ((0, ()), (2, ("--gif",))):
        first, second = command(2, (*arguments, *more))
        assert (first.code, second.code) == (0, 0)
        assert f"{finished} finished before" in first.out
        assert second.out + second.err == ""
    assert sorted(path.parent.name for path in out.glob("*/video.gif")) == ["001", "002"]
    assert sorted(path.parent.name for path in out.glob("*/run.json")) == ["001", "002"]


def in_third_pass(patch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    """Have something happen in the second process's third pass."""
    calls, denoise = [0], Wan.denoise

    def other(*arguments: Any) -> Tensor:
        calls[0] += 1
        if calls[0] == 3 and number() == 1:
            act()
        return denoise(*arguments)

    patch.setattr(Wan, "denoise", other)


def _raise(error: BaseException) -> None:
    raise error


def test_what_one_process_cannot_ends_all_with_its_line(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_third_pass(monkeypatch, lambda: _raise(BackendError("my GPU is full. Take another.")))
    ended = command(2, gen(folder, tmp_path / "out"))
    one_line(ended, "my GPU is full. Take another.")
    assert ended[1].err, "the one that failed says it"
    assert list((tmp_path / "out").iterdir()) == []


def test_a_process_that_is_killed_ends_all_with_a_line(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_third_pass(monkeypatch, lambda: os._exit(9))
    ended = command(2, gen(folder, tmp_path / "out"))
    one_line(ended, "another process of this rollout has ended")
    assert ended[1].code == 9


def test_a_process_that_does_not_hear_of_it_is_ended(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that waits for a GPU would not: the first one here waits for nothing in particular."""
    monkeypatch.setattr(parallel, "GRACE", 0.1)

    def encode(self: Parallel, prompt: str) -> None:
        if number() == 0:
            threading.Event().wait()
        raise BackendError("enough")

    monkeypatch.setattr(Parallel, "encode", encode)
    one_line(command(2, gen(folder, tmp_path / "out")), "enough")


@pytest.mark.parametrize(
    ("count", "words", "why"),
    [
        (3, (), "3 processes cannot share wan's 2 heads and 2x3 tokens a frame: both must divide. Use 2."),
        (2, ("--parallel", "4"), "--parallel 4 does not fit the 2 processes that torchrun started"),
        (2, ("--backend", "sprites"), "the backend 'sprites' runs in one process"),
        (2, ("--device", "cuda:1"), "2 processes cannot share cuda:1"),
        (2, ("--device", "cuda"), "needs a GPU of its own, and there are 0 here"),
        (2, ("--nonsense",), "No such option: --nonsense"),
    ],
)
def test_bad_input_is_said_once(count: int, words: Sequence[str], why: str, folder: Path, tmp_path: Path) -> None:
    ended = command(count, gen(folder, tmp_path / "out", *words))
    one_line(ended, why)
    assert {process.code for process in ended} == {2}
    assert not (tmp_path / "out").exists()


def test_a_command_for_one_process_is_refused_under_torchrun(tmp_path: Path) -> None:
    one_line(command(2, ("fork", tmp_path, "--at", 1)), "rollout fork runs in one process")


def test_parallel_starts_processes_and_refuses_a_backend_for_one(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started: list[int] = []
    monkeypatch.setattr(parallel, "_launch", lambda count: started.append(count) or 7)
    for backend, code in (("wan", 7), ("sprites", 2)):
        words = gen(folder, tmp_path / "out", "--parallel", 2, "--backend", backend)
        monkeypatch.setattr(sys, "argv", ["rollout", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == code
    assert started == [2]
    assert "the backend 'sprites' runs in one process" in capsys.readouterr().err


def test_a_process_that_ends_without_a_word_is_told_of(capsys: pytest.CaptureFixture[str]) -> None:
    """The others would wait for it: they are told to end."""
    store = parallel._store("127.0.0.1", 0)
    processes = [subprocess.Popen([sys.executable, "-c", text]) for text in ("import os; os.kill(os.getpid(), 9)", "")]
    assert parallel._wait(processes, store) == 128 + 9
    assert (
        "process 0 of 2 ended with SIGKILL, which a system also sends where memory runs out" in capsys.readouterr().err
    )
    assert store.get(f"{parallel.END}/1") == b"failed"


def test_processes_that_parallel_starts_are_reached_from_this_machine_alone(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = listening(os.getpid())
    store = parallel._store("127.0.0.1", 0)
    assert listening(os.getpid()) - before == {("127.0.0.1", store.port)}
    heard = tmp_path / "listening.json"
    in_third_pass(monkeypatch, lambda: heard.write_text(json.dumps([*listening(os.getpid())])))
    more = {name: text for name, text in parallel._shared(2, store.port).items() if "SOCKET" in name}
    assert set(more) == {"GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"}, (
        "else it depends on what the name of this machine is"
    )
    ended = command(2, gen(folder, tmp_path / "out"), more)
    assert [process.code for process in ended] == [0, 0], ended
    sockets = json.loads(heard.read_text())
    assert sockets, "what the second process listens on was looked at"
    assert {address for address, _ in sockets} <= LOOPBACK


@pytest.mark.slow
def test_parallel_as_a_user_types_it(folder: Path, tmp_path: Path) -> None:
    words = [str(word) for word in gen(folder, tmp_path / "out", "--parallel", 2)]
    done = subprocess.run([sys.executable, "-m", "rollout", *words], capture_output=True, text=True, timeout=280)
    assert (done.returncode, done.stderr) == (0, "")
    assert "in each of 2 processes" in done.stdout
    again = subprocess.run([sys.executable, "-m", "rollout", *words], capture_output=True, text=True, timeout=280)
    assert again.returncode == 2
    assert len(again.stderr.splitlines()) == 1
