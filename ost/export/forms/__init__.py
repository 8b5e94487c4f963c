"""The forms that a subset is given out in: every class of a form that stands in a file of this folder."""

import functools
import importlib
import inspect
import pkgutil
from collections.abc import Mapping
from types import MappingProxyType

from ost.export.forms.form import Form


@functools.cache
def forms() -> Mapping[str, Form]:
    """Every form by its name, in the order of their places."""
    files = [importlib.import_module(file.name) for file in pkgutil.iter_modules(__path__, f"{__name__}.")]
    classes = {kind for file in files for kind in vars(file).values() if inspect.isclass(kind)}
    found = [kind() for kind in classes if issubclass(kind, Form) and not inspect.isabstract(kind)]
    return MappingProxyType({form.name: form for form in sorted(found, key=lambda form: form.place)})
