"""Videos and pictures that a rollout starts from, and videos that are scored: other rates, shapes, sizes, and none."""

import gc
import json
from dataclasses import replace
from fractions import Fraction
from functools import partial
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from rollout import preset
from rollout.backend import BackendDefaults
from rollout.backends import load_backend
from rollout.backends.sprites import spec as sprites
from rollout.backends.wan.family import geometry
from rollout.cli import app
from rollout.errors import OutputError
from rollout.run.clip import read_clip
from rollout.run.job import Job
from rollout.run.moving import moving_picture
from rollout.run.prefix import read_prefix, read_prefixes
from rollout.run.reading import Shown, decoded
from rollout.run.recipe import Recipe
from rollout.run.record import RunFolder
from rollout.run.video import read_video

TINY = {"num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 24}


def write(path: Path, frames: np.ndarray, rate: int | Fraction = 16) -> Path:
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264rgb" if path.suffix == ".mkv" else "libx264", rate=rate)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "rgb24" if path.suffix == ".mkv" else "yuv420p"
        stream.options = {"crf": "0"}
        for frame in frames:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        file.mux(stream.encode())
    return path


def counting(count: int, height: int = 32, width: int = 48) -> np.ndarray:
    """Frames whose grey level is their number."""
    return np.repeat(np.arange(count, dtype=np.uint8), height * width * 3).reshape(count, height, width, 3) * 4


def rollout(*args: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in args])


def test_a_video_of_another_rate_keeps_its_time(tmp_path: Path) -> None:
    """Frame k of the model is what the video shows at second k / 16: 30 frames a second do not play in slow motion."""
    spec = geometry(TINY, 32, 48)
    clip = read_clip(write(tmp_path / "fps30.mp4", counting(60), 30), spec)
    assert clip.changes == ("30 frames a second taken at 16",)
    assert len(clip.frames) == 32
    levels = clip.frames[:, 16, 24, 0].astype(float) / 4
    expected = np.floor(np.arange(32) / 16 * 30 + 1e-6)
    assert np.abs(levels - expected).max() < 1
    same = read_clip(write(tmp_path / "fps16.mp4", counting(20), 16), spec)
    assert (len(same.frames), same.changes) == (20, ())


def test_a_video_of_another_size_is_scaled_and_of_another_shape_refused(tmp_path: Path) -> None:
    spec = geometry(TINY, 32, 48)
    clip = read_clip(write(tmp_path / "large.mp4", counting(9, 96, 148)), spec)
    assert clip.frames.shape == (9, 32, 48, 3)
    assert clip.changes == ("148x96 scaled to 48x32",)
    with pytest.raises(OutputError, match="is 48x48, and the model runs at 48x32, another shape"):
        read_clip(write(tmp_path / "square.mp4", counting(9, 48, 48)), spec)
    with pytest.raises(OutputError, match="is 48x32, and the model runs at 64x64"):
        read_clip(write(tmp_path / "wide.mp4", counting(9)), sprites())


def test_a_video_lies_as_its_metadata_says(tmp_path: Path) -> None:
    """A phone writes what it sees lying, and that a player must turn it."""
    frames = np.zeros((9, 48, 32, 3), np.uint8)
    frames[:, :8] = 255  # the top is white
    path = write(tmp_path / "turned.mp4", np.ascontiguousarray(np.rot90(frames, -1, (1, 2))))
    turned = tmp_path / "with.mp4"
    _say_rotation(path, turned)
    seen = read_video(turned)
    assert seen.shape == frames.shape
    assert seen[0, :6].mean() > 200
    assert seen[0, 20:].mean() < 60


ONE = 1 << 16


def _say_rotation(source: Path, target: Path, turn: tuple[int, int, int, int] = (0, -ONE, ONE, 0)) -> None:
    """Write a display matrix, by default of 90 degrees, into an mp4's track header, as cameras do."""
    data = bytearray(source.read_bytes())
    at = data.index(b"tkhd") + 4 + 40  # version 0: the matrix follows 40 bytes of header
    a, b, c, d = turn
    matrix = (a, b, 0, c, d, 0, 0, 0, 1 << 30)
    data[at : at + 36] = b"".join(value.to_bytes(4, "big", signed=True) for value in matrix)
    target.write_bytes(bytes(data))


