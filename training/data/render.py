"""Draws scenes with signed distance functions, a batch at a time, on the device that holds the parameters.

A scene is one row of floats (SCENE_WIDTH): three objects of (shape or -1, r, g, b, x, y, radius), the background's two
tones, then texture, period, phase x, phase y, angle. Colours are in 0..255; x and y are shares of width and height,
radius, period and phases shares of the shorter side. Coverage at an edge is 0.5 - distance in pixels, clamped.
"""
import math
from functools import lru_cache

import torch
import torch.nn.functional as F

from .palette import COLOURS, SHAPES, TEXTURES, second_tone
from .scenes import place_objects

OBJECT_WIDTH = 7
SCENE_WIDTH = 3 * OBJECT_WIDTH + 6 + 5
TABLE, EXTENT = 768, 1.3  # samples a side, radii
STYLES = ("plain", "outline", "night", "pixel", "sticker")


def scene_row(rng, scene):
    """The row of floats of one scene; `rng` fills in what the caption leaves open."""
    row = []
    for item, (x, y, radius) in zip(scene.items, place_objects(rng, scene)):
        row += [SHAPES.index(item.shape), *COLOURS[item.colour], x, y, radius]
    row += [-1.0, 0, 0, 0, 0, 0, 0.1] * (3 - len(scene.items))
    tone = scene.background_colour()
    angle = rng.choice((0.0, 0.25, 0.5, 0.75)) * math.pi
    row += [*tone, *second_tone(tone), TEXTURES.index(scene.texture)]
    return row + [rng.uniform(0.10, 0.13), rng.random(), rng.random(), angle]


def polygon_distance(x, y, corners):
    """Exact signed distance to a closed polygon (corners in order): nearest edge, sign by crossing parity."""
    nearest, inside = None, None
    for (ax, ay), (bx, by) in zip(corners, corners[1:] + corners[:1]):
        ex, ey = bx - ax, by - ay
        share = (((x - ax) * ex + (y - ay) * ey) / (ex * ex + ey * ey)).clamp(0, 1)
        squared = (x - ax - share * ex) ** 2 + (y - ay - share * ey) ** 2
        crosses = ((y < ay) != (y < by)) & ((x - ax) * (by - ay) < (y - ay) * ex if by > ay else (x - ax) * (by - ay) > (y - ay) * ex)
        nearest = squared if nearest is None else torch.minimum(nearest, squared)
        inside = crosses if inside is None else inside ^ crosses
    return torch.where(inside, -1.0, 1.0) * nearest.clamp(min=1e-12).sqrt()


def regular_corners(count, outer, inner=None, lift=0.0):
    """Corners on a circle, the first at the top; every second one at `inner` if given (a star)."""
    corners = []
    steps = count if inner is None else 2 * count
    for i in range(steps):
        radius = outer if inner is None or i % 2 == 0 else inner
        angle = 2 * math.pi * i / steps
        corners.append((radius * math.sin(angle), -radius * math.cos(angle) + lift))
    return corners


def outline_distance(x, y, points):
    """Unsigned distance to an open line through the points."""
    nearest = None
    for (ax, ay), (bx, by) in zip(points, points[1:]):
        ex, ey = bx - ax, by - ay
        share = (((x - ax) * ex + (y - ay) * ey) / (ex * ex + ey * ey)).clamp(0, 1)
        squared = (x - ax - share * ex) ** 2 + (y - ay - share * ey) ** 2
        nearest = squared if nearest is None else torch.minimum(nearest, squared)
    return nearest.clamp(min=1e-12).sqrt()


def heart_outline():
    """The right half, from the notch over a disc of radius 0.56 at (0.5, -0.38) to the tip (0, 1.05)."""
    centre_x, centre_y, radius, tip = 0.5, -0.38, 0.56, 1.05
    length = math.hypot(centre_x, centre_y - tip)
    to_centre = math.atan2(centre_y - tip, centre_x)
    slope = to_centre + math.asin(radius / length)
    reach = math.sqrt(length**2 - radius**2)
    tangent = (reach * math.cos(slope), tip + reach * math.sin(slope))
    start = -math.pi + math.acos(centre_x / radius)
    end = math.atan2(tangent[1] - centre_y, tangent[0] - centre_x)
    arc = [start + (end - start) * i / 14 for i in range(15)]
    return [(centre_x + radius * math.cos(a), centre_y + radius * math.sin(a)) for a in arc] + [(0.0, tip)]


