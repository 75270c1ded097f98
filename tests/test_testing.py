"""rollout.testing: every rule keeps its promises, and one that breaks a promise is refused with its reason."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import count
from typing import Any, ClassVar

import pytest
import torch

from rollout import check_backend, check_rule, registry
from rollout.backends.sprites.truth import SpriteWorld
from rollout.backends.sprites.weights import SpriteDecoder, Sprites
from rollout.errors import PromptError
from rollout.parts import PolicyDefaults, PositionsDefaults, SwitchDefaults
from rollout.registry import RULES, find, names
from rollout.slots import Edit, Mix, Replay, Role, Slot, View, flush, keep, of_role
from rollout.strategies import Cut, Ema, Fifo, Flush, Recache, Relativistic, Sink
from rollout.strategies.policies import evict_oldest
from rollout.strategies.presets import PRESETS
from rollout.testing import CheckError, check_strategy
from tests.conftest import MICRO, micro_backend

ALL = [(group, name) for group in RULES for name in names(group)]


@pytest.fixture
def each_composition_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A composition of the home's own rules is one of each of them, and is checked with the first."""
    monkeypatch.setattr("rollout.testing.rules.check_strategy", check_strategy_once)


@pytest.fixture
def exacting_partners(monkeypatch: pytest.MonkeyPatch) -> None:
    """The compositions that ask most: with sinks and averages, at their own dates and not, flushed and rebuilt."""
    partners = {"positions": ("absolute", "relativistic"), "policy": ("sink", "ema")}
    monkeypatch.setattr("rollout.testing.rules.PARTNERS", partners | {"switch": ("flush", "recache:sink=rebuild")})


check_strategy_once = cache(check_strategy)


@pytest.mark.usefixtures("each_composition_once", "exacting_partners")
@pytest.mark.parametrize(("group", "name"), ALL)
def test_every_rule_keeps_its_promises(group: str, name: str) -> None:
    check_rule(find(group, name))


@pytest.mark.slow
@pytest.mark.usefixtures("each_composition_once")
@pytest.mark.parametrize(("group", "name"), ALL)
def test_every_rule_keeps_its_promises_in_every_composition(group: str, name: str) -> None:
    check_rule(find(group, name))


@pytest.mark.usefixtures("exacting_partners")
@pytest.mark.parametrize(
    "rule",
    [
        Relativistic(head=9, cut=Cut(30, 0)),
        Relativistic(head=21),
        Sink(9, 5),
        Fifo(3),
        Ema(12, 1, (1.0, 0.5, 0.01), "token", "drop"),
        find("policies", "anchor")(7, 4),
        find("policies", "oracle")(12, 4, 8),
        Flush(4),
        Recache("bidirectional", "rebuild"),
    ],
    ids=str,
)
def test_other_fields_keep_them_too(rule: object) -> None:
    check_rule(rule)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_keep_them(name: str) -> None:
    check_strategy_once(PRESETS[name].strategy)


@pytest.mark.usefixtures("exacting_partners")
def test_the_example_keeps_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_added", {group: dict(items) for group, items in registry._added.items()})
    from docs import own

    check_rule(own.Dilated)
    check_rule(own.Folded)


BROKEN: list[Any] = []


def refused(says: str) -> Any:
    """A rule that breaks one promise, and the reason that it is refused with."""

    def add(rule: Any) -> Any:
        BROKEN.append(pytest.param(rule, says, id=getattr(rule, "__name__", str(rule))))
        return rule

    return add


# Values


@refused("is no frozen dataclass")
@dataclass
class Thawed(PolicyDefaults):
    kind: ClassVar[str] = "thawed"
    window: int = 6

    def make_room(self, slots, frames):
        return evict_oldest(slots, self.window - frames)

    def admit(self, block):
        return ()


@refused("has no kind")
@dataclass(frozen=True)
class Nameless(PolicyDefaults):
    window: int = 6

    def make_room(self, slots, frames):
        return evict_oldest(slots, self.window - frames)


@refused("every field needs a default")
@dataclass(frozen=True)
class Needy(SwitchDefaults):
    kind: ClassVar[str] = "needy"
    flushes: ClassVar[bool] = False
    share: float

    def on_switch(self, slots, block, window):
        return keep(slots, range(len(slots))), None


