"""The gate that every record passes, or is turned away from with a reason."""

import warnings
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from ost.data import Facts, Sample
from ost.data.picture import fault, size_of
from ost.data.sample import content_id, image_digest, is_learned, learned_last, prompt_ids, text_of
from ost.encoding import Encoder
from ost.errors import DataError
from ost.formats import Broken, Draft, Images, Rejected, Why, parse
from ost.formats.images import MOST_BYTES, value_of
from ost.models import load_processor
from ost.settings import Data

MOST_CHARACTERS, CHARACTERS_A_TOKEN = 2**20, 256
"""A text is counted up to the first, or up to so many for each token that it may have; few tokens stand for more."""
REMEMBERED = 256
"""Images whose check is remembered: samples that share one usually stand together."""
DUPLICATE = Why("duplicate", "images and messages are those of an earlier record")
"""Why a sample is kept out that stands in its source already."""
SMALLEST = (28, 28)
"""Size of an image that costs next to no tokens."""


@dataclass(frozen=True)
class Rules:
    """By what records are judged; small enough to send to a worker."""

    processor: str | None
    """Folder or hub name of the model whose processor counts tokens; without one they are not counted."""
    max_tokens: int
    max_pixels: int
    train_on: str = "all"
    columns: tuple[tuple[str, str], ...] = ()
    image_roots: tuple[str, ...] = ()

    @classmethod
    def of(cls, settings: Data, processor: str | Path | None) -> "Rules":
        """The rules that the settings ask for."""
        name, columns = None if processor is None else str(processor), tuple(sorted(settings.columns.items()))
        limits = settings.max_tokens, settings.max_pixels
        return cls(name, *limits, settings.train_on, columns, settings.image_roots)


class ImageFile(NamedTuple):
    """An image file that was read, and its state."""

    named: str
    """As the record names it."""
    path: str
    size: int
    changed: int
    """When, in nanoseconds."""
    inode: int = 0
    touched: int = 0
    """When its inode changed, which nobody can set back."""


@dataclass
class Verdict:
    """What became of a record."""

    position: int
    """Its place in its file, from 0."""
    sample: Sample | None = None
    facts: Facts | None = None
    """Of a sample that may be used."""
    why: Why | None = None
    """Of one that may not."""
    prompts: list[str] = field(default_factory=list)
    """Digests of what its learned turns are asked."""
    own_id: str | None = None
    unread: tuple[str, ...] = ()
    """Columns that were not read."""
    absent: tuple[str, ...] = ()
    """Columns that data.columns names and the record has not."""
    files: list[ImageFile] = field(default_factory=list)
    """Image files that were."""
    shrinkable: bool = False
    """Too long, but would not be if its images took fewer tokens."""

    @property
    def passed(self) -> bool:
        """Whether the sample may be used."""
        return self.why is None