def heart_distance(x, y):
    """Folded at x = 0: distance to the right half's outline, sign by its polygon closed along the axis."""
    x, outline = x.abs(), heart_outline()
    distance = outline_distance(x, y, outline)
    closed = polygon_distance(x, y, [(-0.5, outline[0][1]), *outline, (-0.5, outline[-1][1])])
    return torch.where(closed < 0, -distance, distance)


def box_distance(x, y, half_x, half_y):
    dx, dy = x.abs() - half_x, y.abs() - half_y
    return (dx.clamp(min=0) ** 2 + dy.clamp(min=0) ** 2 + 1e-12).sqrt() + torch.maximum(dx, dy).clamp(max=0)


def shape_distance(name, x, y):
    """Signed distance (negative inside) at (x, y), in units of the radius, y downwards."""
    if name == "circle":
        return (x * x + y * y + 1e-12).sqrt() - 1.0
    if name == "square":
        return box_distance(x, y, 0.88, 0.88)
    if name == "triangle":
        return polygon_distance(x, y, regular_corners(3, 1.2, lift=0.22))
    if name == "star":
        return polygon_distance(x, y, regular_corners(5, 1.18, 0.5, lift=0.07))
    if name == "ring":
        return ((x * x + y * y + 1e-12).sqrt() - 0.8).abs() - 0.22
    if name == "cross":
        return torch.minimum(box_distance(x, y, 1.02, 0.34), box_distance(x, y, 0.34, 1.02))
    if name == "diamond":
        return polygon_distance(x, y, [(0.0, -1.18), (0.92, 0.0), (0.0, 1.18), (-0.92, 0.0)])
    return heart_distance(x, y)


def texture_share(rows, x, y, height, width):
    """Share of the background's second tone at pixels (x, y), for every texture, chosen by the row's."""
    side = float(min(height, width))
    texture, period, phase_x, phase_y, angle = rows[:, -5:].unbind(1)
    texture, angle = texture[:, None, None], angle[:, None, None]
    pixels = (period * side)[:, None, None]
    u = x / pixels + phase_x[:, None, None]
    v = y / pixels + phase_y[:, None, None]
    wave = lambda t: ((t - t.floor() - 0.5).abs() - 0.25) * pixels
    stripes = (0.5 - wave(u * angle.cos() + v * angle.sin())).clamp(0, 1)
    du, dv = u - u.floor() - 0.5, v - v.floor() - 0.5
    dots = (0.5 - ((du * du + dv * dv + 1e-12).sqrt() - 0.28) * pixels).clamp(0, 1)
    checks = 0.5 - 2 * wave(u / 1.4).clamp(-0.5, 0.5) * wave(v / 1.4).clamp(-0.5, 0.5)
    across = torch.where(angle.sin() > 0.5, y / height, x / width)
    share = torch.zeros_like(stripes)
    for index, pattern in enumerate((stripes, dots, checks, across), start=1):
        share = torch.where(texture == index, pattern, share)
    return share


def pixel_grid(window, cell, device):
    """Pixel centres (1, h, 1) and (1, 1, w) of a window (top, left, h, w); with cell > 1, of every pixel's cell."""
    top, left, height, width = window
    y = torch.arange(top, top + height, device=device) // cell * cell + 0.5 * cell
    x = torch.arange(left, left + width, device=device) // cell * cell + 0.5 * cell
    return y.float()[None, :, None].expand(1, height, width), x.float()[None, None, :].expand(1, height, width)