@refused("'silent' lacks flushes. Add flushes, as rollout.Switch says")
@dataclass(frozen=True)
class Silent(SwitchDefaults):
    kind: ClassVar[str] = "silent"

    def on_switch(self, slots, block, window):
        return flush(slots), None


@refused("is no rule: it has none of place, make_room, on_switch")
@dataclass(frozen=True)
class Nothing:
    kind: ClassVar[str] = "nothing"


@refused("is not hashable")
@dataclass(frozen=True)
class Listed(Sink):
    kind: ClassVar[str] = "listed"
    rates_: list[float] = field(default_factory=list)


@refused("rules are equal by value")
@dataclass(frozen=True, eq=False)
class Alone(SwitchDefaults):
    kind: ClassVar[str] = "alone"
    flushes: ClassVar[bool] = False

    def on_switch(self, slots, block, window):
        return keep(slots, range(len(slots))), None


@refused("cannot be read back from its JSON")
@dataclass(frozen=True)
class Unreadable(Sink):
    kind: ClassVar[str] = "unreadable"
    role: Role = Role.SINK

    def __post_init__(self):
        object.__setattr__(self, "role", str(self.role.value) if isinstance(self.role, Role) else Role(self.role))


@dataclass(frozen=True)
class Worded(Sink):
    kind: ClassVar[str] = "worded"
    word: str | None = "a"


refused("cannot be read back from its text: policy 'worded:word=a,b': 'b' is no FIELD=VALUE")(Worded(word="a,b"))
refused("reads back from its text as Worded(window=6, sink=1, word=None)")(Worded(word="null"))


@refused("there is another rule of the kind 'sink'")
@dataclass(frozen=True)
class Impostor(Sink):
    window: int = 9


# Purity


@refused("gives two answers to one question")
@dataclass(frozen=True)
class Moody(Sink):
    kind: ClassVar[str] = "moody"
    number: ClassVar[count] = count()

    def make_room(self, slots, frames):
        return evict_oldest(slots, self.window - frames - next(self.number) % 2)


@refused("the same question got another answer")
@dataclass(frozen=True)
class Remembering(Sink):
    kind: ClassVar[str] = "remembering"
    window: int = 12
    asked: ClassVar[set] = set()

    def make_room(self, slots, frames):
        self.asked.add(slots[-1].frame if slots else 0)
        return evict_oldest(slots, self.window - frames - (max(self.asked) > 30))


@refused("changes the slots that it is asked about")
@dataclass(frozen=True)
class Sorting(Sink):
    kind: ClassVar[str] = "sorting"

    def make_room(self, slots, frames):
        if isinstance(slots, list) and slots:
            slots.pop()
        return evict_oldest(slots, self.window - frames)


# Policies


@refused("evicts its sink, frame 0: no block may")
@dataclass(frozen=True)
class Deadly(Sink):
    kind: ClassVar[str] = "deadly"

    def make_room(self, slots, frames):
        return keep(slots, range(max(0, len(slots) + frames - self.window), len(slots)))


@refused("declares sink=2 and holds 0 after 24 blocks")
@dataclass(frozen=True)
class Boastful(Fifo):
    kind: ClassVar[str] = "boastful"
    window: int = 9
    sink: int = 2


@refused("sums to 0.5, not 1")
@dataclass(frozen=True)
class Leaky(Ema):
    kind: ClassVar[str] = "leaky"

    def make_room(self, slots, frames):
        edit = super().make_room(slots, frames)
        rows = (Mix(tuple((i, w / 2) for i, w in row.weights)) if len(row.sources) > 1 else row for row in edit.rows)
        return replace(edit, rows=tuple(rows))


@refused("left 6 slots for a block of 3 in a window of 6. make_room must evict 3 more")
@dataclass(frozen=True)
class Full(Sink):
    kind: ClassVar[str] = "full"

    def make_room(self, slots, frames):
        return evict_oldest(slots, self.window)


@refused("out of order: the cache's order is sink, memory, recent")
@dataclass(frozen=True)
class Shuffled(Sink):
    kind: ClassVar[str] = "shuffled"

    def make_room(self, slots, frames):
        left = evict_oldest(slots, self.window - frames)
        return Edit(left.slots[::-1], left.rows[::-1])


