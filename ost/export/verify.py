"""What a trainer's loader would lose or change of an export: found before it does, by reading the export again."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from ost.errors import ConfigError
from ost.export.forms import forms
from ost.export.forms.form import SHOWN, Form, Limit, Read, read_back
from ost.export.manifest import read_manifest
from ost.export.selected import MARGIN, roomy
from ost.formats import Images
from ost.types import Progress, silent


@dataclass(frozen=True)
class Finding:
    """Something that would be lost or changed."""

    what: str
    """What is wrong, and what becomes of it."""
    count: int
    """How many samples, or images, it concerns."""
    examples: Sequence[str]
    """Some of them: where they stand, or their ids in the pool."""
    remedy: str
    """What to set, or to do."""


def verify(
    out: str | Path,
    limits: Mapping[str, int | None] | None = None,
    *,
    image_roots: Sequence[str | Path] = (),
    progress: Progress = silent,
) -> list[Finding]:
    """Read an export again and tell what its trainer's loader would lose or change; [] where nothing.

    limits: the trainer's own options, such as {"cutoff_len": 4096}; those not given are taken at the trainer's default,
    None for no limit. `image_roots`: where the images of a `same` export lie that were left there. Raises DataError
    where `out` is no export, and ConfigError for an option that the trainer has not.
    """
    out, limits = Path(out), limits or {}
    manifest, samples = read_manifest(out)
    known = check_limits(manifest.form, limits)
    form = forms()[manifest.form]
    written = samples.filter(pc.is_valid(samples["written"]))
    if (listed := form.listed(out)) is not None:
        lost = [name for name in written["id"].to_pylist() if name not in listed]
        return [_finding(lost, f"samples are not in {form.data}", "export anew")] if lost else []
    source = form.source(out, written["file"].to_pylist())
    images = Images(source.root, image_roots)
    records = read_back(
        source,
        lambda values, unit: [images.load(images.locate(value, unit.file)) for value in values],
        manifest.columns,
        manifest.train_on,
    )
    over = (_over(limit, limits.get(option, limit.default), written, form) for option, limit in known.items())
    return [*_faulty(records, written, form, progress), *filter(None, over)]


def check_limits(form: str, limits: Mapping[str, int | None]) -> dict[str, Limit]:
    """A form's options that limit a sample, by name; raises ConfigError where `limits` has others."""
    known = {limit.option: limit for limit in (forms()[form].limits if form in forms() else ())}
    if unknown := limits.keys() - known.keys():
        has = ", ".join(known) or "none"
        raise ConfigError(f"{form} has no option {min(unknown)} that limits a sample; it has {has}")
    return known


def _faulty(records: Iterator[Read], written: pa.Table, form: Form, progress: Progress) -> Iterator[Finding]:
    """The records that are not what was written, or that a trainer refuses; and the samples that are not there."""
    missing = dict(zip(written["written"].to_pylist(), written["id"].to_pylist(), strict=True))
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    for count, record in enumerate(records, start=1):
        if record.why:
            what = f"cannot be read ({record.why.partition(':')[0]})"
            found[what, "export anew"].append(f"{record.place}: {record.why}")
        elif missing.pop(record.id, None) is None:
            found["are not what was exported, or stand there twice", "export anew"].append(record.place)
        if record.messages and (why := form.refusal(record.messages)):
            found[f"would be lost: {why}", "leave them out, or take a form whose trainer can"].append(record.place)
        progress(count, len(written), "reading again")
    for (what, remedy), places in found.items():
        yield _finding(places, f"records {what}", remedy)
    if missing:
        yield _finding(list(missing.values()), "samples that were exported are not there", "export anew")


def _over(limit: Limit, at: int | None, written: pa.Table, form: Form) -> Finding | None:
    """The samples that go beyond a limit, or may where the trainer counts otherwise."""
    if at is None:
        return None
    room = 0 if limit.exact or limit.of == "pixels" else MARGIN
    over = written.filter(pc.greater(written[limit.of], at - room))
    if not len(over):
        return None
    most = pc.max(over[limit.of]).as_py()
    needed = "null" if limit.exact else most if limit.of == "pixels" else roomy(most)
    may = "have, or by its own template may have," if room else "have"
    more = f"more {limit.of} than {form.trainer}'s {limit.option} of {at:,} (most: {most:,})"
    remedy = f"set {limit.option} to {needed}, as the export's own settings do"
    return _finding(over["id"].to_pylist(), f"samples {may} {more}: {limit.beyond}", remedy)


def _finding(found: Sequence[str], what: str, remedy: str) -> Finding:
    """What is wrong with these samples, whose number stands in front of it."""
    return Finding(f"{len(found):,} {what}", len(found), tuple(found[:SHOWN]), remedy)
