"""Comparisons: what a pane, a strip and the table show is what the runs and the metrics say."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image, ImageColor
from typer.testing import CliRunner, Result

from rollout import Strategy, load_backend
from rollout.benchmarks.compare.film import BYTES, REST, WIDTH, film, webp
from rollout.benchmarks.compare.panes import Stage, pane
from rollout.benchmarks.compare.rows import Row, changes, rows
from rollout.benchmarks.compare.runs import Run, Segment, _names, read_runs
from rollout.benchmarks.compare.strip import FIRST, GOOD, INK, LEVEL, LEVELS, PAPER, TRACK, mix, scales, strip
from rollout.benchmarks.metrics import metric
from rollout.benchmarks.metrics.sample import sample_of_run
from rollout.cli import app
from rollout.cli.compare import _usual
from rollout.errors import OutputError, RolloutError, Stopped
from rollout.files import alone
from rollout.run.job import Job
from rollout.run.latents import read_latents
from rollout.run.video import frames_in, read_video, stream_video
from rollout.script import Script

A, B = "a red circle jumps on navy", "a red circle walks right on navy"
SCRIPT = f"{A}[1.125s] | {B}[3s] ; it jumps | it walks"
FRAMES = 3 + 9 + 24
"""Of SCRIPT after a prefix of a block: a change of action is watched for 21 frames, or it has no reaction."""
WINDOW = "relativistic sink:window=12,sink=1"
ADD = ["--add", f"keep 12/1={WINDOW}+keep", "--add", f"flush={WINDOW}+flush"]


def run(*args: str) -> Result:
    return CliRunner().invoke(app, list(args))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two strategies, FRAMES frames of which 3 were given."""
    out = tmp_path_factory.mktemp("compare") / "new"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rollout.benchmarks.compare.film.WIDTH", 240)  # a WebP of the usual one takes six seconds
        done = run(
            *("compare", SCRIPT, *ADD, "--seed", "5", "--prefix", "1", "--threads", "1", "--webp", "--out", str(out))
        )
    assert done.exit_code == 0, done.output
    return out


@pytest.fixture(scope="module")
def runs(made: Path) -> list[Run]:
    return read_runs([made / "keep-12-1", made / "flush"], ["keep 12/1", "flush"])


