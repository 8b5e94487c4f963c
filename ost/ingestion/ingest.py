"""Ingestion: pool, anchors and benchmark, each record either in a sample set or quarantined with a reason."""

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from ost.data import Dataset
from ost.data.dataset import write_listing
from ost.data.shards import Shard
from ost.errors import DataError
from ost.formats import Broken, Source, Why, open_source
from ost.ingestion.gate import DUPLICATE, ImageFile, Rules
from ost.ingestion.inspector import Inspected, digest_of, forget_others
from ost.ingestion.notes import notes_of
from ost.ingestion.taken import Quarantined, SetName, Taken
from ost.ingestion.workers import Workers
from ost.settings import Data
from ost.store import remove
from ost.types import Progress, silent

MEGABYTE = 1 << 20


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
        return [record for one in self.taken.values() for record in one.quarantine]

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
    added: str | Path | None = None,
    workers: int = 1,
    refused: Mapping[SetName, Sequence[Broken]] = MappingProxyType({}),
    progress: Progress = silent,
) -> Ingested:
    """Read and check the sources, in any form that `ost.formats` reads, into sample sets under the folder `into`.

    `processor`: folder or hub name of the model whose processor counts tokens; its weights are not loaded, and without
    one nothing is counted. `memory`: folder in which is kept what became of each part of a source, so that what is
    unchanged is not read again. `added`: a source of further anchors, read behind the others. `refused`: what of a
    source could not even be brought here; it is counted and quarantined with the rest.

    A sample is kept whole or not at all. Anchors lose what stands in the benchmark; the pool loses what stands in
    either. Without a benchmark only the other two are read. Memory does not grow with the sources, but for 100 bytes a
    sample. Raises DataError where a source cannot be read or nothing of it is left.
    """
    addresses = {"benchmark": benchmark, "anchors": anchors, "pool": pool}
    sources = {name: [open_source(address)] for name, address in addresses.items() if address is not None}
    sources["anchors"] += [open_source(added)] if added is not None else []
    rules = Rules.of(settings or Data(), processor)
    memory = Path(memory) / digest_of(rules) if memory else None
    taken: dict[SetName, Taken] = {}
    asked: dict[str, dict[str, str]] = {}
    notes: set[str] = set()
    total, done = sum(source.size for source in itertools.chain(*sources.values())), 0
    most = max(1, total // MEGABYTE)
    with Workers(rules, workers) as processes:
        for name, own in sources.items():
            taking = _Taking(name, own, Path(into) / name, refused.get(name, ()), asked)
            progress(done // MEGABYTE, most, f"MB; {name}")
            for source in own:
                for inspected in processes.inspect(source.units(), source.root, taking.taken.folder, memory):
                    taking.add(inspected, source.root)
                    notes.add(inspected.note)
                    done = min(done + inspected.size, total)
                    note = f"MB; {name}: {taking.taken.read:,} records, {taking.taken.kept:,} kept"
                    progress(done // MEGABYTE, most, note)
            taken[name] = taking.finish(addresses[name])
            asked[name] = taking.asked
    progress(most, most, "MB; all is read")
    if memory and memory.is_dir():
        forget_others(memory, notes)
    return Ingested({name: taken[name] for name in ("pool", "anchors", "benchmark") if name in taken})


class _Taking:
    """One set being taken in: what only the order of all its records can tell is told here."""

    def __init__(
        self,
        name: SetName,
        sources: Sequence[Source],
        folder: Path,
        refused: Sequence[Broken],
        others: Mapping[str, Mapping[str, str]],
    ):
        unread = tuple(file for source in sources for file in source.unread)
        self.name, self.taken = name, Taken(folder=folder, unread_files=unread)
        self.asked: dict[str, str] = {}
        """What each sample asks, where others must not ask it again: the pool is nobody's other."""
        self._others, self._seen = dict(others), set()
        self._shards: list[Shard] = []
        self._left_out: dict[str, list[int]] = {}
        for broken in refused:
            self._refuse("", position=0, id="", own_id=None, reason=broken.reason, detail=broken.detail)

    def add(self, found: Inspected, root: Path) -> None:
        """Take what one unit held, of a source in the folder `root`."""
        taken, first = self.taken, len(self.taken.quarantine)
        for record in found.rejected:
            self._refuse(found.file, **record)
        shards = [Shard(name, samples) for name, samples in found.shards]
        places = ((shard.file, row) for shard in shards for row in range(shard.samples))
        for sample, (file, row) in zip(found.kept, places, strict=True):
            if why := self._overlap(sample):
                self._left_out.setdefault(file, []).append(row)
                own = {key: sample[key] for key in ("position", "id", "own_id")}
                self._refuse(found.file, **own, **why._asdict())
            else:
                taken.read += 1
                taken.kept += 1
                taken.tasks.add(sample["task"])
        taken.quarantine[first:] = sorted(taken.quarantine[first:], key=lambda record: record.position)
        self._shards += shards
        taken.merge(found)
        taken.beside |= self._beside(found.files, root)

    @staticmethod
    def _beside(images: Sequence[ImageFile], root: Path) -> set[Path]:
        """Files and folders of the source's own folder that images are or lie in; elsewhere the images' folders."""
        folders = {image.path: image.path.rpartition("/")[0] or "/" for image in images}
        places = {Path(path if folder == str(root) else folder) for path, folder in folders.items()}
        return {root / place.relative_to(root).parts[0] if place.is_relative_to(root) else place for place in places}

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

    def _overlap(self, sample: dict) -> Why | None:
        """Why a sample must not be in this set, because of what came before it."""
        name = bytes.fromhex(sample["id"])
        if name in self._seen:
            return DUPLICATE
        self._seen.add(name)
        for other, asked in self._others.items():
            for prompt in sample["prompts"]:
                if prompt in asked:
                    same = "sample" if asked[prompt] == sample["id"] else "question"
                    return Why(f"in-{other}", f"the same {same} as {asked[prompt]}")
        if self.name != "pool":
            self.asked |= dict.fromkeys(sample["prompts"], sample["id"])
        return None

    def _refuse(self, file: str, **record) -> None:
        self.taken.read += 1
        self.taken.quarantine.append(Quarantined(self.name, file, **record))


def _nothing_left(name: SetName, address: str | Path, taken: Taken) -> str:
    if not taken.quarantine:
        return f"{name}: {address} holds no records; point data.{name} at a source that does"
    reasons = Counter(record.reason for record in taken.quarantine).most_common()
    first = taken.quarantine[0]
    place = f"{first.position} of {first.file}" if first.file else f"{first.position}"
    return (
        f"{name}: none of the {taken.read} record(s) of {address} can be used "
        f"({', '.join(f'{count} {reason}' for reason, count in reasons)}). "
        f"Record {place}, for one, is {first.reason}: {first.detail}. "
        "Mend the records, or the limits in `data`; `ost check` shows more of them"
    )
