"""Where a sample set comes from: a file or folder here, one in object storage, or a data set of the hub."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from ost.formats import Rejected, load, open_source, parse
from ost.formats.images import value_of
from tasks.pipeline import in_workspace
from tasks.stages.context import Context
from tasks.storage import Fetched, fetch, is_remote

MOST_WATCHED = 64
"""Entries beside a source, such as folders of images, that DVC is told to watch one by one."""


def bring(ctx: Context, name: str) -> Fetched:
    """Where a sample set can be read. One in object storage is mirrored first, with the images that it names."""
    data, address = ctx.params.data, getattr(ctx.params.data, name)
    if is_remote(address):
        into = ctx.root / ".ost/remote" / name
        fetched = fetch(address, into, ctx.progress, lambda file: image_names(file, data.columns))
        ctx.inputs[address] = fetched.path
        return fetched
    if (ctx.root / address).exists():
        return Fetched(ctx.input(address), [])
    return Fetched(address, [])  # of the hub, or not there at all: ingestion says which


def image_names(source: Path, columns: Mapping[str, str]) -> set[str]:
    """The relative paths by which a file's records name their images."""
    return set(_image_names(source, columns))


def _image_names(source: Path, columns: Mapping[str, str]) -> Iterator[str]:
    for unit in open_source(source).units():
        for _, record in load(unit, columns).records:
            try:
                values = parse(record, columns).images
            except Rejected:
                continue
            for value in values:
                path = value_of(value)
                if isinstance(path, str) and len(path) < 1024 and ":" not in path and not path.startswith("/"):
                    yield path


def watch(ctx: Context, name: str, beside: Iterable[Path]) -> list[str]:
    """Make what lies beside a sample set an input of the stage, so that DVC sees when it changes.

    Returns what a person should know where that can't be done.
    """
    address = getattr(ctx.params.data, name)
    if is_remote(address):
        mirror = ctx.root / ".ost/remote" / name
        if (mirror / address.rpartition("/")[2]).is_file():
            folder = address.rpartition("/")[0]
            ctx.inputs |= {f"{folder}/{entry.relative_to(mirror.resolve())}": entry for entry in beside}
        return []
    source = (ctx.root / address).resolve()
    apart = sorted(entry for entry in beside if not entry.is_relative_to(source))
    if len(apart) > MOST_WATCHED:
        return [
            f"{name}: {len(apart):,} images lie loose beside {address}, too many for DVC to watch one by one: put them "
            "into a folder, or a changed image will not be noticed"
        ]
    for entry in apart:
        ctx.input(in_workspace(ctx.root, entry))
    return []
