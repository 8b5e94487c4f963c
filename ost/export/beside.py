"""The images beside a user's own records: read to check the records, and copied to the same places."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ost.formats import Images, Source
from ost.formats.marks import value_of


class Beside:
    """The image files of a source, found as ingestion finds them."""

    def __init__(self, source: Source, roots: Sequence[str | Path], target: Path | None):
        """`target`: the folder to copy them into; None leaves them."""
        self._images = Images(source.root, roots)
        self._source, self._target = source, target
        self._roots = [Path(root).expanduser() for root in roots]
        self.left: set[str] = set()
        """Paths of images that have no place below the target."""
        self.files = 0
        """Image files that records refer to, each counted as often as it is."""

    def load(self, values: Iterable[Any], file: Path) -> list[bytes]:
        """The images of a record in `file`, copied on the way. Raises Rejected as ingestion does."""
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
        copy = self._target / place
        if not copy.exists():
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
