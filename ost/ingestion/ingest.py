"""Ingestion: pool, anchors and benchmark, each record either in a sample set or quarantined with a reason."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from ost.config import Data
from ost.data import Dataset
from ost.data.dataset import write_listing
from ost.data.shards import Shard
from ost.errors import DataError
from ost.formats import Broken, Source, open_source
from ost.ingestion.crew import Crew
from ost.ingestion.gate import ImageFile, Rules
from ost.ingestion.inspector import Inspected, digest_of, forget_others
from ost.ingestion.notes import notes_of
from ost.ingestion.quarantine import Quarantined, SetName
from ost.store import remove
from ost.types import Progress, silent

MEGABYTE = 1 << 20


@dataclass
class Taken:
    """What was taken from one source."""

    folder: Path
    read: int = 0
    kept: int = 0
    quarantine: list[Quarantined] = field(default_factory=list)
    tasks: set[str] = field(default_factory=set)
    unread_columns: Counter = field(default_factory=Counter)
    absent_columns: Counter = field(default_factory=Counter)
    """Columns that data.columns names, and how many records have them not."""
    unread_files: Sequence[str] = ()
    learned_turns: int = 0
    context_turns: int = 0
    shrinkable: int = 0
    """Of those that are too long, how many would not be if their images took fewer tokens."""
    beside: set[Path] = field(default_factory=set)
    """Files and folders beside the source, or in the folders named for it, that its images were read from."""

    @property
    def counts(self) -> dict:
        """`{"read", "kept", "quarantined", "reasons": {reason: count}}`; read = kept + quarantined."""
        reasons = Counter(entry.reason for entry in self.quarantine)
        return {"read": self.read, "kept": self.kept, "quarantined": reasons.total(), "reasons": dict(reasons)}


@dataclass(frozen=True)
class Ingested:
    """The sample sets as they may be used, and what was kept out of them."""

    taken: Mapping[SetName, Taken]

    def __getitem__(self, name: SetName) -> Dataset:
        """A sample set: `pool`, `anchors` or `benchmark`."""
        return Dataset(self.taken[name].folder)

    @property
    def counts(self) -> dict[SetName, dict]:
        """Set → how many records were read, kept and quarantined, and why."""
        return {name: one.counts for name, one in self.taken.items()}

    @property
    def quarantine(self) -> list[Quarantined]:
        """Every record that was kept out."""
        return [entry for one in self.taken.values() for entry in one.quarantine]

    @property
    def warnings(self) -> list[str]:
        """What a person should know before training: what was found, and what to do."""
        return notes_of(self.taken)


def ingest(
    pool: str | Path,
    anchors: str | Path,
    benchmark: str | Path | None,
    processor: str | Path | None,
    into: str | Path,
    settings: Data | None = None,
    *,
    memory: str | Path | None = None,
    workers: int = 1,
    refused: Mapping[SetName, Sequence[Broken]] = MappingProxyType({}),
    progress: Progress = silent,
) -> Ingested:
    """Read and check the sources, in any form that `ost.formats` reads, into sample sets under the folder `into`.

    `processor`: folder or hub name of the model whose processor counts tokens; its weights are not loaded, and without
    one nothing is counted. `memory`: folder in which is kept what became of each part of a source, so that what is
    unchanged is not read again. `refused`: what of a source could not even be brought here; it is counted and
    quarantined with the rest.

    A sample is kept whole or not at all. Anchors lose what stands in the benchmark; the pool loses what stands in
    either. Without a benchmark only the other two are read. Memory does not grow with the sources, but for 100 bytes a
    sample. Raises DataError where a source cannot be read or nothing of it is left.
    """
    addresses = {"benchmark": benchmark, "anchors": anchors, "pool": pool}
    sources = {name: open_source(address) for name, address in addresses.items() if address is not None}
    rules = Rules.of(settings or Data(), processor)
    memory = Path(memory) / digest_of(rules) if memory else None
    taken: dict[SetName, Taken] = {}
    asked: dict[str, dict[str, str]] = {}
    notes: set[str] = set()
    meter = _Meter(sum(source.size for source in sources.values()), progress)
    with Crew(rules, workers) as crew:
        for name, source in sources.items():
            taking = _Taking(name, source, Path(into) / name, refused.get(name, ()), asked)
            meter.start(name)
            for inspected in crew.inspect(source.units(), source.root, taking.taken.folder, memory):
                taking.add(inspected)
                notes.add(inspected.note)
                meter.advance(inspected.size, taking.taken)
            taken[name] = taking.finish(addresses[name])
            asked[name] = taking.asked
    meter.finish()
    if memory and memory.is_dir():
        forget_others(memory, notes)
    return Ingested({name: taken[name] for name in ("pool", "anchors", "benchmark") if name in taken})


class _Taking:
    """One source being taken in: what only the order of all its records can tell is told here."""

    def __init__(
        self,
        name: SetName,
        source: Source,
        folder: Path,
        refused: Sequence[Broken],
        others: Mapping[str, Mapping[str, str]],
    ):
        self.name, self.taken = name, Taken(folder, unread_files=source.unread)
        self.asked: dict[str, str] = {}
        """What each sample asks, where others must not ask it again: the pool is nobody's other."""
        self._root = source.root
        self._others, self._seen = dict(others), set()
        self._shards: list[Shard] = []
        self._left_out: dict[str, list[int]] = {}
        folder.mkdir(parents=True, exist_ok=True)
        for broken in refused:
            self._refuse("", 0, "", None, broken.reason, broken.detail)

    def add(self, found: Inspected) -> None:
        """Take what one unit held."""
        taken, first = self.taken, len(self.taken.quarantine)
        taken.read += len(found.kept)
        for record in found.rejected:
            self._refuse(found.file, **record)
        shards = [Shard(name, samples) for name, samples in found.shards]
        places = ((shard.file, row) for shard in shards for row in range(shard.samples))
        for sample, (file, row) in zip(found.kept, places, strict=True):
            why = self._overlap(sample)
            if why:
                self._left_out.setdefault(file, []).append(row)
                taken.read -= 1  # counted with the refused
                self._refuse(found.file, sample["position"], sample["id"], sample["own_id"], *why)
                continue
            taken.kept += 1
            taken.tasks.add(sample["task"])
        taken.quarantine[first:] = sorted(taken.quarantine[first:], key=lambda entry: entry.position)
        self._shards += shards
        taken.unread_columns.update(found.unread)
        taken.absent_columns.update(found.absent)
        taken.learned_turns += found.learned_turns
        taken.context_turns += found.context_turns
        taken.shrinkable += found.shrinkable
        taken.beside |= self._beside(found.files)

    def _beside(self, images: Sequence[ImageFile]) -> set[Path]:
        """The entries of the source's own folder that images lie in or are; elsewhere their folders."""
        folders = {image.path: image.path.rpartition("/")[0] or "/" for image in images}
        places = {Path(path if folder == str(self._root) else folder) for path, folder in folders.items()}
        return {self._top(place) if place.is_relative_to(self._root) else place for place in places}

    def _top(self, place: Path) -> Path:
        return self._root / place.relative_to(self._root).parts[0]

    def finish(self, address: str | Path) -> Taken:
        """Publish the set, and forget shards that are none of it; raises DataError where nothing is left."""
        if not self.taken.kept:
            raise DataError(_nothing_left(self.name, address, self.taken))
        folder = self.taken.folder
        write_listing(folder, self._shards, self._left_out)
        listed = {shard.file for shard in self._shards}
        for file in folder.iterdir():
            if file.suffix in (".parquet", ".part") and file.name not in listed:
                remove(file)
        return self.taken

    def _overlap(self, sample: dict) -> tuple[str, str] | None:
        """Why a sample must not be in this set, because of what came before it."""
        name = bytes.fromhex(sample["id"])
        if name in self._seen:
            return "duplicate", "images and messages are those of an earlier record"
        self._seen.add(name)
        for other, asked in self._others.items():
            for prompt in sample["prompts"]:
                if prompt in asked:
                    same = "sample" if asked[prompt] == sample["id"] else "question"
                    return f"in-{other}", f"the same {same} as {asked[prompt]}"
        if self.name != "pool":
            self.asked |= dict.fromkeys(sample["prompts"], sample["id"])
        return None

    def _refuse(self, file: str, position: int, id: str, own_id: str | None, reason: str, detail: str) -> None:
        self.taken.read += 1
        self.taken.quarantine.append(Quarantined(self.name, file, position, own_id, id, reason, detail))


