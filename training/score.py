"""Judges a picture by code alone: are the asked shapes there, in the asked colours, places, sizes and relations?

The background's tones are read from the picture's frame; what differs from all of them is foreground. Its connected
components are the objects: colour by the palette, shape by overlap with templates fitted to the bounding box.
`eval/score.ts` does the same, step by step, with the same numbers.
"""
from functools import lru_cache
from itertools import permutations

import torch

from data.palette import COLOURS, PLACES, RADII, SHAPES, SIZES, second_tone
from data.render import shape_distance

FRAME = 3  # pixels at the picture's rim that count as background
TONE_SHARE = 0.01  # of the frame, from which a colour counts as a tone of the background
FOREGROUND = 42.0  # RGB distance from every tone
SMALLEST = 0.0025  # share of the picture below which a component is ignored
COLOUR_LIMIT = 60.0  # RGB distance to the palette's colour
TEMPLATE = 32  # side of shape templates
OVERLAP = 0.78  # least intersection over union with a template
ASPECT = 1.22  # largest ratio of a component's aspect to its template's


@lru_cache(maxsize=1)
def shape_templates():
    """Shape -> (mask (32, 32) over the shape's bounding box, aspect, width and height in radii)."""
    axis = (torch.arange(512).float() + 0.5) / 512 * 2.6 - 1.3
    templates = {}
    for name in SHAPES:
        inside = shape_distance(name, axis[None, :].expand(512, 512), axis[:, None].expand(512, 512)) < 0
        rows, columns = inside.any(1).nonzero()[:, 0], inside.any(0).nonzero()[:, 0]
        box = (rows[0].item(), rows[-1].item() + 1, columns[0].item(), columns[-1].item() + 1)
        height, width = (box[1] - box[0]) / 512 * 2.6, (box[3] - box[2]) / 512 * 2.6
        templates[name] = (resample(inside, box), width / height, max(width, height))
    return templates


def resample(mask, box):
    """The mask's part inside box (top, bottom, left, right) at TEMPLATE x TEMPLATE, nearest neighbour."""
    top, bottom, left, right = box
    steps = torch.arange(TEMPLATE) + 0.5
    rows = (top + steps * (bottom - top) / TEMPLATE).long()
    columns = (left + steps * (right - left) / TEMPLATE).long()
    return mask[rows][:, columns]


def nearest_colour(rgb):
    """(name, distance) of the palette's nearest colour."""
    return min(((name, sum((a - b) ** 2 for a, b in zip(rgb, c)) ** 0.5) for name, c in COLOURS.items()), key=lambda p: p[1])


