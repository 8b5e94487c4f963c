"""A source: the files that a pool, an anchor set or a benchmark consists of, in any mix of forms."""

import importlib
import os
import pkgutil
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import datasets

from ost.errors import DataError
from ost.formats.images import SUFFIXES
from ost.formats.reject import Broken, show, unreadable
from ost.formats.streams import PACKED
from ost.formats.unit import Loaded, Unit, digest_of
from ost.store import read_json


def _readers() -> dict[str, ModuleType]:
    """What reads each form: the modules of this room that are called after it, `FORM_reader`.

    Each has SUFFIXES of its files' names, `units` and `load` as below, `copy_records`, by which an export gives records
    back in their own form, DAMAGE, what `load` raises where nothing of a
    unit can be read, and what messages need: LISTED, its place among the forms and what it is called there, and
    COMPRESSED, what its files are called where they may be packed with gzip or zstd, too, else "".
    """
    modules = [module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)])]
    names = [name for name in modules if name.endswith("_reader")]
    found = {name.removesuffix("_reader"): importlib.import_module(f"ost.formats.{name}") for name in names}
    return dict(sorted(found.items(), key=lambda item: item[1].LISTED))


READERS = _readers()
_FORM = {suffix: form for form, reader in READERS.items() for suffix in reader.SUFFIXES}
_NAMED = [reader.LISTED[1] for reader in READERS.values()]

FORMS = (
    f"a {', '.join(_NAMED[:-1])} or {_NAMED[-1]} file "
    f"({' and '.join(reader.COMPRESSED for reader in READERS.values() if reader.COMPRESSED)} also as .gz or .zst), "
    "a folder of such files, a `datasets` folder made by save_to_disk, or a dataset's name on the hub, "
    "org/name[:config][:split]"
)

_IMAGES = frozenset(f".{suffix}" for suffix in (*SUFFIXES, "svg", "heic", "avif", "jfif", "jp2", "ppm"))
_SIDECARS = frozenset((".md", ".yaml", ".yml", ".py", ".idx", ".lock", ".part"))
_SIDECAR_STEMS = frozenset(("readme", "license", "licence", "notice", "citation", "changelog", "requirements"))
_DESCRIPTIONS = frozenset(("dataset.json", "dataset_info.json", "dataset_infos.json", "state.json"))
"""What real folders hold beside samples: documents, indexes, and descriptions of the dataset, ours too."""

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+(:[\w.-]+){0,2}")


@dataclass(frozen=True, slots=True)
class Source:
    """Where samples come from, and which files hold them."""

    root: Path
    """The folder, links resolved, that image paths start from and must stay in."""
    files: tuple[Path, ...]
    """In the order in which they are read."""
    unread: tuple[str, ...]
    """Files of the folder that may hold samples but are of no form that is read."""
    size: int
    """Bytes of all files."""
    folder: Path
    """What the files are named by, before links are resolved."""

    def units(self) -> Iterator[Unit]:
        """The records of all files, in order, as units to be loaded by workers; streamed, in flat memory."""
        for file in self.files:
            yield from READERS[form_of(file)].units(file, self.name(file))

    def name(self, file: Path) -> str:
        """What messages and tables call one of the files."""
        return file.relative_to(self.folder).as_posix() if file.is_relative_to(self.folder) else file.name


def open_source(address: str | Path) -> Source:
    """The source at a path, or of a dataset's name on the hub.

    Raises DataError where nothing stands there, or nothing in any of FORMS.
    """
    path = Path(address)
    if path.is_dir():
        return _folder(path)
    if path.is_file():
        if form_of(path) is None:
            raise DataError(f"{path} is a {path.suffix or 'nameless'} file, which is not read; give {FORMS}")
        return _source(path.parent, [path])
    if _is_hub_name(str(address)):
        return _hub(str(address))
    raise DataError(f"nothing is at {address}; give {FORMS}")


def load(unit: Unit, columns: Mapping[str, str] | None = None) -> Loaded:
    """The digest and the records of a unit; `columns` maps our names of fields to those of a table's columns.

    Never raises for what the file holds: what cannot be read is Broken in its place.
    """
    if isinstance(unit.payload, Broken):
        return Loaded(digest_of([unit.payload.detail.encode()]), iter([(unit.first, unit.payload)]))
    reader = READERS[unit.form]
    try:
        return reader.load(unit, columns or {})
    except reader.DAMAGE as error:
        return Loaded("", iter([(unit.first, unreadable(unit.name, error))]))


