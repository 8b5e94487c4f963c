"""The user's own records, byte for byte, in the form and under the names of their own files.

They are written, and then read again: each must be the sample that was ingested.
"""

import contextlib
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import datasets
import pyarrow.compute as pc

from ost.errors import DataError
from ost.export.forms.form import Form, Read, Written, read_back
from ost.export.images import SourceImages
from ost.export.manifest import Manifest
from ost.export.selected import Selected
from ost.formats import Source, form_of, open_source
from ost.formats.source import READERS
from ost.types import Progress


class Same(Form):
    name, place = "same", 0
    needs_source = True

    def write(
        self,
        selected: Selected,
        folder: Path,
        out: Path,
        progress: Progress,
        *,
        source: str | Path,
        columns: Mapping[str, str],
        image_roots: Sequence[str | Path],
        train_on: str,
        images: str,
        **options,
    ) -> Written:
        """Write the selected records of a source, and copy the images beside them where `images` is `copy`.

        Raises DataError where the source is not as it was when it was ingested, or where the selection masks turns.
        """
        if selected.masks:
            raise DataError(
                f"the selection masks turns of {len(selected.masks):,} samples, which their own records cannot say: "
                "take the form ms-swift or webdataset, or select by sample (select.unit)"
            )
        opened, count = open_source(source), len(selected)
        _write_records(selected, opened, folder, progress)
        beside = SourceImages(opened, image_roots, folder if images == "copy" else None)
        written = self.source(folder, selected.facts["file"].to_pylist())
        records = read_back(written, lambda values, unit: beside.load(values, unit.name), columns, train_on)
        for at, name in enumerate(selected.facts["id"].to_pylist()):
            record = next(records, Read("", why="it is lost"))
            if record.id != name:
                position, file = (selected.facts[column][at] for column in ("position", "file"))
                why = record.why or "its text or an image of it changed"
                raise DataError(
                    f"record {position} of {file} is not the one that was ingested: {why}; ingest the pool anew"
                )
            progress(at + 1, count, "checking records")
        manifest = Manifest(self.name, count, selected.longest, train_on, dict(columns), images)
        manifest.write(folder, selected, {}, {})
        return Written(count, _notes(beside, opened, images))

    def source(self, folder: Path, files: Iterable[str]) -> Source:
        """No other files than those, by the names that they had; a saved `datasets` table has new ones."""
        if (folder / "state.json").is_file():
            return open_source(folder)
        return Source(folder.resolve(), tuple(folder / name for name in dict.fromkeys(files)), (), 0, folder)


def _notes(beside: SourceImages, source: Source, images: str) -> list[str]:
    if beside.files and images == "leave":
        return [f"image paths start from {source.folder}, where the images are left: give that as the image folder"]
    if beside.left:
        where = f"{len(beside.left):,} images have no place in the folder, and are left where they are"
        return [f"{where}: their paths are absolute or lead out of the source's folder, such as {min(beside.left)}"]
    return []


def _files_of(selected: Selected, source: Source) -> dict[str, Path]:
    """The files of a source by the names that tables call them. Raises DataError where one of a sample is gone."""
    files = {source.name(file): file for file in source.files}
    if lost := sorted(set(pc.unique(selected.facts["file"]).to_pylist()) - files.keys()):
        raise DataError(
            f"{source.folder} has no {lost[0]}, which the pool was read from: give the source that was ingested, or "
            "ingest anew"
        )
    return files


def _by_file(selected: Selected) -> Iterator[tuple[str, list[int]]]:
    """The files that samples come from, in the pool's order, and the positions of these in them."""
    rows = selected.facts.group_by("file", use_threads=False).aggregate([("position", "list")])
    return zip(rows["file"].to_pylist(), rows["position_list"].to_pylist(), strict=True)


def _write_records(selected: Selected, source: Source, folder: Path, progress: Progress) -> None:
    """Write the selected records of a source.

    Of each file that a sample comes from the records are taken by their positions, in the file's order. What separates
    them, and how they are packed, is made anew. Raises DataError where the source lacks one of them.
    """
    files = _files_of(selected, source)
    if _is_saved(source):
        _save(selected, source, folder)
        progress(len(selected), len(selected), "writing records")
        return
    done = 0
    for name, positions in _by_file(selected):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        wrote = sum(READERS[form_of(files[name])].copy_records(files[name], target, set(positions)))
        if wrote != len(positions):
            raise DataError(
                f"{name} has {wrote:,} of the {len(positions):,} kept records: the file changed; ingest the pool anew"
            )
        done += wrote
        progress(done, len(selected), "writing records")


def _is_saved(source: Source) -> bool:
    """Whether the source is one `datasets` table in several files: a folder that it saved, or its cache of the hub."""
    return all(form_of(file) == "arrow" for file in source.files) and (
        (source.folder / "state.json").is_file() or (source.folder / "dataset_info.json").is_file()
    )


def _save(selected: Selected, source: Source, folder: Path) -> None:
    """By `datasets` itself, so that its features and its description come along."""
    parts = [datasets.Dataset.from_file(str(file)) for file in source.files]
    if (source.folder / "state.json").is_file():
        whole = datasets.load_from_disk(str(source.folder))
    else:
        whole = datasets.concatenate_datasets(parts)
    starts = itertools.accumulate(map(len, parts), initial=0)
    first = dict(zip(map(source.name, source.files), starts, strict=False))
    rows = [first[name] + position for name, positions in _by_file(selected) for position in positions]
    if max(rows) >= len(whole):
        raise DataError(f"{source.folder} has fewer rows than when it was read; ingest the pool anew")
    with contextlib.ExitStack() as stack:
        if not datasets.are_progress_bars_disabled():  # ours is told otherwise
            datasets.disable_progress_bars()
            stack.callback(datasets.enable_progress_bars)
        whole.select(rows).save_to_disk(str(folder))