@pytest.mark.parametrize("turn", [(x, 0, 0, y) for x in (1, -1) for y in (1, -1)])
@pytest.mark.parametrize("on_its_side", [False, True])
def test_all_eight_ways_in_which_a_video_can_lie(turn: tuple[int, ...], on_its_side: bool, tmp_path: Path) -> None:
    """A pixel (x, y) is shown at (a x + c y, b x + d y): a mirrored video, as of a phone's front camera, is not a turned one."""
    frames = np.zeros((2, 32, 64, 3), np.uint8)
    frames[:, :16, :32] = 255  # one corner is white, so that every way shows
    path = write(tmp_path / "lies.mp4", frames)
    x, _, _, y = turn
    matrix = (0, ONE * y, ONE * x, 0) if on_its_side else (ONE * x, 0, 0, ONE * y)
    _say_rotation(path, tmp_path / "with.mp4", matrix)
    seen = read_video(tmp_path / "with.mp4")[0, :, :, 0] > 128
    expected = frames[0, :, :, 0].T if on_its_side else frames[0, :, :, 0]
    assert np.array_equal(seen, expected[::y, ::x] > 128)


def test_pixels_that_are_not_square_are_shown_as_they_are_meant(tmp_path: Path) -> None:
    """36x32 pixels of 4:3 are shown 48 wide; taken for squares they would be refused, or squashed."""
    path = tmp_path / "wide.mp4"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=16)
        stream.width, stream.height, stream.pix_fmt = 36, 32, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(4, 3)
        for frame in counting(9, 32, 36):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        file.mux(stream.encode())
    assert read_clip(path, geometry(TINY, 32, 48)).frames.shape == (9, 32, 48, 3)
    assert read_clip(path, geometry(TINY, 32, 48)).changes == ("48x32 scaled to 48x32",)


def test_times_that_a_container_rounds_to_milliseconds_do_not_jump(tmp_path: Path) -> None:
    """Matroska writes 33, 67, 100 ms: every second frame of 30 a second is every second one, not 0, 1, 4, 6, 7, 10."""
    spec = replace(geometry(TINY, 32, 48), fps=15.0)
    clip = read_clip(write(tmp_path / "fps30.mkv", counting(60), 30), spec)
    assert (clip.frames[:, 16, 24, 0] / 4).round().tolist() == list(range(0, 60, 2))


