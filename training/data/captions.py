"""Natural captions for scenes. What a caption leaves out, `scenes.place_objects` and the quiet backgrounds fill in."""
import string

SHAPE_WORDS = {
    "circle": ("circle",) * 6 + ("disc", "dot"),
    "square": ("square",) * 6 + ("box",),
    "triangle": ("triangle",),
    "star": ("star",),
    "ring": ("ring",) * 5 + ("hoop", "donut"),
    "cross": ("cross",) * 5 + ("plus",),
    "diamond": ("diamond",) * 5 + ("rhombus",),
    "heart": ("heart",),
}
PLURALS = {"cross": "crosses", "box": "boxes", "plus": "pluses", "rhombus": "rhombuses"}
COLOUR_WORDS = {"grey": ("grey", "grey", "gray"), "purple": ("purple",) * 4 + ("violet",), "cyan": ("cyan",) * 4 + ("turquoise",)}
SIZE_WORDS = {"small": ("small",) * 4 + ("tiny", "little"), "large": ("large", "large", "big", "big", "huge")}
TEXTURE_WORDS = {
    "striped": (("striped",), "stripes"),
    "dotted": (("dotted", "polka dot"), "dots"),
    "checkered": (("checkered", "chequered"), "checks"),
    "gradient": (("gradient",), ""),
}
RELATIONS = {
    "above": ("above",) * 6 + ("over", "on top of"),
    "below": ("below",) * 5 + ("under", "beneath", "underneath"),
    "left of": ("left of",) * 3 + ("to the left of",) * 4 + ("on the left of",),
    "right of": ("right of",) * 3 + ("to the right of",) * 4 + ("on the right of",),
}
PLACE_PHRASES = {
    "top": ("at the top",) * 3 + ("in the top centre", "at the top edge"),
    "bottom": ("at the bottom",) * 3 + ("in the bottom centre", "at the bottom edge"),
    "left": ("on the left",) * 3 + ("on the left side", "at the left"),
    "right": ("on the right",) * 3 + ("on the right side", "at the right"),
    "centre": ("in the centre", "in the center", "in the middle"),
}
CORNER_FORMS = ("in the {}",) * 4 + ("in the {} corner",) * 2 + ("at the {}", "in {} corner")
PREFIXES = ("a picture of ", "an image of ", "a drawing of ", "an illustration of ", "a photo of ", "a simple picture of ")
SUFFIXES = (", flat design", ", minimal", ", simple shapes", ", clean edges", ", high quality", ", vector art")
FILLERS = ("bright", "simple", "flat", "bold", "neat", "solid", "shiny", "lovely")


def noun_phrase(rng, item, article=True):
    words = []
    if item.size_said:
        words.append(rng.choice(SIZE_WORDS[item.size]))
    if rng.random() < 0.03:
        words.append(rng.choice(FILLERS))
    if rng.random() < 0.01:
        words.append("".join(rng.choices(string.ascii_lowercase, k=rng.randint(3, 9))))
    words.append(rng.choice(COLOUR_WORDS.get(item.colour, (item.colour,))))
    words.append(rng.choice(SHAPE_WORDS[item.shape]))
    if not article:
        return " ".join(words)
    return f"{'an' if words[0][0] in 'aeiou' else 'a'} {' '.join(words)}"


def place_phrase(rng, place):
    if place in PLACE_PHRASES:
        return rng.choice(PLACE_PHRASES[place])
    if rng.random() < 0.2:
        place = place.replace("top", "upper").replace("bottom", "lower")
    return rng.choice(CORNER_FORMS).format(place)


