"""Which name may have been meant: a hint where a word is near, and none where it is not."""

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout.benchmarks.metrics import METRICS
from rollout.cli import main
from rollout.text import hint


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("seam_motoin", "seam_motion"),
        ("seam-motion", "seam_motion"),
        ("nes@landmark", "new@landmark"),
        ("kv_mb", "kv_mib"),
        ("Flicker", "flicker"),
        ("dynamics@difference", "dynamic@difference"),
    ],
)
def test_a_slip_is_met_with_the_name_that_was_meant(word: str, meant: str) -> None:
    assert hint(word, METRICS) == f"Did you mean {meant!r}? "


@pytest.mark.parametrize(
    "word",
    [
        "dynamic_degree",
        "subject_consistency",
        "imaging_quality",
        "clip",
        "motion",
        "all@landmark",
        "consistency@pool9",
        "drift@dino",
        "",
    ],
)
def test_another_metric_is_no_hint(word: str) -> None:
    """VBench's names, properties and extractors that are none here: a metric that reads alike measures something else."""
    assert hint(word, METRICS) == ""


@given(st.sampled_from(sorted(name for name in METRICS if len(name) > 6)), st.data())
def test_two_letters_swapped_are_a_slip(name: str, data: st.DataObject) -> None:
    at = data.draw(st.integers(1, len(name) - 2).filter(lambda n: name[n : n + 2].isalpha()))
    slip = name[:at] + name[at + 1] + name[at] + name[at + 2 :]
    if slip not in METRICS:
        assert hint(slip, METRICS) == f"Did you mean {name!r}? "


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["exlain"], "No such command 'exlain'. Did you mean 'explain'? See --help."),
        (["gen", "--presets", "x"], "No such option: --presets. Did you mean '--preset'? See --help."),
        (["gen", "--foo", "1"], "No such option: --foo. See --help."),
        (["gen", "--preset"], "Option '--preset' requires an argument. See --help."),
        (["gen", "a purple circle"], "the sprite world does not know the word 'purple'. A prompt is"),
        (["gen", "a red cirle"], "does not know the word 'cirle'; the closest it knows is 'circle'. A prompt is"),
    ],
)
def test_a_command_line_is_met_with_a_hint_where_one_is_near(
    args: list[str], says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["rollout", *args])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("rollout: ")
    assert says in said
