"""Frame-level attention maps against a map computed by hand, their rules, their picture and their command."""

import json
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from typer.testing import CliRunner, Result

from rollout import Strategy, generate, load_backend, preset
from rollout.backends.sprites.weights import Sprites
from rollout.backends.wan.random import random_wan
from rollout.cli import app
from rollout.errors import OutputError, RolloutError
from rollout.loop import Rollout
from rollout.rope import rotate, table
from rollout.run.prefix import true_latents
from rollout.show.attention import ROLES, AttentionMap, FrameMap, frame_shares, middle
from rollout.show.attention.picture import draw
from rollout.slots import Role, View
from rollout.strategies.presets import PRESETS
from rollout.testing import OracleCache
from tests.conftest import STATES, micro_backend, seldom

ROOT = Path(__file__).parent.parent
DOCS = (ROOT / "docs" / "attention.md").read_text()
A, B = "a red circle jumps", "a blue square spins on olive"
SCRIPT = f"{A}[3s] | {B}[1.5s] | {A}[1.5s#]"
"""Frames 24 (a prompt) and 36 (a cut), of 48: past the longest preset's window."""
LIVE = [
    "relativistic sink:window=12,sink=2+recache:attention=causal,sink=rebuild",
    "online ema:window=9,sink=1,rates=0.3",
]


class Seeing(OracleCache):
    """The oracle cache, holding every weight of every noisy pass: (heads, block tokens, all tokens), slots in order."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.passes: dict[tuple[int, int], list[Tensor]] = {}
        """By number of the reader and layer."""
        self.readers = 0

    def reader(self, placement: View) -> Any:
        self.readers += 1
        plain, number = super().reader(placement), self.readers

        def turned(x: Tensor, frames: Sequence[int]) -> Tensor:
            return rotate(x, table(frames, self.spec.grid, self.spec.axes, theta=self.spec.theta, dtype=self.dtype))

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            raw = torch.cat([*(self.raw(n, layer)[0] for n in range(len(placement.slots))), k], 1)
            keys = turned(raw, [*placement.slots, *placement.block])
            scores = torch.einsum("ihd,jhd->hij", turned(q, placement.block)[0], keys[0]) / q.shape[-1] ** 0.5
            self.passes.setdefault((number, layer), []).append(scores.softmax(-1))
            return plain(layer, q, k, v)

        return attend


def by_hand(run: Rollout, *where: tuple[int, int]) -> list[tuple[np.ndarray, np.ndarray]]:
    """M and the memory's columns at each (layer, step), token by token."""
    cache = run.engine.cache = Seeing(run.backend.spec, run.strategy.policy.window, dtype=run.backend.dtype)  # type: ignore[assignment]
    results = list(run)
    return [summed(run, results, cache, layer, step) for layer, step in where]


def summed(run: Rollout, results: list[Any], cache: Seeing, layer: int, step: int) -> tuple[np.ndarray, np.ndarray]:
    n, frames = run.backend.spec.tokens, results[-1].block.end
    M, memory = np.zeros((frames, frames)), np.zeros((frames, 2))
    for number, result in enumerate(results[run.first :], start=run.first + 1):
        weights = cache.passes[number, layer][step].numpy()
        own = range(result.block.start, result.block.end)
        columns = [*((s.role, s.frame) for s in result.slots), *((Role.RECENT, f) for f in own)]
        shares = weights.reshape(len(weights), len(own), n, len(columns), n).sum((0, 2, 4)) / (n * len(weights))
        stream = 0
        for (role, s), share in zip(columns, shares.T, strict=True):
            if role is Role.MEMORY:
                memory[own, stream] = share
                stream += 1
            else:
                M[own, s] += share
    return M, memory


def watched(run: Rollout, **at: int) -> FrameMap:
    found = AttentionMap(run, **at)
    list(found)
    return found.map()


