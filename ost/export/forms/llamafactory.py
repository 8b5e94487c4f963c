"""LLaMA-Factory: ShareGPT with OpenAI's names, `dataset_info.json` beside it. Tried with LLaMA-Factory 0.9.5."""

import re
from pathlib import Path

from ost.export.forms.form import Limit
from ost.export.forms.trainer import MEDIA, TextForm, marked, run_in, write_sft_yaml
from ost.export.selected import Row, Survey
from ost.store import write_json

NAME = "subset"
"""What its configuration calls the dataset."""
MAX_PIXELS = 768 * 768
"""Its own default of image_max_pixels."""

_TAGS = {f"{name}_tag": name for name in ("role", "content", "user", "assistant", "system")}


class LlamaFactory(TextForm):
    name, place = "llamafactory", 20
    trainer = "LLaMA-Factory"
    guessed = True
    marks = re.compile(MEDIA + r"|\{\{(?:image|video|audio)\}\}")
    unless_alternating = "drops a sample whose turns do not alternate"
    limits = (
        Limit("cutoff_len", 2048, "the end of the question is cut, and later turns vanish"),
        Limit("image_max_pixels", MAX_PIXELS, "images are shrunk before the processor sees them", of="pixels"),
    )

    def record(self, row: Row, images: list[str], survey: Survey) -> dict:
        """Beside its conversation it holds text alone, and the same fields in all records of a survey.

        The user's own id is JSON text: as they are, 17 beside "a" is two types, and "2024-01-01" taken for a date.
        """
        own = {"own_id": row.own_id} if survey.all_named else {}
        task = {"task": row.sample.task} if survey.has_tasks else {}
        turns = [{"role": role, "content": text} for role, text in marked(row.sample.messages)]
        shown = {"images": images} if survey.images else {}
        return {"id": row.sample.id} | own | task | {"messages": turns} | shown

    def says_context(self, survey: Survey) -> bool:
        return survey.learns_last or not survey.with_context

    def write_settings(self, folder: Path, out: Path, survey: Survey) -> list[str]:
        columns = {"messages": "messages"} | ({"images": "images"} if survey.images else {})
        info = {"file_name": self.data, "formatting": "sharegpt", "columns": columns, "tags": _TAGS}
        write_json(folder / "dataset_info.json", {NAME: info})
        settings = {
            "stage": "sft",
            "do_train": True,
            "dataset": NAME,
            "dataset_dir": ".",
            "media_dir": ".",
            "cutoff_len": survey.needed,
            "image_max_pixels": max(MAX_PIXELS, survey.largest),
            "mask_history": survey.learns_last and survey.with_context > 0,
        }
        line = "llamafactory-cli train sft.yaml model_name_or_path=MODEL template=TEMPLATE output_dir=../trained"
        longest = f"{survey.selected.longest} tokens by the target's template; cutoff_len leaves room for another"
        write_sft_yaml(folder, settings, line, longest)
        return run_in(out, line)

    def notes(self, survey: Survey) -> list[str]:
        return [] if survey.learns_last else super().notes(survey)
