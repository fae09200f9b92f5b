"""Pools of training examples: scene rows, token ids and labels, made by many processes from one seed."""
import multiprocessing
import os
import random

import torch

from vocabulary import CLIP_LENGTH, T5_LENGTH, ClipTokenizer, T5Tokenizer

from .captions import describe
from .palette import COLOURS, PLACES, SHAPES, SIZES, TEXTURES
from .render import scene_row
from .scenes import LAYOUTS, sample_scene

CHUNK = 4000
CLIP_KEPT = 48  # CLIP ids kept: causal attention makes the padding after end-of-text irrelevant
UNSAID = -1
LABELS = 15


def labels(scene):
    """What the caption says, as class indices: shape, colour, size and place of three objects, layout, background,
    texture. UNSAID where the caption leaves it open."""
    row = []
    for item in scene.items:
        row += [SHAPES.index(item.shape), list(COLOURS).index(item.colour)]
        row.append(SIZES.index(item.size) if item.size_said else len(SIZES))
        row.append(list(PLACES).index(item.place) if item.place_said else len(PLACES))
    row += [UNSAID] * (4 * (3 - len(scene.items)))
    row.append(LAYOUTS.index(scene.layout))
    row.append(list(COLOURS).index(scene.background) if scene.background else len(COLOURS))
    return row + [TEXTURES.index(scene.texture)]


def make_chunk(job):
    folder, seed, count = job
    rng = random.Random(seed)
    clip, t5 = ClipTokenizer(folder / "tokenizer"), T5Tokenizer(folder / "tokenizer_2")
    rows, clip_ids, t5_ids, classes = [], [], [], []
    for _ in range(count):
        scene = sample_scene(rng)
        caption = describe(rng, scene)
        rows.append(scene_row(rng, scene))
        clip_ids.append(clip.encode(caption, CLIP_LENGTH)[:CLIP_KEPT])
        t5_ids.append(t5.encode(caption, T5_LENGTH))
        classes.append(labels(scene))
    small = torch.int16
    return (
        torch.tensor(rows),
        torch.tensor(clip_ids, dtype=small),
        torch.tensor(t5_ids, dtype=small),
        torch.tensor(classes, dtype=torch.int8),
    )


def make_pool(folder, count, seed, processes):
    """(rows, CLIP ids, T5 ids, labels) of `count` examples; the same for any number of processes."""
    jobs = [(folder, seed * 1000003 + i, min(CHUNK, count - i * CHUNK)) for i in range((count + CHUNK - 1) // CHUNK)]
    if processes == 1:
        chunks = [make_chunk(job) for job in jobs]
    else:
        os.environ["OMP_NUM_THREADS"] = "1"  # read by the children: sixteen of sixteen threads each would crawl
        with multiprocessing.get_context("spawn").Pool(processes) as pool:
            chunks = [tuple(t.clone() for t in chunk) for chunk in pool.imap(make_chunk, jobs)]
    return tuple(torch.cat(parts) for parts in zip(*chunks))