def strategies() -> list[str]:
    """Those whose passes read all that is cached, at the model's own frequencies, as the map by hand does."""
    apart = ("archive", "deep", "dummy")
    plain = [name for name, p in PRESETS.items() if not p.strategy.refinements and p.strategy.policy.kind not in apart]
    return [*plain, *LIVE]


def strategy_of(name: str) -> Strategy:
    return preset(name) if name in PRESETS else Strategy.from_text(name)


@pytest.mark.parametrize("name", seldom(strategies(), (*STATES, *LIVE, "reward-forcing")))
def test_it_equals_the_map_by_hand(micro: Sprites, name: str) -> None:
    strategy = strategy_of(name)
    where = (0, 3), (1, 0)
    for (layer, step), (M, memory) in zip(where, by_hand(generate(micro, strategy, SCRIPT), *where), strict=True):
        found = watched(generate(micro, strategy, SCRIPT), layer=layer, step=step)
        np.testing.assert_allclose(found.M, M, rtol=0, atol=1e-6)
        np.testing.assert_allclose(found.memory, memory[:, : found.memory.shape[1]], rtol=0, atol=1e-6)
        assert not memory[:, found.memory.shape[1] :].any()
        assert np.ptp(found.M[found.roles > 0]) > 0.05, "random weights that all look alike would prove nothing"


@pytest.mark.parametrize("name", strategies())
def test_rows_sum_to_one_and_are_zero_where_nothing_was_cached(micro: Sprites, name: str) -> None:
    run = generate(micro, strategy_of(name), SCRIPT)
    seen = AttentionMap(run)
    results = list(seen)
    found = seen.map()
    assert found.M.dtype == np.float32
    assert found.M.shape == (48, 48)
    np.testing.assert_allclose(found.M.sum(1) + found.memory.sum(1), 1, rtol=0, atol=1e-5)
    for result in results:
        held = {s.frame: s.role.value for s in result.slots if s.role is not Role.MEMORY}
        held |= dict.fromkeys(range(result.block.start, result.block.end), "block")
        for t in range(result.block.start, result.block.end):
            assert {s: ROLES[n] for s, n in enumerate(found.roles[t]) if n} == held
    assert not found.M[found.roles == 0].any()
    assert (found.M[found.roles > 0] > 0).all()
    assert [(c.frame, c.kind) for c in found.changes] == [(24, "prompt"), (36, "cut")]
    assert found.changes[1].cache == "flush"
    assert found.changes[0].cache == strategy_of(name).switch.kind
    assert [c.prompt for c in found.changes] == [B, A]
    assert found.seconds[[0, 8]].tolist() == [micro.spec.seconds(0), micro.spec.seconds(8)]


def test_the_memorys_columns_are_its_streams(micro: Sprites) -> None:
    found = watched(generate(micro, preset("memrope"), SCRIPT))
    assert found.labels == ("memory 0.01", "memory 0.1")
    assert not found.memory[:12].any(), "the window of 12 is not full yet"
    assert (found.memory[12:36] > 0).all()
    assert not found.memory[36:39].any(), "the cut's flush drops the memory"
    assert found.labels[:0] == watched(generate(micro, preset("longlive"), SCRIPT)).labels


@pytest.mark.parametrize("name", ["rolling-forcing", "dummy-forcing"])
def test_what_a_map_cannot_show_is_refused(micro: Sprites, name: str) -> None:
    with pytest.raises(RolloutError, match="of one block at a time and of heads that see the same"):
        AttentionMap(generate(micro, preset(name), SCRIPT))


@pytest.mark.parametrize("name", [name for name in PRESETS if name not in ("rolling-forcing", "dummy-forcing")])
def test_watching_changes_nothing(name: str) -> None:
    backend = micro_backend(torch.float32)
    plain = torch.cat([r.latents for r in generate(backend, preset(name), SCRIPT)], 1)
    seen = torch.cat([r.latents for r in AttentionMap(generate(backend, preset(name), SCRIPT), layer=1, step=1)], 1)
    assert torch.equal(plain, seen)


