"""Live sessions: panes and their pace, orders, forks, exact records, the server's doors, and the page in a browser."""

import gc
import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import tracemalloc
from base64 import b64decode
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("websockets")

from PIL import Image
from typer.testing import CliRunner
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from rollout import generate, preset, registry
from rollout.backends import load_backend
from rollout.benchmarks.metrics.events import REACT, reaction
from rollout.benchmarks.metrics.sample import Sample
from rollout.benchmarks.speed.flat import resident
from rollout.cli import app as cli
from rollout.errors import OutputError, RolloutError
from rollout.run.job import Job
from rollout.run.latents import read_latents
from rollout.run.recipe import Recipe
from rollout.run.record import RunFolder
from rollout.script import Script
from rollout.show.live import badge
from rollout.show.live.orders import MOST
from rollout.show.live.server import listen, server
from rollout.show.live.session import ORDERS, Session
from rollout.show.live.wire import HEADER, LONGEST, PENDING, VERSION, WEBP, Order, Outbox, read_order
from rollout.show.live.words import for_page
from rollout.strategies.presets import Preset
from rollout.strategy import Strategy
from rollout.timeline import blocks_of
from rollout.world import Property
from tests.browsing import becomes
from tests.conftest import micro_backend
from tests.processes import killed_at, until
from tests.sockets import LOOPBACK, listening

ROOT = Path(__file__).parent.parent
A, B = "a red circle walks right on navy", "a red circle jumps on navy"
NAMES = ("infinity-rope", "longlive")
LENGTH = 0.375


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Table:
    """A session without a thread, its clock, a client, and what was said to whoever asked."""

    def __init__(self, out: Path, names: Sequence[str] = NAMES, backend: Any = None) -> None:
        self.clock, self.said = Clock(), []
        self.backend = backend or micro_backend(torch.float32)
        recipe = Recipe(preset(names[0]), A, seed=5)
        self.session = Session(self.backend, recipe, [preset(n) for n in names], out, clock=self.clock)
        self.box = Outbox(lambda: None)
        self.session.join(self.box)
        for pane in self.session.panes:
            pane.due = self.clock.now

    def order(self, do: str, pane: int | None = None, value: Any = None) -> None:
        self.session.order(Order(do, pane, value, self.said.append))

    def turns(self, blocks: int) -> None:
        for _ in range(blocks):
            wait = self.session.turn()
            self.clock.now += wait if wait is not None else LENGTH

    def heads(self) -> list[dict[str, Any]]:
        found = [json.loads(m) for m in self.box.take() if isinstance(m, str)]
        return [m for m in found if m["type"] == "block"]

    def state(self) -> dict[str, Any]:
        return json.loads(self.session._told())


@pytest.fixture
def table(tmp_path: Path) -> Iterator[Table]:
    made = Table(tmp_path / "out")
    yield made
    made.session.close()


def again(folder: Path, backend: Any, into: Path) -> tuple[dict[str, str], dict[str, str]]:
    """What 'rollout rerun' compares: a saved run's digests, and those of its repetition."""
    record = RunFolder.open(folder).record
    into.mkdir()
    for _ in Job(backend, record.recipe, into, latents=True).run():
        pass
    return record.digests, RunFolder.open(into).record.digests


