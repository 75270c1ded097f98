"""Nothing lost: a rollout that was stopped or killed goes on bit for bit, whatever stopped it."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from typer.testing import CliRunner

from rollout import Strategy, generate, preset
from rollout.cli import app
from rollout.errors import BackendError, CacheError, OutputError
from rollout.loop import Result, Rollout
from rollout.run.job import Job
from rollout.run.latents import read_latents
from rollout.run.output import Output
from rollout.run.recipe import Recipe
from rollout.run.snapshot import read_snapshot, snapshots
from rollout.run.video import frames_in, read_video
from rollout.strategies import Flush
from rollout.strategies.presets import PRESETS
from tests.conftest import STATES, examples, micro_backend, seldom
from tests.processes import Forked, fork, until

A, B = "a red circle jumps", "a blue square spins on olive"
SCRIPT = f"{A}[3.375s] | {B}[1.875s] | {A}[1.5s#] ; one | two | three"
BLOCKS = 18


def recipe(name: str = "infinity-rope", text: str = SCRIPT) -> Recipe:
    return Recipe(preset(name), text, seed=5)


@cache
def backend() -> Any:
    return micro_backend(torch.float32)


@cache
def digests(name: str, text: str = SCRIPT) -> dict[str, str]:
    """What a run that is never stopped gives."""
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        return finish(Job(backend(), recipe(name, text), Path(folder)))["digests"]


def finish(job: Job) -> dict[str, Any]:
    for _ in job.run():
        pass
    return json.loads((job.folder / "run.json").read_text())


def resume(folder: Path, model: Any = None) -> dict[str, Any]:
    return finish(Job.resumed(model or backend(), read_snapshot(snapshots(folder)[0]), folder))


class Counting:
    """A backend that does something at its nth pass."""

    def __init__(self, inner: Any, at: int, act: Any) -> None:
        self.inner, self.at, self.act, self.passes = inner, at, act, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def denoise(self, *given: Any) -> Tensor:
        self.passes += 1
        out = self.inner.denoise(*given)
        return self.act(out) if self.passes == self.at else out


def killed(job: Job) -> None:
    """Run a job in a child process, and wait until it is dead."""
    os.waitpid(fork(lambda: bool(finish(job))), 0)


def strike(_: Tensor) -> Tensor:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


SHORT = f"{A}[2.25s] | {B}[1.125s] | {A}[1.125s#] ; one | two | three"
"""As long as the longest window and a half."""
PASSES = 5 * 12
"""Four noisy ones a block and the clean one; rolled, one that blocks share instead of the four, and three to begin with."""


@pytest.mark.usefixtures("small_videos")
@pytest.mark.parametrize("name", seldom(PRESETS, STATES))
@settings(max_examples=examples(2), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(16, PASSES), every=st.integers(1, 3), again=st.integers(1, 40), latents=st.booleans())
def test_killed_anywhere_it_goes_on_bit_for_bit(
    tmp_path_factory: pytest.TempPathFactory, name: str, at: int, every: int, again: int, latents: bool
) -> None:
    folder = tmp_path_factory.mktemp("run")
    at = min(at, 2 * 12 + 3) if preset(name).order.joint(4) > 1 else at
    killed(Job(Counting(backend(), at, strike), recipe(name, SHORT), folder, latents=latents, every=every))
    assert not (folder / "video.mp4").exists()
    first = snapshots(folder)[0]
    assert len(snapshots(folder)) <= 2
    killed(Job.resumed(Counting(backend(), again, strike), read_snapshot(first), folder))  # and once more
    done = folder / "run.json"
    record = json.loads(done.read_text()) if done.exists() else resume(folder)
    assert record["digests"] == digests(name, SHORT)
    assert record["timings"]["frames"] == 36
    assert len(read_video(folder / "video.mp4")) == frames_in(folder / "video.mp4") == 36
    wanted = {"contact.png", "run.json", "subtitles.vtt", "video.mp4"} | ({"latents.safetensors"} if latents else set())
    assert {path.name for path in folder.iterdir()} == wanted
    if latents:
        assert len(read_latents(folder / "latents.safetensors")) == 36


@pytest.mark.parametrize(
    "name", [*seldom(PRESETS, STATES), "relativistic anchor:window=9,sink=2+keep"]
)  # its slots know their scene
def test_a_state_restores_at_every_block(micro: Any, name: str) -> None:
    strategy = preset(name) if name in PRESETS else Strategy.from_text(name)
    whole = torch.cat([r.latents for r in generate(micro, strategy, SCRIPT)], 1)
    run = generate(micro, strategy, SCRIPT)
    for done in range(BLOCKS):
        state, tensors = run.state()
        state = json.loads(json.dumps(state))
        other = generate(micro, strategy, SCRIPT)
        other.restore(state, {key: tensor.clone() for key, tensor in tensors.items()})
        assert torch.equal(next(other).latents, whole[:, 3 * done : 3 * done + 3])
        next(run)


@pytest.mark.parametrize("name", ["infinity-rope", "memrope", "longlive", "longlive-released"])
@pytest.mark.parametrize("at", seldom([47, 48, 50, 51, 75, 77, 80], [47, 50, 51, 77]))
def test_a_state_in_the_middle_of_a_block_that_failed(micro: Any, name: str, at: int) -> None:
    """What comes before a block, a switch or room made, is in the state and is not done twice."""
    whole = torch.cat([r.latents for r in generate(micro, preset(name), SCRIPT)], 1)

    def fail(_: Tensor) -> Tensor:
        raise BackendError("out of luck")

    run = generate(Counting(micro, at, fail), preset(name), SCRIPT)
    found = []
    try:
        for result in run:
            found.append(result.latents)
    except BackendError:
        pass
    try:
        state, tensors = run.state()
    except CacheError:
        assert "longlive" in name  # in the middle of a replay there is nothing to go on from
        return
    other = generate(micro, preset(name), SCRIPT)
    other.restore(json.loads(json.dumps(state)), tensors)
    assert torch.equal(torch.cat([*found, *(r.latents for r in other)], 1), whole)


def live(run: Rollout) -> list[Tensor]:
    found = []
    for result in run:
        found.append(result.latents)
        if result.block.index == 4:
            run.prompt(B)
            run.use(Strategy.from_text("online ema:window=9,sink=1+recache"))
        if result.block.index == 7:
            run.cut()
        if result.block.index == 9:
            run.switch(Flush(last=2))
    return found


def test_what_came_from_outside_is_in_the_state_and_can_be_repeated(micro: Any) -> None:
    run = generate(micro, preset("infinity-rope"), A + "[4.5s]")
    whole = torch.cat(live(run), 1)
    events = run.timeline.log
    assert [(e.block, e.kind) for e in events] == [(5, "prompt"), (5, "strategy"), (8, "cut"), (10, "switch")]
    again = generate(micro, preset("infinity-rope"), A + "[4.5s]", events=events)
    assert torch.equal(torch.cat([r.latents for r in again], 1), whole)
    assert again.timeline.log == events
    for stop in range(3, 12):
        half = generate(micro, preset("infinity-rope"), A + "[4.5s]", events=events)
        for _ in range(stop):
            next(half)
        state, tensors = half.state()
        other = generate(micro, preset("infinity-rope"), A + "[4.5s]", events=events)
        other.restore(state, tensors)
        assert torch.equal(torch.cat([r.latents for r in other], 1), whole[:, 3 * stop :])
        assert other.timeline.log == events
    waiting = generate(micro, preset("infinity-rope"), A + "[4.5s]")
    for result in waiting:
        if result.block.index == 4:
            break
    waiting.prompt(B)
    waiting.use(Strategy.from_text("online ema:window=9,sink=1+recache"))
    state, tensors = waiting.state()
    other = generate(micro, preset("infinity-rope"), A + "[4.5s]")
    other.restore(json.loads(json.dumps(state)), tensors)
    assert torch.equal(torch.cat(live(other), 1), whole[:, 15:])


def nan(out: Tensor) -> Tensor:
    return out * float("nan")


def test_nan_is_named_at_its_block_and_the_last_good_one_is_kept(tmp_path: Path) -> None:
    job = Job(Counting(backend(), 5 * 10 + 2, nan), recipe(), tmp_path)
    with pytest.raises(BackendError, match=r"NaN or infinite latents in block 10 \(frames 30..32, 3.8s\)"):
        finish(job)
    assert [path.name for path in snapshots(tmp_path)] == ["snapshot-000010.safetensors"]
    assert frames_in(tmp_path / "video.partial.mp4") >= 29
    assert resume(tmp_path)["digests"] == digests("infinity-rope")


class Clumsy:
    """A decoder that raises at its nth block."""

    def __init__(self, inner: Any, at: int) -> None:
        self.inner, self.at, self.blocks = inner, at, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def push(self, latents: Tensor) -> Tensor:
        self.blocks += 1
        if self.blocks == self.at:
            raise RuntimeError("the decoder broke")
        return self.inner.push(latents)


class WithDecoder:
    def __init__(self, inner: Any, at: int) -> None:
        self.inner, self.at = inner, at

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def decoder(self) -> Clumsy:
        return Clumsy(self.inner.decoder(), self.at)


def test_a_decoder_that_raises_leaves_the_snapshot_before(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="the decoder broke"):
        finish(Job(WithDecoder(backend(), 12), recipe(), tmp_path, every=5))
    assert [path.name for path in snapshots(tmp_path)] == ["snapshot-000010.safetensors", "snapshot-000005.safetensors"]
    assert resume(tmp_path)["digests"] == digests("infinity-rope")
    (tmp_path / "b").mkdir()
    with pytest.raises(RuntimeError, match="the decoder broke"):
        finish(Job(WithDecoder(backend(), 12), recipe(), tmp_path / "b"))
    assert list((tmp_path / "b").iterdir()) == []  # nothing to go on from: nothing stays


@pytest.fixture
def disk(tmp_path: Path) -> Any:
    """A mounted file system of 16 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(place)], capture_output=True)
    if done.returncode:
        pytest.skip("mounting needs rights that this user lacks")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def fill(disk: Path, left: int) -> None:
    """Leave so many bytes free."""
    size = os.statvfs(disk)
    with (disk / "filler").open("ab") as filler:
        filler.write(bytes(size.f_bavail * size.f_frsize - left))