@pytest.fixture(scope="module")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with forks/1 and forks/2, which share 9 frames, and other/, which ends sooner."""
    out = tmp_path_factory.mktemp("forks")
    at, policy = ["--at", "1.125"], "sink:window=12,sink=1"
    for args in (
        ["gen", SCRIPT, "--cache", f"{policy}+recache", "--latents", "--threads", "1", "--out", str(out / "run")],
        [
            "fork",
            str(out / "run"),
            *at,
            "--cache",
            f"{policy}+keep",
            "--cache",
            f"{policy}+flush",
            "--out",
            str(out / "forks"),
        ],
        ["fork", str(out / "run"), *at, "--prompt", f"{A}[0.75s]", "--out", str(out / "other")],
    ):
        done = run(*args)
        assert done.exit_code == 0, done.output
    return out


def test_what_it_writes(made: Path) -> None:
    assert sorted(p.name for p in made.iterdir()) == ["compare.mp4", "compare.webp", "flush", "keep-12-1", "table.md"]
    for name in ("flush", "keep-12-1"):
        assert sorted(p.name for p in (made / name).iterdir()) == [
            "contact.png",
            "frames.mkv",
            "run.json",
            "subtitles.vtt",
            "video.mp4",
        ]
    with av.open(str(made / "compare.mp4")) as file:
        texts = [bytes(p)[2:].decode() for p in file.demux(file.streams.subtitles[0]) if p.size > 2]
        assert file.streams.video[0].average_rate == 8
    assert texts == ["it jumps", "it walks"]
    assert frames_in(made / "compare.mp4") == FRAMES


def test_each_strategy_rolls_out_as_it_does_alone(made: Path, tmp_path: Path) -> None:
    more = ["--seed", "5", "--prefix", "1", "--threads", "1", "--out", str(tmp_path / "alone")]
    assert run("gen", SCRIPT, "--pos", "relativistic", "--cache", "sink:window=12,sink=1+flush", *more).exit_code == 0
    alone, here, other = (
        json.loads((place / "run.json").read_text())
        for place in (tmp_path / "alone", made / "flush", made / "keep-12-1")
    )
    assert alone["digests"] == here["digests"] != other["digests"]
    again = run("rerun", str(made / "flush"))
    assert again.exit_code == 0, again.output


def test_panes_show_their_runs_pixel_for_pixel(made: Path, runs: list[Run]) -> None:
    stage = Stage(runs)
    folders = (made / "keep-12-1", made / "flush")
    videos = [np.stack(list(stream_video(folder / "frames.mkv"))) for folder in folders]
    assert (videos[0] != videos[1]).any()
    for frame in (0, 11, FRAMES - 1):
        picture = np.asarray(stage.draw(frame, [video[frame] for video in videos]))
        for n, video in enumerate(videos):
            left, top, right, bottom = stage.box(n)
            assert (right - left, bottom - top) == (256, 256)
            assert (picture[top:bottom, left:right] == video[frame].repeat(4, 0).repeat(4, 1)).all()


def test_the_film_is_what_the_stage_draws(made: Path, runs: list[Run]) -> None:
    """Up to what H.264 loses: each frame is far nearer to its own picture than to its neighbour's."""
    stage, found = Stage(runs), read_video(made / "compare.mp4").astype(float)
    assert found.shape == (FRAMES, stage.size[1], stage.size[0], 3)
    drawn = [
        np.asarray(stage.draw(f, pictures), dtype=float)
        for f, pictures in enumerate(zip(*(r.sample.frames() for r in runs), strict=True))
    ]
    for f in range(1, FRAMES):
        assert np.abs(found[f] - drawn[f]).mean() < 2.5
        assert np.abs(found[f] - drawn[f]).mean() < np.abs(found[f] - drawn[f - 1]).mean()


def test_rows_are_the_metrics(runs: list[Run]) -> None:
    for one, mine in zip(runs, rows(runs), strict=True):
        assert [row.name for row in mine] == ["action", "subject", "scene", "off path"]
        for row, name in zip(mine, ("action", "identity", "background", "position"), strict=True):
            curve = metric(name).measure(one.sample).curve
            expected = dict.fromkeys(range(FRAMES)) | dict(zip(map(int, curve.x), curve.y, strict=True))
            assert row.values == [expected[f] for f in range(FRAMES)]
            assert row.values[:3] == [None] * 3
        found = changes(one)
        assert [change.frame for change in found] == [12]
        assert found[0].reaction == metric("reaction").measure(one.sample).value
        assert found[0].shown == (None if found[0].reaction == 15 else 12 + found[0].reaction)


def test_rows_of_another_model_need_no_weights(runs: list[Run]) -> None:
    plain = [replace(r, sample=replace(r.sample, spec=replace(r.sample.spec, name="other"))) for r in runs]
    mine = rows(plain)[0]
    assert [row.name for row in mine] == ["change", "alike"]
    assert mine[0].values[0] is None
    assert mine[0].values[1:] == runs[0].sample.changes.mean.tolist()
    assert mine[1].values[1:] == metric("consistency@pool8").measure(runs[0].sample).curve.y
    assert changes(plain[0]) == []
    assert Stage(plain).draw(3, [next(r.video()) for r in plain]).size == Stage(plain).size