def test_blocks_come_when_they_are_due_and_not_before(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is begun so that it is just done when the one before has been seen."""
    denoise = table.backend.denoise

    def slow(*args: Any) -> Any:
        table.clock.now += 0.01
        return denoise(*args)

    monkeypatch.setattr(table.backend, "denoise", slow)  # five passes a block
    wait = table.session.turn()
    assert [pane.cost for pane in table.session.panes] == pytest.approx([0.05, 0.05])
    assert wait == pytest.approx(LENGTH - 1.2 * 0.1)
    table.clock.now += wait - 0.001
    assert table.session.turn() == pytest.approx(0.001)
    assert [pane.blocks for pane in table.session.panes] == [1, 1]
    table.clock.now += 0.001 + 1e-9
    begun = table.clock.now
    for block in range(2, 12):
        wait = table.session.turn()
        table.clock.now += wait + 1e-9
        assert [pane.blocks for pane in table.session.panes] == [block, block]
    assert table.clock.now - begun == pytest.approx(10 * LENGTH, abs=1e-6)
    for pane in table.session.panes:
        pane.cost = 9.0  # a machine that is far too slow
    table.clock.now += 50
    blocks = table.session.panes[0].blocks
    table.session.turn()
    table.session.turn()
    assert table.session.panes[0].blocks == blocks + 2, "what was missed is not made up for"
    assert table.session.panes[0].due <= table.clock.now + 2 * LENGTH, "one block ahead of what is seen, at most"


def test_speeds_and_pauses(table: Table) -> None:
    table.turns(1)
    one, two = table.session.panes
    table.order("speed", 1, 2.0)
    begun, then = (one.blocks, two.blocks), table.clock.now
    while table.clock.now < then + 12 * LENGTH:
        wait = table.session.turn()
        table.clock.now += max(wait or 0, 0.01)
    fast, usual = one.blocks - begun[0], two.blocks - begun[1]
    assert abs(usual - 12) <= 1
    assert abs(fast - 24) <= 2
    table.order("pause", None, True)
    table.session.turn()
    held = one.blocks
    assert table.session.turn() is None, "nothing to wait for but an order"
    table.clock.now += 50
    table.session.turn()
    assert one.blocks == held
    table.order("pause", None, False)
    table.session.turn()
    assert one.blocks == held + 1, "no blocks are made up for"
    table.order("speed", None, 0.0)
    table.session.turn()
    assert table.session.turn() == 0


def test_a_prompt_shows_in_the_next_block_of_every_pane(table: Table) -> None:
    table.turns(3)
    table.heads()
    table.order("prompt", None, B)
    table.order("cut", 2)
    table.order("flush", 1)
    table.turns(1)
    one, two = sorted(table.heads(), key=lambda head: head["pane"])
    assert (one["prompt"], two["prompt"]) == (B, B)
    assert one["switch"]
    assert (one["cut"], two["cut"]) == (False, True)
    assert one["events"] == ["prompt", "switch"]
    assert two["events"] == ["prompt", "cut"]
    state = table.state()
    assert [pane["prompt"] for pane in state["panes"]] == [B, B]
    assert [line["text"] for line in state["log"]] == [f"prompt: {B}", "cut", "flush"]
    assert not table.said


def test_what_cannot_be_is_refused_and_changes_nothing(table: Table) -> None:
    table.turns(12)
    before = [str(pane.run.strategy) for pane in table.session.panes]
    table.order("prompt", None, "a purple elephant")
    table.order("use", 1, "memrope")
    table.order("use", 1, "no-such-strategy")
    table.order("cut", 4)
    table.order("fork", 1, "longlive")
    table.order("use", None, "infinity-rope")  # one pane takes it back, for the other it is possible too
    table.turns(2)
    texts = [message["text"] for message in table.said]
    assert "does not know the word 'purple'" in texts[0]
    assert texts[1].startswith("pane 1: frame 1 would be a sink")
    assert "no-such-strategy" in texts[2]
    assert texts[3] == "there is no pane 4."
    assert "would be a sink" in texts[4]
    assert len(texts) == 5
    assert [str(pane.run.strategy) for pane in table.session.panes] == [before[0]] * 2
    assert len(list(table.session._folder.iterdir())) == 2, "a fork that was refused leaves nothing"


def test_a_pane_that_cannot_go_on_says_why_and_the_others_go_on(tmp_path: Path) -> None:
    table = Table(tmp_path / "out", ("longlive", "infinity-rope"))
    spec = table.backend.spec
    object.__setattr__(spec, "table", 12)
    table.turns(8)
    stopped, going = table.session.panes
    assert stopped.blocks == 4
    assert going.blocks == 8
    assert table.state()["panes"][0]["stopped"] == stopped.stopped
    assert "position table" in stopped.stopped
    table.order("use", 1, "infinity-rope")
    table.turns(4)
    assert stopped.blocks > 4, "under relative positions it can"
    folder = table.session.save([stopped])
    table.session.close()
    (one,) = folder.iterdir()
    before, after = again(one, table.backend, tmp_path / "again")
    assert before == after


def test_a_fork_goes_on_bit_for_bit_and_its_record_repeats(tmp_path: Path, table: Table) -> None:
    table.turns(4)
    table.order("prompt", 1, B)
    table.turns(3)
    table.order("fork", 1, None)
    table.order("fork", 1, "self-forcing")
    table.turns(1)
    table.order("recache", 3)
    table.turns(3)
    table.order("prompt", None, A)
    table.order("cut", 4)
    table.turns(3)
    assert [pane.number for pane in table.session.panes] == [1, 2, 3, 4]
    assert table.state()["panes"][2]["origin"] == "pane 1 at block 7"
    table.order("fork", 1)
    table.order("save")
    table.session.turn()
    assert table.said[0]["text"].startswith("there are 4 panes already")
    saved = sorted((tmp_path / "out" / "001").iterdir())
    assert [folder.name for folder in saved] == ["1-infinity-rope", "2-longlive", "3-infinity-rope", "4-self-forcing"]
    for folder in saved:
        before, after = again(folder, table.backend, tmp_path / folder.name)
        assert before == after, folder.name
    kept = [read_latents(folder / "latents.safetensors") for folder in saved]
    assert torch.equal(kept[0][:24], kept[2][:24]), "the same until the recache"
    assert not torch.equal(kept[0][24:27], kept[2][24:27])
    assert torch.equal(kept[0][:21], kept[3][:21])
    kinds = [event.kind for event in RunFolder.open(saved[3]).record.events]
    assert kinds == ["prompt", "strategy", "prompt", "cut"]
    assert not list((tmp_path / "out").glob(".*"))


def test_a_saved_run_is_what_gen_would_have_made(tmp_path: Path, table: Table) -> None:
    table.turns(5)
    folder = table.session.save(table.session.panes[:1])
    table.turns(2)
    assert table.session.panes[0].blocks == 7, "saving ends nothing"
    (one,) = folder.iterdir()
    made = torch.cat([r.latents[0] for r in generate(table.backend, preset(NAMES[0]), f"{A}[1.875s]", seeds=5)])
    assert torch.equal(read_latents(one / "latents.safetensors"), made)
    assert {path.name for path in one.iterdir()} == {"video.mp4", "contact.png", "run.json", "latents.safetensors"}
    assert table.session.save(table.session.panes[:1]).name == "002"


def test_a_saved_run_has_a_folder_whatever_its_strategy_is_called(tmp_path: Path) -> None:
    name = "../a/b: <c>"
    registry.register("presets", name)(Preset(Strategy.from_text("relativistic sink:window=7,sink=1+flush"), "", ""))
    table = Table(tmp_path / "out", [name])
    table.turns(1)
    saved = table.session.close(save=True)
    assert saved is not None
    assert [path.name for path in saved.iterdir()] == ["1-.._a_b___c_"]
    assert RunFolder.open(saved / "1-.._a_b___c_").record.timings["frames"] == 3
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.usefixtures("small_videos")
def test_what_killed_sessions_left_goes_at_the_next_start_and_a_living_one_keeps_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed at every seventh step of the file system: as it begins, records, saves twice and ends."""
    temporary, out = tmp_path / "temporary", tmp_path / "out"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    living = Table(out)
    living.turns(2)
    ours = sorted(temporary.iterdir())
    assert (len(ours), ours[0].stat().st_mode & 0o777) == (1, 0o700)

    def session() -> None:
        table = Table(out, NAMES[:1])
        table.turns(1)
        table.session.save(table.session.panes)
        table.turns(1)
        table.session.close(save=True)

    step, left = 1, 0
    while killed_at(step, session):
        left += len([*temporary.iterdir(), *out.glob(".*")]) - 1
        for run in out.glob("[!.]*/*"):  # what has its name is whole
            assert RunFolder.open(run).record.timings["frames"] in (3, 6)
        following = Table(out, NAMES[:1])
        assert len(list(temporary.iterdir())) == 2
        assert list(out.glob(".*")) == []
        following.session.close()
        shutil.rmtree(out, ignore_errors=True)
        step += 7
    assert step > 70
    assert left > 8
    assert sorted(temporary.iterdir()) == ours
    living.turns(2)
    saved = living.session.close(save=True)
    assert saved is not None
    assert {RunFolder.open(run).record.timings["frames"] for run in saved.iterdir()} == {12}
    assert list(temporary.iterdir()) == []


def test_a_temporary_folder_that_cannot_be_written_is_said_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    with pytest.raises(OutputError, match=r"nothing can be recorded in .*none: No such file .* set TMPDIR to another"):
        Table(tmp_path / "out")


def test_panes_close_but_the_last(table: Table) -> None:
    table.turns(2)
    table.order("close", 1)
    table.order("close", 2)
    table.turns(1)
    assert [pane.number for pane in table.session.panes] == [2]
    assert table.said[0]["text"] == "the last pane stays open."
    assert {head["pane"] for head in table.heads()} == {2}
    table.order("fork", 2)
    table.turns(1)
    assert [pane.number for pane in table.session.panes] == [1, 2], "a number that is free is given again"


def test_queues_are_bounded(table: Table) -> None:
    for _ in range(ORDERS):
        table.order("cut")
    with pytest.raises(RolloutError, match="orders wait already"):
        table.order("cut")
    table.turns(6)
    waiting = table.box.take()
    blocks = [json.loads(m)["block"] for m in waiting if isinstance(m, str) and json.loads(m)["type"] == "block"]
    assert blocks == [5, 5], "of each pane the newest block alone"
    assert table.box.dropped >= 10
    for n in range(3 * PENDING):
        table.box.tell({"n": n})
    assert len(table.box.take()) == PENDING


def test_frames_say_what_they_are(table: Table) -> None:
    table.turns(2)
    frames = [m for m in table.box.take() if isinstance(m, bytes)]
    assert len(frames) == 6
    version, pane, kind, nth, prompt, each, block, number = HEADER.unpack_from(frames[1])
    assert (version, pane, kind, nth, prompt, each, block, number) == (VERSION, 1, WEBP, 1, 0, 125, 1, 4)
    assert frames[1][HEADER.size :][:4] == b"RIFF"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "JSON object"),
        ("nonsense", "JSON object"),
        ("[" * 3000, "JSON object"),
        ("[1]", "JSON object"),
        ('{"do": "explode"}', "JSON object"),
        ('{"do": ["cut"]}', "JSON object"),
        ('{"do": "cut", "pane": true}', "whole number"),
        ('{"do": "cut", "pane": "1"}', "whole number"),
        ('{"do": "cut", "more": 1}', "no field 'more'"),
        ('{"do": "prompt"}', "1 to 500"),
        ('{"do": "prompt", "text": ""}', "1 to 500"),
        ('{"do": "prompt", "text": 5}', "1 to 500"),
        ('{"do": "prompt", "text": "a\\u202eb"}', "1 to 500"),
        (json.dumps({"do": "prompt", "text": "a" * 501}), "1 to 500"),
        ('{"do": "pause"}', '"on"'),
        ('{"do": "speed", "value": 3}', "0.5, 1, 2"),
        ('{"do": "speed", "value": true}', "0.5, 1, 2"),
        ('{"do": "fork"}', "needs a pane"),
        ('{"do": "close", "pane": null}', "needs a pane"),
        ("x" * (LONGEST + 1), "characters at most"),
        (b"\xff\xfe", "JSON object"),
    ],
)
def test_messages_that_say_nothing_are_refused(text: str | bytes, why: str) -> None:
    with pytest.raises(RolloutError, match=why):
        read_order(text, lambda message: None)


