"""Images as trainers' loaders show them, and as files that are written once each."""

import io
from pathlib import Path

from PIL import Image
from PIL.ExifTags import Base

from ost.data.picture import IMAGE_FORMATS, png_may_turn, shown
from ost.data.sample import image_digest

FOLDER = "images"
"""Where a form's image files lie, beside its records."""

PLAIN = ("RGB", "L", "P", "1")
"""Modes of which every loader makes the same colours, transparency aside."""

MOST_FILES = 5_000
"""Image files of one folder, about."""

_SUFFIXES = ((b"\x89PNG", "png"), (b"\xff\xd8", "jpg"), (b"GIF8", "gif"), (b"RIFF", "webp"), (b"BM", "bmp"))


def as_seen(image: bytes) -> bytes:
    """The image's own bytes, where every loader shows what a person sees; else written anew, as `picture` shows it.

    Of the trainers' loaders most ignore an EXIF orientation, and all take transparent for black and 16 bits for white.
    """
    with Image.open(io.BytesIO(image), formats=IMAGE_FORMATS) as source:
        plain = source.mode in PLAIN and not source.has_transparency_data
        if plain and source.format == "PNG" and not png_may_turn(image):
            return image
        if plain and source.getexif().get(Base.Orientation, 1) == 1:
            return image
    return shown(image)[0]


def suffix_of(image: bytes) -> str:
    """The suffix of an encoded image's file, without its dot."""
    return next((suffix for magic, suffix in _SUFFIXES if image.startswith(magic)), "tif")


class ImageFolder:
    """A folder of image files, each content once, in sub-folders that none grows too large."""

    def __init__(self, parent: Path, most: int):
        """`most`: images that will be added at most."""
        self.parent = parent
        self._digits = len(f"{max(1, most // MOST_FILES):x}")
        self._folders: set[str] = set()

    def add(self, image: bytes) -> str:
        """Write an image, unless it is there, and give its path relative to the parent folder."""
        digest = image_digest(image).hex()
        folder = f"{FOLDER}/{digest[: self._digits]}"
        path = self.parent / folder / f"{digest}.{suffix_of(image)}"
        if folder not in self._folders:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._folders.add(folder)
        if not path.exists():
            path.write_bytes(image)
        return f"{folder}/{path.name}"
