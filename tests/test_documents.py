"""JSON that others may have written, and files that grow by a line of it: cut off, linked, too large, too deep."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rollout.benchmarks.search import Search
from rollout.benchmarks.store import Store
from rollout.benchmarks.suites.reader import load_suite
from rollout.cli import main
from rollout.documents import DEEPEST, append_line, parse_json, read_bytes, read_json, read_lines
from rollout.errors import OutputError
from tests.finished_run import write_run

ROWS = [{"event": "run", "cells": 3}, {"event": "done", "why": "ü" * 9}, {"event": "failed", "why": "x\ny"}]


def written(path: Path) -> Path:
    path.write_bytes(b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in ROWS))
    return path


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    return written(tmp_path / "log.jsonl")


def test_a_last_line_that_was_cut_off_costs_itself_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Wherever it was cut: what is read before and after the next line is whole."""
    data, last = written(tmp_path / "whole").read_bytes(), {"event": "done"}
    length = len(json.dumps(ROWS[-1])) + 1
    for cut in range(length + 1):
        path = tmp_path / f"{cut}.jsonl"
        path.write_bytes(data[: len(data) - cut])
        whole = ROWS if cut < 2 else ROWS[:2]  # without its end alone it is all there
        caplog.clear()
        assert read_lines(path, dict) == whole
        said = [] if cut < 2 or cut == length else [f"{path}: its last line is cut off, and is left out"]
        assert caplog.messages == said
        append_line(path, last)
        assert caplog.messages == said + [line.replace("left out", "removed") for line in said]
        assert read_lines(path, dict) == [*whole, last]
        assert path.read_bytes().endswith(b'}\n{"event": "done"}\n')


def test_a_line_cut_off_in_the_first_write(tmp_path: Path) -> None:
    (tmp_path / "log").write_text('{"eve')
    assert read_lines(tmp_path / "log", dict) == []
    append_line(tmp_path / "log", {"a": "\udcff"})
    assert read_lines(tmp_path / "log", dict) == [{"a": "?"}]
    assert read_lines(tmp_path / "missing", dict) == []


@pytest.mark.parametrize("bad", ["{", '{"event": "done"}{"event": "done"}', "[" * 9000, "\0" * 20])
def test_a_bad_line_in_the_middle_is_named(lines: Path, bad: str) -> None:
    first, *rest = lines.read_text().splitlines()
    lines.write_text("\n".join([first, bad, *rest, ""]))
    with pytest.raises(OutputError, match=r"log\.jsonl:2: .*\. Remove the line") as caught:
        read_lines(lines, dict)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_a_line_is_not_added_through_a_link(lines: Path, tmp_path: Path, link: Callable[[Path, Path], None]) -> None:
    before = lines.read_bytes()
    link(lines, tmp_path / "linked")
    if link is os.symlink:
        with pytest.raises(OutputError, match="linked is a link, and nothing is written through one"):
            append_line(tmp_path / "linked", {"event": "done"})
    else:
        append_line(tmp_path / "linked", {"event": "done"})
        assert read_lines(tmp_path / "linked", dict) == [*ROWS, {"event": "done"}]
    assert lines.read_bytes() == before
    (tmp_path / "dangling").symlink_to("nowhere")
    with pytest.raises(OutputError, match="is a link"):
        append_line(tmp_path / "dangling", {})
    assert not (tmp_path / "nowhere").exists()