def test_a_script_is_no_prompt(tmp_path: Path) -> None:
    for text in (f"{A}[3s]", f"{A} | {B}", f"{A} ; hello"):
        with pytest.raises(RolloutError, match="one prompt"):
            Session(micro_backend(), Recipe(preset("longlive"), text), [preset("longlive")], tmp_path)
    with pytest.raises(RolloutError, match="1 to 4 panes"):
        Session(micro_backend(), Recipe(preset("longlive"), A), [preset("longlive")] * (MOST + 1), tmp_path)


# What follows runs the embedded model.


@pytest.fixture(scope="module")
def sprites() -> Any:
    return load_backend("sprites", device="cpu")


@pytest.mark.parametrize("name", ["infinity-rope", "self-forcing"])
def test_the_badge_counts_as_the_metric_reaction_does(name: str, sprites: Any) -> None:
    """The same frames through a page's watch and through the benchmark."""
    script = Script.parse(f"{A}[1.5s] | a red circle stands on navy[4.125s]")
    watch, decoder, before, pixels = badge.Watch(sprites.world), sprites.decoder(), None, []
    for result in generate(sprites, preset(name), script, seeds=1):
        pixels.append(decoder.push(result.latents[0]).numpy())
        watch.add(pixels[-1], before, result.prompts[0])
        before = result.prompts[0]
    spec = sprites.spec
    sample = Sample(np.concatenate(pixels), spec.fps, spec, tuple(blocks_of(script, spec)), script.prompts)
    score = reaction(sample)
    assert score is not None
    assert badge.LIMIT == REACT
    assert watch.state is not None
    never = {"state": "never", "frames": REACT, "missing": ["action"]}
    assert watch.state == (never if score.value == REACT else {"state": "obeyed", "frames": score.value})


