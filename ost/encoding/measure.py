"""Tokens of a sample without its pixels: from the sizes of its images alone, and exactly what training counts.

A sample is counted with a small image in the place of each of its own, and what those have beyond it is added: as the
processor's own arithmetic tells, where that proves right for images of many shapes, else as it turns out for a blank
image of the size. For the count itself a processor whose class only puts tokens in the images' places need not be run;
any other is, all but its image part, of which the answer for blank images is remembered.
"""

import functools
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from transformers.feature_extraction_utils import BatchFeature
from transformers.processing_utils import ProcessorMixin

from ost.encoding.control import Marks
from ost.encoding.processing import Processing
from ost.errors import DataError

Size = tuple[int, int]
"""Width and height in pixels."""

SHAPES: tuple[Size, ...] = ((56, 40), (448, 448), (640, 427), (300, 1100), (1500, 250), (1400, 1100))
"""Images that a processor's own arithmetic is tried on; the first stands for all others afterwards."""
WRITERS = ("__call__", "prepare_inputs_layout", "get_text_with_replacements")
"""Methods of processors that may change texts; as transformers has them, they only exchange the images' tokens."""
REMEMBERED = 4096
"""Sets of image sizes whose answer is remembered."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What a sample costs."""

    tokens: int
    """Of the whole sample, image tokens included."""
    learned: int
    """Of these, how many a loss is taken on."""


class TokenCounter:
    """Counts the tokens of marked texts with images of given sizes, for one processor."""

    def __init__(self, processor: object, processing: Processing, marks: Marks, probe: Callable[[int], str]):
        """`probe` renders a conversation with so many images."""
        self._processor, self._marks, self._probe = processor, marks, probe
        self._images = _CachedImageProcessor(processor.image_processor) if processing.sees else None
        self._processing = processing.with_images_by(self._images) if self._images else processing
        self._tiny = Image.new("RGB", SHAPES[0])
        self._place: str | None = getattr(processor, "image_token", None)
        self._instead: str | None = None
        self._only_exchanges = isinstance(processor, ProcessorMixin) and all(
            getattr(type(processor), name, None) is getattr(ProcessorMixin, name, None) for name in WRITERS
        )
        self._beyond: dict[Size, int] = {SHAPES[0]: 0}

    def measure(self, text: str, sizes: Sequence[Size], marks: Marks) -> Measured:
        """Tokens of a marked text with images of these sizes; raises DataError where the processor refuses them."""
        sizes = [(int(width), int(height)) for width, height in sizes]
        beyond = sum(map(self._tokens_beyond, sizes))
        if len(sizes) > 1 and not self._adds_up:
            return self._run(text, sizes, marks)
        found = self._count(text, len(sizes), marks)
        return Measured(found.tokens + beyond, found.learned)

    def image_tokens(self, sizes: Sequence[Size]) -> list[int]:
        """Tokens that stand in the place of one image of each size."""
        text = self._probe(1)
        first = self._run(text, SHAPES[:1], self._marks).tokens - self._processing.count(text, None, self._marks)[0] + 1
        return [first + self._tokens_beyond(size) for size in sizes]

    def _count(self, text: str, images: int, marks: Marks) -> Measured:
        """With images of the first shape."""
        if not (self._only_exchanges and (self._place or not images)):
            return self._run(text, SHAPES[:1] * images, marks)
        if images:
            if self._instead is None:
                self._instead = self._exchanged_for()
            text = text.replace(self._place, self._instead)
        return Measured(*self._processing.count(text, None, marks))

    def _exchanged_for(self) -> str:
        """What the processor writes for an image of the first shape."""
        before, after = self._probe(1).split(self._place)
        self._run(self._probe(1), SHAPES[:1], self._marks)
        (written,) = self._processing.tokens.texts
        return written[len(before) : len(written) - len(after)]

    def _run(self, text: str, sizes: Sequence[Size], marks: Marks) -> Measured:
        if self._images:
            self._images.sizes = tuple(sizes)
        return Measured(*self._processing.count(text, [self._tiny] * len(sizes), marks))

    def _tokens_beyond(self, size: Size) -> int:
        """Tokens of an image of this size beyond those of the first of the shapes."""
        if size not in self._beyond:
            self._beyond[size] = self._calculated(size) if self.calculates else self._found(size)
        return self._beyond[size]

    def _calculated(self, size: Size) -> int:
        try:
            told = self._processor._get_num_multimodal_tokens(image_sizes=[SHAPES[0][::-1], size[::-1]])
            first, own = map(int, told.num_image_tokens)
        except Exception as error:  # sizes that it refuses, and arithmetic that is not there
            raise DataError(f"the processor refuses an image of {size[0]} × {size[1]} pixels: {error}") from error
        return own - first

    def _found(self, size: Size) -> int:
        text = self._probe(1)
        return self._run(text, [size], self._marks).tokens - self._run(text, SHAPES[:1], self._marks).tokens

    @functools.cached_property
    def calculates(self) -> bool:
        """Whether the processor's own arithmetic is right."""
        try:
            return all(self._calculated(size) == self._found(size) for size in SHAPES[1:])
        except DataError:
            return False

    @functools.cached_property
    def _adds_up(self) -> bool:
        """Whether an image has as many tokens among others as it has alone."""
        return all(map(self._sum_is_right, ([SHAPES[1], SHAPES[3]], [SHAPES[4], SHAPES[0], SHAPES[2]])))

    def _sum_is_right(self, sizes: Sequence[Size]) -> bool:
        text = self._probe(len(sizes))
        first = self._run(text, SHAPES[:1] * len(sizes), self._marks).tokens
        among = self._run(text, sizes, self._marks).tokens - first
        return among == sum(map(self._tokens_beyond, sizes))


class _CachedImageProcessor:
    """An image processor that is asked once about blank images of each set of sizes, and then knows what it said."""

    def __init__(self, image_processor: object):
        self._image_processor = image_processor
        self.sizes: tuple[Size, ...] = ()
        """Of the images that the next call is about, whatever it is given."""
        self._known: OrderedDict[tuple[Size, ...], dict] = OrderedDict()

    def __getattr__(self, name: str):
        if name == "_image_processor":  # not there yet, while a copy is made
            raise AttributeError(name)
        return getattr(self._image_processor, name)

    def __call__(self, images, *args, **options) -> BatchFeature:
        if self.sizes not in self._known:
            blanks = iter([Image.new("RGB", size, "white") for size in self.sizes])
            # As tensors, as in training: of lists, the shapes would have to be told otherwise.
            said = self._image_processor(_exchanged(images, blanks), *args, **options | {"return_tensors": "pt"})
            self._known[self.sizes] = {name: _without_pixels(value) for name, value in said.items()}
            if len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        return BatchFeature(dict(self._known[self.sizes]))


def _exchanged(images, blanks):
    """Blank images, one in each image's place."""
    return [_exchanged(one, blanks) for one in images] if isinstance(images, list | tuple) else next(blanks)


def _without_pixels(value):
    """The same shapes, of one number each that takes no memory."""
    if isinstance(value, torch.Tensor) and value.is_floating_point():
        return torch.zeros((), dtype=value.dtype).expand(value.shape)
    if isinstance(value, np.ndarray) and value.dtype.kind == "f":
        return np.broadcast_to(np.zeros((), dtype=value.dtype), value.shape)
    return [_without_pixels(one) for one in value] if isinstance(value, list | tuple) else value
