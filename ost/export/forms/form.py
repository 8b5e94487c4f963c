"""What every form is: a way to write the selected samples into a folder, and to find them there again."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from ost.data import sample_id
from ost.data.sample import learned_last
from ost.export.selected import Selected
from ost.formats import Rejected, Source, Unit, load, open_source, parse
from ost.types import Progress

SHOWN = 3
"""Examples that one message names."""


@dataclass(frozen=True, slots=True)
class Limit:
    """A setting of a trainer beyond which it loses or changes something of a sample."""

    option: str
    """The trainer's own name of it."""
    default: int | None
    """None: no limit, unless the model has one."""
    beyond: str
    """What becomes of a sample that goes beyond."""
    of: str = "tokens"
    """What it limits: `tokens` of a sample, or `pixels` of an image."""
    exact: bool = False
    """Whether the trainer counts as we do; else its template or resolution may take more."""


@dataclass(frozen=True)
class Written:
    """What was written, and what a person is told of it."""

    samples: int
    notes: Sequence[str] = ()
    """What a person should know."""
    commands: Sequence[str] = ()
    """What comes next, such as the line to train with."""
    left_out: Mapping[str, int] = field(default_factory=dict)
    """Samples that the form cannot say: why → how many."""


class Read(NamedTuple):
    """A record of an export that was read again."""

    place: str
    """What messages call it."""
    id: str = ""
    """Digest of its content; "" where it cannot be read."""
    messages: Sequence[dict] = ()
    why: str = ""
    """Why it cannot be read."""


class Form(ABC):
    """One way to give the selected samples out."""

    name: str
    """What it is asked for by."""
    place: int
    """Where it stands among the forms: from 0, the user's own; from 10, those that trainers load."""
    trainer: str = ""
    """What messages call the one that loads it."""
    limits: Sequence[Limit] = ()
    data: str = ""
    """Where the records lie in the folder, "" for all of it."""
    needs_source: bool = False
    """Whether it takes records from the source that the pool was ingested from."""

    @abstractmethod
    def write(self, selected: Selected, folder: Path, out: Path, progress: Progress, **options) -> Written:
        """Write the samples into `folder`, which will stand at `out`; raises DataError where that cannot be.

        `options`: further arguments of `ost.export.export`, of which a form takes those that concern it.
        """

    def refusal(self, messages: Sequence[dict]) -> str | None:
        """Why the trainer could not take a sample's messages as they are meant; None where it can."""
        return None

    def source(self, folder: Path, files: Iterable[str]) -> Source:
        """The records in an export; `files`: those of the user's source that its samples come from, in order."""
        return open_source(folder / self.data)

    def listed(self, folder: Path) -> Collection[str] | None:
        """The ids of the samples that an export lists, where it has no records."""
        return None


def read_back(
    source: Source, images: Callable[[Sequence[Any], Unit], Sequence[bytes]], columns: Mapping[str, str], train_on: str
) -> Iterator[Read]:
    """The records of an export in order, as ingestion reads them, each with the id that it has as a sample.

    `images` gives the bytes of a record's images, told how it names them, and the unit that it stands in.
    """
    for unit in source.units():
        for position, record in load(unit, columns).records:
            place = f"record {position} of {unit.name}"
            try:
                draft = parse(record, columns)
                messages = learned_last(draft.messages) if train_on == "last" else draft.messages
                yield Read(place, sample_id(images(draft.images, unit), messages), draft.messages)
            except Rejected as rejected:
                yield Read(place, why=": ".join(rejected.why))