class Shown:
    """What a world's trackers read, and what prompts ask for; a frame's pixels are its readings."""

    name, size, groups, scene, example = "shown", (1, 4), {"identity": ("colour", "shape")}, ("sky",), ""
    properties = {  # noqa: RUF012
        "colour": Property(""),
        "shape": Property(""),
        "action": Property("", span=7),
        "sky": Property("", scene=True),
    }

    def parse(self, prompt: str) -> dict[str, int]:
        return dict(zip(self.properties, map(int, prompt.split()), strict=True))

    def track(self, video: Any) -> SimpleNamespace:
        columns = torch.from_numpy(np.asarray(video)[:, 0, :, 0].astype(np.int64)).T
        return SimpleNamespace(values=dict(zip(self.properties, columns, strict=True)))


def badges(*blocks: str, prompt: str = "1 1 2 2", change: int = 2) -> list[Any]:
    """The badge after each block of three frames that show the same; the prompt changes at block `change`."""
    watch, before, states = badge.Watch(Shown()), None, []  # type: ignore[arg-type]
    for n, block in enumerate(blocks):
        frame = np.array(block.split(), np.uint8).reshape(1, 1, 4, 1)
        asked = prompt if n >= change else "1 1 1 1"
        watch.add(np.broadcast_to(frame, (3, 1, 4, 3)), before, asked)
        before = asked
        state = watch.state
        states.append(state and (state["state"], state["frames"], *state.get("missing", ())))
    return states


def test_the_badge_says_what_is_missing() -> None:
    old, both = ["1 1 1 1"] * 2, "1 1 2 2"
    scene_first = badges(*old, *["1 1 1 2"] * 2, *[both] * 2)
    assert scene_first == [None, None, *[("waiting", n, "action") for n in (3, 6, 9)], ("obeyed", 3)]
    action_first = badges(*old, *["1 1 2 1"] * 3, both)
    assert action_first[2:] == [
        ("waiting", 3, "action", "scene"),
        ("waiting", 6, "action", "scene"),
        ("waiting", 9, "scene"),
        ("obeyed", 9),
    ]
    assert badges(*old, *["1 1 1 1"] * 8)[-1] == ("never", 15, "action", "scene")


def test_a_pane_that_has_lost_its_subject_is_not_obeyed() -> None:
    old, gone, here = ["1 1 1 1"] * 2, "9 9 2 2", "1 1 2 2"
    lost_at_once = badges(*old, *[gone] * 3, *[here] * 2)
    assert lost_at_once[2:] == [
        ("waiting", 3, "action", "subject"),
        ("waiting", 6, "action", "subject"),
        ("waiting", 9, "subject"),
        ("obeyed", 0),
        ("obeyed", 0),
    ]
    assert badges(*old, *[gone] * 8)[-1] == ("never", 15, "subject")
    lost_later = badges(*old, *[here] * 3, gone, gone, "1 3 2 2", here)
    assert lost_later[4:] == [
        ("obeyed", 0),
        ("obeyed", 0),  # three frames may be a blink
        ("lost", 6, "subject"),
        ("lost", 9, "subject"),  # another shape is not the subject
        ("obeyed", 0),
    ]
    assert badges("1 1 1 1", gone, gone, change=9)[-1] == ("lost", 6, "subject")


