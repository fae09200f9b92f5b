"""Validates the scorer on rendered scenes: right pictures must pass, altered ones must not.

    python3 check_score.py [COUNT]

Every altered scene differs from the asked one in exactly one respect (shape, colour, order, one object less, place,
size, background). Exits 1 unless at least 99 % of the right ones pass and at most 1 % of the altered ones.
"""
import copy
import random
import sys

import torch

from data.palette import COLOURS, PLACES, QUIET_BACKGROUNDS, SHAPES, contrasts
from data.render import render, scene_row
from data.scenes import KINDS, sample_scene
from images import to_uint8
from score import score

BUCKETS = ((256, 256), (192, 320), (320, 192), (320, 320), (192, 192), (224, 288))


def alter(rng, scene):
    """(what was changed, a scene that contradicts the asked one in that respect)."""
    other = copy.deepcopy(scene)
    item = rng.choice(other.items)
    background = other.background_colour()
    ways = ["shape", "colour"]
    if len(other.items) > 1:
        ways.append("count")
        if other.layout != "at" and (other.items[0].shape, other.items[0].colour) != (other.items[-1].shape, other.items[-1].colour):
            ways.append("order")
    if other.layout == "at" and len(other.items) == 1 and item.place_said and item.size != "large":
        ways.append("place")
    if item.size_said:
        ways.append("size")
    if other.background:
        ways.append("background")
    way = rng.choice(ways)
    if way == "shape":
        item.shape = rng.choice([s for s in SHAPES if s != item.shape])
    elif way == "colour":
        item.colour = rng.choice([c for c, rgb in COLOURS.items() if c != item.colour and contrasts(rgb, background)])
    elif way == "count":
        other.items.pop()
        other.layout = "at" if len(other.items) == 1 else other.layout
    elif way == "order":
        other.items[0], other.items[-1] = other.items[-1], other.items[0]
    elif way == "place":
        item.place = rng.choice([p for p in PLACES if p != item.place])
    elif way == "size":
        item.size = {"small": "large", "large": "small"}[item.size]
    else:
        fitting = [c for c, rgb in COLOURS.items() if c != other.background and all(contrasts(COLOURS[i.colour], rgb) for i in other.items)]
        if not fitting:
            other.background, other.quiet = "", QUIET_BACKGROUNDS[0]
        else:
            other.background = rng.choice(fitting)
    return way, other


def main(count):
    rng = random.Random(7)
    right, failures, altered, fooled = 0, {}, 0, {}
    for index in range(count):
        scene = sample_scene(rng, kind=list(KINDS)[index % len(KINDS)])
        height, width = BUCKETS[index % len(BUCKETS)]
        way, other = alter(rng, scene)
        rows = torch.tensor([scene_row(rng, scene), scene_row(rng, other)])
        pictures = to_uint8(render(rows, height, width))
        verdict = score(pictures[0], scene)
        right += verdict["all"]
        if not verdict["all"]:
            failures[index] = (scene, verdict)
        if score(pictures[1], scene)["all"]:
            fooled.setdefault(way, []).append((scene, other))
        altered += 1
    for index, (scene, verdict) in failures.items():
        print("missed", index, scene, verdict)
    for way, pairs in fooled.items():
        print("fooled by", way, len(pairs), pairs[0])
    wrong = sum(len(pairs) for pairs in fooled.values())
    print(f"right scenes passed: {right}/{count}; altered scenes passed: {wrong}/{altered}")
    return right >= 0.99 * count and wrong <= 0.01 * altered


if __name__ == "__main__":
    sys.exit(0 if main(int(sys.argv[1]) if len(sys.argv) > 1 else 400) else 1)
