"""rollout live: strategies side by side in real time, on a local page."""

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rollout.cli.composition import Composition, Presets, Strategies, named, own_terms
from rollout.cli.model import Choice, chooses_model
from rollout.cli.options import (
    ContextNoise,
    Plugin,
    Shift,
    Steps,
    load_plugins,
)
from rollout.sampler import MOST_SEED
from rollout.strategy import Strategy

if TYPE_CHECKING:
    from rollout.show.live.session import Session

__all__ = ["PANES", "PROMPT", "live"]

PANES = ("infinity-rope", "longlive", "self-forcing")
PROMPT = "a red circle walks right on navy"


@chooses_model()
def live(
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="What all panes begin with.")] = PROMPT,
    preset: Presets = None,
    strategy: Strategies = None,
    seed: Annotated[int, typer.Option(min=0, max=MOST_SEED, help="Seed of the noise, the same in all panes.")] = 0,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Save all panes here at Ctrl-C; the page saves here too, or in out."),
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of 127.0.0.1; 0 is any that is free.")] = 8765,
    open_: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in a browser.")] = True,
    steps: Steps = None,
    shift: Shift = None,
    context_noise: ContextNoise = 0.0,
    *,
    choice: Choice,
    plugin: Plugin = None,
) -> None:
    """Type prompts and see which strategy obeys first.

    On a local page with a pane for each of one to four strategies, and buttons for a cut, a flush, a recache and a fork.
    """
    load_plugins(plugin)
    texts = [text for _, text in named(preset, strategy)]
    strategies = [Strategy.of(text) for text in texts or PANES]
    for note in own_terms(texts):
        print(note)
    try:
        from rollout.show.live.server import listen
    except ModuleNotFoundError as missing:
        from rollout.errors import RolloutError

        raise RolloutError(f"rollout live needs {missing.name}. Run: pip install 'rollout-video[live]'") from missing
    from rollout.run.recipe import Recipe
    from rollout.show.live.session import Session

    with listen(port) as socket:
        model = choice.load()
        schedule = Composition().schedule(steps, shift, context_noise, model.schedule)
        recipe = Recipe(strategies[0], prompt, seed, schedule, None, model.spec.name, choice.device, choice.recorded)
        _serve(Session(model, recipe, strategies, out or Path("out")), socket, open_, save=out is not None)


def _serve(session: "Session", socket: Any, browser: bool, *, save: bool) -> None:
    """Serve until Ctrl-C or SIGTERM, then save what was asked for."""
    import webbrowser
    from threading import Thread

    from rollout.show.live.server import ADDRESS, server

    port = socket.getsockname()[1]
    address = f"http://{ADDRESS}:{port}/"
    place, before = None, signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        session.start()
        print(f"{len(session.panes)} panes on {address} ; Ctrl-C ends", flush=True)
        if browser:
            Thread(target=webbrowser.open, args=(address,), daemon=True).start()
        server(session, port).run(sockets=[socket])
    except KeyboardInterrupt:
        pass  # how it is meant to end
    finally:
        signal.signal(signal.SIGTERM, before)
        print("stopping after this block", file=sys.stderr, flush=True)
        place = session.close(save=save)
    print(f"saved in {place}" if place else "nothing was saved on the way out; --out DIR does that")
