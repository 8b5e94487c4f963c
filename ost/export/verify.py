"""What a trainer's loader would lose or change of an export: found before it does, by reading the export again."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from ost.errors import ConfigError
from ost.export.form import Limit
from ost.export.forms import TRAINERS
from ost.export.ids import DATA as IDS
from ost.export.ids import read_ids
from ost.export.manifest import read_manifest
from ost.export.readback import Read, read_back, written_source
from ost.export.survey import MARGIN
from ost.formats import Images, open_source
from ost.types import Progress, silent

SHOWN = 3
"""Examples that one finding names."""


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
    out, limits = Path(out), dict(limits or {})
    manifest, samples = read_manifest(out)
    form = TRAINERS.get(manifest.form)
    known = check_limits(manifest.form, limits)
    written = samples.filter(pc.is_valid(samples["written"]))
    if manifest.form == "ids":
        return list(_listed(out, written))
    source = open_source(out / form.DATA) if form else written_source(out, written["file"].to_pylist())
    images = Images(source.root, image_roots)
    tally = _Tally(written, form.refusal if form else None)
    records = read_back(
        source,
        lambda values, file, _: [images.load(images.locate(value, file)) for value in values],
        manifest.columns,
        manifest.train_on,
    )
    for count, record in enumerate(records, start=1):
        tally.add(record)
        progress(count, len(written), "reading again")
    over = (_over(limit, limits.get(limit.option, limit.default), written, form.TRAINER) for limit in known.values())
    return [*tally.findings(), *(finding for finding in over if finding)]


def check_limits(form: str, limits: Mapping[str, int | None]) -> dict[str, Limit]:
    """A form's options that limit a sample, by name; raises ConfigError where `limits` has others."""
    known = {limit.option: limit for limit in (TRAINERS[form].LIMITS if form in TRAINERS else ())}
    if unknown := limits.keys() - known.keys():
        has = ", ".join(known) or "none"
        raise ConfigError(f"{form} has no option {min(unknown)} that limits a sample; it has {has}")
    return known


class _Tally:
    """What was read, against what was written."""

    def __init__(self, written: pa.Table, refusal):
        self._missing = dict(zip(written["written"].to_pylist(), written["id"].to_pylist(), strict=True))
        self._refusal = refusal
        self._found: dict[tuple[str, str], list[str]] = {}

    def add(self, record: Read) -> None:
        """Note what is wrong with a record."""
        if record.draft is None:
            self._note(
                f"cannot be read ({record.why.partition(':')[0]})", "export anew", f"{record.place}: {record.why}"
            )
            return
        if record.id not in self._missing:
            self._note("are not what was exported, or stand there twice", "export anew", record.place)
        self._missing.pop(record.id, None)
        if self._refusal and (why := self._refusal(record.draft.messages)):
            self._note(f"would be lost: {why}", "leave them out, or take a form whose trainer can", record.place)

    def findings(self) -> Iterator[Finding]:
        """What was found, and what is not there at all."""
        for (what, remedy), places in self._found.items():
            yield Finding(f"{len(places):,} records {what}", len(places), tuple(places[:SHOWN]), remedy)
        if self._missing:
            lost = list(self._missing.values())
            yield Finding(
                f"{len(lost):,} samples that were exported are not there", len(lost), tuple(lost[:SHOWN]), "export anew"
            )

    def _note(self, what: str, remedy: str, place: str) -> None:
        self._found.setdefault((what, remedy), []).append(place)


def _over(limit: Limit, at: int | None, written: pa.Table, trainer: str) -> Finding | None:
    """The samples that go beyond a limit, or may where the trainer counts otherwise."""
    if at is None:
        return None
    room = 0 if limit.exact or limit.of == "pixels" else MARGIN
    over = written.filter(pc.greater(written[limit.of], at - room))
    if not len(over):
        return None
    most = pc.max(over[limit.of]).as_py()
    needed = "null" if limit.exact else most if limit.of == "pixels" else -(-(most + MARGIN) // 256) * 256
    may = "have, or by its own template may have," if room else "have"
    more = f"more {limit.of} than {trainer}'s {limit.option} of {at:,} (most: {most:,})"
    what = f"{len(over):,} samples {may} {more}: {limit.beyond}"
    return Finding(
        what,
        len(over),
        tuple(over["id"].slice(0, SHOWN).to_pylist()),
        f"set {limit.option} to {needed}, as the export's own settings do",
    )


def _listed(out: Path, written: pa.Table) -> Iterator[Finding]:
    listed = {line["id"] for line in read_ids(out) if line["rank"] is not None}
    lost = [name for name in written["id"].to_pylist() if name not in listed]
    if lost:
        yield Finding(f"{len(lost):,} samples are not in {IDS}", len(lost), tuple(lost[:SHOWN]), "export anew")
