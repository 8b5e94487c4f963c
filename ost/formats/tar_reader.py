"""WebDataset tars, and energon's: a sample is the consecutive members that share a key.

Nothing is unpacked to disk, so that a member's name leads nowhere. Of a tar that is not compressed the main process
reads the headers alone, and a worker the members' bytes.
"""

import io
import itertools
import json
import re
import tarfile
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

from ost.formats.images import SUFFIXES as IMAGES
from ost.formats.reject import Broken, show, unreadable
from ost.formats.streams import DAMAGE, opened, packed
from ost.formats.unit import MOST_RECORD, Loaded, Unit, cut, digest_of

SUFFIXES = (".tar", ".tgz")
LISTED, COMPRESSED = (4, ".tar"), "tars"

MOST_MEMBERS = 1 << 12
"""Members of one sample; their bytes are bounded by MOST_RECORD together."""

VIDEOS = frozenset(("mp4", "avi", "mov", "mkv", "webm"))
AUDIOS = frozenset(("wav", "mp3", "flac", "ogg", "m4a"))
TEXTS = frozenset(("txt", "context", "answers"))

_KEY = re.compile(r"^((?:.*/|)[^./][^.]*)\.([^/]*)$", re.DOTALL)
"""A member's key and extension, parted at the first dot of its base name, as `webdataset` does."""


@dataclass(slots=True)
class Member:
    """A file within a tar: where its bytes stand, or, of a compressed tar, the bytes themselves."""

    extension: str
    name: str
    size: int
    start: int
    content: bytes | None = None


@dataclass(slots=True)
class Group:
    """The members of one sample, in the tar's order; the last of a damaged tar has none, but the fault alone."""

    key: str
    members: list[Member] = field(default_factory=list)
    extensions: set[str] = field(default_factory=set)
    size: int = 0
    """Bytes of its members."""
    fault: Broken | None = None


def units(file: Path, name: str) -> Iterator[Unit]:
    """The tar's samples in units. Damage is a Broken in its place, never an exception."""
    first = 0
    for groups in cut(_groups(file, name), key=_identity, size=lambda group: group.size):
        if not first and not any(_has_text(group) for group in groups):
            remedy = "images of other files are not looked for in a tar: unpack it"
            broken = Broken(f"{name} holds no text beside its members' names; {remedy}", "broken-file")
            yield Unit(file, name, "tar", 0, file.stat().st_size, broken)
            return
        yield Unit(file, name, "tar", first, sum(group.size for group in groups), tuple(groups))
        first += len(groups)


def load(unit: Unit, columns: Mapping[str, str]) -> Loaded:
    """The unit's samples: the fields of their JSON, whatever `columns` are asked for, and their images as bytes.

    Raises one of DAMAGE where the tar cannot be read.
    """
    with unit.file.open("rb") as stream:
        found = [[_content(member, stream) for member in group.members] for group in unit.payload]
    pairs = list(zip(unit.payload, found, strict=True))
    digest = digest_of(part for group, contents in pairs for part in _hashed(group, contents))
    return Loaded(digest, enumerate(itertools.starmap(_record, pairs), start=unit.first))


def raw_members(file: Path, positions: AbstractSet[int]) -> Iterator[tuple[int, list[tuple[str, bytes]]]]:
    """Position, and names and bytes of all members, of the samples at `positions`, in the file's order."""
    with file.open("rb") as stream:
        for position, group in enumerate(_groups(file, file.name)):
            if position in positions and not group.fault:
                yield position, [(member.name, _content(member, stream)) for member in group.members]


def copy_records(file: Path, target: Path, positions: AbstractSet[int]) -> Iterator[int]:
    """Write the records at these positions into another file of this form; gives how many, as they are written."""
    with packed(target) as stream, tarfile.open(fileobj=stream, mode="w|", format=tarfile.PAX_FORMAT) as tar:
        for _, members in raw_members(file, positions):
            for name, content in members:
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
            tar.members.clear()  # which grows with the tar
            yield 1


def _groups(file: Path, name: str) -> Iterator[Group]:
    """The samples; what ends them early is a last fault, and takes the sample with it that it cut."""
    group: Group | None = None
    try:
        for info, member, key in _members(file):
            if group is None or group.key != key:
                if group:
                    yield group
                group = Group(key)
            group.fault = group.fault or _fault(info, member, group)
            if not group.fault:
                group.extensions.add(member.extension)
                group.size += member.size
                group.members.append(member)
            elif len(group.members) < MOST_MEMBERS:
                group.members.append(replace(member, content=b"", size=0))
        if group:
            yield group
    except DAMAGE as error:
        broken = unreadable(name, error, " to its end")
        yield Group(broken.detail, fault=broken)


