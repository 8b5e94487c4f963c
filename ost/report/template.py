"""The templates of this folder, filled: whatever text came from data is escaped, and every image is written anew."""

import base64
import io
import math
from typing import Any

import jinja2
from PIL import Image

from ost.data.picture import picture, size_of
from ost.report.charts import DARK, LIGHT, PROTOCOLS
from ost.report.words import count, duration, fate_words, flops, percent, points, tied

THUMBNAIL = 256
"""Longest edge of an image in the page, in pixels."""
MAX_PIXELS = 16_777_216
"""Larger images are not decoded for the page."""
MAX_TEXT = 600
"""Characters of a question or an answer that the page shows."""


def fill(template: str, **values: object) -> str:
    """A template with its values: one HTML text that asks for nothing from outside, the same for the same values."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ost.report", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters = (percent, tied, count, duration, flops, fate_words, thumbnail, clip)
    environment.filters |= {one.__name__: one for one in filters}
    environment.globals |= {"palettes": {"light": LIGHT, "dark": DARK}, "protocols": PROTOCOLS, "points": points}
    page = environment.get_template(template).render(**values)
    # A text may hold half a surrogate pair, which no file can.
    return page.encode("utf-8", "replace").decode()


def clip(text: str) -> str:
    """The text's beginning, and how much was left out."""
    left_out = len(text) - MAX_TEXT
    return text if left_out <= 0 else f"{text[:MAX_TEXT]} … ({left_out:,} more characters)"


def thumbnail(image: bytes) -> dict[str, Any] | None:
    """An encoded image as a data URI of a PNG written here, with the size to show it at; None if it can't be decoded.

    Only pixels pass: no metadata, no colour profile, none of the original bytes.
    """
    try:
        if math.prod(size_of(image)) > MAX_PIXELS:
            return None
        seen = picture(image)
    except Exception:  # Pillow's readers raise many kinds of error on damaged files, and the page must not fail for one
        return None
    clean = Image.new("RGB", seen.size)
    clean.paste(seen)  # of the file, only pixels
    clean.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    clean.save(buffer, format="PNG")
    scale = max(1, 192 // max(clean.size))
    uri = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    return {"uri": uri, "width": clean.width * scale, "height": clean.height * scale, "tiny": scale > 1}