def test_only_readers_are_observed_and_only_when_asked(micro: Sprites) -> None:
    run = generate(micro, preset("infinity-rope"), f"{A}[1.5s]")
    assert run.cache.observer is None
    calls: list[list[int]] = []
    run.cache.observer = lambda rows: lambda layer, q, keys: calls.append([layer, q.shape[2], keys.shape[2], len(rows)])
    next(run)
    next(run)
    n = micro.spec.tokens
    assert calls == [[layer, 3 * n, keys * n, keys] for keys in (3, 6) for _ in range(4) for layer in range(2)]


class Largest(TorchDispatchMode):
    """The most elements that an operation gave."""

    most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor):
            self.most = max(self.most, out.numel())
        return out


def test_memory_does_not_grow_with_the_rollout(micro: Sprites) -> None:
    strategy, tokens = preset("infinity-rope"), micro.spec.tokens

    def most(seconds: int) -> int:
        run = generate(micro, strategy, f"{A}[{seconds}s]")
        seen = AttentionMap(run)
        with Largest() as largest:
            kept = [seen._seen[-1][2] for _ in seen]
        assert all(shares is not None and shares.size <= 3 * 6 for shares in kept), "a block keeps frames, not tokens"
        return largest.most

    q, keys = torch.randn(1, 2, 3 * tokens, 12), torch.randn(1, 2, 6 * tokens, 12)
    with Largest() as largest:
        frame_shares(q, keys, tokens)
    assert largest.most <= 2 * 3 * tokens * max(12, 6 * tokens)
    assert most(8) == most(3)


def test_low_precision_is_summed_in_float32() -> None:
    generator = torch.Generator().manual_seed(0)
    q, keys = (torch.randn(1, 2, n * 32, 16, generator=generator).bfloat16() for n in (3, 21))
    found = frame_shares(q, keys, 32)
    scores = (q.double() @ keys.double().transpose(2, 3) / 4).softmax(-1)
    whole = scores.unflatten(2, (3, 32)).unflatten(4, (21, 32)).sum((3, 5)).mean(1)[0] / 32
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), whole, rtol=0, atol=1e-6)


def test_wan() -> None:
    wan = random_wan("tiny", height=32, width=48)
    script = "a cat[4.5s] | a dog[1.5s] | a dog[1.5s#]"
    for name in ("infinity-rope", "memrope"):
        plain = torch.cat([r.latents for r in generate(wan, preset(name), script)], 1)
        seen = AttentionMap(generate(wan, preset(name), script), layer=1)
        assert torch.equal(plain, torch.cat([r.latents for r in seen], 1))
        found = seen.map()
        [(M, memory)] = by_hand(generate(wan, preset(name), script), (1, 3))
        assert found.M.shape == (30, 30)
        np.testing.assert_allclose(found.M, M, rtol=0, atol=1e-5)
        np.testing.assert_allclose(found.memory, memory[:, : found.memory.shape[1]], rtol=0, atol=1e-5)
        assert found.seconds[1] == wan.spec.seconds(1) == 1 / 16


def test_the_middle() -> None:
    assert (middle(30), middle(6), middle(1)) == (12, 2, 0)
    assert all(0 <= middle(n) < n for n in range(1, 100))
    assert load_backend("sprites").spec.layers == 6


def test_given_frames_were_never_denoised(micro: Sprites) -> None:
    prefix = torch.randn(6, *micro.spec.latent, dtype=torch.float64)
    found = watched(generate(micro, preset("infinity-rope"), f"{A}[1.5s]", prefix=prefix), layer=1, step=0)
    [(M, _)] = by_hand(generate(micro, preset("infinity-rope"), f"{A}[1.5s]", prefix=prefix), (1, 0))
    assert found.watched.tolist() == [False] * 6 + [True] * 12
    assert not found.M[:6].any()
    np.testing.assert_allclose(found.M, M, rtol=0, atol=1e-6)
    assert found.shares(0, 6) == {}
    assert [part["frames"] for part in found.summary()] == [[0, 18]]


