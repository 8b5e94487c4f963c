"""The user's own records, written and then read again: each must be the sample that was ingested."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from ost.errors import DataError
from ost.export.beside import Beside
from ost.export.kept import Kept
from ost.export.manifest import Manifest
from ost.export.readback import read_back, written_source
from ost.export.same import files_of, write_same
from ost.export.writing import Written
from ost.formats import Source
from ost.types import Progress


def write_own(
    kept: Kept,
    source: Source,
    folder: Path,
    *,
    columns: Mapping[str, str],
    image_roots: Sequence[str | Path],
    train_on: str,
    copy: bool,
    progress: Progress,
) -> Written:
    """Write the kept records of a source, and copy the images beside them if `copy`.

    Raises DataError where the source is not as it was when it was ingested.
    """
    ids, names, files = kept.facts["id"].to_pylist(), kept.facts["file"].to_pylist(), files_of(kept, source)
    write_same(kept, source, folder, lambda done: progress(done, len(ids), "writing records"))
    beside = Beside(source, image_roots, folder if copy else None)
    records = read_back(
        written_source(folder, names),
        lambda values, _, count: beside.load(values, files[names[count]]),
        columns,
        train_on,
    )
    for count, name in enumerate(ids):
        record = next(records, None)
        if record is None or record.id != name:
            (row,) = kept.facts.slice(count, 1).to_pylist()
            why = (record.why if record else "it is lost") or "its text or an image of it changed"
            place = f"record {row['position']} of {row['file']}"
            raise DataError(f"{place} is not the one that was ingested: {why}; ingest the pool anew")
        progress(count + 1, len(ids), "checking records")
    images = "copy" if copy else "leave"
    Manifest("same", len(ids), kept.longest, train_on, dict(columns), images).write(folder, kept)
    return Written(len(ids), _notes(beside, source, copy))


def _notes(beside: Beside, source: Source, copy: bool) -> list[str]:
    if beside.files and not copy:
        return [f"image paths start from {source.folder}, where the images are left: give that as the image folder"]
    if beside.left:
        where = f"{len(beside.left):,} images have no place in the folder, and are left where they are"
        return [f"{where}: their paths are absolute or lead out of the source's folder, such as {min(beside.left)}"]
    return []