def background_phrase(rng, scene):
    """ "on a grey background", "on striped blue" and their like; empty where the scene leaves the background open."""
    colour = rng.choice(COLOUR_WORDS.get(scene.background, (scene.background,)))
    if scene.texture == "plain":
        if not colour:
            return ""
        article = "an" if colour[0] in "aeiou" else "a"
        return rng.choice(
            (f"on {article} {colour} background",) * 5
            + (f"on {colour}",) * 2
            + (f"against {article} {colour} background", f"with {article} {colour} background", f"against {colour}")
        )
    adjectives, noun = TEXTURE_WORDS[scene.texture]
    adjective = rng.choice(adjectives)
    if not colour:
        return f"on a {adjective} background"
    forms = [f"on a {adjective} {colour} background"] * 3 + [f"with a {adjective} {colour} background"]
    forms.append(f"on {'an' if colour[0] in 'aeiou' else 'a'} {colour} {adjective} background")
    if noun:
        forms.append(f"on {colour} {noun}")
    return rng.choice(forms)


def describe_pair(rng, scene):
    first, second = (noun_phrase(rng, item) for item in scene.items)
    draw = rng.random()
    if scene.layout == "left of" and draw < 0.12:
        return f"{first} and {second}"
    if draw < 0.18 and scene.layout == "left of":
        return rng.choice(("{0} next to {1}", "{0} beside {1}")).format(first, second)
    inverse = {"above": "below", "left of": "right of"}[scene.layout]
    relation = scene.layout
    if rng.random() < 0.5:
        first, second, relation = second, first, inverse
    phrase = rng.choice(RELATIONS[relation])
    draw = rng.random()
    if draw < 0.06:
        return f"{first} is {phrase} {second}"
    if draw < 0.10 and relation in ("above", "below"):
        return f"{second} with {first} {relation} it"
    if draw < 0.13 and relation in ("above", "below"):
        return f"{relation} {second} is {first}"
    return f"{first} {phrase} {second}"


def describe_triple(rng, scene):
    a, b, c = (noun_phrase(rng, item) for item in scene.items)
    if scene.layout == "column":
        return f"{a}, {b} and {c} " + rng.choice(("in a column", "stacked from top to bottom", "from top to bottom"))
    draw = rng.random()
    if draw < 0.2:
        return f"{b} between {a} and {c}"
    ending = "" if draw < 0.6 else rng.choice((" in a row", " side by side", " from left to right"))
    return f"{a}, {b} and {c}{ending}"


def describe_same(rng, scene):
    words = noun_phrase(rng, scene.items[0], article=False).split(" ")
    words[-1] = PLURALS.get(words[-1], words[-1] + "s")
    count = len(scene.items)
    number = rng.choice(("two", "two", "a pair of", "2") if count == 2 else ("three", "three", "3"))
    upright = scene.layout in ("column", "above")
    ending = " in a column" if upright else rng.choice(("", "", " in a row", " side by side"))
    return f"{number} {' '.join(words)}{ending}"


def describe_content(rng, scene):
    """The objects and, for scenes "at" places, their places; and a place phrase that may follow the background."""
    if scene.same:
        return describe_same(rng, scene), ""
    if scene.layout == "at":
        phrases = [noun_phrase(rng, item) for item in scene.items]
        places = [place_phrase(rng, item.place) if item.place_said else "" for item in scene.items]
        if len(phrases) == 1:
            return phrases[0], places[0]
        return " and ".join(f"{phrase} {place}" for phrase, place in zip(phrases, places)), ""
    return (describe_pair if len(scene.items) == 2 else describe_triple)(rng, scene), ""


def describe(rng, scene):
    """One of many captions for the scene."""
    content, place = describe_content(rng, scene)
    background = background_phrase(rng, scene)
    draw = rng.random()
    if background and draw < 0.05:
        caption = f"{background}, {content} {place}".strip()
    elif place and draw < 0.25:
        caption = f"{content} {background} {place}"
    else:
        caption = f"{content} {place} {background}"
    caption = " ".join(caption.split())
    if rng.random() < 0.10:
        caption = rng.choice(PREFIXES) + caption
    if rng.random() < 0.05:
        caption += rng.choice(SUFFIXES)
    if rng.random() < 0.15:
        caption = caption[0].upper() + caption[1:]
    elif rng.random() < 0.01:
        caption = caption.title()
    if rng.random() < 0.08:
        caption += "."
    return caption
