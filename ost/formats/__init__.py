"""The forms that pools come in: from files of any project's making to drafts of samples."""

from ost.formats.draft import Draft, parse
from ost.formats.images import Images
from ost.formats.reject import Broken, Reason, Rejected, Why, show
from ost.formats.source import FORMS, Source, form_of, load, open_source
from ost.formats.unit import Loaded, Unit

__all__ = [
    "FORMS",
    "Broken",
    "Draft",
    "Images",
    "Loaded",
    "Reason",
    "Rejected",
    "Source",
    "Unit",
    "Why",
    "form_of",
    "load",
    "open_source",
    "parse",
    "show",
]