def form_of(file: Path) -> str | None:
    """The form that a file's name tells, one of READERS; None for any other."""
    name = file.name.lower()
    packed = next((suffix for suffix in PACKED if name.endswith(suffix)), "")
    form = _FORM.get(Path(name.removesuffix(packed)).suffix)
    return form if not packed or (form and READERS[form].COMPRESSED) else None


def _source(folder: Path, files: list[Path], unread: tuple[str, ...] = ()) -> Source:
    return Source(folder.resolve(), tuple(files), unread, sum(file.stat().st_size for file in files), folder)


def _folder(folder: Path) -> Source:
    if (folder / "dataset_dict.json").is_file():
        splits = ", ".join(sorted(child.name for child in folder.iterdir() if child.is_dir()))
        raise DataError(f"{folder} holds several splits ({splits}); give the folder of one, such as {folder}/train")
    files, unread = _files_in(folder)
    if (folder / "state.json").is_file():
        files = _saved(folder)
    if files:
        return _source(folder, files, tuple(unread))
    found = ", ".join(sorted(child.name for child in folder.iterdir())[:5]) or "nothing"
    raise DataError(f"the folder {folder} holds no samples (found: {found}); give {FORMS}")


def _files_in(folder: Path) -> tuple[list[Path], list[str]]:
    """The files of a folder that hold samples, however deep, and the names of others that may; hidden ones are neither.

    Both in the order of their paths. Links to folders are not followed, but named where samples stand behind them; so
    are folders that may not be read.
    """
    files, unread, closed = [], [], []
    for place, folders, names in os.walk(folder, onerror=closed.append):
        folders[:] = [name for name in folders if not name.startswith(".")]
        here = Path(place)
        links = [here / name for name in folders if (here / name).is_symlink()]
        unread += [f"{link.relative_to(folder).as_posix()}/ (a link)" for link in links if _holds_samples(link)]
        for name in names:
            if name.startswith(".") or name in _DESCRIPTIONS:
                continue
            file = here / name
            if form_of(file):
                files += [file] if file.is_file() else []
            elif not _is_beside(file):
                unread.append(file.relative_to(folder).as_posix())
    unread += [f"{Path(error.filename).relative_to(folder).as_posix()}/ ({error.strerror})" for error in closed]
    return sorted(files), sorted(unread)


def _is_beside(file: Path) -> bool:
    if file.suffix.lower() in _IMAGES | _SIDECARS or file.name.partition(".")[0].lower() in _SIDECAR_STEMS:
        return True
    try:
        return not file.is_file() or not file.stat().st_size
    except OSError:  # who knows what it holds
        return False


def _holds_samples(folder: Path) -> bool:
    try:
        return any(form_of(file) and file.name not in _DESCRIPTIONS for file in folder.iterdir())
    except OSError:
        return False


def _saved(folder: Path) -> list[Path]:
    """The files of a save_to_disk folder, as its state lists them."""
    try:
        names = [file["filename"] for file in read_json(folder / "state.json")["_data_files"]]
        files = [folder / name for name in names if Path(name).name == name]
        lost = next((name for name in names if not (folder / name).is_file()), None)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder} cannot be read to its end: {show(str(error))}; write it anew, as {FORMS}") from error
    if not files or lost:
        raise DataError(f"{folder} cannot be read to its end: it lacks {lost or 'files'}; write it anew, as {FORMS}")
    return files


def _is_hub_name(address: str) -> bool:
    """Whether an address can only be a name on the hub: one whose first part is a folder here is a mistyped path."""
    owner = address.partition("/")[0]
    return bool(_HUB_NAME.fullmatch(address)) and not form_of(Path(address)) and not Path(owner).exists()


def _hub(address: str) -> Source:
    """A dataset on the hub, fetched into the cache of `datasets`. Without a split: `train`, or the only one."""
    name, *rest = address.split(":")
    try:
        config = rest[0] if len(rest) == 2 or (rest and rest[0] in datasets.get_dataset_config_names(name)) else None
        splits = datasets.load_dataset(name, config)
    except Exception as error:  # the hub's client raises whatever its network, its rights and the files lead it to
        raise DataError(
            f"nothing is at {address}, and the hub gives no dataset of that name: {show(str(error))}; give {FORMS}"
        ) from error
    split = rest[-1] if rest and rest[-1] != config else "train" if "train" in splits else next(iter(splits))
    if split not in splits:
        raise DataError(f"{address} has no split {split} (found: {', '.join(splits)}); name one as {name}:SPLIT")
    files = [Path(file["filename"]) for file in splits[split].cache_files]
    unread = tuple(f"the split {other}" for other in splits if other != split)
    return _source(files[0].parent, files, unread)