@lru_cache(maxsize=None)
def distance_table(device):
    """Every shape's signed distance on a grid: (1, 1, shapes, TABLE, TABLE) over [-EXTENT, EXTENT] radii."""
    axis = torch.linspace(-EXTENT, EXTENT, TABLE)
    x, y = axis[None, :].expand(TABLE, TABLE), axis[:, None].expand(TABLE, TABLE)
    return torch.stack([shape_distance(name, x, y) for name in SHAPES])[None, None].to(device)


def object_distance(row, x, y, height, width):
    """Signed distance in pixels to one object of every scene: row (B, 7) -> (B, H, W).

    Read from the table; beyond it, the distance at the table's rim plus the way there.
    """
    side = float(min(height, width))
    shape, radius = row[:, 0, None, None], (row[:, 6] * side)[:, None, None]
    u = (x - (row[:, 4] * width)[:, None, None]) / (radius * EXTENT)
    v = (y - (row[:, 5] * height)[:, None, None]) / (radius * EXTENT)
    depth = (shape.clamp(min=0) * (2.0 / (len(SHAPES) - 1)) - 1.0).expand_as(u + v)
    grid = torch.stack([(u + 0 * v).clamp(-1, 1), (v + 0 * u).clamp(-1, 1), depth], dim=-1)
    table = distance_table(row.device)
    distance = F.grid_sample(table, grid[None], mode="bilinear", padding_mode="border", align_corners=True)[0, 0]
    beyond = ((u.abs() - 1).clamp(min=0) ** 2 + (v.abs() - 1).clamp(min=0) ** 2).sqrt() * EXTENT
    return torch.where(shape < 0, 1e3, (distance + beyond) * radius)


def blend(canvas, colour, coverage):
    return canvas + (colour - canvas) * coverage[:, None]


def night_colours(canvas, y, height):
    """Deep blue sky that keeps a tenth of the background's own hue."""
    share = (y / height)[:, None]
    low = torch.tensor([12.0, 14.0, 44.0], device=canvas.device)[None, :, None, None]
    high = torch.tensor([34.0, 26.0, 82.0], device=canvas.device)[None, :, None, None]
    return 0.9 * (low + (high - low) * share) + 0.1 * canvas


def draw_object(canvas, row, distance, style, side):
    colour = row[:, 1:4, None, None]
    if style == "outline":
        stroke = 0.016 * side
        return blend(canvas, colour, (0.5 - ((distance + stroke).abs() - stroke)).clamp(0, 1))
    if style == "night":
        neon = 45 + 0.82 * colour
        glow = 0.55 * torch.exp(-distance.clamp(min=0) / (0.05 * side))
        return blend(blend(canvas, neon, glow), neon, (0.5 - distance).clamp(0, 1))
    if style == "pixel":
        return blend(canvas, colour, (distance < 0).float())
    if style == "sticker":
        rim = 0.024 * side
        canvas = blend(canvas, torch.full_like(colour, 60.0), 0.45 * (0.5 - (distance - 2 * rim) / 3).clamp(0, 1))
        canvas = blend(canvas, torch.full_like(colour, 255.0), (0.5 - (distance - rim)).clamp(0, 1))
    return blend(canvas, colour, (0.5 - distance).clamp(0, 1))


def render(rows, height, width, style="plain", window=None):
    """rows (B, SCENE_WIDTH) -> images (B, 3, H, W) in [-1, 1], or their part in `window` (top, left, height, width)."""
    side = float(min(height, width))
    y, x = pixel_grid(window or (0, 0, height, width), 8 if style == "pixel" else 1, rows.device)
    first, second = rows[:, -11:-8, None, None], rows[:, -8:-5, None, None]
    share = texture_share(rows, x, y, height, width)
    if style == "pixel":
        share = (share > 0.5).float()
    canvas = first + (second - first) * share[:, None]
    if style == "night":
        canvas = night_colours(canvas, y, height)
    for i in range(3):
        row = rows[:, i * OBJECT_WIDTH : (i + 1) * OBJECT_WIDTH]
        canvas = draw_object(canvas, row, object_distance(row, x, y, height, width), style, side)
    return canvas / 127.5 - 1.0
