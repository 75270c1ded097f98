"""Small things that many places need: which name may have been meant."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout.benchmarks.metrics import METRICS
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