@refused("they go from the oldest to the newest")
@dataclass(frozen=True)
class Backwards(Fifo):
    kind: ClassVar[str] = "backwards"

    def make_room(self, slots, frames):
        left = evict_oldest(slots, self.window - frames)
        return Edit(left.slots[::-1], left.rows[::-1])


@refused("caches frame 2 twice")
@dataclass(frozen=True)
class Doubling(Fifo):
    kind: ClassVar[str] = "doubling"

    def make_room(self, slots, frames):
        return keep(slots, [len(slots) - 1] * 2 if slots else ())


@refused("recent slot of frame 99 from what is frame 0")
@dataclass(frozen=True)
class Lying(Fifo):
    kind: ClassVar[str] = "lying"

    def make_room(self, slots, frames):
        left = evict_oldest(slots, self.window - frames)
        return replace(left, slots=tuple(replace(slot, frame=99) for slot in left.slots))


@refused("only the role and the date of a slot that stays may change")
@dataclass(frozen=True)
class Redating(Fifo):
    kind: ClassVar[str] = "redating"

    def make_room(self, slots, frames):
        left = evict_oldest(slots, self.window - frames)
        return replace(left, slots=tuple(replace(slot, block=0) for slot in left.slots))


@refused("points outside the cache's 3 slots")
@dataclass(frozen=True)
class Inventing(Fifo):
    kind: ClassVar[str] = "inventing"

    def make_room(self, slots, frames):
        left = keep(slots, range(len(slots)))
        return replace(left, rows=tuple(Mix(((7, 1.0),)) for _ in left.rows))


@refused("declares memory=1 and holds 2 memory slots")
@dataclass(frozen=True)
class Miscounted(Ema):
    kind: ClassVar[str] = "miscounted"
    memory: ClassVar[int] = 1

    def make_room(self, slots, frames):
        return Ema(self.window, self.sink, self.rates).make_room(slots, frames)


@refused("declares memory=3 and holds 2 after 24 blocks")
@dataclass(frozen=True)
class Overstated(Ema):
    kind: ClassVar[str] = "overstated"
    memory: ClassVar[int] = 3

    def make_room(self, slots, frames):
        return Ema(self.window, self.sink, self.rates).make_room(slots, frames)


@refused("averages frames 3, 4, 5, 6, 7, and the policy says blends=False")
@dataclass(frozen=True)
class Discreet(Ema):
    kind: ClassVar[str] = "discreet"
    blends: ClassVar[bool] = False


@refused("has read_able, which nobody asks: rollout.Policy calls it readable. Rename it, or write _read_able.")
@dataclass(frozen=True)
class Unheard(Fifo):
    kind: ClassVar[str] = "unheard"

    def read_able(self, slots, block):
        return ()


@refused("is no rule: it has none of place, make_room")
@dataclass(frozen=True)
class Slip(PolicyDefaults):
    kind: ClassVar[str] = "slip"
    window: int = 6

    def make_rom(self, slots, frames):
        return evict_oldest(slots, self.window - frames)


refused("It has make_rom: rename that to make_room.")(Slip)


@refused("the policy rule 'admitting' lacks admit; it has admits. Rename admits to admit.")
@dataclass(frozen=True)
class Admitting(PolicyDefaults):
    kind: ClassVar[str] = "admitting"
    window: int = 6

    def make_room(self, slots, frames):
        return evict_oldest(slots, self.window - frames)

    def admits(self, block):
        return ()


@refused("switch 'mixing' averages frames 1, 2, and the policy says blends=False")
@dataclass(frozen=True)
class Mixing(SwitchDefaults):
    kind: ClassVar[str] = "mixing"
    flushes: ClassVar[bool] = True

    def on_switch(self, slots, block, window):
        edit = flush(slots)
        halves = Mix(((len(slots) - 2, 0.5), (len(slots) - 1, 0.5)))
        return replace(edit, rows=(*edit.rows[:-1], halves)), None


@refused("admits [0, 1] for the frames 0 to 2: one slot a frame")
@dataclass(frozen=True)
class Careless(Sink):
    kind: ClassVar[str] = "careless"

    def admit(self, block):
        return super().admit(block)[:2]


