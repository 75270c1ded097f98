"""A finished video as an animated picture, for pages and chats that play no mp4."""

from pathlib import Path

from rollout.files import write_whole
from rollout.run.video import stream_video, video_fps

__all__ = ["KINDS", "moving_picture"]

KINDS = {"gif": "GIF", "webp": "WEBP"}
"""Formats by the ending of their files."""
PICTURES, WIDTH = 240, 480
"""Pictures, and pixels across, at most: a longer video is thinned out evenly, a wider one scaled down."""


def moving_picture(video: Path, path: Path) -> int:
    """Write a video as an animated GIF or WebP, by the path's ending, that plays for ever; its pictures. Raises OutputError."""
    from PIL import Image

    frames = sum(1 for _ in stream_video(video))
    step = -(-frames // PICTURES)
    pictures = []
    for number, frame in enumerate(stream_video(video)):
        if number % step == 0:
            picture = Image.fromarray(frame)
            if picture.width > WIDTH:
                height = round(picture.height * WIDTH / picture.width)
                picture = picture.resize((WIDTH, height), Image.Resampling.LANCZOS)
            pictures.append(picture)
    duration = round(1000 * step / video_fps(video))
    kind = KINDS[path.suffix[1:]]
    write_whole(
        path,
        lambda partial: pictures[0].save(
            partial, kind, save_all=True, append_images=pictures[1:], duration=duration, loop=0
        ),
    )
    return len(pictures)
