"""A look at a source before anything is written: its forms, what would be kept, what would not, and what to set."""

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ost.formats import load, open_source
from ost.ingestion.gate import DUPLICATE, Gate, Rules, Verdict
from ost.ingestion.notes import columns_told
from ost.ingestion.taken import Counts
from ost.settings import Data
from ost.types import Progress, silent

FIRST = 1_000
"""Records of a first look."""
EXAMPLES = 3
"""Records that are shown for each reason."""
SHARES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
"""Quantiles that are told."""


@dataclass(frozen=True)
class Example:
    """A record that would be kept out."""

    file: str
    position: int
    own_id: str | None
    detail: str


@dataclass(kw_only=True)
class Survey(Counts):
    """What was seen of a source."""

    files: int
    size: int
    """Bytes of all its files; images beside them are not counted."""
    forms: Counter = field(default_factory=Counter)
    """Form → records read of it."""
    read: int = 0
    whole: bool = True
    """Whether all of it was read."""
    reasons: Counter = field(default_factory=Counter)
    """Reason → records that would be kept out for it."""
    examples: dict[str, list[Example]] = field(default_factory=lambda: defaultdict(list))
    unread_files: tuple[str, ...] = ()
    turns: Counter = field(default_factory=Counter)
    """Learned turns of a sample → samples."""
    images: Counter = field(default_factory=Counter)
    """Images of a sample → samples."""
    tasks: Counter = field(default_factory=Counter)
    tokens: list[int] = field(default_factory=list)
    """Of each sample that would be kept, where a model was named."""
    sizes: Counter = field(default_factory=Counter)
    """(width, height) → images."""

    @property
    def kept(self) -> int:
        """Records that would be samples; duplicates are found, overlaps with anchors and benchmark are not."""
        return self.read - self.reasons.total()

    @property
    def token_quantiles(self) -> dict[str, int]:
        """Tokens of a sample at SHARES; empty where none were counted."""
        return _quantiles(self.tokens)

    @property
    def edge_quantiles(self) -> dict[str, int]:
        """Longer edge of an image, in pixels, at SHARES."""
        return _quantiles([max(size) for size in self.sizes.elements()])

    def to_json(self) -> dict:
        """All of it as plain values."""
        return {
            "files": self.files,
            "bytes": self.size,
            "forms": dict(self.forms),
            "read": self.read,
            "whole": self.whole,
            "kept": self.kept,
            "reasons": dict(self.reasons),
            "examples": {reason: [vars(one) for one in own] for reason, own in self.examples.items()},
            "unread_files": list(self.unread_files),
            "unread_columns": dict(self.unread_columns),
            "learned_turns": dict(sorted(self.turns.items())),
            "context_turns": self.context_turns,
            "images": dict(sorted(self.images.items())),
            "tasks": dict(self.tasks),
            "tokens": self.token_quantiles,
            "longer_edge": self.edge_quantiles,
            "advice": advice(self),
        }


def survey(
    address: str | Path,
    settings: Data | None = None,
    processor: str | Path | None = None,
    most: int | None = FIRST,
    progress: Progress = silent,
) -> Survey:
    """Judge the first `most` records of a source as ingestion would, or all of them where it is None.

    `processor`: model whose processor counts tokens; without one, lengths and templates are not looked at. Raises
    DataError where the source can't be read at all.
    """
    source = open_source(address)
    found = Survey(files=len(source.files), size=source.size, unread_files=tuple(source.unread))
    settings = settings or Data()
    gate, seen = Gate(Rules.of(settings, processor), source.root), set()
    records = ((unit, *own) for unit in source.units() for own in load(unit, settings.columns).records)
    for unit, position, record in records:
        if found.read == most:
            found.whole = False
            break
        found.read += 1
        found.forms[unit.form] += 1
        _count(found, gate.judge(record, unit.file, unit.name, position), unit.name, seen)
        progress(found.read, most or found.read, "records looked at")
    return found


def _count(found: Survey, verdict: Verdict, name: str, seen: set[str]) -> None:
    found.count(verdict)
    sample = verdict.sample
    if why := verdict.why or (DUPLICATE if sample.id in seen else None):
        found.reasons[why.reason] += 1
        if len(found.examples[why.reason]) < EXAMPLES:
            found.examples[why.reason].append(Example(name, verdict.position, verdict.own_id, why.detail))
        return
    seen.add(sample.id)
    found.turns[len(sample.learned)] += 1
    found.count_turns(sample)
    found.images[len(sample.images)] += 1
    found.tasks[sample.task] += 1
    found.sizes.update(verdict.facts.sizes)
    if verdict.facts.tokens:
        found.tokens.append(verdict.facts.tokens)


def _quantiles(values: list[int]) -> dict[str, int]:
    if not values:
        return {}
    return {f"{share:.0%}": int(np.quantile(values, share, method="lower")) for share in SHARES}


def advice(found: Survey) -> list[str]:
    """What to set, or to mend, before this source is used."""
    told = []
    if found.reasons["too-long"]:
        smaller = f"; smaller images, by data.max_image_tokens, save {found.shrinkable:,}" if found.shrinkable else ""
        told.append(f"{found.reasons['too-long']:,} samples are too long: raise data.max_tokens{smaller}")
    if found.reasons["image-outside-folder"] or found.reasons["missing-image"]:
        told.append(
            "images are missing: name the folders that they lie in, or that links lead to, by data.image_roots "
            "(here --image-root)"
        )
    if found.reasons["image-too-large"]:
        told.append(f"{found.reasons['image-too-large']:,} samples hold an image above data.max_pixels: raise it")
    if found.unread_columns:
        columns = columns_told(found.unread_columns)
        told.append(
            f"columns that are not read: {columns}; data.columns says which field of ours one is (here --column)"
        )
    if set(found.tasks) == {""}:
        told.append(
            "no sample names its kind of question: data.columns={task: COLUMN} makes one of a column, and utilities "
            "are then told by kind"
        )
    if not found.tokens and found.kept:
        told.append("tokens were not counted: name the target by --model")
    return told
