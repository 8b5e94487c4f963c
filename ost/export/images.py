"""Image files of an export: as trainers' loaders show them, written once each; or beside the user's own records."""

import io
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.ExifTags import Base

from ost.data.picture import IMAGE_FORMATS, png_may_turn, shown, suffix_of
from ost.data.sample import image_digest
from ost.formats import Images, Source
from ost.formats.images import value_of

FOLDER = "images"
"""Where a form's image files lie, beside its records."""

PLAIN = ("RGB", "L", "P", "1")
"""Modes of which every loader makes the same colours, transparency aside."""

MOST_FILES = 5_000
"""Image files of one folder, about."""


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


class ImageFolder:
    """A folder of image files, each content once, in sub-folders that none grows too large."""

    def __init__(self, parent: Path, most: int):
        """`most`: images that will be added at most."""
        self.parent = parent
        self._digits = len(f"{max(1, most // MOST_FILES):x}")

    def add(self, image: bytes) -> str:
        """Write an image, unless it is there, and give its path relative to the parent folder."""
        digest = image_digest(image).hex()
        folder = f"{FOLDER}/{digest[: self._digits]}"
        path = self.parent / folder / f"{digest}.{suffix_of(image)}"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(image)
        return f"{folder}/{path.name}"


class SourceImages:
    """The image files of a user's own source, found as ingestion finds them, and copied to the same places."""

    def __init__(self, source: Source, roots: Sequence[str | Path], target: Path | None):
        """`target`: the folder to copy them into; None leaves them."""
        self._images = Images(source.root, roots)
        self._source, self._target = source, target
        self._roots = [Path(root).expanduser() for root in roots]
        self.left: set[str] = set()
        """Paths of images that have no place below the target."""
        self.files = 0
        """Image files that records refer to, each counted as often as it is."""

    def load(self, values: Iterable[Any], name: str) -> list[bytes]:
        """The images of a record in the source's file of that name, copied on the way; raises Rejected as ingestion."""
        file = self._source.folder / name
        found = []
        for value in values:
            located = self._images.locate(value, file)
            image = self._images.load(located)
            if isinstance(located, Path):
                self.files += 1
                if self._target:
                    self._copy(image, str(value_of(value)).removeprefix("file://"), located, file)
            found.append(image)
        return found

    def _copy(self, image: bytes, name: str, located: Path, file: Path) -> None:
        place = self._place(name, located, file)
        if place is None:
            self.left.add(name)
            return
        if not (copy := self._target / place).exists():
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(image)

    def _place(self, name: str, located: Path, file: Path) -> str | None:
        """Where below the target the same path finds the image again; None where it leads out of it."""
        if os.path.isabs(name):  # noqa: PTH117  (a path is text here, as in the record)
            return None
        own = file.parent.relative_to(self._source.folder)
        bases = [(file.parent, str(own)), (self._source.folder, ""), *((root, "") for root in self._roots)]
        for folder, base in bases:
            if os.path.realpath(folder / name) == str(located):
                place = os.path.normpath(os.path.join(base, name))  # noqa: PTH118
                return None if place.startswith("..") else place
        return None
