"""rollout gen --prompts: a run a line of a file, into numbered folders, as a whole that goes on with the same command."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from rollout.cli.gen import roll
from rollout.errors import RolloutError, Stopped
from rollout.text import Json

if TYPE_CHECKING:
    from rollout.backend import Backend
    from rollout.prompts import Line
    from rollout.run.recipe import Recipe
    from rollout.run.standing import Request

__all__ = ["default_folder", "roll_lines"]


def default_folder(prompts: Path) -> Path:
    """Where the runs of a file go: out/NAME, which a shell takes without quotes."""
    name = "".join(letter if letter.isalnum() or letter in "_-." else "-" for letter in prompts.stem).strip("-.")
    return Path("out") / (name or "prompts")


def roll_lines(
    lines: "Sequence[Line]",
    backend: "Backend",
    recipe_of: "Callable[[str], Recipe]",
    out: Path,
    wanted: Json,
    *,
    force: bool,
) -> None:
    """Check all lines, then roll out those that are not there. `wanted`: latents, every and pictures, as a job has them.

    Raises OutputError for a folder with another run, and errors of lines that name file and line.
    """
    from rollout.files import alone, inner_folder, new_folder
    from rollout.ranks import leads
    from rollout.run.standing import Request, Standing

    digits = max(3, len(str(len(lines))))
    requests = []
    for number, line in enumerate(lines, 1):
        recipe = recipe_of(line.text(backend.spec))
        requests.append(Request(backend, recipe, out / f"{number:0{digits}d}", **wanted))
    standings = [request.standing(force=force) for request in requests]
    waiting = [standing is not Standing.FINISHED for standing in standings]
    for line, request, waits in zip(lines, requests, waiting, strict=True):
        if waits:
            _check(line, request)
    first = leads(backend.ranks)  # of several processes the others write nothing
    if first:
        new_folder(out, force=True)
    count, finished = len(requests), waiting.count(False)
    begun = standings.count(Standing.BEGUN)
    runs = f"{count} run{'s' * (count > 1)}"
    print(f"{lines[0].path}: {runs} into {out}; {finished} finished before, {begun} to go on with", flush=True)
    with alone(out) if first else nullcontext():
        for number, request in enumerate(requests, 1):
            if first:
                inner_folder(request.folder)
            with alone(request.folder) if first else nullcontext():
                _roll(request, number, count, force)


def _check(line: "Line", request: "Request") -> None:
    """Refuse what the model or the strategy cannot do before anything is rolled out; encoded prompts are at hand then."""
    from rollout.script import Script

    script, spec, strategy = Script.parse(request.recipe.text), request.backend.spec, request.recipe.strategy
    try:
        strategy.check(spec, script.count(spec) * spec.block)
        strategy.order.check_plan(len(request.recipe.schedule.steps), script.count(spec))
        for prompt in script.prompts:
            request.backend.encode(prompt)
    except RolloutError as error:
        raise line.refusal(error) from error


def _roll(request: "Request", number: int, count: int, force: bool) -> None:
    """One run, in a folder that nobody else writes to by now; its cache is gone when the next one is made."""
    from rollout.ranks import leads
    from rollout.run.moving import moving_picture
    from rollout.run.standing import Standing

    ranks, place = request.backend.ranks, f"{number} of {count}: {request.folder}"
    # another process may have gone on with it since all runs were looked at
    standing = request.standing(force=force) if leads(ranks) else Standing.FREE
    if ranks is not None:
        standing = Standing(ranks.share(standing.value))
    if standing is Standing.FINISHED:
        print(f"{place} is finished")
        for path in (request.folder / f"video.{kind}" for kind in request.pictures):
            if leads(ranks) and not path.is_file():  # asked for only now, or stopped before
                print(f"{path}: {moving_picture(request.folder / 'video.mp4', path)} pictures")
        return
    print(f"{place}{', from its last snapshot' * (standing is Standing.BEGUN)}", flush=True)
    try:
        roll(request.job())
    except Stopped as error:
        stop = Stopped(f"stopped in run {number} of {count}. The same command goes on from there.")
        stop.code = error.code
        raise stop from error
