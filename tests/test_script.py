"""The prompt script: what it means, and that every error points at its character."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout.backend import Spec
from rollout.errors import ScriptError
from rollout.run.record import subtitles
from rollout.script import BIDI, Script, Shot, planned
from rollout.timeline import blocks_of

WAN = Spec("wan", 30, 12, 128, (16, 60, 104), (30, 52), (22, 21, 21))
SPRITES = Spec("sprites", 6, 4, 48, (64, 4, 4), (4, 4), (8, 8, 8), stride=1, fps=8.0)


def test_the_whole_grammar() -> None:
    script = Script.parse(" walks  slowly [5s] | jumps[2.5s#]|stands[#] | rests ; hello | | bye ")
    assert script.shots == (
        Shot("walks slowly", 5.0, False, "hello"),
        Shot("jumps", 2.5, True, ""),
        Shot("stands", None, True, "bye"),
        Shot("rests", None, False, ""),
    )


def test_a_hash_counts_only_inside_brackets() -> None:
    assert Script.parse("player #9 runs[3s]").shots == (Shot("player #9 runs", 3.0),)


def test_a_cut_belongs_to_its_own_segment() -> None:
    blocks = list(blocks_of(Script.parse("a[1.5s] | b[1.5s#]"), WAN))
    assert [(b.prompt, b.switch, b.cut) for b in blocks] == [(0, False, False)] * 2 + [
        (1, True, True),
        (1, False, False),
    ]


def test_a_cut_without_a_new_prompt_is_no_switch() -> None:
    blocks = list(blocks_of(Script.parse("a[0.75s] | a[0.75s#]"), WAN))
    assert (blocks[1].switch, blocks[1].cut) == (False, True)


def test_block_0_is_never_cut() -> None:
    assert not any(b.cut for b in blocks_of(Script.parse("a[3s#]"), WAN))


@pytest.mark.parametrize(
    ("seconds", "blocks"),
    [(5, 7), (4.5, 6), (4.875, 7), (4.87, 6), (0.01, 1), (None, 14), (240, 320)],
)
def test_durations_go_to_the_nearest_block_half_up(seconds: float | None, blocks: int) -> None:
    assert Shot("a", seconds).blocks(WAN) == blocks


def test_durations_on_another_clock() -> None:
    assert Shot("a", 5).blocks(SPRITES) == 13
    assert Shot("a").blocks(SPRITES) == 28


def test_subtitles_sit_on_true_frames() -> None:
    script = Script.parse("a[5s] | b[5s] ; one | two")
    lines = subtitles(script, WAN)
    # 7 blocks are 21 latent frames, 4 * 21 - 3 = 81 pixel frames at 16 a second
    assert [(s.begin, s.end) for s in lines] == [(0.0, 81 / 16), (81 / 16, 165 / 16)]
    assert planned(script, WAN)[0].asked_seconds == 5.0


def test_the_text_form_is_read_back() -> None:
    for text in ("a", "a[5s]", "a[#] | b", "a[0.375s] | b[2.25s#] | c[#] ; one || three", "a[0.0625s]"):
        script = Script.parse(text)
        assert Script.parse(str(script)) == script
    cut = Script.parse("a[5s#] | b", goes_on=True)
    assert cut.shots[0].cut
    assert not Script.parse("a[5s#] | b").shots[0].cut


def test_escapes_make_characters_of_the_grammar_plain() -> None:
    script = Script.parse(r"a \[wide\] street\; rain \| fog[5s] | c:\\dir\new \ ; one\; two | 1 \| 2 \[5s\]")
    assert script.shots == (
        Shot("a [wide] street; rain | fog", 5.0, False, "one; two"),
        Shot("c:\\dir\\new \\", None, False, "1 | 2 [5s]"),
    )
    assert str(script) == (r"a \[wide\] street\; rain \| fog[5s] | c:\\dir\\new \\ ; one\; two | 1 \| 2 \[5s\]")


def test_white_space_of_any_system_is_one_space() -> None:
    script = Script.parse("a red\tcircle[1s] |\r\nit\x0bjumps\x85now[1s]\r\n;\r\none\r\n|two\r\n")
    assert script.shots == (Shot("a red circle", 1.0, False, "one"), Shot("it jumps now", 1.0, False, "two"))
    assert "\r" not in str(script)


VISIBLE = st.text(
    st.characters(exclude_categories=("Cc", "Cs"), exclude_characters=BIDI) | st.sampled_from(";|[]\\#\r\n\t ")
)
SHOTS = st.builds(
    Shot,
    VISIBLE.filter(str.strip),
    st.none() | st.floats(0, 1e7, exclude_min=True),
    st.booleans(),
    VISIBLE,
)


@given(st.lists(SHOTS, min_size=1, max_size=4))
def test_the_text_of_a_script_says_the_script(shots: list[Shot]) -> None:
    """Whatever its prompts and subtitles say, and however long its shots are."""
    script = Script(tuple(shots))
    assert Script.parse(str(script), goes_on=True) == script


def test_a_shot_by_hand_is_checked_as_a_parsed_one() -> None:
    assert Shot("  a\r\n b ", subtitle=" c\td").prompt == "a b"
    for prompt, subtitle in ((" ", ""), ("a\x00", ""), ("a", "b\u202e")):
        with pytest.raises(ScriptError):
            Shot(prompt, subtitle=subtitle)


def test_a_prefix_belongs_to_the_first_shot() -> None:
    blocks = list(blocks_of(Script.parse("a[0.75s]|b[0.75s]"), WAN, first=2))
    assert [b.prompt for b in blocks] == [0, 0, 0, 1]


@pytest.mark.parametrize(
    ("text", "position", "says"),
    [
        ("", 0, "empty"),
        ("  ", 0, "empty"),
        ("; hello", 0, "empty"),
        ("a[5s] | ", 7, "no prompt"),
        ("a[5s]|[3s]", 6, "no prompt"),
        ("a[5s", 1, "never closed"),
        ("a 5s]", 4, r"without its '\['"),
        ("a[5s] b", 6, "follows the duration"),
        ("a[5s][3s]", 5, "follows the duration"),
        ("a[five s]", 2, "no number"),
        ("a[5]", 2, "no duration"),
        ("a[]", 2, "no duration"),
        ("a[s]", 2, "no duration"),
        ("a[-5s]", 2, "no number"),
        ("a[nans]", 2, "no number"),
        ("a[1e9s]", 2, "no number"),
        ("a[0s]", 2, "more than 0"),
        ("a[99999999s]", 2, "longer than"),
        ("a[5s] ; one | two", 13, "2 subtitles for 1"),
        ("a ; b ; c", 6, "one ';'"),
        ("a ; b ; c", 6, r"Write '\\;'"),
        ("a neon street; true colours at night.[5s]", 13, r"\[5s\] stands after ';'.* Write '\\;'"),
        ("a[5s] | a street; true colours [ 2.5 s# ]", 16, "stands after ';'"),
        ("a; b[5]", 1, "stands after ';'"),
        ("a; b[#]", 1, "stands after ';'"),
        (r"a\; b; c[.5 seconds]", 5, "stands after ';'"),
        (r"a\[5s]", 5, "without its"),
        (r"a[5s\]", 1, "never closed"),
        (r"a[5s] \;", 6, "follows the duration"),
        (r"a[\;s]", 2, "no number"),
        ("a\x00b", 1, "control character"),
        ("a\u202eb", 1, "control character"),
    ],
)
def test_errors_point_at_the_character(text: str, position: int, says: str) -> None:
    with pytest.raises(ScriptError, match=says) as caught:
        Script.parse(text)
    assert caught.value.position == position
    assert "\n" not in str(caught.value)


def test_too_long() -> None:
    with pytest.raises(ScriptError, match="1000000 characters"):
        Script.parse("a" * 1_000_000)
    with pytest.raises(ScriptError, match="blocks"):
        Script.parse("|".join(["a[9999999s]"] * 20)).count(WAN)


def test_any_writing_is_allowed() -> None:
    text = "رجل يمشي 👩‍🚀 歩く[1s]"
    assert Script.parse(text).prompts == ("رجل يمشي 👩‍🚀 歩く",)


@given(st.text(alphabet="ab[]#|;\\s5. \r\n\x00é", max_size=40))
def test_any_text_is_a_script_or_a_script_error(text: str) -> None:
    try:
        script = Script.parse(text)
    except ScriptError as error:
        at = error.position
    else:
        at = None
        assert Script.parse(str(script)) == script
        blocks = list(blocks_of(script, WAN))
        assert len(blocks) == script.count(WAN)
        assert [b.start for b in blocks] == [3 * i for i in range(len(blocks))]
    assert at is None or 0 <= at <= len(text)


def test_a_block_knows_the_last_cut_before_it() -> None:
    blocks = list(blocks_of(Script.parse("a[1.5s] | b[1.5s#] | c[1.5s] | d[0.75s#]"), WAN, first=1))
    assert [b.scene for b in blocks] == [0, 0, 0, 3, 3, 3, 3, 7]