def test_a_full_disk_leaves_no_half_of_a_line(lines: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, write = lines.read_bytes(), os.write
    monkeypatch.setattr(os, "write", lambda handle, data: write(handle, data[:7]))
    with pytest.raises(OutputError, match=r"log\.jsonl cannot be written: No space left on device"):
        append_line(lines, {"event": "done"})
    assert lines.read_bytes() == before


def test_what_is_read_is_a_file_of_bounded_size_and_depth(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for name in ("pipe", "zero"):
        with pytest.raises(ValueError, match="it is no file"):
            read_bytes(tmp_path / name)
    with pytest.raises(IsADirectoryError):
        read_json(tmp_path, dict)
    (tmp_path / "large").write_bytes(bytes(101))
    assert len(read_bytes(tmp_path / "large", 101)) == 101
    with pytest.raises(ValueError, match="it has more than 100 bytes"):
        read_bytes(tmp_path / "large", 100)
    (tmp_path / "mark").write_bytes('\ufeff{"a": 1}'.encode())
    assert read_json(tmp_path / "mark", dict[str, int]) == {"a": 1}


@pytest.mark.parametrize("pair", [("[", "]"), ('{"a":', "}"), ('[{"a":', "}]")])
def test_how_deep_json_may_nest(pair: tuple[str, str]) -> None:
    def nested(levels: int) -> str:
        times = levels * 2 // len("".join(pair).replace('"a":', ""))
        return pair[0] * times + "1" + pair[1] * times

    parse_json(nested(DEEPEST))
    for levels in (DEEPEST + 2, 10**3, 10**6):
        with pytest.raises(ValueError, match=f"it nests more than {DEEPEST} levels deep"):
            parse_json(nested(levels))


@pytest.fixture
def bench(tmp_path: Path) -> Path:
    scores = {name: {"error": np.arange(12.0).reshape(6, 2)} for name in ("sink", "fifo")}
    return write_run(tmp_path / "bench", scores)


def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *args: str) -> tuple[Any, str]:
    """The exit code, and what was said on stderr."""
    monkeypatch.setattr(sys, "argv", ["rollout", *args])
    with pytest.raises(SystemExit) as caught:
        main()
    return caught.value.code, capsys.readouterr().err


def test_a_log_of_attempts_that_was_cut_off(
    bench: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = bench / "attempts.jsonl"
    path.write_bytes(path.read_bytes()[:-30])
    results = ("bench", "results", str(bench), "--to", str(tmp_path / "results.md"))
    assert command(capsys, monkeypatch, *results) == (
        0,
        f"rollout: {path}: its last line is cut off, and is left out\n",
    )
    store = Store(bench)
    before = store.attempts()
    store.log(event="run")
    assert [record.event for record in store.attempts()] == [*(record.event for record in before), "run"]
    path.write_text("{}\n" + path.read_text())
    code, said = command(capsys, monkeypatch, *results)
    assert (code, said.count("\n")) == (2, 1)
    assert said.startswith(f"rollout: {path}:1: Object missing required field `event`")


def test_a_cell_whose_scores_were_cut_off_is_scored_again(bench: Path) -> None:
    store = Store(bench)
    address = min(path.name for path in store.cells.iterdir())
    scores = store.folder(address) / "metrics.jsonl"
    assert store.lacking(address, {"error": ""}) == []
    scores.write_bytes(scores.read_bytes()[:-4])
    assert store.lacking(address, {"error": ""}) == ["error"]


def test_the_journal_of_a_search_goes_on_after_a_cut(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    suite = load_suite("obey-and-remember")

    def search() -> Search:
        return Search(suite, ("obey",), tmp_path, None)  # type: ignore[arg-type]

    study = search().study
    for value in (1.0, 2.0):
        study.tell(study.ask(), value)
    journal = tmp_path / "search.log"
    whole = journal.read_bytes()
    journal.write_bytes(whole[:-30])
    study = search().study
    study.tell(study.ask(), 3.0)
    assert [trial.value for trial in search().study.trials if trial.value] == [1.0, 3.0]
    journal.write_bytes(whole.replace(b"\n", b"\nno JSON\n", 1))
    with pytest.raises(OutputError, match=r"search\.log:2: .*Remove the line"):
        _ = search().study
    journal.unlink()
    (tmp_path / "outside").write_bytes(whole)
    journal.symlink_to("outside")
    with pytest.raises(OutputError, match="is a link"):
        _ = search().study