def test_what_a_page_is_told_names_buttons_and_no_options(table: Table, tmp_path: Path) -> None:
    table.turns(8)
    table.order("use", 1, "longlive")  # whose sinks are evicted
    table.turns(1)
    (refusal,) = table.said
    assert refusal["text"].endswith("Choose another strategy in its list, and press Use.")
    assert "--" not in refusal["text"]
    assert for_page("x cannot be written: full. Choose another --out or free some space.") == (
        "x cannot be written: full. Free some space, and press Save again."
    )
    assert for_page("something is off. Use --store int8. Or do else.") == "something is off. Or do else."
    assert (
        for_page("the model does not know the word 'x'. Say red.") == "the model does not know the word 'x'. Say red."
    )


def test_a_pane_says_how_fast_it_really_goes(table: Table) -> None:
    table.turns(6)
    assert {head["pace"] for head in table.heads()} <= {None, 1.0}
    pane = table.session.panes[0]
    pane.restart()
    for n in range(4):
        pane.at(200 + 0.75 * n)
    assert pane.pace == pytest.approx(0.5)
    table.order("speed", 1, 2.0)
    table.turns(1)
    assert pane.pace is None, "it is another speed now"


@contextmanager
def serving(out: Path, backend: Any, names: Sequence[str] = NAMES) -> Iterator[SimpleNamespace]:
    """A session behind a real server on a free port."""
    session = Session(backend, Recipe(preset(names[0]), A), [preset(n) for n in names], out)
    with listen(0) as found:
        port = found.getsockname()[1]
        running = server(session, port)
        thread = threading.Thread(target=running.run, kwargs={"sockets": [found]})
        session.start()
        thread.start()
        try:
            yield SimpleNamespace(session=session, port=port, origin=f"http://127.0.0.1:{port}", server=running)
        finally:
            running.should_exit = True
            thread.join(10)
            session.close()


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """A server with the micro model, which costs little."""
    with serving(tmp_path_factory.mktemp("live") / "out", micro_backend(torch.float32)) as found:
        yield found


def wire(at: SimpleNamespace, **more: Any) -> Any:
    patient = {"open_timeout": 100, "ping_interval": None, "origin": at.origin}
    return connect(f"ws://127.0.0.1:{at.port}/live", **patient | more)


def hear(client: Any, wanted: Callable[[dict[str, Any]], bool], seconds: float = 100) -> dict[str, Any]:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        message = client.recv(timeout=seconds)
        if isinstance(message, str) and wanted(found := json.loads(message)):
            return found
    raise AssertionError("nothing of the kind was said")


def get(at: SimpleNamespace, path: str = "/", **headers: str) -> tuple[int, bytes]:
    """A raw request, with whatever headers."""
    lines = {"Host": f"127.0.0.1:{at.port}", "Connection": "close"} | headers
    text = f"GET {path} HTTP/1.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in lines.items()) + "\r\n"
    with socket.create_connection(("127.0.0.1", at.port), timeout=100) as found:
        found.sendall(text.encode())
        answer = b""
        while part := found.recv(65536):
            answer += part
    return int(answer.split()[1]), answer


def test_the_page_is_served_under_a_strict_policy(quick: SimpleNamespace) -> None:
    for path, kind in {"/": "text/html", "/live.css": "text/css", "/pane.js": "text/javascript"}.items():
        code, answer = get(quick, path)
        assert code == 200
        assert f"content-type: {kind}".encode() in answer
        assert b"default-src 'none'; script-src 'self'; style-src 'self'" in answer
        assert b"unsafe" not in answer.partition(b"\r\n\r\n")[0]
    for path in ("/session.py", "/../pyproject.toml", "/%2e%2e/server.py", "/nothing"):
        assert get(quick, path)[0] == 404, path


def test_it_listens_on_this_machine_alone(quick: SimpleNamespace) -> None:
    with listen(0) as found:
        assert found.getsockname()[0] == "127.0.0.1"
    with pytest.raises(RolloutError, match=f"port {quick.port} cannot be used"):
        listen(quick.port)


UPGRADE = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
UPGRADE |= {"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}


@pytest.mark.parametrize("host", ["evil.example", "evil.example:{port}", "127.0.0.1.evil.example:{port}", ""])
def test_other_hosts_are_refused(quick: SimpleNamespace, host: str) -> None:
    name = host.format(port=quick.port)
    for path, headers in (("/", {}), ("/live", UPGRADE | {"Origin": quick.origin})):
        code, answer = get(quick, path, **(headers | {"Host": name}))
        assert 400 <= code < 404
        assert b"<html" not in answer


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "https://127.0.0.1:{port}", "http://127.0.0.1:1"])
def test_sockets_of_other_sites_are_refused(quick: SimpleNamespace, origin: str) -> None:
    assert get(quick, "/live", **(UPGRADE | {"Origin": origin.format(port=quick.port)}))[0] == 403


def test_a_socket_must_say_where_it_comes_from(quick: SimpleNamespace) -> None:
    with pytest.raises(InvalidStatus):
        wire(quick, origin=None)
    with wire(quick, origin=f"http://localhost:{quick.port}"):
        pass


