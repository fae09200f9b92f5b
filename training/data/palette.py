"""Words and colours of the grammar. `eval/grammar.ts` holds the same tables."""

SHAPES = ("circle", "square", "triangle", "star", "ring", "cross", "diamond", "heart")

COLOURS = {
    "red": (220, 40, 40),
    "orange": (245, 140, 30),
    "yellow": (250, 215, 50),
    "green": (50, 165, 75),
    "cyan": (60, 200, 215),
    "blue": (45, 90, 215),
    "purple": (130, 60, 180),
    "pink": (245, 130, 185),
    "brown": (130, 80, 45),
    "white": (250, 250, 250),
    "grey": (140, 140, 145),
    "black": (25, 25, 28),
}

# Backgrounds of captions that name none: light ones first, one dark for light shapes.
QUIET_BACKGROUNDS = (
    (244, 243, 238),
    (247, 238, 220),
    (220, 232, 243),
    (226, 228, 231),
    (223, 240, 229),
    (232, 226, 243),
    (43, 50, 62),
)

TEXTURES = ("plain", "striped", "dotted", "checkered", "gradient")

# Radius as a share of the shorter side, by number of shapes in the scene: small, medium, large.
RADII = {1: (0.10, 0.17, 0.25), 2: (0.075, 0.125, 0.175), 3: (0.065, 0.095, 0.12)}
SIZES = ("small", "medium", "large")

PLACES = {
    "top left": (0.22, 0.22),
    "top": (0.5, 0.22),
    "top right": (0.78, 0.22),
    "left": (0.22, 0.5),
    "centre": (0.5, 0.5),
    "right": (0.78, 0.5),
    "bottom left": (0.22, 0.78),
    "bottom": (0.5, 0.78),
    "bottom right": (0.78, 0.78),
}

# Every shape lies within this multiple of its radius.
REACH = 1.2
# Least Euclidean RGB distance between a shape and either tone of its background.
CONTRAST = 85.0
# How far a texture's second tone goes from the first towards white or black.
TEXTURE_STRENGTH = 0.16


def distance(a, b):
    return sum((x - y) ** 2 for x, y in zip(a, b)) ** 0.5


def second_tone(colour):
    """A texture's other tone: lighter on dark colours, darker on light ones."""
    luminance = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]
    target = 255.0 if luminance < 128 else 0.0
    return tuple(c + (target - c) * TEXTURE_STRENGTH for c in colour)


def contrasts(colour, background):
    """Whether a shape of this colour stands out from the background in plain and textured form."""
    return min(distance(colour, background), distance(colour, second_tone(background))) >= CONTRAST