class Gate:
    """Judges the records of one source."""

    def __init__(self, rules: Rules, root: Path, encoder: Encoder | None = None):
        """`root`: the folder that image paths start from. `encoder`: the processor's, where it is made already.

        Raises ModelError where the processor cannot be loaded.
        """
        self.rules, self._columns = rules, dict(rules.columns)
        self._images = Images(root, [Path(folder) for folder in rules.image_roots])
        self._encoder = encoder or encoder_of(rules.processor)
        self._looks: OrderedDict[bytes, tuple[Why | None, tuple[int, int]]] = OrderedDict()

    def judge(self, record: dict | Broken, file: Path, name: str, position: int) -> Verdict:
        """What becomes of the record at a position of a file; `name` is what tables call the file."""
        verdict = Verdict(position)
        if isinstance(record, dict):
            verdict.absent = tuple(theirs for theirs in self._columns.values() if theirs not in record)
        try:
            draft = parse(record, self._columns)
            verdict.own_id, verdict.unread = draft.own_id, draft.unread
            sizes = self._pass(draft, file, verdict)
            tokens, learned = self._measure(sizes, verdict)
        except Rejected as rejected:
            verdict.why = rejected.why
        else:
            verdict.facts = Facts(tokens, learned, sizes, name, position, draft.own_id, draft.ratings)
        return verdict

    def is_as_it_was(self, image: ImageFile, file: Path) -> bool:
        """Whether what a record of `file` names is still the same image file, as far as its state tells."""
        try:
            located = self._images.locate(image.named, file)
        except Rejected:
            return False
        return isinstance(located, Path) and _state(image.named, located) == image

    def _pass(self, draft: Draft, file: Path, verdict: Verdict) -> tuple[tuple[int, int], ...]:
        """Make a sample of the draft, and return its images' sizes.

        Cheapest first: no file is opened for a record that is out anyway.
        """
        messages = learned_last(draft.messages) if self.rules.train_on == "last" else draft.messages
        _check_texts(messages, self.rules.max_tokens)
        images = self._load(draft.images, file, verdict)
        digests = list(map(image_digest, images))
        sizes = tuple(map(self._look, images, digests))
        verdict.sample = Sample(images, messages, draft.task, content_id(digests, messages))
        verdict.prompts = prompt_ids(digests, messages)
        return sizes

    def _load(self, values: Sequence, file: Path, verdict: Verdict) -> tuple[bytes, ...]:
        """The bytes of a record's images, which together are no more than of one."""
        images: list[bytes] = []
        left = MOST_BYTES
        for value in values:
            located = self._images.locate(value, file)
            if isinstance(located, Path):
                verdict.files.append(_state(value_of(value), located))
            images.append(self._images.load(located, left))
            left -= len(images[-1])
        return tuple(images)

    def _look(self, image: bytes, digest: bytes) -> tuple[int, int]:
        """Size of an image, decoded once to see that it is sound; raises Rejected where it isn't."""
        if digest not in self._looks:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", module=r"PIL\.")  # what it warns of is refused, or seen all the same
                found = fault(image, self.rules.max_pixels)
                self._looks[digest] = (Why(*found), (0, 0)) if found else (None, size_of(image))
            if len(self._looks) > REMEMBERED:
                self._looks.popitem(last=False)
        why, size = self._looks[digest]
        if why:
            raise Rejected(*why)
        return size

    def _measure(self, sizes: Sequence[tuple[int, int]], verdict: Verdict) -> tuple[int, int]:
        """Tokens of a sample, and how many of them are learned."""
        if self._encoder is None:
            return 0, 0
        sample, most = verdict.sample, self.rules.max_tokens
        try:
            measured = self._encoder.measure(sample, sizes)
            if measured.tokens <= most:
                return measured.tokens, measured.learned
            least = self._encoder.measure(sample, [SMALLEST] * len(sizes)).tokens if sizes else measured.tokens
            verdict.shrinkable = least <= most
        except DataError as error:
            raise Rejected("cannot-encode", str(error)) from error
        raise Rejected("too-long", f"{measured.tokens} tokens, more than data.max_tokens = {most}")


def encoder_of(processor: str | None) -> Encoder | None:
    """What counts tokens; raises ModelError where the processor cannot be loaded."""
    return None if processor is None else Encoder(load_processor(processor))


def _state(named: str, path: Path) -> ImageFile:
    try:
        state = path.stat()
    except OSError:  # gone since it was found; loading it says so
        return ImageFile(named, str(path), -1, 0)
    return ImageFile(named, str(path), state.st_size, state.st_mtime_ns, state.st_ino, state.st_ctime_ns)


def _check_texts(messages: Sequence[dict], max_tokens: int) -> None:
    """Refuse answers with nothing to take a loss on, and texts too long to be worth counting their tokens."""
    learned = [turn for turn in messages if is_learned(turn)]
    if not learned:
        raise Rejected("empty-answer", "no turn of the assistant is learned: every one says `loss: false`")
    if not all(text_of(turn).strip() for turn in learned):
        raise Rejected("empty-answer", "an answer of the assistant is blank")
    length, most = sum(len(text_of(turn)) for turn in messages), max(MOST_CHARACTERS, CHARACTERS_A_TOKEN * max_tokens)
    if length > most:
        raise Rejected("too-long", f"{length:,} characters, for data.max_tokens = {max_tokens}")
