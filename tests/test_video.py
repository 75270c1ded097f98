"""Video writing: counted, playable, whole or not there."""

from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from rollout.errors import OutputError
from rollout.run.sheet import Tile, contact_sheet
from rollout.run.video import Subtitle, VideoWriter, read_video, webvtt


def noise(n: int, seed: int = 0, size: int = 32) -> np.ndarray:
    blocks = np.random.default_rng(seed).integers(0, 255, (n, size // 8, size // 8, 3), dtype=np.uint8)
    return blocks.repeat(8, 1).repeat(8, 2)


def test_every_frame_is_there_and_enlarged_by_a_whole_factor(tmp_path: Path) -> None:
    path = tmp_path / "video.mp4"
    with VideoWriter(path, 8.0) as video:
        video.write(noise(5))
        assert not path.exists()
        assert (tmp_path / "video.partial.mp4").exists()
        video.write(noise(4, 1))
    assert list(tmp_path.iterdir()) == [path]
    frames = read_video(path)
    assert frames.shape == (9, 256, 256, 3)
    luma = [f.astype(float).mean(-1).reshape(32, 8, 32, 8).mean((1, 3)) for f in frames]
    truth = [f.astype(float).mean(-1) for f in (*noise(5), *noise(4, 1))]
    assert max(np.abs(a - b).mean() for a, b in zip(luma, truth, strict=True)) < 12  # H.264 at crf 16, 4:2:0
    with av.open(str(path)) as file:
        assert file.streams.video[0].average_rate == 8
        assert abs(file.duration / 1e6 - 9 / 8) < 0.01


def test_large_frames_keep_their_size(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "v.mp4", 16.0) as video:
        video.write(noise(2, size=480))
    assert read_video(tmp_path / "v.mp4").shape == (2, 480, 480, 3)
    assert len(read_video(tmp_path / "v.mp4", most=1)) == 1


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    def stopped() -> None:
        with VideoWriter(tmp_path / "v.mp4", 8.0) as video:
            video.write(noise(2))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        stopped()
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_no_broken_video(tmp_path: Path) -> None:
    """A limit on file size stands in for the full disk: av itself closes the file without a word."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def filled() -> None:
        with VideoWriter(tmp_path / "v.mp4", 8.0) as video:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
            for n in range(8):
                video.write(noise(8, n))

    try:
        with pytest.raises(OutputError, match="Free some space"):
            filled()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_the_soft_track_carries_the_subtitles(tmp_path: Path) -> None:
    path = tmp_path / "v.mp4"
    lines = [
        Subtitle(0, 0.5, r"one {and} a half \now"),
        Subtitle(0.5, 1.0, "zwei – 二"),
        Subtitle(1, 1.5, "三" * 30_000),
    ]
    with VideoWriter(path, 8.0, subtitles=lines) as video:
        video.write(noise(12))
    with av.open(str(path)) as file:
        texts = [(p.pts / 1e6, bytes(p)[2:].decode()) for p in file.demux(file.streams.subtitles[0]) if p.size > 2]
    assert texts == [(0.0, r"one {and} a half \now"), (0.5, "zwei – 二"), (1.0, "三" * 21_845)]


def test_webvtt() -> None:
    text = webvtt([Subtitle(0, 3661.5, "a < b"), Subtitle(1, 2, "")])
    assert text == "WEBVTT\n\n00:00:00.000 --> 01:01:01.500\na &lt; b\n"


def test_no_video_here(tmp_path: Path) -> None:
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"no video" * 100)
    for path in (bad, tmp_path / "missing.mp4", tmp_path):
        with pytest.raises(OutputError, match="cannot be read as a video"):
            read_video(path)
    with pytest.raises(OutputError, match="cannot be written"):
        VideoWriter(tmp_path / "no" / "folder.mp4", 8.0)


def test_the_contact_sheet_marks_switches_and_cuts() -> None:
    tiles = [
        Tile(noise(1)[0], f"{i}.0s a very long prompt that does not fit", mark)
        for i, mark in enumerate(["", "switch", "cut"] * 4)
    ]
    sheet = contact_sheet(tiles)
    assert isinstance(sheet, Image.Image)
    colours = {c for _, c in sheet.getcolors(1 << 20)}
    assert {(240, 170, 40), (230, 60, 60)} <= colours
    assert sheet.height > 2 * 128