def test_a_session_is_reached_from_this_machine_alone(quick: SimpleNamespace) -> None:
    sockets = listening(os.getpid())
    assert ("127.0.0.1", quick.port) in sockets
    assert {address for address, _ in sockets} <= LOOPBACK


def test_two_clients_see_one_session(quick: SimpleNamespace) -> None:
    with wire(quick) as one, wire(quick) as two:
        for client in (one, two):
            assert len(hear(client, lambda m: m["type"] == "state")["panes"]) == 2
        one.send(json.dumps({"do": "prompt", "text": B}))
        for client in (one, two):
            hear(client, lambda m: m["type"] == "block" and m["prompt"] == B)
            hear(client, lambda m: m["type"] == "state" and m["log"] and m["log"][-1]["text"] == f"prompt: {B}")
        two.send(json.dumps({"do": "prompt", "text": "an unknown word"}))
        assert "does not know" in hear(two, lambda m: m["type"] == "error")["text"]
    blocks = quick.session.panes[0].blocks
    until(lambda: quick.session.panes[0].blocks > blocks + 1)  # nobody looks on, and it goes on
    with wire(quick) as again:
        state = hear(again, lambda m: m["type"] == "state")
        assert state["panes"][0]["prompt"] == B
        assert hear(again, lambda m: m["type"] == "block")["block"] >= blocks


def test_bad_messages_get_one_clear_answer_and_too_large_ones_an_end(quick: SimpleNamespace) -> None:
    with wire(quick) as client:
        for bad in ("{", b"\x00\xff", "x" * 5000, '{"do": "explode"}'):
            client.send(bad)
            assert len(hear(client, lambda m: m["type"] == "error")["text"]) < 200
        for _ in range(20 * PENDING):
            client.send("{}")
        client.send(json.dumps({"do": "speed", "value": 7}))
        hear(client, lambda m: m["type"] == "error" and "'speed' needs" in m["text"])
    with wire(quick) as client, pytest.raises(ConnectionClosed):  # noqa: PT012
        client.send("x" * 200_000)
        while True:
            client.recv(timeout=100)
    with wire(quick) as client:
        assert hear(client, lambda m: m["type"] == "block")


def test_a_client_that_does_not_read_holds_up_nobody(quick: SimpleNamespace) -> None:
    quick.session.order(Order("speed", None, 0.0))
    narrow = socket.socket()
    narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    narrow.connect(("127.0.0.1", quick.port))
    with wire(quick, sock=narrow, max_queue=1, close_timeout=0.1) as slow:
        until(lambda: any(box.dropped for box in quick.session._clients))
        with wire(quick) as other:
            first = hear(other, lambda m: m["type"] == "block")["block"]
            hear(other, lambda m: m["type"] == "block" and m["block"] > first + 2)
        quick.session.order(Order("speed", None, 1.0))
        assert slow


@pytest.mark.slow
@pytest.mark.usefixtures("small_videos")
def test_ten_minutes_keep_no_more_than_three(tmp_path: Path) -> None:
    """Of 1600 blocks, with a prompt every 50th: the contact sheet has its last picture at the 400th."""
    table = Table(tmp_path / "out", ("infinity-rope", "memrope"))  # whose positions never end
    begin, end, memory = 500, round(600 / LENGTH), []
    tracemalloc.start()
    try:
        for block in range(1, end + 1):
            table.turns(1)
            table.box.take()
            if block % 50 == 0:
                table.order("prompt", value=(A, B)[block // 50 % 2])
            if block in (begin, end):
                gc.collect()
                memory.append((tracemalloc.get_traced_memory()[0], resident()))
    finally:
        tracemalloc.stop()
    assert {pane.blocks for pane in table.session.panes} == {end}
    (before, resident_before), (after, resident_after) = memory
    assert after - before < 128 * 2**10, "of Python's objects, lines of the log and the record of prompts among them"
    if not math.isnan(resident_after):
        assert resident_after - resident_before < 16, "MiB, tensors and encoders among them"
    saved = table.session.close(save=True)
    assert saved is not None
    assert {RunFolder.open(run).record.timings["frames"] for run in saved.iterdir()} == {3 * end}


# The page, in a browser, with the embedded model.


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory, sprites: Any) -> Iterator[SimpleNamespace]:
    with serving(tmp_path_factory.mktemp("live") / "out", sprites, ("infinity-rope", "self-forcing")) as found:
        yield found


RECORD = """
window.recorded = [];
new MutationObserver((all) => {
  for (const { type, target, addedNodes } of all)
    if (type === "childList" && target.id === "said") recorded.push(addedNodes[0]?.textContent);
    else if (type === "attributes" && target.dataset.event) recorded.push(`${target.dataset.pane}: ${target.dataset.event}`);
    else if (type === "attributes" && target.id === "link") recorded.push(`link: ${target.dataset.state}`);
}).observe(document, { subtree: true, childList: true, attributes: true, attributeFilter: ["data-event", "data-state"] });
"""
"""What a page says or shows for a moment only, and whoever looks once in a while may miss."""


def recorded(tab: Any, text: str, after: int = 0) -> int:
    """Wait until a text was recorded as the `after`-th entry or later; how many entries there are up to it."""
    becomes(tab, f"recorded.slice({after}).some(line => line?.includes({json.dumps(text)}))")
    found = tab.evaluate(f"recorded.findIndex((line, n) => n >= {after} && line?.includes({json.dumps(text)}))")
    return int(found) + 1


@contextmanager
def opened(browser: Any, at: SimpleNamespace, width: int = 1280, scheme: str = "light", **more: Any) -> Iterator[Any]:
    """The page once it shows frames; whatever goes wrong fails the test."""
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme, **more)
    context.set_default_timeout(100_000)
    context.add_init_script(RECORD)
    tab, wrong = context.new_page(), []
    tab.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.on("dialog", lambda dialog: dialog.accept())
    tab.on("request", lambda r: None if r.url.startswith((at.origin, "data:", "blob:")) else wrong.append(r.url))
    tab.goto(at.origin)
    tab.wait_for_selector("article[data-frame]")
    yield tab
    assert not wrong
    context.close()


