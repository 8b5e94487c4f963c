"""What a worker does: read one unit of a source, judge each of its records, and write those that pass as shards."""

import dataclasses
import hashlib
import importlib.metadata
import json
import re
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from pathlib import Path

from ost.data import ShardWriter
from ost.formats import Unit, load
from ost.ingestion.gate import Gate, ImageFile, Rules, Verdict
from ost.ingestion.taken import Counts
from ost.store import publish, remove

MAY_COME = ("missing-image", "image-outside-folder", "broken-file")
"""Reasons that may be gone the next time although no file that was read has changed."""
TEXTS = (".json", ".jinja", ".txt", ".model")
"""Suffixes of a checkpoint's files that its processor is made from."""
LIBRARIES = ("transformers", "tokenizers", "pillow", "pyarrow", "datasets")
ROOMS = ("data", "formats", "ingestion", "encoding", "models")
"""What a verdict depends on: libraries, and rooms of this one."""


@dataclass(kw_only=True)
class Inspected(Counts):
    """What became of one unit's records; kept as JSON until the unit, its image files or the rules change."""

    file: str
    """What tables call the source's file that it is a part of."""
    size: int
    """Bytes of the unit."""
    note: str = ""
    """Name of the file in which this is remembered."""
    shards: list[tuple[str, int]] = field(default_factory=list)
    """Files that were written, and how many samples each holds."""
    kept: list[dict] = field(default_factory=list)
    """A sample that passed: `id`, `position`, `own_id`, `task`, and `prompts`, what its learned turns are asked."""
    rejected: list[dict] = field(default_factory=list)
    """A record that did not: `position`, `id`, `own_id`, `reason`, `detail`."""
    files: list[ImageFile] = field(default_factory=list)
    """Image files that were read."""

    def add(self, verdict: Verdict) -> None:
        """Take what became of the next record."""
        self.count(verdict)
        self.files += verdict.files
        sample, record = verdict.sample, {"position": verdict.position, "own_id": verdict.own_id}
        if verdict.passed:
            self.count_turns(sample)
            self.kept.append(record | {"id": sample.id, "task": sample.task, "prompts": verdict.prompts})
        else:
            name = sample.id if sample else ""
            self.rejected.append(record | {"id": name} | verdict.why._asdict())

    @property
    def is_final(self) -> bool:
        """Whether every record would be judged the same as long as no file that was read changes."""
        return all(record["reason"] not in MAY_COME for record in self.rejected)


class Inspector:
    """Takes the units of one source in."""

    def __init__(self, gate: Gate, into: Path, memory: Path | None = None):
        """`into`: folder for shards. `memory`: for what became of each unit."""
        self._gate, self._into, self._memory = gate, into, memory
        self._columns = dict(gate.rules.columns)

    def inspect(self, unit: Unit) -> Inspected:
        """Judge a unit's records, or remember how they were judged; those that pass are in shards then."""
        loaded = load(unit, self._columns)
        key = hashlib.blake2b(f"{loaded.digest}\n{unit.name}\n{unit.first}".encode(), digest_size=16).hexdigest()
        found = Inspected(file=unit.name, size=unit.size, note=f"{key}.json")
        if self._memory and (known := self._remembered(self._memory / found.note, unit)):
            return known
        with ShardWriter(self._into) as writer:
            for position, record in loaded.records:
                verdict = self._gate.judge(record, unit.file, unit.name, position)
                found.add(verdict)
                if verdict.passed:
                    writer.add(verdict.sample, verdict.facts)
        found.shards = [(shard.file, shard.samples) for shard in writer.shards]
        if self._memory and found.is_final:
            with publish(self._memory / found.note) as part:
                part.write_text(json.dumps(vars(found)))
        return found

    def _remembered(self, note: Path, unit: Unit) -> Inspected | None:
        """What was found before, if its shards are there and its records still name the same images."""
        try:
            known = Inspected(**json.loads(note.read_text()))
            known.files = [ImageFile(*image) for image in known.files]
        except (OSError, ValueError, TypeError):
            return None
        whole = all((self._into / name).is_file() for name, _ in known.shards)
        return known if whole and all(self._gate.is_as_it_was(image, unit.file) for image in known.files) else None


def forget_others(memory: Path, notes: AbstractSet[str]) -> None:
    """Keep of what was remembered these notes alone: the shards of all else are gone."""
    for other in memory.parent.iterdir():
        if other != memory and other.is_dir() and re.fullmatch(r"[0-9a-f]{24}", other.name):
            remove(other)
    for note in memory.iterdir():
        if note.name not in notes:
            note.unlink()


def digest_of(rules: Rules) -> str:
    """Digest of the rules, the processor's files, and the code and libraries that apply them."""
    told = dataclasses.asdict(rules)
    if rules.processor and (folder := Path(rules.processor)).is_dir():
        files = [file for file in sorted(folder.iterdir()) if file.suffix in TEXTS and file.is_file()]
        told["processor"] = [(file.name, hashlib.blake2b(file.read_bytes()).hexdigest()) for file in files]
    told["versions"] = {name: importlib.metadata.version(name) for name in LIBRARIES}
    told["code"] = _code_digest()
    return hashlib.blake2b(json.dumps(told, sort_keys=True).encode(), digest_size=12).hexdigest()


def _code_digest() -> str:
    files = [file for room in ROOMS for file in sorted((Path(__file__).parents[1] / room).rglob("*.py"))]
    return hashlib.blake2b(b"".join(file.read_bytes() for file in files), digest_size=12).hexdigest()