@refused("admits frame 0 as memory")
@dataclass(frozen=True)
class Hasty(Sink):
    kind: ClassVar[str] = "hasty"

    def admit(self, block):
        return tuple(replace(slot, role=Role.MEMORY) for slot in super().admit(block))


@refused("sinks behind recent frames")
@dataclass(frozen=True)
class Late(Sink):
    kind: ClassVar[str] = "late"
    sink: int = 2

    def admit(self, block):
        role = Role.SINK if block.index in (1, 2) else Role.RECENT
        return tuple(Slot(role, frame, block.index, scene=block.scene) for frame in range(block.start, block.end))


@refused("in block 4 of scene 4")
@dataclass(frozen=True)
class Sceneless(Sink):
    kind: ClassVar[str] = "sceneless"

    def admit(self, block):
        return super().admit(replace(block, scene=0))


@refused("block 0: ZeroDivisionError: integer division or modulo by zero")
@dataclass(frozen=True)
class Crashing(Sink):
    kind: ClassVar[str] = "crashing"

    def make_room(self, slots, frames):
        return keep(slots, [1 // 0])


@refused("goes with nothing: window 3")
@dataclass(frozen=True)
class Crowded(Fifo):
    kind: ClassVar[str] = "crowded"
    window: int = 3
    sink: int = 1


# Positions


class Moved(PositionsDefaults):
    """Online indices, changed by `move`."""

    by_slot: ClassVar[bool] = True

    def place(self, slots: Sequence[Slot], block, window) -> View:
        n = len(slots)
        return self.move(slots, list(range(n)), list(range(n, n + block.frames)), block)

    def move(self, slots, past, own, block) -> View:
        return View(tuple(past), tuple(own))


@refused("each comes one after the one before")
@dataclass(frozen=True)
class Falling(Moved):
    kind: ClassVar[str] = "falling"

    def move(self, slots, past, own, block):
        return View(tuple(past), tuple(own[::-1]))


@refused("each comes one after the one before")
@dataclass(frozen=True)
class Striding(Moved):
    kind: ClassVar[str] = "striding"

    def move(self, slots, past, own, block):
        return View(tuple(past), tuple(own[0] + 2 * i for i in range(len(own))))


@refused("at index 0 in the block at (3, 4, 5): no two share one")
@dataclass(frozen=True)
class Piled(Moved):
    kind: ClassVar[str] = "piled"

    def move(self, slots, past, own, block):
        return View((0,) * len(past), tuple(own))


@refused("no two share one")
@dataclass(frozen=True)
class Overlapping(Moved):
    kind: ClassVar[str] = "overlapping"

    def move(self, slots, past, own, block):
        return View(tuple(past), tuple(i - bool(past) for i in own))


@refused("indices are whole numbers")
@dataclass(frozen=True)
class Fractional(Moved):
    kind: ClassVar[str] = "fractional"

    def move(self, slots, past, own, block):
        return View(tuple(past), tuple(i / 1 for i in own))


@refused("use index -1")
@dataclass(frozen=True)
class Negative(Moved):
    kind: ClassVar[str] = "negative"

    def move(self, slots, past, own, block):
        return View(tuple(i - 1 for i in past), tuple(i - 1 for i in own))


@refused("beyond the 21 that the model knows")
@dataclass(frozen=True)
class Far(Moved):
    kind: ClassVar[str] = "far"

    def move(self, slots, past, own, block):
        return View(tuple(past), tuple(i + 19 for i in own))


@refused("change when all frames are 3000 later")
@dataclass(frozen=True)
class Parity(Moved):
    kind: ClassVar[str] = "parity"

    def move(self, slots, past, own, block):
        late = block.start > 1000
        return View(tuple(past), tuple(i + late for i in own))


@refused("date a memory by its frame number")
@dataclass(frozen=True)
class Dating(Moved):
    kind: ClassVar[str] = "dating"

    def move(self, slots, past, own, block):
        memory = [slots[i].frame for i in of_role(slots, Role.MEMORY)]
        return View(tuple(past), tuple(i + bool(memory and memory[0] > 3) for i in own))


@refused("placed 0 slots and 2 block frames where there are 0 and 3")
@dataclass(frozen=True)
class Short(Moved):
    kind: ClassVar[str] = "short"

    def move(self, slots, past, own, block):
        return View(tuple(past), tuple(own[:-1]))


# Switches


class Doing(SwitchDefaults):
    """A switch that says no flush."""

    flushes: ClassVar[bool] = False


@refused("says flushes=True, last=1 and leaves 3 recent frames")
@dataclass(frozen=True)
class Hoarding(Doing):
    kind: ClassVar[str] = "hoarding"
    flushes: ClassVar[bool] = True

    def on_switch(self, slots, block, window):
        return keep(slots, range(len(slots))), None


@refused("drops recent frames but says flushes=False: a cut would do something else")
@dataclass(frozen=True)
class Furtive(Doing):
    kind: ClassVar[str] = "furtive"

    def on_switch(self, slots, block, window):
        return flush(slots, 2), None


@refused("says flushes=True and replays frames")
@dataclass(frozen=True)
class Busy(Doing):
    kind: ClassVar[str] = "busy"
    flushes: ClassVar[bool] = True

    def on_switch(self, slots, block, window):
        return flush(slots, 0), Replay((slots[-1].frame,))


@refused("points outside the cache")
@dataclass(frozen=True)
class Grasping(Doing):
    kind: ClassVar[str] = "grasping"

    def on_switch(self, slots, block, window):
        left = keep(slots, range(len(slots)))
        return replace(left, rows=tuple(Mix(((i + 1, 1.0),)) for i in range(len(slots)))), None


@refused("which is not at hand")
@dataclass(frozen=True)
class Nostalgic(Doing):
    kind: ClassVar[str] = "nostalgic"

    def on_switch(self, slots, block, window):
        sinks, memory = of_role(slots, Role.SINK), of_role(slots, Role.MEMORY)
        return keep(slots, (*sinks, *memory)), Replay((max(0, block.start - window - 5), block.start - 1))


@refused("give each once, in order")
@dataclass(frozen=True)
class Stuttering(Doing):
    kind: ClassVar[str] = "stuttering"

    def on_switch(self, slots, block, window):
        return keep(slots, ()), Replay((block.start - 1, block.start - 1))


@refused("and leaves it cached as well")
@dataclass(frozen=True)
class Repeating(Doing):
    kind: ClassVar[str] = "repeating"

    def on_switch(self, slots, block, window):
        return keep(slots, of_role(slots, Role.RECENT)[-1:]), Replay((block.start - 1,))


@refused("sinks come first")
@dataclass(frozen=True)
class Misplacing(Doing):
    kind: ClassVar[str] = "misplacing"

    def on_switch(self, slots, block, window):
        return keep(slots, of_role(slots, Role.RECENT)[:1]), Replay((block.start - 1,), sinks=1)


@refused("makes 5 sinks of 1 replayed frames")
@dataclass(frozen=True)
class Overpinned(Doing):
    kind: ClassVar[str] = "overpinned"

    def on_switch(self, slots, block, window):
        return keep(slots, ()), Replay((block.start - 1,), sinks=5)


@pytest.mark.parametrize(("rule", "says"), BROKEN)
def test_a_broken_rule_is_refused_with_its_reason(rule: Any, says: str) -> None:
    with pytest.raises(CheckError) as error:
        check_rule(rule)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


# Backends


def tiny(dtype: torch.dtype = torch.float32) -> Sprites:
    """A micro model whose pictures have the sprites' size."""
    return micro_backend(dtype, replace(MICRO, grid=(4, 4)))


def test_the_sprites_keep_their_promises() -> None:
    check_backend(tiny())
    check_backend(tiny(torch.float64))


def test_a_tiny_wan_keeps_them() -> None:
    model = pytest.importorskip("tests.test_wan")
    from diffusers import AutoencoderKLWan

    torch.manual_seed(1)
    vae = AutoencoderKLWan(base_dim=8, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1).eval()
    check_backend(model.Worded(model.transformer(), height=32, width=48, vae=vae.requires_grad_(False)))


class Other(Sprites):
    """A sprite model with something else about it."""

    def __init__(self) -> None:
        self.__dict__.update(tiny().__dict__)


class Unnamed(Other):
    digest = property(lambda self: 7, lambda self, value: None)


class Crooked(Other):
    def __init__(self) -> None:
        super().__init__()
        self.spec = replace(self.spec, axes=(2, 2, 3))


class Ungridded(Other):
    def __init__(self) -> None:
        super().__init__()
        self.spec = replace(self.spec, grid=(3, 1))


class Fickle(Other):
    def encode(self, prompt):
        return super().encode(prompt) + torch.rand(())


class Wordless(Other):
    def encode(self, prompt):
        return super().encode(prompt)[0]


class Skipping(Other):
    def denoise(self, x, t, prompt, attend):
        return super().denoise(x, t, prompt, lambda layer, q, k, v: attend(0, q, k, v))


class Deaf(Other):
    def denoise(self, x, t, prompt, attend):
        def ignored(layer, q, k, v):
            attend(layer, q, k, v)
            return v

        return super().denoise(x, t, prompt, ignored)


class Folding(Other):
    def denoise(self, x, t, prompt, attend):
        return super().denoise(x, t, prompt, lambda layer, q, k, v: attend(layer, q, k[:, 1:], v[:, 1:]))


class Random(Other):
    def denoise(self, x, t, prompt, attend):
        return super().denoise(x, t, prompt, attend) + torch.randn(())


class Writing(Other):
    def denoise(self, x, t, prompt, attend):
        flow = super().denoise(x, t, prompt, attend)
        x.zero_()
        return flow


class Transposed(Other):
    def denoise(self, x, t, prompt, attend):
        return super().denoise(x, t, prompt, attend).transpose(1, 2)


class Endless(Other):
    def denoise(self, x, t, prompt, attend):
        return super().denoise(x, t, prompt, attend) / 0


class Painting(Other):
    def __init__(self, decoder: type) -> None:
        super().__init__()
        self.decoder = lambda: decoder(self.codec)


class Floating(SpriteDecoder):
    def push(self, latents):
        return super().push(latents).float()


class Counting(SpriteDecoder):
    """Darkens with every push, and forgets to say so."""

    pushes = 0

    def push(self, latents):
        self.pushes += 1
        return (super().push(latents) // self.pushes).byte()


class Fading(SpriteDecoder):
    """Darkens with every frame, and forgets to say so."""

    frames = 0

    def push(self, latents):
        first, self.frames = self.frames, self.frames + len(latents)
        number = torch.arange(first, self.frames).view(-1, 1, 1, 1)
        return (super().push(latents) // (1 + number)).byte()


class Mute(Other):
    def __init__(self) -> None:
        super().__init__()
        self.world = SpriteWorld()
        self.world.parse = lambda prompt: parse_nothing(prompt)


def parse_nothing(prompt: str) -> None:
    raise PromptError("what is that?")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (object, "lacks spec, device"),
        (Unnamed, "digest is a text or None"),
        (Crooked, "the spec's axes (2, 2, 3) are 7 pairs: head_dim 12 has half as many"),
        (Ungridded, "do not split into a grid of (3, 1) tokens"),
        (Fickle, "encode gives one prompt two results"),
        (Wordless, "encode's result is"),
        (Skipping, "calls attend for the layers [0, 0]: each of 2 once, in order"),
        (Deaf, "does not use what attend returns"),
        (Folding, "k of layer 0 is (1, 47, 2, 12), not (1, 48, 2, 12)"),
        (Random, "denoise gives one input two results"),
        (Writing, "denoise changes its input"),
        (Transposed, "denoise's flow is (1, 6, 3, 4, 4), not (1, 3, 6, 4, 4)"),
        (Endless, "denoise's flow is not finite"),
        (lambda: Painting(Floating), "the decoder gives torch.float32"),
        (lambda: Painting(Counting), "other frames block by block than at once"),
        (lambda: Painting(Fading), "its state is not all that it depends on"),
        (Mute, "does not understand its own example"),
    ],
)
def test_a_broken_backend_is_refused_with_its_reason(make: Any, says: str) -> None:
    with pytest.raises(CheckError) as error:
        check_backend(make())
    assert says in str(error.value)
    assert "\n" not in str(error.value)
