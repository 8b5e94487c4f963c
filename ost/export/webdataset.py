"""WebDataset: tar shards, as `webdataset` reads them and, prepared once, Megatron-Energon. Tried with 1.0 and 7.4."""

import io
import json
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from ost.export.form import Limit, run_in
from ost.export.images import suffix_of
from ost.export.kept import Row
from ost.export.survey import Survey

TRAINER = "WebDataset"
DATA = ""
GUESSED = False
LIMITS: tuple[Limit, ...] = ()
SHARD = "shard-{:06d}.tar"
SHARD_BYTES = 256 << 20
"""Most bytes of a shard, unless one sample alone is larger."""

_PREPARE = "energon prepare . --non-interactive --split-ratio 1,0,0 --sample-type CrudeWebdataset"
_COOKER = f'''"""How Megatron-Energon makes a sample of a shard's members; import it where the task encoder is defined.

    cookers = [Cooker(cook)]

Prepare the folder once:  {_PREPARE}
"""

from megatron.energon import Sample, basic_sample_keys, edataclass, stateless


@edataclass
class Conversation(Sample):
    """A conversation; image parts of its messages stand for `images`, in order."""

    messages: list
    images: list


@stateless  # else every sample is skipped, without an error
def cook(sample: dict) -> Conversation:
    record = sample["json"]
    return Conversation(
        **basic_sample_keys(sample), messages=record["messages"], images=[sample[name] for name in record["images"]]
    )
'''


def refusal(messages: Sequence[dict]) -> str | None:
    """See TrainerForm: nothing is, since images are parts, not marks."""
    return None


def said(messages: Sequence[dict], survey: Survey) -> Sequence[dict]:
    """See TrainerForm."""
    return messages


def write(rows: Iterable[Row], folder: Path, survey: Survey) -> None:
    """See TrainerForm. A sample's key is its id: it has no dot, at which a key would end."""
    shards = _Shards(folder)
    for row in rows:
        shards.add(_members(row))
    shards.close()


def sidecar(folder: Path, out: Path, survey: Survey) -> list[str]:
    """See TrainerForm."""
    (folder / "energon_cooker.py").write_text(_COOKER, encoding="utf-8")
    return [run_in(out, _PREPARE)]


def notes(survey: Survey) -> list[str]:
    """See TrainerForm."""
    return [
        f"the longest sample has {survey.kept.longest} tokens: neither webdataset nor energon cuts, your task encoder "
        "may; energon_cooker.py makes samples of what the shards hold"
    ]


def _members(row: Row) -> list[tuple[str, bytes]]:
    """Names and bytes of a sample's members, the images' names in its JSON."""
    digits = len(str(len(row.sample.images) - 1))
    images = {f"{at:0{digits}d}.{suffix_of(image)}": image for at, image in enumerate(row.sample.images)}
    record = row.told | {"messages": row.sample.messages, "images": list(images)}
    members = {"json": json.dumps(record, ensure_ascii=False).encode()} | images
    return [(f"{row.sample.id}.{name}", content) for name, content in members.items()]


class _Shards:
    """Tars in a folder, cut by bytes between samples."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._tar: tarfile.TarFile | None = None
        self._count = self._size = 0

    def add(self, members: Sequence[tuple[str, bytes]]) -> None:
        size = sum(2 * tarfile.BLOCKSIZE + len(content) for _, content in members)
        if self._tar and self._size + size > SHARD_BYTES - tarfile.RECORDSIZE:
            self.close()
        if self._tar is None:
            self._tar = tarfile.open(self.folder / SHARD.format(self._count), "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115
            self._count, self._size = self._count + 1, 0
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            self._tar.addfile(info, io.BytesIO(content))
        self._tar.members.clear()  # which grows with the tar
        self._size += size

    def close(self) -> None:
        if self._tar:
            self._tar.close()
        self._tar = None