def test_changes_from_outside_are_marked(micro: Sprites) -> None:
    run = generate(micro, preset("longlive"), f"{A}[3s]")
    seen = AttentionMap(run)
    for result in seen:
        if result.block.index == 2:
            run.prompt(B)
        if result.block.index == 4:
            run.cut()
    changes = seen.map().changes
    assert [(c.frame, c.kind, c.cache, c.prompt) for c in changes] == [
        (9, "prompt", "recache", B),
        (15, "cut", "flush", B),
    ]


def test_a_block_that_is_tried_again_is_seen_once(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = micro_backend()
    whole = watched(generate(backend, preset("infinity-rope"), SCRIPT))
    passes, denoise = 0, backend.denoise

    def failing(*args: Any) -> Tensor:
        nonlocal passes
        passes += 1
        if passes in (7, 14):  # the second step of the second block; the last step of it, once more
            raise KeyboardInterrupt
        return denoise(*args)

    monkeypatch.setattr(backend, "denoise", failing)
    seen = AttentionMap(generate(backend, preset("infinity-rope"), SCRIPT))
    failures = 0
    while True:
        try:
            for _ in seen:
                pass
            break
        except KeyboardInterrupt:
            failures += 1
    assert failures == 2
    np.testing.assert_array_equal(seen.map().M, whole.M)


def test_what_is_refused(micro: Sprites) -> None:
    run = generate(micro, preset("infinity-rope"), f"{A}[1s]", seeds=[0, 1])
    with pytest.raises(RolloutError, match="one video, not of a batch of 2"):
        AttentionMap(run)
    run = generate(micro, preset("infinity-rope"), f"{A}[1s]")
    for at, says in (
        ({"layer": 2}, "no layer 2: the 2 layers count from 0"),
        ({"layer": -1}, "no layer -1"),
        ({"step": 4}, "no step 4: the 4 steps"),
    ):
        with pytest.raises(RolloutError, match=says):
            AttentionMap(run, **at)
    assert run.cache.observer is None
    with pytest.raises(RolloutError, match="Iterate over it first"):
        AttentionMap(run).map()
    with pytest.raises(RolloutError, match="too large"):
        AttentionMap(generate(micro, preset("infinity-rope"), f"{A}[600s]"))


def test_shares_by_role(micro: Sprites) -> None:
    found = watched(generate(micro, preset("memrope"), SCRIPT))
    shares = found.shares(24, 36)
    assert list(shares) == ["sink", "memory", "recent", "block"]
    assert [n for _, n in shares.values()] == [3, 2, 4, 3]
    assert sum(share for share, _ in shares.values()) == pytest.approx(1, abs=1e-5)
    assert shares["sink"][0] == pytest.approx(found.M[24:36, :3].sum(1).mean(), abs=1e-6)
    assert shares["memory"][0] == pytest.approx(found.memory[24:36].sum(1).mean(), abs=1e-6)
    told = [(part["frames"], part["after"]) for part in found.summary()]
    assert told == [
        ([0, 24], None),
        ([24, 27], "prompt, keep"),
        ([27, 36], None),
        ([36, 39], "cut, flush"),
        ([39, 48], None),
    ]


def test_a_saved_map_comes_back(micro: Sprites, tmp_path: Path) -> None:
    for name in ("memrope", "infinity-rope"):
        found = watched(generate(micro, preset(name), SCRIPT), layer=1, step=2)
        found.save(tmp_path / "a.npz")
        again = FrameMap.load(tmp_path / "a.npz")
        for field in found.__annotations__:
            np.testing.assert_array_equal(getattr(again, field), getattr(found, field))
        assert (again.changes, again.labels, again.layer) == (found.changes, found.labels, 1)
    assert [p.name for p in tmp_path.iterdir()] == ["a.npz"]
    plain = watched(generate(micro, preset(name), f"{A}[1s]"))
    plain.save(tmp_path / "a.npz")
    assert FrameMap.load(tmp_path / "a.npz").changes == ()
    (tmp_path / "b.npz").write_bytes(b"no")
    (tmp_path / "f.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:-50])
    np.savez(tmp_path / "c.npz", M=np.zeros(3))
    np.save(tmp_path / "d.npy", np.zeros(3))
    for name in ("b.npz", "c.npz", "d.npy", "e.npz", "f.npz"):
        with pytest.raises(OutputError, match="cannot be read as an attention map") as error:
            FrameMap.load(tmp_path / name)
        assert "\n" not in str(error.value)


def test_the_picture_shows_what_is_there(micro: Sprites) -> None:
    maps = [watched(generate(micro, preset(name), SCRIPT)) for name in ("memrope", "self-forcing")]
    figure = draw(maps, ["one", "$x"])
    first, memory, second, _ = figure.axes
    for axes, found in ((first, maps[0]), (second, maps[1])):
        lines = [line.get_gid() for line in axes.lines]
        assert lines == ["prompt", "prompt", "cut", "cut"]
        assert axes.lines[0].get_xdata()[0] == 23.5
        assert axes.lines[3].get_ydata()[0] == 35.5
        shown = axes.images[0].get_array()
        np.testing.assert_array_equal(shown.mask, found.roles == 0)
        np.testing.assert_array_equal(shown.filled(0), found.M)
    assert [p.get_gid() for p in first.patches] == ["sink"]
    assert (first.patches[0].get_x(), first.patches[0].get_width()) == (-0.5, 3)
    assert not second.patches
    assert [t.get_text() for t in first.texts] == ["sink", "prompt: keep", "cut: flush"]
    assert [t.get_text() for t in memory.get_xticklabels()] == ["0.01", "0.1"]
    assert memory.get_xlabel() == "memory"
    assert first.images[0].norm.vmax == second.images[0].norm.vmax == max(float(m.M.max()) for m in maps)
    inside(figure)


def inside(figure: Any) -> None:
    """Every text lies within the picture, and those above one map do not overlap."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    width, height = figure.bbox.width, figure.bbox.height
    for axes in figure.axes:
        boxes = [t.get_window_extent(renderer) for t in axes.texts if t.get_text()]
        for box in boxes:
            assert box.x0 >= 0
            assert box.x1 <= width
            assert box.y1 <= height
        for n, box in enumerate(boxes):
            assert not any(box.overlaps(other) for other in boxes[:n])


def test_the_picture_of_many_changes_and_of_few_frames(micro: Sprites) -> None:
    many = " | ".join(f"{(A, B)[n % 2]}[0.4s{'#' if n % 3 else ''}]" for n in range(20))
    for script in (many, f"{A}[0.375s]"):
        found = watched(generate(micro, preset("longlive"), script))
        figure = draw([found])
        inside(figure)
        assert len(figure.axes[0].lines) == 2 * len(found.changes)


def run(*args: str) -> Result:
    return CliRunner().invoke(app, list(args))


def test_the_command(tmp_path: Path) -> None:
    out = tmp_path / "new" / "maps"
    options = ["--cache", "sink:window=12,sink=3+flush", "--layer", "1", "--step", "0", "--seed", "5", "--threads", "1"]
    result = run("attn", f"{A}[1.5s] | {B}[0.75s#]", *options, "--prefix", "1", "--out", str(out))
    assert result.exit_code == 0, result.output
    assert sorted(p.name for p in out.iterdir()) == ["attention.npz", "attention.png", "run.json"]
    with np.load(out / "attention.npz", allow_pickle=False) as file:
        assert file["M"].shape == (21, 21)
        assert file["M"].dtype == np.float32
        assert file["change_frame"].tolist() == [15]
        assert file["change_kind"].tolist() == ["cut"]
        assert file["role_names"].tolist() == ["", "sink", "recent", "block"]
    found = FrameMap.load(out / "attention.npz")
    backend, strategy = load_backend("sprites"), Strategy.from_text("relativistic sink:window=12,sink=3+flush")
    again = generate(backend, strategy, f"{A}[1.5s] | {B}[0.75s#]", seeds=5, prefix=true_latents(backend, A, 1, 5))
    np.testing.assert_allclose(found.M, watched(again, layer=1, step=0).M, rtol=0, atol=1e-6)
    record = json.loads((out / "run.json").read_text())
    assert record["seed"] == 5
    assert record["strategy"] == strategy.to_dict()
    assert record["attention"]["layer"] == 1
    assert record["attention"]["step"] == 0
    assert record["attention"]["sigma"] == 1.0
    told = record["attention"]["summary"]
    assert [part["frames"] for part in told] == [[0, 15], [15, 18], [18, 21]]
    share, frames = told[1]["shares"]["recent"]
    assert frames == 1
    assert share == pytest.approx(found.M[15:18, 14].mean(), abs=1e-6)
    assert f"frames 15-17, after a cut, flush: sink {told[1]['shares']['sink'][0]:.1%} (3)" in result.output
    assert "layer 1 of 6, step 0, counted from 0" in result.output


def test_the_commands_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "layer 2 of 6, step 3" in run("attn", f"{A}[0.75s]", "--threads", "1").output
    found = FrameMap.load(tmp_path / "out" / "001" / "attention.npz")
    assert (found.layer, found.step) == (2, 3)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--layer", "6"], "no layer 6: the 6 layers count from 0. Use 0 to 5."),
        (["--layer", "-1"], "'-1' is no layer"),
        (["--layer", "top"], "'top' is no layer"),
        (["--layer", "9" * 5000], "is no layer"),
        (["--step", "4"], "no step 4: the 4 steps count from 0. Use 0 to 3."),
        (["--step", "-1"], "no step -1"),
        (["--preset", "memropes"], "memrope"),
        (["--backend", "wan"], "needs a model"),
        (["--prefix", "none.mp4"], "not a file"),
        (["--height", "480"], "no option 'height'"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(options: list[str], says: str, tmp_path: Path) -> None:
    result = run("attn", f"{A}[0.75s]", *options, "--out", str(tmp_path / "out"))
    assert isinstance(result.exception, RolloutError), result.output
    assert says in str(result.exception)
    assert "\n" not in str(result.exception)
    assert not (tmp_path / "out").exists()


def test_an_existing_folder_needs_force(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("mine")
    result = run("attn", f"{A}[0.75s]", "--out", str(tmp_path))
    assert "not empty" in str(result.exception)
    assert (tmp_path / "run.json").read_text() == "mine"
    assert run("attn", f"{A}[0.75s]", "--out", str(tmp_path), "--force", "--threads", "1").exit_code == 0
    assert json.loads((tmp_path / "run.json").read_text())["seed"] == 0


def test_the_page_does_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its commands, then its Python, give the picture that it shows."""
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    bash, *python = (re.findall(rf"```{language}\n(.*?)```", DOCS, re.S) for language in ("bash", "python"))
    for command in bash[0].replace("\\\n", "").strip().splitlines():
        done = run(*shlex.split(command)[1:], "--threads", "1")
        assert done.exit_code == 0, done.output
    combined, watching = python[0]
    assert len(combined.strip().splitlines()) <= 15
    for code in (combined, watching):
        exec(compile(code, "docs/attention.md", "exec"), {})
    with Image.open(tmp_path / "attention.png") as drawn, Image.open(ROOT / "docs" / "attention.png") as shown:
        assert drawn.width == shown.width
        assert abs(drawn.height - shown.height) <= 4