def background_tones(image):
    """[(share of the frame, mean rgb)] of the frame's colours, grouped by their high 4 bits, most frequent first."""
    frame = torch.cat(
        [
            image[:FRAME].reshape(-1, 3),
            image[-FRAME:].reshape(-1, 3),
            image[FRAME:-FRAME, :FRAME].reshape(-1, 3),
            image[FRAME:-FRAME, -FRAME:].reshape(-1, 3),
        ]
    ).long()
    bins = (frame[:, 0] // 16) * 256 + (frame[:, 1] // 16) * 16 + frame[:, 2] // 16
    counts = torch.bincount(bins, minlength=4096)
    sums = torch.stack([torch.bincount(bins, frame[:, c].double(), 4096) for c in range(3)], dim=1)
    chosen = (counts >= TONE_SHARE * len(frame)).nonzero()[:, 0]
    chosen = chosen[counts[chosen].argsort(descending=True)]
    return [((counts[b] / len(frame)).item(), (sums[b] / counts[b]).tolist()) for b in chosen]


def label_components(mask):
    """4-connected components of a mask (H, W): int64 labels, 0 where the mask is false."""
    height, width = mask.shape
    labels = torch.where(mask, torch.arange(1, height * width + 1).view(height, width), 0)
    while True:
        grown = labels.clone()
        grown[1:] = torch.maximum(grown[1:], labels[:-1])
        grown[:-1] = torch.maximum(grown[:-1], labels[1:])
        grown[:, 1:] = torch.maximum(grown[:, 1:], labels[:, :-1])
        grown[:, :-1] = torch.maximum(grown[:, :-1], labels[:, 1:])
        grown = torch.where(mask, grown, 0)
        # Follow the label to the one its own pixel carries: the number of rounds stays near the logarithm of the size.
        flat = grown.view(-1)
        grown = torch.where(mask, torch.maximum(flat, flat[(flat - 1).clamp(min=0)]).view(height, width), 0)
        if torch.equal(grown, labels):
            return labels
        labels = grown


def find_objects(image):
    """Objects of a picture (H, W, 3) uint8: dicts of shape, colour, x, y (shares), size (radius / shorter side)."""
    height, width, _ = image.shape
    pixels = image.float()
    tones = background_tones(image)
    foreground = torch.ones(height, width, dtype=torch.bool)
    # A texture's second tone may not reach the frame: dots stand apart.
    for tone in [*(tone for _, tone in tones), *(second_tone(tone) for _, tone in tones if len(tones) == 1)]:
        foreground &= ((pixels - torch.tensor(tone)) ** 2).sum(-1) > FOREGROUND**2
    labels = label_components(foreground)
    areas = labels.flatten().bincount()
    areas[0] = 0
    large = (areas >= SMALLEST * height * width).nonzero()[:, 0]
    objects = [describe_component(labels == label, pixels) for label in large]
    return objects, tones


def describe_component(mask, pixels):
    height, width = mask.shape
    ys, xs = mask.nonzero().unbind(1)
    box = (ys.min().item(), ys.max().item() + 1, xs.min().item(), xs.max().item() + 1)
    core = mask.clone()
    core[1:] &= mask[:-1]
    core[:-1] &= mask[1:]
    core[:, 1:] &= mask[:, :-1]
    core[:, :-1] &= mask[:, 1:]
    rgb = pixels[core if core.sum() >= 16 else mask].median(0).values.tolist()
    colour, colour_distance = nearest_colour(rgb)
    shape, overlap = best_shape(mask, box)
    return {
        "shape": shape if overlap >= OVERLAP else "?",
        "overlap": overlap,
        "colour": colour if colour_distance <= COLOUR_LIMIT else "?",
        "x": (box[2] + box[3]) / 2 / width,
        "y": (box[0] + box[1]) / 2 / height,
        "size": max(box[1] - box[0], box[3] - box[2]) / shape_templates()[shape][2] / min(height, width),
    }


def best_shape(mask, box):
    fitted, aspect = resample(mask, box), (box[3] - box[2]) / (box[1] - box[0])
    best = ("circle", 0.0)
    for name, (template, template_aspect, _) in shape_templates().items():
        ratio = aspect / template_aspect
        if max(ratio, 1 / ratio) > ASPECT:
            continue
        overlap = ((fitted & template).sum() / (fitted | template).sum()).item()
        if overlap > best[1]:
            best = (name, overlap)
    return best


def third(value):
    """0, 1 or 2: before, in or behind the middle fifth of an axis."""
    return 0 if value < 0.4 else 2 if value > 0.6 else 1


def at_place(found, place):
    x, y = PLACES[place]
    return third(found["x"]) == third(x) and third(found["y"]) == third(y)


def in_layout(scene, found):
    """Whether objects, in the order of the scene's items, stand as the scene says."""
    if scene.layout == "at":
        return all(at_place(f, i.place) for f, i in zip(found, scene.items) if i.place_said)
    along, across = ("y", "x") if scene.layout in ("above", "column") else ("x", "y")
    if max(f[across] for f in found) - min(f[across] for f in found) > 0.15:
        return False
    return all(b[along] - a[along] > 0.1 for a, b in zip(found, found[1:]))


def size_class(found, count):
    small, medium, large = RADII[count]
    return SIZES[(found["size"] > (small * medium) ** 0.5) + (found["size"] > (medium * large) ** 0.5)]


def score(image, scene):
    """image (H, W, 3) uint8. Dict of booleans: count, objects, layout, sizes, background and all of them."""
    found, tones = find_objects(image)
    result = {"count": len(found) == len(scene.items), "objects": False, "layout": False, "sizes": False}
    if result["count"]:
        for order in permutations(found):
            matched = all(f["shape"] == i.shape and f["colour"] == i.colour for f, i in zip(order, scene.items))
            if not matched:
                continue
            layout = in_layout(scene, order)
            sizes = all(size_class(f, len(found)) == i.size for f, i in zip(order, scene.items) if i.size_said)
            if not result["objects"] or layout:
                result.update(objects=True, layout=layout, sizes=sizes)
            if layout and sizes:
                break
    named = [nearest_colour(tone)[0] for _, tone in tones]
    result["background"] = not scene.background or scene.background in named
    result["all"] = all(result.values())
    return result
