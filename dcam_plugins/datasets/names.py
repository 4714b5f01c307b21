"""The names of COCO's classes: as published, as people write them, and by number."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

from dcam_core.matching import FIXED_COMPOUNDS, noun_lemma

__all__ = ["COCO_SYNONYMS", "LABELS", "head_noun", "spoken", "without_panoptic_suffix"]

COCO_SYNONYMS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "person": tuple(
            "man woman boy girl child kid baby toddler infant people adult lady guy gentleman player "
            "skier snowboarder surfer skateboarder rider cyclist bicyclist biker motorcyclist pedestrian batter "
            "catcher umpire pitcher jockey chef passenger crowd".split()
        ),
        "bicycle": ("bike",),
        "car": ("automobile", "taxi", "cab", "suv", "sedan", "minivan"),
        "motorcycle": ("motorbike", "moped", "scooter"),
        "airplane": ("plane", "aeroplane", "aircraft", "jet", "airliner", "jetliner"),
        "train": ("locomotive", "railcar"),
        "truck": ("lorry", "pickup", "fire engine"),
        "boat": ("ship", "sailboat", "canoe", "kayak", "ferry", "yacht", "raft", "motorboat"),
        "traffic light": ("traffic signal", "stoplight", "stop light"),
        "fire hydrant": ("fireplug",),
        "stop sign": ("stopsign",),
        "bird": tuple(
            "seagull gull pigeon duck goose swan parrot eagle hawk owl crow flamingo ostrich".split()
        ),
        "cat": ("kitten", "kitty"),
        "dog": ("puppy", "pup"),
        "horse": ("pony", "foal", "stallion", "mare"),
        "sheep": ("lamb", "ewe"),
        "cow": ("cattle", "bull", "calf", "ox"),
        "backpack": ("rucksack", "knapsack"),
        "umbrella": ("parasol",),
        "handbag": ("purse", "hand bag"),
        "tie": ("necktie", "bow tie", "bowtie"),
        "suitcase": ("luggage", "baggage"),
        "skis": ("ski",),
        "sports ball": ("ball", "soccer ball", "tennis ball"),
        "baseball glove": ("mitt", "catcher mitt"),
        "baseball bat": ("bat",),
        "tennis racket": ("racket", "racquet", "tennis racquet"),
        "wine glass": ("wineglass", "glass of wine", "goblet"),
        "cup": ("mug", "coffee cup", "teacup"),
        "sandwich": ("burger", "hamburger", "cheeseburger"),
        "hot dog": ("hotdog",),
        "donut": ("doughnut",),
        "cake": ("cupcake",),
        "chair": ("armchair",),
        "couch": ("sofa", "loveseat"),
        "potted plant": ("houseplant", "flower pot"),
        "dining table": ("table", "kitchen table"),
        "toilet": ("urinal",),
        "tv": ("television", "tv set", "television set", "tv monitor"),
        "laptop": ("notebook computer", "laptop computer"),
        "mouse": ("computer mouse",),
        "remote": ("remote control", "controller"),
        "cell phone": ("phone", "cellphone", "mobile phone", "smartphone", "telephone"),
        "microwave": ("microwave oven",),
        "oven": ("stove",),
        "refrigerator": ("fridge",),
        "teddy bear": ("stuffed bear", "teddy", "stuffed animal"),
        "hair drier": ("hair dryer", "hairdryer", "blow dryer"),
    }
)
"""Words of captions that mean a class of COCO, by its name.

