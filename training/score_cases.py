"""Writes rendered scenes, right and altered ones, as test cases for eval/score.ts and eval/scenes.ts.

    python3 score_cases.py ../test/fixtures/scenes

Writes scenes.png (pictures of 192x192 in rows of 12) and scenes.json: for each picture the asked scene, its key, whether the
key is held out, and what was altered in the picture ("" for nothing).
"""
import json
import random
import sys
from dataclasses import asdict
from pathlib import Path

import torch

from check_score import alter
from data.render import render, scene_row
from data.scenes import KINDS, held_out, sample_scene, scene_key
from images import contact_sheet, to_uint8

SIDE, COUNT, COLUMNS = 192, 60, 12


def asked(scene):
    """The scene as eval/scenes.ts has it."""
    names = {"size_said": "sizeSaid", "place_said": "placeSaid"}
    items = [{names.get(key, key): value for key, value in asdict(item).items()} for item in scene.items]
    known = {"layout": scene.layout, "items": items, "texture": scene.texture, "same": scene.same}
    return {**known, **({"background": scene.background} if scene.background else {})}


def main(folder):
    rng, cases, rows = random.Random(21), [], []
    for index in range(COUNT):
        scene = sample_scene(rng, held=index % 3 == 0, kind=list(KINDS)[index % len(KINDS)])
        way, drawn = alter(rng, scene) if index % 2 else ("", scene)
        rows.append(scene_row(rng, drawn))
        cases.append({"scene": asked(scene), "key": scene_key(scene), "heldOut": held_out(scene), "altered": way})
    folder.mkdir(parents=True, exist_ok=True)
    contact_sheet(to_uint8(render(torch.tensor(rows), SIDE, SIDE)), COLUMNS, folder / "scenes.png", gap=0)
    (folder / "scenes.json").write_text(json.dumps({"side": SIDE, "columns": COLUMNS, "cases": cases}, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
