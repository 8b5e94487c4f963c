"""Checks: each looks at a sample and answers why it must not be used, or None."""

import io
from collections.abc import Callable, Iterable, Iterator, Sequence

from PIL import Image, UnidentifiedImageError

from ost.data import Sample, sample_id
from ost.encoding import Encoder
from ost.ingestion.quarantine import Reason, Why, show

Check = Callable[[Sample], Why | None]

IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
"""The only decoders that a user's bytes reach."""

BATCH_SAMPLES, BATCH_PIXELS = 64, 2**24
"""What is tokenized at once. Pixels count, because the processor holds every image as floats: 12 bytes a pixel."""

MOST_CHARACTERS, CHARACTERS_A_TOKEN = 2**20, 256
"""A text is counted up to the first, or up to so many for each token that it may have; few tokens stand for more."""


def empty_answer(sample: Sample) -> Why | None:
    """Refuse a blank last message: there would be nothing to take a loss on."""
    return None if sample.answer.strip() else Why("empty-answer", "the assistant's last message is blank")


def endless(max_tokens: int) -> Check:
    """Refuse a text that is too long to be worth counting its tokens."""
    most = max(MOST_CHARACTERS, CHARACTERS_A_TOKEN * max_tokens)

    def check(sample: Sample) -> Why | None:
        length = len(sample.question) + len(sample.answer)
        return Why("too-long", f"{length:,} characters, for data.max_tokens = {max_tokens}") if length > most else None

    return check


def placeholders(processor: object) -> Check:
    """Refuse text that spells one of the processor's own image tokens: the model would wait for one image more."""
    names = ("image_token", "video_token", "boi_token")
    tokens = [str(token) for name in names if (token := getattr(processor, name, None))]

    def check(sample: Sample) -> Why | None:
        text = f"{sample.question}\n{sample.answer}"
        found = next((token for token in tokens if token in text), None)
        return found and Why("malformed", f'the text spells {found}; use a part {{"type": "image"}} for an image')

    return check


def duplicate() -> Check:
    """Refuse a sample whose content came before, whatever its task is called."""
    seen: set[str] = set()

    def check(sample: Sample) -> Why | None:
        if sample.id in seen:
            return Why("duplicate", "images and messages are those of an earlier record")
        seen.add(sample.id)
        return None

    return check


def stands_in(reason: Reason, others: Iterable[Sample]) -> Check:
    """Refuse, for `reason`, what asks the same as one of `others`, even with another answer."""
    known = {_prompt_id(other): other.id for other in others}

    def check(sample: Sample) -> Why | None:
        other = known.get(_prompt_id(sample))
        return other and Why(reason, f"the {'same sample' if other == sample.id else 'same question'} as {other}")

    return check


def sound_images(max_pixels: int) -> Check:
    """Refuse an image of more than `max_pixels` pixels undecoded, and one that does not decode to its end."""

    def check(sample: Sample) -> Why | None:
        return next(filter(None, (image_fault(image, max_pixels) for image in sample.images)), None)

    return check


def image_fault(image: bytes, max_pixels: int) -> Why | None:
    """What is wrong with an encoded image, if anything."""
    try:
        if (size := pixels(image)) > max_pixels:
            return Why("image-too-large", f"{size} pixels, more than data.max_pixels = {max_pixels}")
        _open(image).verify()  # checksums; the object is used up by it
        _open(image).convert("RGB")
    except Image.DecompressionBombError as error:
        return Why("image-too-large", str(error))
    except UnidentifiedImageError:  # its text holds a memory address, which would differ from run to run
        return Why("broken-image", f"{len(image)} bytes that are none of {', '.join(IMAGE_FORMATS)}")
    except Exception as error:  # PIL's decoders raise whatever damaged bytes lead them to
        return Why("broken-image", f"{type(error).__name__}: {show(str(error))}")
    return None


def pixels(image: bytes) -> int:
    """Pixels that an encoded image would have, by its header alone."""
    width, height = _open(image).size
    return width * height


def overlong(samples: Sequence[Sample], encoder: Encoder, max_tokens: int) -> list[Why | None]:
    """For each of a batch, refuse what has more than `max_tokens` tokens, or what the processor cannot take at all."""
    try:
        lengths = encoder.lengths(samples)
    except Exception as error:  # templates and processors of any family; what they refuse is theirs to say
        if len(samples) == 1:
            return [Why("malformed", f"the processor refuses it: {type(error).__name__}: {show(str(error))}")]
        return [why for sample in samples for why in overlong([sample], encoder, max_tokens)]
    return [
        Why("too-long", f"{length} tokens, more than data.max_tokens = {max_tokens}") if length > max_tokens else None
        for length in lengths
    ]


def batches(samples: Iterable[Sample]) -> Iterator[list[Sample]]:
    """Consecutive samples, as many as one call of the processor should hold."""
    batch: list[Sample] = []
    total = 0
    for sample in samples:
        own = sum(map(pixels, sample.images))
        if batch and (len(batch) == BATCH_SAMPLES or total + own > BATCH_PIXELS):
            yield batch
            batch, total = [], 0
        batch.append(sample)
        total += own
    if batch:
        yield batch


def _open(image: bytes) -> Image.Image:
    return Image.open(io.BytesIO(image), formats=IMAGE_FORMATS)


def _prompt_id(sample: Sample) -> str:
    return sample_id(sample.images, sample.messages[:-1])