def test_a_strip_draws_its_values() -> None:
    values: list[float | None] = [None, 0.0, 1.0, 1.0, 0.5]
    levels: list[float | None] = [0.0, 1.0, 2.0, None, 4.0]
    both = [Row("shares", values), Row("levels", levels, "px", 2.0)]
    assert scales([both]) == [1, 4]
    picture = np.asarray(strip(both, [Segment(0, 2, "a", ""), Segment(2, 5, "b", "cut")], 5, 50, scales([both])))
    colours = [PAPER, TRACK, GOOD, GOOD, mix(TRACK, GOOD, 0.5)]
    for frame, colour in enumerate(colours):
        wanted = ImageColor.getrgb(colour) if isinstance(colour, str) else colour
        assert (picture[1, 10 * frame + 1 : 10 * frame + 10] == wanted).all(), frame
    below = picture[-LEVELS:]
    blue = (below == ImageColor.getrgb(LEVEL)).all(-1)
    assert [blue[:, 10 * f + 5].sum() for f in range(5)] == [1, 6, 11, 0, 22]
    assert (picture[:, 20] == ImageColor.getrgb(INK)).all()
    assert picture.shape[0] > FIRST + LEVELS


def test_a_strip_of_more_frames_than_pixels_shows_means() -> None:
    row = Row("shares", [float(n % 2) for n in range(400)])
    picture = np.asarray(strip([row], [], 400, 50, [0]))
    assert (picture == mix(TRACK, GOOD, 0.5)).all()


def test_what_has_not_happened_yet_is_not_shown(runs: list[Run]) -> None:
    stage = Stage(runs)
    first, last = (
        np.asarray(stage.draw(f, [video[f] for video in ([*r.sample.frames()] for r in runs)])) for f in (4, FRAMES - 1)
    )
    _, _, right, bottom = stage.box(0)
    half = slice(bottom + 20, None), slice(right - 128, right)
    good = ImageColor.getrgb(GOOD)
    assert not (first[half] == good).all(-1).any()
    assert (last[half] == good).all(-1).any()


