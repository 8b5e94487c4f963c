"""The forms by their names, and what is common to writing any of a trainer's."""

from ost.export import internvl, llamafactory, qwen, swift, trl, webdataset
from ost.export.form import TrainerForm

TRAINERS: dict[str, TrainerForm] = {
    "trl": trl,
    "llamafactory": llamafactory,
    "ms-swift": swift,
    "qwen": qwen,
    "internvl": internvl,
    "webdataset": webdataset,
}
"""What each trainer loads by itself."""

FORMS = ("same", "ids", *TRAINERS)
"""All that an export can be: the user's own records, a list of them, or a trainer's form."""