def picture(tab: Any, pane: int) -> str:
    return tab.evaluate(f"document.querySelector('[data-pane=\"{pane}\"] canvas').toDataURL()")


def shows(tab: Any, pane: int, text: str) -> None:
    becomes(tab, f"document.querySelector('[data-pane=\"{pane}\"] q').textContent === {json.dumps(text)}")


def measured(tab: Any, at: SimpleNamespace) -> str:
    """What pane 1's badge says of the last change, once it is known: what the session measured."""
    badge = "[data-pane='1'] .obeyed:is([data-state='obeyed'], [data-state='never'])"
    tab.wait_for_selector(badge)
    state = at.session.panes[0].watch.state
    assert tab.inner_text(badge) == (
        f"obeyed after {state['frames']} frame{'' if state['frames'] == 1 else 's'}"
        if state["state"] == "obeyed"
        else f"not obeyed within 15 frames: {', '.join(state['missing'])}"
    )
    return str(state["state"])


def test_a_prompt_typed_in_the_page_shows_and_is_measured(browser: Any, real: SimpleNamespace) -> None:
    with opened(browser, real) as tab:
        tab.keyboard.press("/")
        tab.keyboard.type("a red circle stands on navy")
        tab.keyboard.press("Enter")
        shows(tab, 1, "a red circle stands on navy")
        shows(tab, 2, "a red circle stands on navy")
        becomes(tab, "+document.querySelector('[data-pane=\"1\"]').dataset.latency > 0")
        # which noise the change meets depends on the clock, and a few are never obeyed
        for attempt in range(4):
            if attempt:
                for prompt in ("a red circle jumps on navy", "a red circle stands on navy"):
                    tab.fill("#prompt", prompt)
                    tab.press("#prompt", "Enter")
                    shows(tab, 1, prompt)
            if measured(tab, real) == "obeyed":
                break
        else:
            pytest.fail("of four changes to standing still the model obeyed none")
        still = _until_pictures(tab, lambda before, now: _near(before, now), "it stands")
        tab.fill("#prompt", "a red circle spins on navy")
        tab.press("#prompt", "Enter")
        shows(tab, 1, "a red circle spins on navy")
        _until_pictures(tab, lambda _, now: not _near(still, now), "it no longer does")
        becomes(tab, f"{CACHE}.roles === 'band sink recent recent block block block'")
        becomes(tab, f"{CACHE}.words.includes('1 sink at 0; 2 recent at 1, 2; the block at 3, 4, 5')")


CACHE = """(svg => ({
  roles: [...svg.querySelectorAll("rect")].map(r => r.getAttribute("class")).join(" "),
  words: svg.getAttribute("aria-label"),
}))(document.querySelector("[data-pane='1'] svg"))"""


def _until_pictures(tab: Any, hold: Callable[[str, str], bool], what: str) -> str:
    """Wait until two pictures of pane 1, five frames apart, are so."""
    for _ in range(25):
        before = picture(tab, 1)
        plays_on(tab, 1, 5)
        now = picture(tab, 1)
        if hold(before, now):
            return now
    raise AssertionError(what)


def plays_on(tab: Any, pane: int, frames: int) -> None:
    """Wait until a pane has shown so many more frames, or has left some out for want of time."""
    frame = int(tab.get_attribute(f"[data-pane='{pane}']", "data-frame"))
    becomes(tab, f"+document.querySelector('[data-pane=\"{pane}\"]').dataset.frame >= {frame + frames}")


def _near(one: str, two: str) -> bool:
    """Whether two pictures differ by less than the codec's noise."""
    a, b = (np.asarray(Image.open(BytesIO(b64decode(u.partition(",")[2]))).convert("RGB"), float) for u in (one, two))
    return float(np.abs(a - b).mean()) < 4


