"""WebDataset: tar shards, as `webdataset` reads them and, prepared once, Megatron-Energon. Tried with 1.0 and 7.4."""

import io
import json
import tarfile
from collections.abc import Iterable
from pathlib import Path

from ost.data.picture import suffix_of
from ost.export.forms.trainer import TrainerForm, cut, run_in
from ost.export.selected import Row, Survey

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


class WebDataset(TrainerForm):
    name, place = "webdataset", 60
    trainer = "WebDataset"

    def says_context(self, survey: Survey) -> bool:
        return True

    def write_samples(self, rows: Iterable[Row], folder: Path, survey: Survey) -> None:
        """A sample's key is its id: it has no dot, at which a key would end."""
        for number, shard in enumerate(cut(map(_members, rows), _packed, SHARD_BYTES - tarfile.RECORDSIZE)):
            with tarfile.open(folder / SHARD.format(number), "w", format=tarfile.USTAR_FORMAT) as tar:
                for name, content in (member for sample in shard for member in sample.items()):
                    info = tarfile.TarInfo(name)
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
                    tar.members.clear()  # which grows with the tar

    def write_settings(self, folder: Path, out: Path, survey: Survey) -> list[str]:
        (folder / "energon_cooker.py").write_text(_COOKER, encoding="utf-8")
        return run_in(out, _PREPARE)

    def notes(self, survey: Survey) -> list[str]:
        longest = f"the longest sample has {survey.selected.longest} tokens"
        cuts = "neither webdataset nor energon cuts, your task encoder may"
        return [f"{longest}: {cuts}; energon_cooker.py makes samples of what the shards hold"]


def _members(row: Row) -> dict[str, bytes]:
    """A sample's members by their names, the images' names in its JSON."""
    digits = len(str(len(row.sample.images) - 1))
    images = {f"{at:0{digits}d}.{suffix_of(image)}": image for at, image in enumerate(row.sample.images)}
    record = row.named | {"messages": row.sample.messages, "images": list(images)}
    members = {"json": json.dumps(record, ensure_ascii=False).encode()} | images
    return {f"{row.sample.id}.{name}": content for name, content in members.items()}


def _packed(members: dict[str, bytes]) -> int:
    """Most bytes that members take in a tar."""
    return sum(2 * tarfile.BLOCKSIZE + len(content) for content in members.values())
