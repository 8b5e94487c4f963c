"""The subset out: in the user's own form, or as a trainer loads it, with what its trainer has to be told."""

from ost.export.export import Exported, export
from ost.export.forms import forms
from ost.export.verify import Finding, check_limits, verify

__all__ = ["FORMS", "Exported", "Finding", "check_limits", "export", "verify"]

FORMS = tuple(forms())
"""All that an export can be: the user's own records, a list of them, or a trainer's form."""