@pytest.mark.parametrize(
    ("block", "left", "says"),
    [
        (6, 24_576, r"the video .* cannot be written any further: No space left on device\. Free some space"),
        (8, 65_536, r"snapshot-000010\.safetensors cannot be written: .*No space left on device"),
    ],
    ids=["in the middle of a frame", "in a snapshot"],
)
def test_a_full_disk_keeps_the_snapshot_before(disk: Path, block: int, left: int, says: str) -> None:
    """A block's frames take 14 to 20 kB, a snapshot more than 100."""
    folder = disk / "run"
    folder.mkdir()

    def run_until_full() -> None:
        for result in Job(backend(), recipe(), folder, every=5).run():
            if result.block.index == block:
                fill(disk, left)

    with pytest.raises(OutputError, match=says):
        run_until_full()
    assert [path.name for path in snapshots(folder)] == ["snapshot-000005.safetensors"]
    assert not (folder / "video.mp4").exists()
    fill(disk, 0)
    with pytest.raises(OutputError, match=r"[Nn]o space"):
        resume(folder)  # still full
    assert [path.name for path in snapshots(folder)] == ["snapshot-000005.safetensors"]
    (disk / "filler").unlink()
    assert resume(folder)["digests"] == digests("infinity-rope")
    assert frames_in(folder / "video.mp4") == 3 * BLOCKS


