"""What a person should know of sources that were read: what was found, and what to do."""

from collections import Counter
from collections.abc import Iterator, Mapping

from ost.ingestion.taken import Taken

SMALL_POOL = 1_000
"""Samples below which training on the whole pool is likely cheaper than choosing from it."""
MANY = 0.05
"""Share of a source's records that may be left out without a word."""
TOLD_ELSEWHERE = ("broken-file", "duplicate", "in-anchors", "in-benchmark")
"""Reasons that other notes are about, or that are no loss."""
SHOWN, COLUMNS = 3, 12
"""Examples of what was found, and columns, that one note names."""


def notes_of(taken: Mapping[str, Taken]) -> list[str]:
    """The notes of all sources, those of the data's own damage first."""
    found = [note for name, one in taken.items() for note in _of_source(name, one)]
    return [*found, *_of_overlaps(taken), *_of_tasks(taken["pool"], taken["anchors"])]


def _of_source(name: str, one: Taken) -> Iterator[str]:
    if lost := [record.detail for record in one.quarantine if record.reason == "broken-file"]:
        yield f"{name}: could not be read, and was left out: {_some(lost)}; write it anew"
    told = Counter(record.reason for record in one.quarantine if record.reason not in TOLD_ELSEWHERE)
    if told.total() > MANY * one.read:
        first = next(record for record in one.quarantine if record.reason == told.most_common(1)[0][0])
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in told.most_common())
        yield (
            f"{name}: {told.total():,} of {one.read:,} records were left out ({reasons}), such as record "
            f"{first.position} of {first.file}: {first.detail}; `ost check` says what to set"
        )
    for column in sorted(column for column, count in one.absent_columns.items() if count == one.read):
        yield f"{name}: data.columns names {column!r}, and no record has such a column"
    if one.unread_files:
        yield f"{name}: {len(one.unread_files)} file(s) are in no form that is read: {_some(list(one.unread_files))}"
    if one.unread_columns:
        told = columns_told(one.unread_columns)
        yield f"{name}: columns that were not read, and in how many records: {told}; data.columns names what should be"
    if one.context_turns:
        share = one.context_turns / (one.context_turns + one.learned_turns)
        yield f"{name}: {share:.0%} of the assistant's turns are context alone, neither learned nor scored"
    if one.shrinkable:
        long = sum(record.reason == "too-long" for record in one.quarantine)
        yield (
            f"{name}: {one.shrinkable:,} of {long:,} samples that are too long would not be with smaller images: set "
            "data.max_image_tokens, which lowers the resolution, or raise data.max_tokens"
        )


def columns_told(counts: Mapping[str, int]) -> str:
    """Columns with the number of records that have them, the most frequent first."""
    frequent = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    more = f" and {len(counts) - COLUMNS:,} more" if len(counts) > COLUMNS else ""
    return ", ".join(f"{column} ({count:,})" for column, count in frequent[:COLUMNS]) + more


def _of_overlaps(taken: Mapping[str, Taken]) -> Iterator[str]:
    reasons = ((record.source, record.reason) for one in taken.values() for record in one.quarantine)
    counts = Counter((source, reason[3:]) for source, reason in reasons if reason in ("in-anchors", "in-benchmark"))
    for (source, other), count in counts.items():
        yield (
            f"{count} sample(s) of the {source} also stand in the {other} and were left out of the {source}: "
            "look at how the sets were divided, near copies may have stayed"
        )


def _of_tasks(pool: Taken, anchors: Taken) -> Iterator[str]:
    if uncovered := sorted(pool.tasks - anchors.tasks - {""}):
        yield (
            f"no anchor is of the pool's task(s) {', '.join(uncovered)}: these samples are scored by what they do for "
            "other tasks, and likely left out, right or wrong: add anchors of each, or keep those tasks out of the pool"
        )
    if pool.kept < SMALL_POOL:
        yield (
            f"the pool has {pool.kept} samples, under {SMALL_POOL:,}: warming up and scoring a proxy may cost more "
            "than it saves; consider training on all of it"
        )


def _some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return "; ".join(names[:SHOWN]) + more