class _Meter:
    """How far all sources together are read, in megabytes."""

    def __init__(self, total: int, progress: Progress):
        self.total, self.progress, self.done, self.name = total, progress, 0, ""

    def start(self, name: str) -> None:
        """Say which source is begun."""
        self.name = name
        self._tell(f"MB; {name}")

    def advance(self, size: int, taken: Taken) -> None:
        """So many bytes more are read."""
        self.done = min(self.done + size, self.total)
        self._tell(f"MB; {self.name}: {taken.read:,} records, {taken.kept:,} kept")

    def finish(self) -> None:
        """All is read; some bytes of files stand around their records."""
        self.done = self.total = max(self.total, MEGABYTE)
        self._tell("MB; all is read")

    def _tell(self, note: str) -> None:
        self.progress(self.done // MEGABYTE, max(1, self.total // MEGABYTE), note)


def _nothing_left(name: SetName, address: str | Path, taken: Taken) -> str:
    if not taken.quarantine:
        return f"{name}: {address} holds no records; point data.{name} at a source that does"
    reasons = Counter(entry.reason for entry in taken.quarantine).most_common()
    first = taken.quarantine[0]
    place = f"{first.position} of {first.file}" if first.file else f"{first.position}"
    return (
        f"{name}: none of the {taken.read} record(s) of {address} can be used "
        f"({', '.join(f'{count} {reason}' for reason, count in reasons)}). "
        f"Record {place}, for one, is {first.reason}: {first.detail}. "
        "Mend the records, or the limits in `data`; `ost check` shows more of them"
    )