A word is listed where it nearly always means that class in captions of COCO, even if the class has more in it. Left
out on purpose: "monitor" and "screen" (a tv, a laptop or neither), "van" and "vehicle" (car or truck), "bag", "sign",
"light", "plant" (nor do `FIXED_COMPOUNDS` let them stand for their classes), "computer"; and "baseball", which is
more often the game.
"""

_NAMES = (
    "person,bicycle,car,motorcycle,airplane,bus,train,truck,boat,traffic light,fire hydrant,,stop sign,parking meter,"
    "bench,bird,cat,dog,horse,sheep,cow,elephant,bear,zebra,giraffe,,backpack,umbrella,,,handbag,tie,suitcase,frisbee,"
    "skis,snowboard,ball,kite,baseball bat,baseball glove,skateboard,surfboard,tennis racket,bottle,,glass,cup,fork,"
    "knife,spoon,bowl,banana,apple,sandwich,orange,broccoli,carrot,hot dog,pizza,donut,cake,chair,couch,potted plant,"
    "bed,,dining table,,,toilet,,tv,laptop,mouse,remote,keyboard,cell phone,microwave,oven,toaster,sink,"
    "refrigerator,,book,clock,vase,scissors,teddy bear,hair drier,toothbrush"
)

LABELS: Mapping[int, str] = MappingProxyType(
    {number: name for number, name in enumerate(_NAMES.split(","), start=1) if name}
)
"""The class of a pixel's value in rendered label pictures: COCO's own numbers, 1 to 90, 80 of them in use.

The published protocol shortens two names, "sports ball" to "ball" and "wine glass" to "glass".
"""

_BRACKETS = re.compile(r"\([^)]*\)")
_PANOPTIC = re.compile(r"-(?:other|merged|stuff)\b")
_ARTICLE = re.compile(r"^(?:a|an|the|some|this|that|his|her|its|their)\s+")
_GROUP = re.compile(r"^(?:group|bunch|pair|couple|row|pile|set|lot|piece|stack|herd|flock)s? of\s+(.*)$")
_AFTER_HEAD = re.compile(
    r"\s(?:of|in|on|at|with|without|by|from|near|under|over|behind|above|beside|between|against|next|for|to|along|around|"
    r"inside|outside|that|which|who|wearing|holding|sitting|standing|walking|riding|looking|carrying)\s"
)
_JOINT = re.compile(r"\s*,(?:\s*(?:and|or)\b)?\s*|\s+(?:and|or)\s+")
_ANOTHER_THING = re.compile(
    r"(?:a|an|the|some|another|several|many|one|two|three|four|five|six|his|her|its|their)\s"
)


def spoken(name: str) -> str:
    """A name as it stands in a sentence: lower case, blanks for underscores, nothing in brackets, no article."""
    plain = " ".join(_BRACKETS.sub(" ", name).replace("_", " ").lower().split()).strip(" .,;:")
    return _ARTICLE.sub("", plain)


def without_panoptic_suffix(name: str) -> tuple[str, ...]:
    """The names of a class of COCO panoptic: `floor-wood` is a wood floor and a floor, `wall-other-merged` a wall."""
    thing, _, kind = _PANOPTIC.sub("", spoken(name)).partition("-")
    return (f"{kind} {thing}", thing) if kind else (thing,)


def head_noun(phrase: str) -> str:
    """The word that says what a phrase is about: `a man in a red shirt` is a man, `group of people` are people.

    Args:
        phrase: in lower case.

    Returns:
        The last word before the first preposition or participle, with the word before it where they are one name,
        `hot dog`. Of several things that are joined the first: `a man and his dog` is a man, but `a black and white
        cat` a cat. The phrase itself where nothing remains.
    """
    plain = spoken(phrase)
    if group := _GROUP.match(plain):
        plain = _ARTICLE.sub("", group[1])
    words = _first_thing(_AFTER_HEAD.split(f"{plain} ", maxsplit=1)[0])
    if not words:
        return phrase
    if " ".join(map(noun_lemma, words[-2:])) in FIXED_COMPOUNDS:
        return " ".join(words[-2:])
    return words[-1]


def _first_thing(joined: str) -> list[str]:
    """The words for the first of what commas, "and" and "or" join: things, or properties of one thing.

    Whether "white" is a noun stands in no dictionary of lemmas. A word is taken for the name of a thing if it is a
    plural, or if what follows is another thing (`a man and his dog`) or single words (`cat, dog and bird`); otherwise
    for a property of what is named further on (`a small, black and white dog`).
    """
    parts: list[list[str]] = []
    for part in _JOINT.split(joined):
        if parts and _ANOTHER_THING.match(part):
            break
        if words := part.split():
            parts.append(words)
    for number, words in enumerate(parts):
        plural = noun_lemma(words[-1]) != words[-1] or words[-1] == "people"
        if plural or all(len(later) == 1 for later in parts[number + 1 :]):
            return words
    return []
