"""InternVL: LLaVA's records with sizes, and a meta file. Read in OpenGVLab/InternVL, internvl_chat_finetune.py."""

import shlex
from pathlib import Path

from ost.export.forms.form import Limit
from ost.export.forms.trainer import TextForm, marked
from ost.export.selected import Row, Survey
from ost.store import write_json

NAME = "subset"
"""What its meta file calls the dataset."""
TILES = 12
"""Its own default of max_dynamic_patch: tiles of a sample's images together."""

_SPEAKERS = {"user": "human", "assistant": "gpt", "system": "system"}


class InternVL(TextForm):
    name, place = "internvl", 50
    trainer = "InternVL"
    unless_alternating = "draws another sample in the place of one whose turns do not alternate"
    limits = (Limit("max_seq_length", 2048, "its end is cut, or another sample is drawn in its place"),)

    def record(self, row: Row, images: list[str], survey: Survey) -> dict:
        """Images are a list: of a single path it puts a mark of its own in front of the first turn."""
        sizes = {
            "image": images,
            "width_list": [width for width, _ in row.sizes],
            "height_list": [height for _, height in row.sizes],
        }
        turns = [{"from": _SPEAKERS[role], "value": text} for role, text in marked(row.sample.messages)]
        return row.named | (sizes if images else {}) | {"conversations": turns}

    def write_settings(self, folder: Path, out: Path, survey: Survey) -> list[str]:
        here = out.resolve()
        meta = {
            "root": str(here),
            "annotation": str(here / self.data),
            "data_augment": False,
            "max_dynamic_patch": TILES,
            "repeat_time": 1,
            "length": len(survey.selected),
        }
        write_json(folder / "meta.json", {NAME: meta})
        return [f"--meta_path {shlex.quote(str(here / 'meta.json'))} --max_seq_length {survey.needed}"]

    def notes(self, survey: Survey) -> list[str]:
        tiles = f"{self.trainer} cuts images into tiles of its own, up to {TILES} a sample"
        return [f"{tiles}: it may take more tokens than counted", *super().notes(survey)]