def test_a_snapshot_that_was_cut_off_gives_way_to_the_one_before(tmp_path: Path) -> None:
    killed(Job(Counting(backend(), 60, strike), recipe(), tmp_path, every=5))
    newest, older = snapshots(tmp_path)
    newest.write_bytes(newest.read_bytes()[:1000])
    with pytest.raises(OutputError, match=r"cannot be used: .*Use an earlier one"):
        read_snapshot(newest)
    assert finish(Job.resumed(backend(), read_snapshot(older), tmp_path))["digests"] == digests("infinity-rope")


def test_killed_while_it_took_over_the_earlier_video(tmp_path: Path) -> None:
    killed(Job(Counting(backend(), 60, strike), recipe(), tmp_path, every=5))
    (tmp_path / "video.partial.mp4").rename(tmp_path / "video.earlier.mp4")
    (tmp_path / "video.partial.mp4").write_bytes(b"half of a file")
    assert resume(tmp_path)["digests"] == digests("infinity-rope")
    assert frames_in(tmp_path / "video.mp4") == 3 * BLOCKS


def test_killed_between_the_last_frame_and_the_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = Job(backend(), recipe(), tmp_path, latents=True, every=5)

    def fail(*_: Any) -> None:
        raise OutputError("no space")

    with monkeypatch.context() as patch:
        patch.setattr(job, "_finish", fail)
        with pytest.raises(OutputError, match="no space"):
            finish(job)
    assert (tmp_path / "video.mp4").exists()
    assert resume(tmp_path)["digests"] == digests("infinity-rope")
    assert frames_in(tmp_path / "video.mp4") == 3 * BLOCKS


