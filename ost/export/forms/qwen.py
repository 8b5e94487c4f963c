"""Qwen-VL finetune: `image` and `conversations` as LLaVA's. Read in QwenLM/Qwen3-VL, qwen-vl-finetune."""

from collections.abc import Sequence
from pathlib import Path

from ost.export.forms.form import Limit
from ost.export.forms.trainer import TextForm, marked, spoken
from ost.export.selected import Row, Survey

MAX_PIXELS = 28 * 28 * 576
"""Its own default of max_pixels, which it puts in the place of the processor's."""

_SPEAKERS = {"user": "human", "assistant": "gpt"}
_SNIPPET = '''"""The subset for Qwen-VL finetune: put this entry into data_dict of qwenvl/data/__init__.py."""

SUBSET = {{"annotation_path": {data!r}, "data_path": {out!r}}}
# data_dict = {{..., "subset": SUBSET}}
# and train with: {options}
'''


class Qwen(TextForm):
    name, place = "qwen", 40
    trainer = "Qwen-VL finetune"
    limits = (
        Limit("model_max_length", 512, "the end of the sample is cut, its answer with it"),
        Limit("max_pixels", MAX_PIXELS, "images are shrunk, whatever the processor's own setting", of="pixels"),
    )

    def refusal(self, messages: Sequence[dict]) -> str | None:
        if why := super().refusal(messages):
            return why
        if any(turn["role"] == "system" for turn in messages[1:]):
            return f"{self.trainer} learns a system turn as an answer, and this one is not the first"
        return None

    def said(self, messages: Sequence[dict], survey: Survey) -> Sequence[dict]:
        """It takes whoever is not `human` for the model, so a system turn opens the first question."""
        turns = super().said(messages, survey)
        if turns[0]["role"] != "system":
            return turns
        system, *rest = turns
        first = next(at for at, turn in enumerate(rest) if turn["role"] == "user")
        opened = [*system["content"], {"type": "text", "text": "\n\n"}, *rest[first]["content"]]
        return spoken([*rest[:first], {"role": "user", "content": opened}, *rest[first + 1 :]])

    def record(self, row: Row, images: list[str], survey: Survey) -> dict:
        image = {"image": images[0] if len(images) == 1 else images} if images else {}
        turns = [{"from": _SPEAKERS[role], "value": text} for role, text in marked(row.sample.messages)]
        return row.named | image | {"conversations": turns}

    def write_settings(self, folder: Path, out: Path, survey: Survey) -> list[str]:
        here = out.resolve()
        pixels = max(MAX_PIXELS, survey.largest)
        options = f"--dataset_use subset --model_max_length {survey.needed} --max_pixels {pixels}"
        text = _SNIPPET.format(out=str(here), data=str(here / self.data), options=options)
        (folder / "data_dict.py").write_text(text, encoding="utf-8")
        return [options]

    def notes(self, survey: Survey) -> list[str]:
        found = ["max_pixels replaces the processor's own: give the target's, if that is lower"]
        if count := survey.with_system:
            told = f"the system turns of {count:,} samples open their first questions"
            found.append(f"{told}: {self.trainer} would learn them")
        return found + super().notes(survey)