def test_keys_alone_do_everything_that_buttons_do(browser: Any, real: SimpleNamespace) -> None:
    with opened(browser, real) as tab:
        tab.keyboard.press("1")
        tab.keyboard.press("p")
        tab.wait_for_selector("[data-pane='1'] .veil:not([hidden])")
        assert tab.inner_text("[data-pane='1'] .veil") == "paused"
        assert tab.is_hidden("[data-pane='2'] .veil")
        tab.keyboard.press("c")
        becomes(tab, "document.querySelector('[data-pane=\"1\"] .veil').textContent.includes('next: cut')")
        frame = None
        while frame != (frame := tab.get_attribute("[data-pane='1']", "data-frame")):
            plays_on(tab, 2, 6)  # what was sent to pane 1 is still played
        plays_on(tab, 2, 6)
        assert tab.get_attribute("[data-pane='1']", "data-frame") == frame
        tab.keyboard.press("p")
        recorded(tab, "1: cut")
        tab.keyboard.press("0")
        tab.keyboard.press("r")
        becomes(tab, "document.querySelector('#log li').textContent.endsWith('all: recache')")
        recorded(tab, "all: recache")
        tab.keyboard.press("s")
        becomes(tab, "document.querySelector('#log li').textContent.includes('saved in')")
        tab.focus("[data-pane='2'] .fork")
        tab.keyboard.press("Enter")
        tab.wait_for_selector("[data-pane='3'][data-frame]")
        tab.select_option("[data-pane='3'] select", label="longlive")
        tab.focus("[data-pane='3'] .use")
        tab.keyboard.press("Enter")
        becomes(tab, "!document.getElementById('trouble').hidden")
        assert "would be a sink" in tab.inner_text("#trouble")
        tab.focus("[data-pane='3'] .close")
        tab.keyboard.press("Enter")
        tab.wait_for_selector("[data-pane='3']", state="detached")
        tab.keyboard.press("Escape")
        tab.uncheck("#single", force=True) if tab.is_visible("#single") else tab.evaluate("single.click()")
        line = tab.inner_text("#log li:first-child")
        tab.keyboard.press("c")
        tab.fill("#prompt", B)
        tab.press("#prompt", "Enter")
        becomes(tab, f"document.querySelector('#log li').textContent.endsWith({json.dumps(B)})")
        assert tab.inner_text("#log li:nth-child(2)") == line, "single keys can be switched off"


def test_the_page_comes_back_to_the_present_state(browser: Any, real: SimpleNamespace) -> None:
    with opened(browser, real) as tab:
        tab.fill("#prompt", B)
        tab.press("#prompt", "Enter")
        shows(tab, 1, B)
    blocks = real.session.panes[0].blocks
    with opened(browser, real, 360, "dark", reduced_motion="reduce") as tab:
        shows(tab, 1, B)
        assert int(tab.get_attribute("[data-pane='1']", "data-block")) >= blocks - 1
        assert tab.evaluate("document.documentElement.scrollWidth") <= 360
        assert not tab.is_checked("#motion")
        for at in real.server.server_state.connections.copy():
            at.transport.abort()
        recorded(tab, "link: on", recorded(tab, "link: wait", recorded(tab, "link: on")))
        at = int(tab.get_attribute("[data-pane='1']", "data-block"))
        becomes(tab, f"+document.querySelector('[data-pane=\"1\"]').dataset.block > {at}")


def test_hostile_text_is_text(browser: Any, real: SimpleNamespace) -> None:
    with opened(browser, real) as tab:
        tab.fill("#prompt", "<img src=x onerror=alert(1)>")
        tab.press("#prompt", "Enter")
        becomes(tab, "!document.getElementById('trouble').hidden")
        assert "does not know the word" in tab.inner_text("#trouble")
        assert not tab.query_selector("#trouble img")


def test_the_command_ends_with_what_was_saved_and_rerun_agrees(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "rollout", "live", "--port", "0", "--no-open", "--out", str(tmp_path / "out")]
    with subprocess.Popen([*command, "--strategy", "memrope"], cwd=ROOT, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        address = running.stdout.readline().split()[3]
        assert address.startswith("http://127.0.0.1:")
        at = SimpleNamespace(port=int(address.rstrip("/").rpartition(":")[2]), origin=address.rstrip("/"))
        with wire(at) as client:
            hear(client, lambda m: m["type"] == "block" and m["block"] == 3)
            client.send(json.dumps({"do": "prompt", "text": B}))
            hear(client, lambda m: m["type"] == "block" and m["prompt"] == B)
        assert listening(running.pid) == {("127.0.0.1", at.port)}
        running.send_signal(signal.SIGINT)
        assert "saved in" in running.stdout.read()
    assert running.returncode == 0
    folder = tmp_path / "out" / "001" / "1-memrope"
    told = CliRunner().invoke(cli, ["rerun", str(folder)])
    assert told.exit_code == 0, told.output
    assert told.output.count("the same, bit for bit") == 2


def test_bad_options_end_in_one_line() -> None:
    with listen(0) as taken:
        port = taken.getsockname()[1]
        for args, why in {("--port", str(port)): "cannot be used", ("--pane", "nothing"): "no preset"}.items():
            told = CliRunner().invoke(cli, ["live", "--no-open", *args])
            assert isinstance(told.exception, RolloutError)
            assert why in str(told.exception)


def test_without_the_extra_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "rollout.show.live.server", raising=False)
    told = CliRunner().invoke(cli, ["live", "--no-open"])
    assert isinstance(told.exception, RolloutError)
    assert "pip install 'rollout-video[live]'" in str(told.exception)
