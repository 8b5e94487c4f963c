"""ms-swift: `messages` with marks, `images` beside them, and `loss` on a turn. Tried with ms-swift 4.6."""

import re
from collections.abc import Sequence
from pathlib import Path

from ost.export.forms.form import Limit
from ost.export.forms.trainer import MEDIA, TextForm, marked, run_in, spoken, write_sft_yaml
from ost.export.selected import Row, Survey


class MsSwift(TextForm):
    name, place = "ms-swift", 30
    trainer = "ms-swift"
    guessed = True
    marks = re.compile(rf"{MEDIA}|<img>.+?</img>")
    unless_alternating = "joins or fills up turns that do not alternate"
    limits = (Limit("max_length", None, "another sample is drawn in the place of one that is longer"),)

    def says_context(self, survey: Survey) -> bool:
        return True

    def said(self, messages: Sequence[dict], survey: Survey) -> Sequence[dict]:
        return spoken(messages)

    def record(self, row: Row, images: list[str], survey: Survey) -> dict:
        """No id is written: other columns are dropped, and some names have a meaning."""
        turns = [{"role": role, "content": text} for role, text in marked(row.sample.messages)]
        if survey.with_context:
            for turn, message in zip(turns, row.sample.messages, strict=True):
                if turn["role"] == "assistant":
                    turn["loss"] = message.get("loss") is not False
        return {"messages": turns} | ({"images": images} if survey.images else {})

    def write_settings(self, folder: Path, out: Path, survey: Survey) -> list[str]:
        settings = {
            "dataset": [self.data],
            "max_length": survey.needed,
            "truncation_strategy": "delete",
            "strict": True,
            "split_dataset_ratio": 0,
            "load_from_cache_file": False,
        }
        line = "swift sft sft.yaml --model MODEL --output_dir ../trained"
        longest = f"{survey.selected.longest} tokens by the target's template; max_length leaves room for another"
        write_sft_yaml(folder, settings, line, longest)
        return run_in(out, line)

    def notes(self, survey: Survey) -> list[str]:
        return ["image paths start from the folder itself: run ms-swift there, or set ROOT_IMAGE_DIR to it"]