def test_the_table_has_the_numbers_of_score(made: Path, runs: list[Run]) -> None:
    from rollout.benchmarks.metrics import metric
    from rollout.benchmarks.metrics.score import directed
    from rollout.benchmarks.results import number

    told = run("score", str(made / "keep-12-1"), str(made / "flush"), "--json")
    scored = [row["scores"] for row in json.loads(told.output)]
    table, units = {}, {}
    for line in (made / "table.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 4 and cells[0] != "---":
            table[cells[0]] = cells[1:3]
            units[cells[0]] = cells[3]
    assert table.pop("metric") == ["keep 12/1", "flush"]
    shared = set(table) & set(scored[0])
    assert {"reaction", "action", "identity", "position", "forwards", "consistency@pool8"} <= shared
    for name in shared:
        assert table[name] == [number(scores[name]["value"]) for scores in scored], name
        assert units[name] == directed(metric(name).unit, metric(name).better)
    assert (units["reaction"], units["action"], units["time"]) == ("frames ↓", "share ↑", "ms a block ↓")
    lines = run("score", str(made / "flush")).output
    assert re.search(r"^metric +1 +unit, better *$", lines, re.M)
    assert re.search(r"^seam +[\d.]+ +ratio →1 *$", lines, re.M)
    for cell, one in zip(table["time"], runs, strict=True):
        record = one.sample.record
        encoded = record.costs.encoded
        assert encoded.blocks == 1
        assert cell == number(1000 * (record.timings["generate_seconds"] - encoded.seconds) / 11)
    assert "seed 5" in (made / "table.md").read_text()


def test_a_webp_plays_as_long_and_is_small(made: Path, runs: list[Run]) -> None:
    with Image.open(made / "compare.webp") as picture:
        assert picture.n_frames == FRAMES
        assert picture.width <= WIDTH
        total = 0
        for n in range(picture.n_frames):
            picture.seek(n)
            picture.load()
            total += picture.info["duration"]
    assert total == FRAMES * 125 + REST
    assert (made / "compare.webp").stat().st_size <= BYTES


def test_a_webp_that_would_be_too_large_gets_smaller(
    runs: list[Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rollout.benchmarks.compare.film.WIDTH", 240)  # each try of a whole one takes seconds
    monkeypatch.setattr("rollout.benchmarks.compare.film.PICTURES", 12)
    whole = webp(runs, tmp_path / "a.webp")
    monkeypatch.setattr("rollout.benchmarks.compare.film.BYTES", whole[1] // 4)
    pictures, size = webp(runs, tmp_path / "b.webp")
    assert size <= whole[1] // 4
    with Image.open(tmp_path / "b.webp") as picture:
        assert picture.n_frames == pictures


def test_forks_side_by_side(forks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = [forks / "forks" / n for n in ("1", "2")]
    before = [sorted(p.stat().st_mtime_ns for p in folder.iterdir()) for folder in pair]
    done = run("compare", *map(str, pair), "--out", str(tmp_path / "out"))
    assert done.exit_code == 0, done.output
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["compare.mp4", "table.md"]
    assert before == [sorted(p.stat().st_mtime_ns for p in folder.iterdir()) for folder in pair]
    found = read_runs(pair, [None, None])
    assert [r.name for r in found] == ["keep", "flush"]
    assert [r.given for r in found] == [9, 9]
    assert found[0].size == (64, 64)  # of a video that was enlarged
    assert [r.name for r in read_runs(pair, ["mine", None])] == ["mine", found[1].name]
    assert [r.name for r in read_runs([forks / "run", pair[1]], [None, None])] == ["recache", "flush"]
    other = [
        replace(r, strategy=Strategy.from_text(text))
        for r, text in zip(found, ("online fifo+keep", "online ema+flush"), strict=True)
    ]
    assert _names(other) == ["fifo+keep", "ema+flush"]
    monkeypatch.setattr("rollout.benchmarks.compare.film.film", lambda stage, path: iter(()))  # it was drawn above
    named = run("compare", f"one={pair[0]}", f"two={pair[1]}", "--out", str(tmp_path / "named"))
    assert re.search(r"metric +one +two", named.output)


def test_a_shorter_run_holds_its_last_frame(forks: Path, tmp_path: Path) -> None:
    found = read_runs([forks / "run", forks / "other"], [None, None])
    assert [r.name for r in found] == ["run", "other"]
    assert [r.frames for r in found] == [33, 15]
    stage = Stage(found)
    assert list(film(stage, tmp_path / "x.mp4")) == list(range(1, 34))
    videos = [list(r.sample.frames()) for r in found]
    during = np.asarray(stage.draw(14, [v[14] for v in videos]))
    after = np.asarray(stage.draw(20, [videos[0][20], videos[1][14]]))
    left, top, right, bottom = stage.box(1)
    wanted = Image.fromarray(videos[1][14]).resize((256, 256), Image.Resampling.NEAREST)
    assert (during[top:bottom, left:right] == np.asarray(wanted)).all()
    faded = np.asarray(Image.blend(wanted, Image.new("RGB", (256, 256), PAPER), 0.6))
    assert (after[top : top + 60, left:right] == faded[:60]).all()


def test_other_prompts_get_their_own_lines(forks: Path) -> None:
    same, apart = (
        Stage(read_runs([forks / a, forks / b], [None, None]))
        for a, b in (("forks/1", "forks/2"), ("forks/1", "other"))
    )
    assert apart.size[1] > same.size[1]


@pytest.mark.parametrize(
    ("size", "room", "wanted"),
    [
        ((64, 64), 256, (256, 256)),
        ((64, 64), 230, (192, 192)),
        ((480, 832), 480, (480, 277)),
        ((256, 256), 256, (256, 256)),
    ],
)
def test_panes_are_enlarged_by_whole_factors(size: Any, room: int, wanted: tuple[int, int]) -> None:
    assert pane(size, room) == wanted


def test_six_runs_make_two_rows(runs: list[Run]) -> None:
    six = [replace(runs[0], name=str(n)) for n in range(6)]
    stage = Stage(six)
    boxes = [stage.box(n) for n in range(6)]
    assert len({b[0] for b in boxes}) == 3
    assert len({b[1] for b in boxes}) == 2
    assert all(b[2] <= stage.size[0] and b[3] <= stage.size[1] for b in boxes)
    assert stage.size[0] % 2 == stage.size[1] % 2 == 0


STRATEGIES = {
    "one": (["--preset", "longlive"], "1 cannot be compared"),
    "seven": ([a for n in range(7) for a in ("--add", f"s{n}=relativistic fifo+keep")], "7 cannot be compared"),
    "unknown preset": (["--preset", "longlive", "--preset", "longlove"], "longlive"),
    "twice": (["--preset", "longlive", "--preset", "longlive"], "two are called 'longlive'"),
    "one folder": ([*ADD, "--add", "Flush=absolute fifo+keep"], "two are called 'flush'"),
    "no name": (["--preset", "longlive", "--add", "=absolute fifo+keep"], "no NAME=TEXT"),
    "a name of signs": (["--preset", "longlive", "--add", "..=absolute fifo+keep"], "no name to a folder"),
    "no strategy": (["--preset", "longlive", "--add", "x=absolute"], "no preset called 'absolute'"),
    "a prefix": ([*ADD, "--prefix", "none.mp4"], "not a file"),
    "a device": ([*ADD, "--device", "cuda:77"], "cuda:77"),
}


@pytest.mark.parametrize("name", STRATEGIES)
def test_bad_strategies_write_nothing(name: str, tmp_path: Path) -> None:
    args, says = STRATEGIES[name]
    refused(says, A, *args, "--out", str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_bad_scripts_write_nothing(tmp_path: Path) -> None:
    for script, says in (("a dog[1s]", "'dog'"), (f"{A}[0s]", "more than 0"), (f"{A}[200s]", "128.0")):
        refused(says, script, "--preset", "self-forcing", "--preset", "memrope", "--out", str(tmp_path / "out"))
        assert not (tmp_path / "out").exists()


def test_bad_runs_write_nothing(forks: Path, runs: list[Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two, out = str(forks / "run"), str(forks / "forks" / "1"), str(tmp_path / "out")
    empty = tmp_path / "empty"
    empty.mkdir()
    for args, says in (
        ([one], "1 cannot be compared"),
        ([one] * 7, "7 cannot be compared"),
        ([one, one], "two are called 'run'"),
        ([one, str(tmp_path / "none")], "not the folder of a run"),
        ([one, str(empty)], "not the folder of a run"),
        ([one, two, "--preset", "longlive"], "Leave out --preset"),
        ([one, two, "--seed", "0"], "Leave out --preset"),
    ):
        refused(says, *args, "--out", out)
        assert not Path(out).exists()
    (empty / "kept.txt").write_text("mine")
    refused("not empty", one, two, "--out", str(empty))
    refused("not empty", A, *ADD, "--out", str(empty))
    assert [p.name for p in empty.iterdir()] == ["kept.txt"]
    (tmp_path / "slow").mkdir()
    record = json.loads((forks / "run" / "run.json").read_text())
    record["script"]["fps"], record["backend"]["world"] = 16.0, None  # of a world the script would take other frames
    (tmp_path / "slow" / "run.json").write_text(json.dumps(record))
    refused("no finished video", one, str(tmp_path / "slow"), "--out", out)
    (tmp_path / "slow" / "video.mp4").write_bytes((forks / "run" / "video.mp4").read_bytes())
    refused("frames a second are 8 and 16", one, str(tmp_path / "slow"), "--out", out)
    assert not Path(out).exists()


def refused(says: str, *args: str) -> None:
    done = run("compare", *args)
    assert isinstance(done.exception, RolloutError), done.output
    told = str(done.exception)
    assert says in told
    assert "\n" not in told
    assert len(told) < 700


def test_a_stop_keeps_finished_runs_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Job.run

    def stopped(self: Job) -> Any:
        for n, result in enumerate(whole(self)):
            yield result
            if self.folder.name == "flush" and n == 1:
                raise KeyboardInterrupt

    out = tmp_path / "out"
    command = ("compare", f"{A}[1.125s]", *ADD, "--threads", "1", "--steps", "2", "--out", str(out))
    with monkeypatch.context() as patch:
        patch.setattr(Job, "run", stopped)
        done = run(*command)
    assert isinstance(done.exception, Stopped)
    assert done.exception.code == 130
    assert "the same command goes on from there" in str(done.exception)
    assert [p.name for p in out.iterdir()] == ["keep-12-1"]
    assert (out / "keep-12-1" / "run.json").is_file()
    before = (out / "keep-12-1" / "run.json").stat().st_mtime_ns
    refused("is another run: it has another script", f"{B}[1.125s]", *ADD, "--steps", "2", "--out", str(out))
    (out / "flush").mkdir()  # as a kill leaves it
    (out / "flush" / "video.partial.mp4").touch()
    (out / "compare.partial.mp4").touch()
    (out / f".compare.mp4.{'0' * 16}.partial").touch()
    with alone(out):  # it may as well be another process's work
        assert "another run is writing" in str(run(*command).exception)
    assert (out / "flush" / "video.partial.mp4").exists()
    again = run(*command)
    assert again.exit_code == 0, again.output
    assert "strategy 1 of 2, keep 12/1" in again.output
    assert again.output.count("finished before: taken as it is") == 1
    assert (out / "keep-12-1" / "run.json").stat().st_mtime_ns == before
    assert {p.name for p in out.iterdir()} == {"keep-12-1", "flush", "compare.mp4", "table.md"}
    monkeypatch.setattr(Job, "run", stopped)
    first = run("compare", f"{A}[1.125s]", *reversed_pairs(ADD), "--threads", "1", "--out", str(tmp_path / "none"))
    assert "nothing was kept" in str(first.exception)
    assert not (tmp_path / "none").exists()


def test_a_stop_while_drawing_says_how_to_go_on(
    made: Path, runs: list[Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Stage.draw

    def stopped(self: Stage, frame: int, pictures: Any) -> Image.Image:
        if frame == 5:
            raise KeyboardInterrupt
        return whole(self, frame, pictures)

    monkeypatch.setattr(Stage, "draw", stopped)
    done = run("compare", str(made / "flush"), str(made / "keep-12-1"), "--out", str(tmp_path / "out"))
    assert isinstance(done.exception, Stopped)
    assert f"flush={made / 'flush'}" in str(done.exception)
    assert list((tmp_path / "out").iterdir()) == []


def reversed_pairs(args: list[str]) -> list[str]:
    return [*args[2:], *args[:2]]


def test_the_usual_strategies_are_those_that_are_possible(capsys: pytest.CaptureFixture[str]) -> None:
    backend = load_backend("sprites")
    assert [n for n, _ in _usual(Script.parse("a[5s]"), backend)] == [
        "self-forcing",
        "longlive",
        "infinity-rope",
        "memrope",
    ]
    assert [n for n, _ in _usual(Script.parse("a[130s]"), backend)] == ["infinity-rope", "memrope"]
    assert "longlive is left out" in capsys.readouterr().out


def test_a_run_of_another_size_is_refused(runs: list[Run], made: Path, tmp_path: Path) -> None:
    from rollout.run.video import VideoWriter

    other = tmp_path / "other"
    other.mkdir()
    (other / "run.json").write_text((made / "flush" / "run.json").read_text())
    with VideoWriter(other / "video.mp4", 8.0) as writer:
        writer.write(np.zeros((FRAMES, 300, 400, 3), np.uint8))
    with pytest.raises(OutputError, match="height and width are 64 x 64 and 300 x 400"):
        read_runs([made / "flush", other], ["a", "b"])


def test_a_run_without_lossless_frames_is_tracked_in_its_own_size(forks: Path, runs: list[Run]) -> None:
    told = run("score", str(forks / "run"), "--json")
    assert told.exit_code == 0, told.output
    decoded = load_backend("sprites").decoder().push(read_latents(forks / "run" / "latents.safetensors")).numpy()
    exact = metric("identity").measure(replace(sample_of_run(forks / "run"), video=decoded))
    assert json.loads(told.output)[0]["scores"]["identity"]["value"] == exact.value
    for one in runs:
        lossy = replace(one.sample, video=one.folder / "video.mp4")
        assert next(lossy.frames()).shape == (64, 64, 3)
        for name in ("action", "identity", "background"):
            assert metric(name).measure(lossy) == metric(name).measure(one.sample)
