"""Samples on their way into a trainer's form."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ost.data import Sample
from ost.errors import DataError
from ost.export.form import TrainerForm
from ost.export.forms import TRAINERS
from ost.export.images import as_seen
from ost.export.kept import Kept, Row
from ost.export.manifest import Manifest
from ost.export.survey import Survey, survey
from ost.types import Progress

SHOWN = 3
"""Examples that one note names."""


@dataclass
class Written:
    """What was written, and what a person is told of it."""

    samples: int
    notes: list[str] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    left_out: Counter = field(default_factory=Counter)
    """Why → how many samples."""


def write_trainer(kept: Kept, name: str, folder: Path, out: Path, progress: Progress) -> Written:
    """Write the kept samples into `folder`, which will stand at `out`, as a trainer loads them.

    Raises DataError where the form can say none of them.
    """
    form = TRAINERS[name]
    progress(0, len(kept), "reading the turns")
    found = survey(kept, form.refusal)
    if not found.samples:
        raise DataError(f"{form.TRAINER} can take none of the {len(kept):,} samples: {_told(found)}")
    if form.GUESSED:
        found.lead()
    way = _Way(form, found, progress)
    form.write(way.rows(), folder, found)
    commands = form.sidecar(folder, out, found)
    Manifest(name, found.samples, found.kept.longest).write(folder, kept, way.changed, found.left_out)
    notes = [*_notes(found, way.redrawn), *form.notes(found)]
    return Written(found.samples, notes, commands, Counter(found.left_out.values()))


class _Way:
    """The samples that a form can say, as it says them."""

    def __init__(self, form: TrainerForm, found: Survey, progress: Progress):
        self.form, self.found, self.progress = form, found, progress
        self.changed: dict[str, str] = {}
        """Id in the pool → id as written, where that is another."""
        self.redrawn = 0
        """Images that were written anew."""

    def rows(self) -> Iterator[Row]:
        """The rows, with messages as the form says them, and images as a person sees them, under the pool's ids."""
        for done, row in enumerate(self.found.kept.rows(), start=1):
            old = row.sample
            images = tuple(map(as_seen, old.images))
            messages = tuple(self.form.said(old.messages, self.found))
            redrawn = sum(new is not image for new, image in zip(images, old.images, strict=True))
            if redrawn or messages != old.messages:
                self.changed[old.id] = Sample(images, messages).id
                self.redrawn += redrawn
            yield Row(Sample(images, messages, old.task, old.id), row.sizes, row.own_id)
            self.progress(done, self.found.samples, "writing samples")


def _notes(found: Survey, redrawn: int) -> Iterator[str]:
    if found.left_out:
        yield f"{len(found.left_out):,} samples were left out: {_told(found)}"
    if redrawn:
        yield (
            f"{redrawn:,} images are turned by EXIF, transparent or of more than 8 bits, which trainers' loaders "
            "ignore: they are written anew, as a person sees them"
        )


def _told(found: Survey) -> str:
    """Why samples were left out, each with how many, and which, for example."""
    parts = []
    for why, count in Counter(found.left_out.values()).most_common():
        names = [name for name, own in found.left_out.items() if own == why][:SHOWN]
        parts.append(f"{why} ({count:,}: {', '.join(names)}{' …' if count > SHOWN else ''})")
    return "; ".join(parts)
