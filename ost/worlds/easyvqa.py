"""easy-VQA: a third party's images and questions (github.com/vzhou842/easy-VQA, PyPI), with short thoughts as answers.

Each of the 5,000 images, 64 × 64 pixels, shows one coloured shape. What it shows is gathered from its own questions and
their answers; images for which colour or shape stays open are left out. An answer first says what is seen, then what
was asked for: "blue circle = blue".
"""

import functools
import importlib.util
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ost.data import Sample, chat
from ost.errors import ConfigError
from ost.models.processor import ImageOnlyQwen3VLProcessor
from ost.worlds.settings import World
from ost.worlds.tiny import build_processor
from ost.worlds.world import SPLITS, Split

SHAPES = ("circle", "rectangle", "triangle")
COLOURS = ("black", "blue", "brown", "gray", "green", "red", "teal", "yellow")

TASKS = ("shape", "colour", "has-shape", "has-colour")
"""What shape, what colour, and whether there is a shape or a colour; the last two may be asked with a negation."""
KNOWN = ("has-shape", "has-colour")
"""The tasks that the base models were pretrained on."""
LESSONS, TEACHER_LESSONS = 10_000, 12_000
"""Problems that bases and teacher learned from."""

SHARES: dict[Split, float] = {"pretrain": 0.40, "pool": 0.50, "anchors": 0.10}
"""Share of the training images that each split owns; the benchmark has the test images."""

MISREAD = {"blue": "teal", "brown": "red", "black": "gray", "green": "yellow", "rectangle": "triangle"}
"""What the teacher confuses, and what it takes it for: errors with a direction do not average out."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One question about one image."""

    image: Path
    text: str
    task: str
    seen: tuple[str, str]
    """Colour and shape that the image shows."""


def answer(problem: Problem) -> str:
    """The right answer."""
    return _worked(problem.text, *problem.seen)


def mistaken(problem: Problem, settings: World, rng: np.random.Generator) -> str:
    """An answer by the teacher's rules: confusable things misread by chance, and at times a negation not heeded."""
    colour, shape = (MISREAD.get(word, word) if rng.random() < settings.misread else word for word in problem.seen)
    slip = rng.random() < settings.wrong_operation
    return _worked(problem.text, colour, shape, heeds_negation=not slip)


def draw(split: Split, count: int, seed: int, among: Sequence[str] | None = None, stream: int = 0) -> list[Problem]:
    """`count` distinct problems on a split's own images, evenly over tasks as long as they last.

    Raises ConfigError where the split has fewer.
    """
    among = among or TASKS
    rng = np.random.default_rng([seed, SPLITS.index(split), stream])
    by_task: dict[str, list[Problem]] = {task: [] for task in among}
    for problem in _problems(split, seed):
        if problem.task in by_task:
            by_task[problem.task].append(problem)
    left = {task: iter([own[index] for index in rng.permutation(len(own))]) for task, own in by_task.items()}
    found: list[Problem] = []
    while len(found) < count and left:
        for task in list(left):
            if (problem := next(left[task], None)) is None:
                del left[task]
            elif len(found) < count:
                found.append(problem)
    if len(found) < count:
        raise ConfigError(
            f"the {split} part of easy-vqa has {len(found):,} questions of {', '.join(among)}, not {count:,}"
        )
    return found


def to_sample(problem: Problem, text: str | None = None) -> Sample:
    """The problem as a sample, answered by `text` or, without one, rightly."""
    text = answer(problem) if text is None else text
    return Sample(images=(_bytes(problem.image),), messages=chat(problem.text, text), task=problem.task)


def processor() -> ImageOnlyQwen3VLProcessor:
    """The processor that all models of this world share; its tokenizer knows the world's words."""
    questions = sorted({problem.text for problem in _problems("benchmark", 0)})
    answers = [
        f"{colour} {shape} = {word}" for colour in COLOURS for shape in SHAPES for word in (colour, shape, "yes", "no")
    ]
    return build_processor([*questions, *answers])


def _worked(text: str, colour: str, shape: str, heeds_negation: bool = True) -> str:
    """The short thought that answers a question about a shape of a colour."""
    return f"{colour} {shape} = {_asked(text, colour, shape, heeds_negation)}"


def _asked(text: str, colour: str, shape: str, heeds_negation: bool = True) -> str:
    words = set(re.findall(r"[a-z]+", text.lower()))
    if _task(text) == "shape":
        return shape
    if _task(text) == "colour":
        return colour
    there = bool(words & {colour, shape})
    negated = heeds_negation and bool(words & {"no", "not"})
    return "yes" if there != negated else "no"


def _task(text: str) -> str:
    words = re.findall(r"[a-z]+", text.lower())
    if words[0] == "what":
        return "colour" if "color" in words else "shape"
    return "has-shape" if set(words) & set(SHAPES) else "has-colour"


def _problems(split: Split, seed: int) -> list[Problem]:
    """All problems of a split, in the package's order."""
    part = "test" if split == "benchmark" else "train"
    problems = _read(part)
    if split == "benchmark":
        return problems
    images = sorted({problem.image for problem in problems})
    order = np.random.default_rng([seed, 4000]).permutation(len(images))
    ends = np.round(np.cumsum([0, *SHARES.values()]) * len(images)).astype(int)
    place = list(SHARES).index(split)
    own = {images[index] for index in order[ends[place] : ends[place + 1]]}
    return [problem for problem in problems if problem.image in own]


@functools.cache
def _read(part: str) -> list[Problem]:
    """The questions of a part about images whose content they settle, each once."""
    folder = _folder() / part
    rows = [(text.lower(), said, image) for text, said, image in json.loads((folder / "questions.json").read_text())]
    seen: dict[int, dict[str, set[str]]] = {}
    for text, said, image in rows:
        for kind, possible in _evidence(text, said):
            known = seen.setdefault(image, {"colour": set(COLOURS), "shape": set(SHAPES)})
            known[kind] &= possible
    sure = {
        image: (*known["colour"], *known["shape"])
        for image, known in seen.items()
        if len(known["colour"]) == len(known["shape"]) == 1
    }
    return [
        Problem(folder / f"images/{image}.png", text, _task(text), sure[image])
        for text, image in dict.fromkeys((text, image) for text, _, image in rows)
        if image in sure
    ]


def _evidence(text: str, said: str) -> list[tuple[str, set[str]]]:
    """What a question and its answer leave possible: kind → the words that it may be."""
    kinds = {"colour": set(COLOURS), "shape": set(SHAPES)}
    words = set(re.findall(r"[a-z]+", text))
    found = [(kind, {said}) for kind, all_of in kinds.items() if said in all_of]
    for kind, all_of in kinds.items():
        if named := words & all_of:
            there = said not in ("yes", "no") or (said == "yes") != bool(words & {"no", "not"})
            found.append((kind, named if there else all_of - named))
    return found


@functools.lru_cache(maxsize=5_000)
def _bytes(path: Path) -> bytes:
    return path.read_bytes()


def _folder() -> Path:
    found = importlib.util.find_spec("easy_vqa")
    if found is None:
        raise ConfigError("the world easy-vqa comes in a PyPI package that is not installed: pip install easy-vqa")
    return Path(next(iter(found.submodule_search_locations))) / "data"