def test_no_more_is_read_than_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long video ends where enough of it is there, and that is said; what does not fit is refused at its first frame."""
    spec = geometry(TINY, 32, 48)
    video = write(tmp_path / "long.mp4", counting(60), 16)
    converted = []
    monkeypatch.setattr("rollout.run.clip.decoded", lambda path: map(partial(_counted, converted), decoded(path)))
    monkeypatch.setattr("rollout.run.clip.LARGEST", 20 * 32 * 48 * 3)
    clip = read_clip(video, spec)
    assert (len(clip.frames), len(converted)) == (20, 20)
    assert clip.changes == ("its first 1.25 s: no more than 20 frames of this size are taken",)
    monkeypatch.setattr("rollout.run.clip.LARGEST", 60 * 32 * 48 * 3)
    assert read_clip(video, spec).changes == ()  # exactly what fits
    converted.clear()
    with pytest.raises(OutputError, match=r"crop=32:32"):
        read_clip(video, sprites())
    assert len(converted) == 1


def _counted(converted: list[int], frame: Shown) -> Shown:
    """A frame that notes when its pixels are asked for."""

    def pixels() -> np.ndarray:
        converted.append(1)
        return frame.pixels()

    return replace(frame, pixels=pixels)


def test_a_video_shorter_than_a_block_says_at_which_rate(tmp_path: Path) -> None:
    """12 frames of 30 a second are 7 at 16, and a first block of Wan is 9."""
    with pytest.raises(
        OutputError, match=r"lasts 7 frames at the model's 16 a second, and its first block is 9\. Give"
    ):
        read_clip(write(tmp_path / "short.mp4", counting(12), 30), geometry(TINY, 32, 48))


def test_a_file_is_read_once_for_all_videos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[Path] = []
    monkeypatch.setattr("rollout.run.prefix.read_clip", lambda path, spec: reads.append(path) or read_clip(path, spec))
    video = write(tmp_path / "clip.mp4", counting(6, 64, 64), 8)
    latents, records = read_prefixes(load_backend("sprites"), str(video), [("a", 0), ("b", 1), ("c", 2)])
    assert latents is not None
    assert latents.shape[:2] == (3, 6)
    assert len({str(record) for record in records}) == 1
    assert len(reads) == 1


def test_frames_are_gone_once_nobody_has_them(tmp_path: Path) -> None:
    """Each in a cycle with its side data, they filled the memory until Python looked for cycles, which hung a forked process."""
    path = write(tmp_path / "clip.mp4", counting(20))
    gc.collect()
    gc.disable()
    try:
        for frame in decoded(path):
            frame.pixels()
        del frame
        frames = [item for item in gc.get_objects() if type(item) is av.VideoFrame]
        assert len(frames) <= 1  # the one that says how the video lies
    finally:
        gc.enable()


def test_a_picture_starts_models_that_go_frame_by_frame(tmp_path: Path) -> None:
    Image.new("RGB", (96, 64), "red").save(tmp_path / "red.png")
    clip = read_clip(tmp_path / "red.png", geometry(TINY, 32, 48, block=1))
    assert clip.frames.shape == (1, 32, 48, 3)
    assert (clip.frames[0, 0, 0] == (255, 0, 0)).all()
    assert clip.frames.flags.writeable  # or PyTorch warns
    with pytest.raises(
        OutputError, match="is one frame, and this model's blocks are 3 latent frames, 9 frames of video"
    ):
        read_clip(tmp_path / "red.png", geometry(TINY, 32, 48))
    stripes = np.zeros((64, 96, 3), np.uint8)
    stripes[:8] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # a camera held upright: turn it a quarter clockwise
    Image.fromarray(np.ascontiguousarray(np.rot90(stripes))).save(tmp_path / "turned.jpg", exif=exif)
    upright = read_clip(tmp_path / "turned.jpg", geometry(TINY, 64, 96, block=1)).frames[0]
    assert upright[:7].mean() > 240
    assert upright[9:].mean() < 10
    (tmp_path / "no.png").write_text("<html>")
    with pytest.raises(OutputError, match="cannot be read as a picture"):
        read_clip(tmp_path / "no.png", geometry(TINY, 32, 48, block=1))


def test_pictures_of_which_something_would_be_lost_are_refused(tmp_path: Path) -> None:
    """What is transparent hides a colour, 16 bits would be cut off at white, an animation is not one picture."""
    spec = geometry(TINY, 32, 48, block=1)
    clear = Image.new("RGBA", (48, 32), (255, 0, 0, 255))
    clear.save(tmp_path / "opaque.png")
    assert (read_clip(tmp_path / "opaque.png", spec).frames[0, 0, 0] == (255, 0, 0)).all()
    clear.putpixel((5, 5), (0, 255, 0, 0))
    clear.save(tmp_path / "clear.png")
    Image.fromarray(np.full((32, 48), 30_000, np.uint16)).save(tmp_path / "deep.png")
    two = [Image.new("RGB", (48, 32), colour) for colour in ("red", "blue")]
    two[0].save(tmp_path / "moves.webp", save_all=True, append_images=two[1:])
    for name, says in (("clear.png", "transparent"), ("deep.png", "more than 8 bits"), ("moves.webp", "an animation")):
        with pytest.raises(OutputError, match=f"{name} (is|has) .*{says}"):
            read_clip(tmp_path / name, spec)


def test_a_picture_too_large_to_be_one_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (96, 64)).save(tmp_path / "huge.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(OutputError, match="cannot be read as a picture"):
        read_clip(tmp_path / "huge.png", geometry(TINY, 32, 48, block=1))


def changing(path: Path) -> Path:
    """A raw h264 stream whose size changes half-way."""
    parts = []
    for n, (height, width) in enumerate(((32, 48), (48, 64))):
        part = path.with_name(f"{n}.h264")
        write(part, counting(5, height, width))
        parts.append(part.read_bytes())
    path.write_bytes(b"".join(parts))
    return path


def test_a_video_whose_size_changes_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="changes its size at frame 5, from 48x32 to 64x48"):
        read_video(changing(tmp_path / "changes.h264"))


def test_a_model_without_a_way_in_says_so_before_the_video_is_read(tmp_path: Path) -> None:
    class Closed(BackendDefaults):
        spec = sprites()

    (tmp_path / "no.mp4").write_text("no video at all")
    with pytest.raises(OutputError, match="cannot encode a video"):
        read_prefix(Closed(), str(tmp_path / "no.mp4"), "a", 0)


def test_what_was_done_to_a_prefix_is_said_and_recorded(tmp_path: Path) -> None:
    video = write(tmp_path / "clip.mp4", counting(48, 128, 128), 16)
    done = rollout("gen", "a red circle jumps[0.375s]", "--prefix", video, "--out", tmp_path / "run")
    assert done.exit_code == 0, done.output
    assert "clip.mp4: 16 frames a second taken at 8" in done.output
    record = RunFolder.open(tmp_path / "run").record
    assert record.prefix is not None
    assert record.prefix.changes == ("16 frames a second taken at 8", "128x128 scaled to 64x64")
    looked_at = rollout("attn", "a red circle jumps[0.375s]", "--prefix", video, "--out", tmp_path / "map")
    assert "clip.mp4: 128x128 scaled to 64x64" in looked_at.output


def test_a_rerun_says_that_a_video_was_taken_otherwise_before(tmp_path: Path) -> None:
    """A record of a version that played 16 frames a second at 8: the file is the same, what came of it is not."""
    video = write(tmp_path / "clip.mp4", counting(24, 64, 64), 16)
    assert rollout("gen", "a red circle jumps[0.375s]", "--prefix", video, "--out", tmp_path / "run").exit_code == 0
    again = rollout("rerun", tmp_path / "run", "--prefix", video)
    assert again.exit_code == 0, again.output
    data = json.loads((tmp_path / "run" / "run.json").read_text())
    del data["prefix"]["changes"]
    data["digests"]["latents"] = "0" * 64
    (tmp_path / "run" / "run.json").write_text(json.dumps(data))
    again = rollout("rerun", tmp_path / "run", "--prefix", video)
    assert again.exit_code == 1
    assert "is brought to the model otherwise: 16 frames a second taken at 8" in again.output
    other = write(tmp_path / "other.mp4", counting(24, 64, 64)[::-1], 16)
    assert "is not what the run started from" in str(rollout("rerun", tmp_path / "run", "--prefix", other).exception)


def test_scores_go_on_after_a_bad_file_and_say_what_is_left_out(tmp_path: Path) -> None:
    good, bad = write(tmp_path / "good.mp4", counting(9), 25), changing(tmp_path / "bad.h264")
    done = rollout("score", bad, good, tmp_path / "none.mp4")
    assert done.exit_code == 2
    assert "changes its size at frame 5" in done.stderr
    assert "none.mp4 is not a file" in done.stderr
    assert "dynamic@difference" in done.stdout
    done = rollout("score", good, "--metrics", "action,flicker")
    assert done.exit_code == 0
    assert "action is left out; it needs a world" in done.stderr
    assert "flicker" in done.stdout
    assert "1: " + str(good) + ", 25 frames a second" in done.stdout
    alone = rollout("score", good, "--metrics", "action")
    assert alone.exit_code == 2  # nothing of what was asked for
    assert "action is left out; it needs a world" in alone.stderr


def test_a_run_of_a_backend_that_is_not_here_does_not_end_the_scores(tmp_path: Path) -> None:
    """A SpecError, where a file that cannot be read is an OutputError."""
    strange = tmp_path / "run"
    assert rollout("gen", "a red circle jumps[0.375s]", "--out", strange).exit_code == 0
    data = json.loads((strange / "run.json").read_text())
    data["backend"]["name"] = "elsewhere"
    (strange / "run.json").write_text(json.dumps(data))
    good = write(tmp_path / "good.mp4", counting(9), 25)
    done = rollout("score", strange, good, "--json")
    assert done.exit_code == 2
    assert f"rollout: {strange}: " in done.stderr
    assert "elsewhere" in done.stderr
    [row] = json.loads(done.stdout)
    assert (row["video"], row["fps"]) == (str(good), 25)


def test_a_metric_without_a_figure_says_why(tmp_path: Path) -> None:
    video = write(tmp_path / "short.mp4", counting(32), 16)
    done = rollout("score", video)
    assert done.exit_code == 0
    assert "drift@pool8 has no figure: 2 s are too short for a slope of a minute: from 10 s on" in done.stderr
    assert "drift@pool8     " in done.stdout
    whole = rollout("score", video, "--json")
    assert whole.stderr == ""
    assert json.loads(whole.stdout)[0]["scores"]["drift@pool8"]["why"].startswith("2 s are too short")
    one = write(tmp_path / "one.mp4", counting(1), 16)
    done = rollout("score", one, "--metrics", "flicker,drift@pool8", "--json")
    assert "flicker has no figure: nothing in it to measure" in done.stderr
    assert json.loads(done.stdout)[0]["scores"]["flicker"] == {"value": None, "unit": "share"}
    assert "drift@pool8 has no figure" in done.stderr


def test_numbers_of_different_frame_rates_do_not_stand_side_by_side(tmp_path: Path) -> None:
    slow, fast = write(tmp_path / "8.mp4", counting(9), 8), write(tmp_path / "30.mp4", counting(9), 30)
    done = rollout("score", slow, fast)
    assert done.exit_code == 0
    assert "the videos have 8 and 30 frames a second" in done.stderr
    assert "dynamic@difference" not in done.stdout
    refused = rollout("score", slow, fast, "--metrics", "dynamic@difference")
    assert isinstance(refused.exception, OutputError)
    assert "dynamic@difference" in rollout("score", slow, slow).stdout
    broken = rollout("score", changing(tmp_path / "25.h264"), slow, slow)  # its rate counts for nothing
    assert "frames a second" not in broken.stderr
    assert "dynamic@difference" in broken.stdout
    film = write(tmp_path / "24.mkv", counting(9), 24)
    television = write(tmp_path / "23.976.mkv", counting(9), Fraction(24000, 1001))
    assert "dynamic@difference" in rollout("score", film, television).stdout  # within 1% they are one rate


def lasts(path: Path) -> list[int]:
    """Milliseconds of each picture of an animation."""
    durations = []
    with Image.open(path) as picture:
        for number in range(picture.n_frames):
            picture.seek(number)
            picture.load()
            durations.append(int(picture.info["duration"]))
    return durations


def test_a_run_also_as_an_animated_picture(tmp_path: Path) -> None:
    done = rollout("gen", "a red circle jumps[1.5s]", "--gif", "--webp", "--out", tmp_path / "run")
    assert done.exit_code == 0, done.output
    for name in ("video.gif", "video.webp"):
        assert f"{tmp_path / 'run' / name}: 0." in done.output
        with Image.open(tmp_path / "run" / name) as picture:
            assert (picture.n_frames, picture.size, picture.info["loop"]) == (12, (256, 256), 0)
        # a GIF counts in hundredths: an eighth of a second is 12 or 13 of them, and 12 frames are a second and a half
        assert sum(lasts(tmp_path / "run" / name)) == 1500
        assert set(lasts(tmp_path / "run" / name)) == ({120, 130} if name == "video.gif" else {125})
    again = rollout("gen", "a red circle jumps[0.375s]", "--out", tmp_path / "run", "--force")
    assert again.exit_code == 0
    assert not list((tmp_path / "run").glob("*.gif"))  # of the run before


def test_an_animated_picture_of_a_long_video_is_thinned_out_and_plays_in_its_time(tmp_path: Path) -> None:
    long = write(tmp_path / "long.mp4", counting(500, 32, 960))
    assert moving_picture(long, tmp_path / "long.gif") == 167
    with Image.open(tmp_path / "long.gif") as picture:
        assert picture.size == (480, 16)
    assert sum(lasts(tmp_path / "long.gif")) == 31_250  # 500 frames of 16 a second
    with Image.open(tmp_path / "long.gif") as picture:  # the last picture is of the last frames
        picture.seek(166)
        assert abs(picture.convert("L").getpixel((9, 9)) - counting(500)[498, 0, 0, 0]) < 4


@pytest.mark.parametrize("kind", ["gif", "webp"])
def test_an_animated_picture_of_noise_is_made_small_enough(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Narrower at first, and with fewer pictures in the same time once that is not enough."""
    noise = np.random.default_rng(0).integers(0, 255, (12, 128, 192, 3), np.uint8)
    video, path = write(tmp_path / "noise.mp4", noise), tmp_path / f"noise.{kind}"
    assert moving_picture(video, path) == 12
    whole = path.stat().st_size
    monkeypatch.setattr("rollout.run.moving.LARGEST", whole // 2)
    assert moving_picture(video, path) == 12
    with Image.open(path) as picture:
        assert 120 <= picture.width < 192
    assert path.stat().st_size <= whole // 2
    monkeypatch.setattr("rollout.run.moving.LARGEST", whole // 10)
    assert moving_picture(video, path) < 12
    assert path.stat().st_size <= whole // 10
    assert sum(lasts(path)) == 750


def test_a_run_that_goes_on_has_the_animated_picture_that_was_asked_for(tmp_path: Path) -> None:
    recipe = Recipe(preset("infinity-rope"), "a red circle jumps[1.5s]")
    job = Job(load_backend("sprites"), recipe, tmp_path, every=2, pictures=("gif",))
    run = job.run()
    for _ in range(3):
        next(run)
    run.close()
    assert not (tmp_path / "video.gif").exists()
    done = rollout("resume", tmp_path)
    assert done.exit_code == 0, done.output
    with Image.open(tmp_path / "video.gif") as picture:
        assert picture.n_frames == 12
