"""Ingestion: pool, anchors and benchmark through the checks, each record either kept or quarantined with a reason."""

import collections
import itertools
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from ost.data import Sample
from ost.encoding import Encoder
from ost.errors import DataError
from ost.ingestion import checks
from ost.ingestion.quarantine import Quarantined, Rejected, Source, Why
from ost.ingestion.readers import Broken, image_folder, read_records
from ost.ingestion.records import to_sample
from ost.models import Checkpoint
from ost.types import Progress, silent

SMALL_POOL = 1_000
"""Samples below which training on the whole pool is likely cheaper than choosing from it."""


@dataclass(frozen=True)
class Ingested:
    """The three sample sets as they may be used, and what was kept out of them."""

    pool: list[Sample]
    anchors: list[Sample]
    benchmark: list[Sample]
    quarantine: list[Quarantined]
    warnings: list[str]
    """What a person should know before training: what was found, and what to do."""
    read: dict[Source, int]
    """Records that each source held."""

    @property
    def counts(self) -> dict[Source, dict]:
        """`{source: {"read", "kept", "quarantined", "reasons": {reason: count}}}`; read = kept + quarantined."""
        table = {}
        for source, read in self.read.items():
            reasons = collections.Counter(entry.reason for entry in self.quarantine if entry.source == source)
            kept = len(getattr(self, source))
            table[source] = {"read": read, "kept": kept, "quarantined": reasons.total(), "reasons": dict(reasons)}
        return table


def ingest(
    pool: str | Path,
    anchors: str | Path,
    benchmark: str | Path | None,
    checkpoint: Checkpoint,
    *,
    max_tokens: int,
    max_pixels: int,
    refused: Mapping[Source, Sequence[Broken]] = MappingProxyType({}),
    progress: Progress = silent,
) -> Ingested:
    """Read and check the three sources, in any of the forms that `read_records` takes.

    `refused`: what of a source could not even be brought here; it is counted and quarantined with the rest.

    A sample is kept whole or not at all: longer than `max_tokens` tokens of the checkpoint's processor (image tokens
    included), or with an image above `max_pixels` pixels, it is quarantined. Anchors lose what stands in the benchmark;
    the pool loses what stands in either. Without a benchmark only the other two are read. Raises DataError where a
    source cannot be read or nothing of it is left.
    """
    gate = _Gate(Encoder(checkpoint), max_tokens, max_pixels, refused, progress)
    tested = gate.admit("benchmark", benchmark) if benchmark else []
    in_benchmark = checks.stands_in("in-benchmark", tested)
    trusted = gate.admit("anchors", anchors, in_benchmark)
    offered = gate.admit("pool", pool, in_benchmark, checks.stands_in("in-anchors", trusted))
    notes = [*_file_warnings(gate.quarantine), *_overlap_warnings(gate.quarantine), *_pool_warnings(offered, trusted)]
    return Ingested(offered, trusted, tested, gate.quarantine, notes, gate.read)


@dataclass
class _Gate:
    """The checks that all sources pass, and the record of what did not pass."""

    encoder: Encoder
    max_tokens: int
    max_pixels: int
    refused: Mapping[Source, Sequence[Broken]]
    progress: Progress
    quarantine: list[Quarantined] = field(default_factory=list)
    read: dict[Source, int] = field(default_factory=dict)

    def admit(self, source: Source, path: str | Path, *overlaps: checks.Check) -> list[Sample]:
        """The samples of a source that pass; raises DataError where none does."""
        placeholders = checks.placeholders(self.encoder.processor)
        # Cheapest first: no image is decoded of a sample that is out anyway.
        text = [checks.empty_answer, checks.endless(self.max_tokens), placeholders]
        chain = [*text, checks.duplicate(), *overlaps, checks.sound_images(self.max_pixels)]
        kept: dict[int, Sample] = {}
        out: list[Quarantined] = []
        folder = image_folder(path)
        self.read[source] = 0
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"PIL\.")
            records = itertools.chain(self.refused.get(source, ()), read_records(path))
            for index, record in enumerate(records):
                self.read[source] += 1
                sample, why = _examine(record, folder, chain)
                if why:
                    out.append(Quarantined(source, index, sample.id if sample else "", *why))
                else:
                    kept[index] = sample
            out += self._remove_overlong(source, kept)
        self.quarantine += sorted(out, key=lambda entry: entry.index)
        return list(kept.values()) or _nothing_left(source, path, out)

    def _remove_overlong(self, source: Source, kept: dict[int, Sample]) -> list[Quarantined]:
        whys: list[Why | None] = []
        for batch in checks.batches(kept.values()):
            whys += checks.overlong(batch, self.encoder, self.max_tokens)
            self.progress(len(whys), len(kept), f"{source}: tokens counted")
        refused = {index: why for index, why in zip(kept, whys, strict=True) if why}
        return [Quarantined(source, index, kept.pop(index).id, *why) for index, why in refused.items()]


def _examine(record: dict | Broken, folder: Path, chain: Sequence[checks.Check]) -> tuple[Sample | None, Why | None]:
    """The record as a sample where it can be one, and the first thing that speaks against it."""
    try:
        sample = to_sample(record, folder)
    except Rejected as rejected:
        return None, rejected.why
    return sample, next(filter(None, (check(sample) for check in chain)), None)


def _nothing_left(source: Source, path: str | Path, out: Sequence[Quarantined]) -> list[Sample]:
    if not out:
        raise DataError(f"{source}: {path} holds no records; point data.{source} at a source that does")
    reasons = collections.Counter(entry.reason for entry in out).most_common()
    listed = ", ".join(f"{count} {reason}" for reason, count in reasons)
    first = min(out, key=lambda entry: entry.index)
    raise DataError(
        f"{source}: none of the {len(out)} record(s) of {path} can be used ({listed}). "
        f"Record {first.index}, for one, is {first.reason}: {first.detail}. Mend the records, or the limits in `data`"
    )


def _file_warnings(quarantine: Sequence[Quarantined]) -> list[str]:
    lost = [f"{entry.source}: {entry.detail}" for entry in quarantine if entry.reason == "broken-file"]
    more = f" and {len(lost) - 3} more" if len(lost) > 3 else ""
    return [f"could not be read, and was left out: {'; '.join(lost[:3])}{more}; write it anew"] if lost else []


def _overlap_warnings(quarantine: Sequence[Quarantined]) -> list[str]:
    overlaps = [entry for entry in quarantine if entry.reason in ("in-anchors", "in-benchmark")]
    counts = collections.Counter((entry.source, entry.reason.removeprefix("in-")) for entry in overlaps)
    return [
        f"{count} sample(s) of the {source} also stand in the {other} and were left out of the {source}: "
        "look at how the sets were divided, near copies may have stayed"
        for (source, other), count in counts.items()
    ]


def _pool_warnings(pool: Sequence[Sample], anchors: Sequence[Sample]) -> list[str]:
    found = []
    uncovered = sorted({sample.task for sample in pool} - {anchor.task for anchor in anchors} - {""})
    if uncovered:
        found.append(
            f"no anchor is of the pool's task(s) {', '.join(uncovered)}: these samples are scored by what they do for "
            "other tasks, and likely left out, right or wrong: add anchors of each, or keep those tasks out of the pool"
        )
    if len(pool) < SMALL_POOL:
        found.append(
            f"the pool has {len(pool)} samples, under {SMALL_POOL:,}: warming up and scoring a proxy may cost more "
            "than it saves; consider training on all of it"
        )
    return found
