"""The notebook's cells run in order, as a notebook runs them, and show what its text says."""

import ast
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

NOTEBOOK = json.loads((Path(__file__).parent.parent / "docs" / "first.ipynb").read_text())
SHORTER = {"night[3s]": "night[0.75s]"}
"""A night of two blocks is long enough for a window of six frames to forget."""


def show(source: str, names: dict[str, Any]) -> object:
    """Run a cell; the value of its last line, where that is an expression."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), names)  # the project's own text
    return None if last is None else eval(compile(ast.Expression(last.value), "cell", "eval"), names)


def test_its_cells_generate_explain_compare_and_decide(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    pictures = []
    for cell in NOTEBOOK["cells"]:
        if cell["cell_type"] == "code":
            source = "".join(cell["source"])
            for long, short in SHORTER.items():
                source = source.replace(long, short)
            value = show(source, names)
            pictures += [] if value is None else [value._repr_png_()]
    assert len(pictures) == 3
    assert all(picture.startswith(b"\x89PNG") for picture in pictures)
    assert len(names["frames"]) == 30
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "relativistic fifo:window=6+flush"
    assert np.mean(names["kept"]) > np.mean(names["lost"])
    assert lines[-1].startswith("better: +")


def test_it_is_plain_json_without_outputs() -> None:
    assert (NOTEBOOK["nbformat"], len({cell["id"] for cell in NOTEBOOK["cells"]})) == (4, len(NOTEBOOK["cells"]))
    for cell in NOTEBOOK["cells"]:
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None)
    text = "".join("".join(cell["source"]) for cell in NOTEBOOK["cells"])
    assert all(long in text for long in SHORTER)
