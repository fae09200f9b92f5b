"""Scenes: objects, their layout and the background; their key, which decides what is held apart from training.

A scene is drawn in two stages. `sample_scene` chooses what a caption may say; `place_objects` chooses what it leaves
open (exact positions and sizes). Coordinates are shares of width and height, radii shares of the shorter side.
"""
from dataclasses import dataclass, field

from .palette import COLOURS, PLACES, QUIET_BACKGROUNDS, RADII, REACH, SHAPES, SIZES, TEXTURES, contrasts

LAYOUTS = ("at", "above", "left of", "row", "column")
HELD_OUT_SHARE = 10


@dataclass
class Item:
    shape: str
    colour: str
    size: str = "medium"
    size_said: bool = False
    place: str = "centre"
    place_said: bool = False


@dataclass
class Scene:
    """`layout` orders `items`: "above" is top then bottom, "left of" and "row" left to right, "column" downwards."""

    layout: str
    items: list
    background: str = ""
    texture: str = "plain"
    quiet: tuple = QUIET_BACKGROUNDS[0]
    same: bool = field(default=False)

    def background_colour(self):
        return COLOURS[self.background] if self.background else self.quiet


def fnv1a(text):
    """FNV-1a, 32 bits, over UTF-8 bytes."""
    value = 2166136261
    for byte in text.encode():
        value = ((value ^ byte) * 16777619) & 0xFFFFFFFF
    return value


def scene_key(scene):
    """What is where, without the background: "medium red circle at top left", "red circle above blue square",
    "row: red circle, blue star, green ring"; two objects at places are listed in the order of PLACES."""
    names = [f"{item.colour} {item.shape}" for item in scene.items]
    if scene.layout == "at":
        if len(scene.items) == 1:
            return f"{scene.items[0].size} {names[0]} at {scene.items[0].place}"
        order = list(PLACES)
        parts = sorted(zip(scene.items, names), key=lambda pair: order.index(pair[0].place))
        return ", ".join(f"{name} at {item.place}" for item, name in parts)
    if scene.layout in ("row", "column"):
        return f"{scene.layout}: " + ", ".join(names)
    return f"{names[0]} {scene.layout} {names[1]}"


def held_out(scene):
    """A tenth of all keys never occurs in training."""
    return fnv1a(scene_key(scene)) % HELD_OUT_SHARE == 0


def sample_item(rng, sized):
    item = Item(rng.choice(SHAPES), rng.choice(list(COLOURS)))
    if rng.random() < sized:
        item.size, item.size_said = rng.choice(("small", "large")), True
    return item


def sample_background(rng, scene, textured=0.22, named=0.5):
    """Sets the background: named or quiet, always in contrast with every object."""
    colours = [COLOURS[item.colour] for item in scene.items]
    if rng.random() < named:
        fitting = [name for name, rgb in COLOURS.items() if all(contrasts(c, rgb) for c in colours)]
        if fitting:
            # White, grey and black are what people ask for most.
            weights = [3 if name in ("white", "grey", "black") else 1 for name in fitting]
            scene.background = rng.choices(fitting, weights)[0]
    if not scene.background:
        fitting = [rgb for rgb in QUIET_BACKGROUNDS if all(contrasts(c, rgb) for c in colours)]
        if not fitting:
            return False
        scene.quiet = rng.choice(fitting)
    if rng.random() < textured:
        scene.texture = rng.choice(TEXTURES[1:])
    return True


def sample_single(rng):
    item = sample_item(rng, 0.4)
    if rng.random() < 0.45:
        item.place, item.place_said = rng.choice(list(PLACES)), True
    return Scene("at", [item])


def sample_pair(rng):
    return Scene(rng.choice(("above", "left of")), [sample_item(rng, 0.25), sample_item(rng, 0.25)])


def sample_two_places(rng):
    first, second = rng.sample(list(PLACES), 2)
    items = [sample_item(rng, 0.15), sample_item(rng, 0.15)]
    for item, place in zip(items, (first, second)):
        item.place, item.place_said = place, True
    if abs(PLACES[first][0] - PLACES[second][0]) + abs(PLACES[first][1] - PLACES[second][1]) < 0.5:
        for item in items:
            item.size, item.size_said = "small", True
    return Scene("at", items)


def sample_triple(rng):
    return Scene(rng.choice(("row", "row", "column")), [sample_item(rng, 0.1) for _ in range(3)])


def sample_same(rng):
    """Two or three of one kind, in a row or a column."""
    count, item = rng.choice((2, 3)), sample_item(rng, 0.2)
    layout = rng.choice(("row", "row", "column"))
    if count == 2:
        layout = {"row": "left of", "column": "above"}[layout]
    items = [Item(item.shape, item.colour, item.size, item.size_said) for _ in range(count)]
    return Scene(layout, items, same=True)


KINDS = {
    "single": (sample_single, 0.34),
    "pair": (sample_pair, 0.40),
    "two places": (sample_two_places, 0.07),
    "triple": (sample_triple, 0.11),
    "same": (sample_same, 0.08),
}


def sample_scene(rng, held=False, kind=None):
    """A scene whose key is held apart (`held`) or not; `kind` picks one of KINDS."""
    while True:
        name = kind or rng.choices(list(KINDS), [share for _, share in KINDS.values()])[0]
        scene = KINDS[name][0](rng)
        if held_out(scene) == held and sample_background(rng, scene):
            return scene


def place_objects(rng, scene):
    """[(x, y, radius)] of the objects: x, y shares of width and height, radius a share of the shorter side."""
    count = len(scene.items)
    radii = [RADII[count][SIZES.index(item.size)] * rng.uniform(0.94, 1.06) for item in scene.items]
    drift = rng.uniform(-0.03, 0.03)
    if scene.layout == "at":
        centres = [
            (PLACES[item.place][0] + rng.uniform(-0.02, 0.02), PLACES[item.place][1] + rng.uniform(-0.02, 0.02))
            for item in scene.items
        ]
    elif count == 2:
        spread = max(rng.uniform(0.40, 0.46), REACH * sum(radii) + 0.03) / 2
        along, across = (0.5 - spread, 0.5 + spread), 0.5 + drift
        centres = [(across, a) if scene.layout == "above" else (a, across) for a in along]
    else:
        along = (0.19, 0.5, 0.81)
        centres = [(0.5 + drift, a) if scene.layout == "column" else (a, 0.5 + drift) for a in along]
    placed = []
    for (x, y), radius in zip(centres, radii):
        margin = REACH * radius + 0.025
        placed.append((min(max(x, margin), 1 - margin), min(max(y, margin), 1 - margin), radius))
    return placed
