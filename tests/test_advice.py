"""What `rollout explain` warns of, and the coherence of the distances in use."""

import re

import pytest
from typer.testing import CliRunner

from rollout import explain
from rollout.backends.sprites import spec
from rollout.cli import app
from rollout.registry import registered
from rollout.rope import coherence
from rollout.show.explain.coherence import nearness
from rollout.strategies.presets import PRESETS
from rollout.strategies.reads import All
from rollout.strategy import Strategy
from tests.test_explain import SHOW

SPEC = spec()
TWO, CUT = "a[5s] | b[3s]", "a[5s] | b[3s#]"
LOSSES = {
    "relativistic:head=6 fifo:window=12+keep": (TWO, "share an index: in block 3 7 of them, 0–6, at index 0"),
    "relativistic archive+keep": (TWO, "15 of them, 17–3 as 18–32, at index 0"),
    "online archive+keep": (
        TWO,
        "policy 'archive' dates 17–15 as 18–20 in block 8 (3s), and positions 'online' do not",
    ),
    "relativistic sink+recache:sink=rebuild": (
        TWO,
        "the prompt change in block 13 (4.875s) replaces the sinks 0 by 33",
    ),
    "online ema+flush": (TWO, "the prompt change in block 13 (4.875s) drops the memory: what it averaged is gone"),
    "absolute sink+keep": (
        CUT,
        "the cut in block 13 (4.875s) moves no index under positions 'absolute': it is a flush alone",
    ),
    "relativistic:head=21,cut=20/1 sink:window=12,sink=3+flush": (CUT, "moves no index under positions 'relativistic'"),
    "online sink+keep spectrum=ntk:factor=1.0": (
        TWO,
        "spectrum 'ntk' changes nothing: at the distances in use, 5 frames",
    ),
    "online sink+keep spectrum=jitter:scale=0.0": (TWO, "spectrum 'jitter' changes nothing"),
    "online sink+keep spectrum=riflex": (TWO, "beyond the 21 trained frames, and the farthest here is 5"),
    "relativistic fifo:window=9+keep reads=newest:frames=9": (TWO, "reads 'newest' change nothing in these 21 blocks"),
    "online ema+keep": ("a[1.5s]", "no frame leaves the cache: 4 blocks do not fill a window of 12"),
}
"""Compositions that lose what their words promise over a script, and what is said of it."""


@pytest.mark.parametrize("text", LOSSES)
def test_what_a_composition_loses_is_said_once(text: str) -> None:
    script, says = LOSSES[text]
    warnings = explain(text, script).warnings
    assert sum(says in warning for warning in warnings) == 1, warnings
    assert all(warning.endswith((".", "times)")) and "\n" not in warning and len(warning) < 300 for warning in warnings)


SOUND = {
    **dict.fromkeys(PRESETS, TWO),
    "infinity-rope": CUT,
    "infinity-rope-released": CUT,
    "causvid": CUT,
    "absolute deep:dates=own+keep": TWO,
    "absolute sink+keep spectrum=riflex": "a[9s]",
    "online sink+keep spectrum=jitter": TWO,
    "online ema+keep reads=commit": TWO,
    "online ema+recache": TWO,
}
"""What does as it says."""


@pytest.mark.parametrize("text", SOUND)
def test_nothing_is_said_of_what_does_as_its_words_say(text: str) -> None:
    assert explain(text, SOUND[text]).warnings == ()


def test_a_memory_or_sinks_that_no_pass_reads_are_said() -> None:
    class Recent(All):
        """Reads that leave out what is pinned."""

        kind = "recent"

        def which(self, slots, block, call):  # type: ignore[no-untyped-def]
            return tuple(i for i, slot in enumerate(slots) if slot.role.value == "recent")

    with registered("reads", "recent", Recent):
        warnings = explain(Strategy.from_text("online ema+keep reads=recent"), TWO).warnings
    assert "the memory of policy 'ema' is stored, and no noisy pass reads it." in warnings
    assert "the sinks of policy 'ema' are stored, and no noisy pass reads them." in warnings


@pytest.mark.parametrize("distance", [0, 1, 20, 57, 63, 500])
def test_nearness_is_coherence_without_torch(distance: int) -> None:
    assert nearness(distance, SPEC) == pytest.approx(float(coherence([distance], SPEC.axes[0], SPEC.theta)), abs=1e-9)


def test_a_spectrum_counts_in_the_coherence() -> None:
    rows = Strategy.from_text("online sink+keep spectrum=interpolate").spectrum.multipliers(SPEC)
    assert nearness(20, SPEC, rows) == pytest.approx(nearness(10, SPEC))
    heads = Strategy.from_text("online sink+keep spectrum=jitter").spectrum.multipliers(SPEC)
    assert nearness(63, SPEC, heads) == pytest.approx(sum(nearness(63, SPEC, [row]) for row in heads) / len(heads))
    args = ["explain", "a[9s]", "--pos", "absolute", "--cache", "sink", "--coherence"]
    plain, jitter = (CliRunner().invoke(app, [*args, *more]).output for more in ([], ["--spectrum", "jitter"]))
    assert re.search(r"^63 +7\.88 +63 +0\.81 ", plain, re.M)
    assert not re.search(r"^63 +7\.88 +63 +0\.81 ", jitter, re.M)


def test_the_command_prints_the_coherence_in_use_and_warns() -> None:
    def lines(*args: str) -> list[str]:
        return CliRunner().invoke(app, ["explain", *args], env={"COLUMNS": "160"}).output.splitlines()

    drifting = lines("a[9s]", "--pos", "absolute", "--cache", "sink")[-1]
    assert drifting.startswith("coherence, how near a key looks (1: as if in place): sink 3-71 back ")
    assert drifting.endswith("; beyond training most at 63 back, 0.81: --coherence says when")
    both = lines(SHOW, "--preset", "infinity-rope", "--against", "longlive")[-3:]
    assert [line.split(" ")[0] for line in both] == ["A:", "B:", "B:"]
    assert both[-1].startswith("B: warning: the cut in block 22")
    assert not any("coherence" in line for line in lines("a[0.375s]"))  # nothing is cached yet