@pytest.mark.usefixtures("small_videos")
def test_memory_does_not_grow_with_the_frames(tmp_path: Path) -> None:
    """All that a run holds is bounded: what it keeps after 20 blocks it keeps after 60."""
    job = Job(backend(), recipe(text=A + "[22.5s]"), tmp_path, latents=True)
    sizes = []
    for result in job.run():
        if result.block.index in (20, 59):
            run = job.rollout
            sizes.append((len(run.engine._latents), len(run.cache.slots), run.cache.bytes, len(run.timeline.log)))
    assert len(sizes) == 2
    assert sizes[0] == sizes[1]
    assert len(read_latents(tmp_path / "latents.safetensors")) == 180


def test_the_video_plays_while_it_grows(tmp_path: Path) -> None:
    seen = []
    for result in Job(backend(), recipe(), tmp_path).run():
        seen.append(frames_in(tmp_path / "video.partial.mp4") - result.block.end)
    # all but the frame whose length is not known yet, and the blocks that are being decoded and written
    assert set(seen) <= set(range(-7, 0))


@pytest.mark.parametrize("stage", ["decode", "write"])
def test_a_block_is_decoded_and_written_while_the_next_one_is_denoised(
    stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, step, denoised = getattr(Output, stage), Rollout.__next__, Event()

    def waits(self: Output, result: Result, *decoded: Any) -> Any:
        assert result.block.index or denoised.wait(60), "the next block waits for this one"
        return work(self, result, *decoded)

    def says(self: Rollout) -> Result:
        result = step(self)
        if result.block.index == 1:
            denoised.set()
        return result

    expected = digests("infinity-rope")
    monkeypatch.setattr(Output, stage, waits)
    monkeypatch.setattr(Rollout, "__next__", says)
    finish(Job(backend(), recipe(), tmp_path))
    assert json.loads((tmp_path / "run.json").read_text())["digests"] == expected


@pytest.mark.parametrize("stage", ["decode", "write"])
def test_what_writing_raises_ends_the_run(stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Output, *block: Any) -> None:
        raise OutputError("no space")

    monkeypatch.setattr(Output, stage, full)
    with pytest.raises(OutputError, match="no space"):
        list(Job(backend(), recipe(), tmp_path).run())
    assert not list(tmp_path.glob("*.mp4"))


@contextmanager
def started(folder: Path) -> Iterator[Forked]:
    """A long run of the real command, once it has written something; whatever happens, it ends."""
    script = f"{A}[3s] | {B}[30s]"
    child = Forked("gen", script, "--out", str(folder), "--snapshot-every", "4", "--latents")
    try:
        until(lambda: child.ended or bool(list(folder.glob("snapshot-*"))))
        yield child
    finally:
        if not child.ended:
            child.signal(signal.SIGKILL)
            child.wait()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_process_stops_when_asked(tmp_path: Path, number: signal.Signals, code: int) -> None:
    with started(tmp_path / "run") as child:
        child.signal(number)
        assert child.wait() == code, child.stderr
    lines = child.stderr.splitlines()
    assert lines[0] == "stopping after this block; once more stops at once"
    assert lines[1].startswith("rollout: stopped after block ")
    assert lines[1].endswith(f"Go on with: rollout resume {tmp_path / 'run'}")
    assert len(lines) == 2
    record = read_snapshot(snapshots(tmp_path / "run")[0])
    assert f"after block {record.block} of 88" in lines[1]


def test_the_process_stops_at_once_when_asked_twice(tmp_path: Path) -> None:
    with started(tmp_path / "run") as child:
        child.signal(signal.SIGINT)
        until(lambda: child.ended or "once more stops at once" in child.stderr)
        if not child.ended:
            child.signal(signal.SIGINT)
        assert child.wait() == 130, child.stderr
    assert "Traceback" not in child.stderr
    assert snapshots(tmp_path / "run")


def test_the_command_goes_on_and_says_when_there_is_nothing_to_do(tmp_path: Path) -> None:
    script = f"{A}[1.5s] | {B}[1.5s]"
    folder = tmp_path / "run"
    whole = CliRunner().invoke(app, ["gen", script, "--out", str(tmp_path / "whole"), "--latents", "--threads", "1"])
    assert whole.exit_code == 0, whole.output
    from rollout import load_backend

    job = Job(load_backend(), Recipe(preset("infinity-rope"), script), folder, latents=True, every=2)
    folder.mkdir()
    for result in (running := job.run()):
        if result.block.index == 4:
            break
    running.close()  # as when the process ends: what was begun is not whole
    newest = snapshots(folder)[0]
    newest.write_bytes(b"cut off")
    done = CliRunner().invoke(app, ["resume", str(folder)])
    assert done.exit_code == 0, done.output
    assert "going on after block 2 of 8" in done.output
    assert "snapshot-000004.safetensors cannot be used" in done.output
    a, b = (json.loads((tmp_path / name / "run.json").read_text()) for name in ("whole", "run"))
    assert a["digests"] == b["digests"]
    assert (tmp_path / "whole" / "latents.safetensors").read_bytes() == (folder / "latents.safetensors").read_bytes()
    assert (tmp_path / "whole" / "contact.png").read_bytes() == (folder / "contact.png").read_bytes()
    again = CliRunner().invoke(app, ["resume", str(folder)])
    assert (again.exit_code, "is finished" in again.output) == (0, True)


def test_two_runs_do_not_write_into_one_folder(tmp_path: Path) -> None:
    first = Job(backend(), recipe(), tmp_path).run()
    next(first)
    with pytest.raises(OutputError, match="another run is writing"):
        finish(Job(backend(), recipe(), tmp_path))
    first.close()


def test_other_weights_are_refused(tmp_path: Path) -> None:
    from rollout.cli.options import reload_backend

    with pytest.raises(BackendError, match="the weights here are"):
        reload_backend(replace(recipe(), backend="sprites"), "0123456789abcdef", None)