def _members(file: Path) -> Iterator[tuple[tarfile.TarInfo, Member, str]]:
    packed, last, together = file.suffix.lower() != ".tar", None, 0
    with opened(file) as stream, tarfile.open(fileobj=(reader := _Reader(stream, packed)), mode="r:") as tar:
        for info in tar:
            tar.members.clear()  # which grows with the tar
            if info.isdir() or not (match := _KEY.match(info.name)):
                continue
            member = Member(match[2].lower(), info.name, info.size, info.offset_data)
            together = info.size + (together if match[1] == last else 0)
            last = match[1]
            if packed and info.isreg() and together <= MOST_RECORD:
                member.content = tar.extractfile(info).read()
            yield info, member, match[1]
        if reader.last.strip(b"\0"):  # neither the end mark nor the file's end; `tarfile` takes damage for both
            raise tarfile.ReadError(f"no header stands at byte {tar.offset:,}")


class _Reader:
    """A stream as `tarfile` reads it: in one direction where it is packed, and not without bound, whatever is promised.

    (Of its own streams `tarfile` reads on for hours behind the end of one that promises a large member.)
    """

    def __init__(self, stream: BinaryIO, packed: bool):
        self._stream, self._packed, self._at = stream, packed, 0
        self.last = b""
        """What was read last."""

    def read(self, size: int) -> bytes:
        if size > MOST_RECORD:
            raise tarfile.ReadError(f"a header promises {size:,} bytes")
        self.last = self._stream.read(size)
        self._at += len(self.last)
        return self.last

    def tell(self) -> int:
        return self._at

    def seek(self, to: int) -> None:
        if not self._packed:
            self._stream.seek(to)
            self._at = to
        while self._at < to:
            if not self.read(min(to - self._at, 1 << 20)):
                raise EOFError("it ends within a member")


def _fault(info: tarfile.TarInfo, member: Member, group: Group) -> Broken | None:
    if not info.isreg() or info.issparse():
        return Broken(f"the member {show(info.name)} is no plain file but a link, a device or the like")
    if info.name.startswith("/") or ".." in info.name.split("/"):
        return Broken(f"the member {show(info.name)} leads out of the tar")
    if info.size > MOST_RECORD:
        return Broken(f"the member {show(info.name)} has {info.size:,} bytes, more than {MOST_RECORD:,}")
    if group.size + info.size > MOST_RECORD:
        return Broken(f"the members of the sample {show(group.key)} have more than {MOST_RECORD:,} bytes together")
    if len(group.members) >= MOST_MEMBERS:
        return Broken(f"the sample {show(group.key)} has more than {MOST_MEMBERS:,} members")
    if member.extension in group.extensions:
        return Broken(f"two members of the sample {show(group.key)} are named .{member.extension}")
    return None


def _identity(group: Group) -> bytes:
    return group.key.encode("utf-8", "surrogateescape")


def _has_text(group: Group) -> bool:
    kinds = {member.extension.rpartition(".")[2] for member in group.members}
    return not group.members or not kinds.isdisjoint(TEXTS | {"json"})


def _content(member: Member, stream: BinaryIO) -> bytes:
    if member.content is not None:
        return member.content
    stream.seek(member.start)
    content = stream.read(member.size)
    if len(content) < member.size:
        raise EOFError(f"the tar ends within the member {show(member.name)}")
    return content


def _hashed(group: Group, contents: list[bytes]) -> Iterator[bytes]:
    yield (group.fault.detail if group.fault else "").encode("utf-8", "backslashreplace")
    for member, content in zip(group.members, contents, strict=True):
        yield member.name.encode("utf-8", "surrogateescape")
        yield content


def _record(group: Group, contents: list[bytes]) -> dict | Broken:
    if group.fault:
        return group.fault
    record: dict = {"__key__": group.key}
    images: list[tuple[int, bytes]] = []
    for member, content in zip(group.members, contents, strict=True):
        field_, _, kind = member.extension.rpartition(".")
        try:
            if kind in IMAGES:
                images.append((int(digits[0]) if (digits := re.findall(r"\d+", field_)) else -1, content))
            elif kind == "json":
                _take(record, field_, json.loads(content.decode("utf-8-sig")))
            elif kind in TEXTS:
                record[field_ or kind] = content.decode("utf-8-sig")
            else:
                record["videos" if kind in VIDEOS else "audios" if kind in AUDIOS else member.extension] = member.name
        except (ValueError, RecursionError) as error:
            return Broken(f"the member {show(member.name)} cannot be read: {error}")
    # By their numbers, since a tar that was packed by name has 10 before 2.
    return _with_images(record, [image for _, image in sorted(images, key=lambda image: image[0])])


def _take(record: dict, name: str, value: object) -> None:
    if name:
        record[name] = value
    elif isinstance(value, dict):
        record.update(value)
    else:  # the turns alone, as Megatron's conversion of LLaVA writes them
        record["conversations"] = value


def _with_images(record: dict, images: list[bytes]) -> dict | Broken:
    if not images:
        return record
    names = record.pop("images", None) or record.pop("image", None)
    names = names if isinstance(names, list) else [names] * bool(names)
    if names and len(names) != len(images):
        return Broken(f"the sample has {len(images)} image member(s), but its JSON names {len(names)}")
    return record | {"images": images}
