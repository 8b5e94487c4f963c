"""What a person sees of an encoded image: the only place where bytes become pixels.

The model, the report and the judge are given the same: as a browser shows it, on white and upright. Colour profiles are
not applied, as no model's own loader does.
"""

import io
from contextlib import suppress

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.ExifTags import Base

IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
"""The only decoders that a user's bytes reach; some of Pillow's other readers start programs."""

UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What turns an image upright, by its EXIF orientation; those from 5 on swap width and height."""
JPEGS = ("JPEG", "MPO")
"""What Pillow calls a JPEG; the second is a photograph with further images behind it."""
_SUFFIXES = ((b"\x89PNG", "png"), (b"\xff\xd8", "jpg"), (b"GIF8", "gif"), (b"RIFF", "webp"), (b"BM", "bmp"))
"""How the formats begin, and what their files are called."""
QUALITY = 95
"""Of a photograph that has to be written anew."""


def picture(image: bytes) -> Image.Image:
    """An encoded image as RGB pixels, 8 bits each: its first frame, upright by its EXIF orientation, on white.

    Raises what Pillow raises for bytes that do not decode: OSError or ValueError, as a rule.
    """
    with _open(image) as source:
        source.load()
        turn = UPRIGHT.get(_orientation(source))
        seen = source if turn is None else source.transpose(turn)
        return seen if seen.mode == "RGB" and not seen.has_transparency_data else _flat(seen)


def size_of(image: bytes) -> tuple[int, int]:
    """Width and height in pixels of what `picture` gives, by the header alone."""
    with _open(image) as source:
        width, height = source.size
        # A TIFF's size is upright as it stands; a PNG may hold its orientation behind its pixels.
        turned = source.format != "TIFF" and (source.format != "PNG" or png_may_turn(image))
        return (height, width) if turned and _orientation(source) >= 5 else (width, height)


def suffix_of(image: bytes) -> str:
    """The suffix of an encoded image's file, without its dot."""
    return next((suffix for magic, suffix in _SUFFIXES if image.startswith(magic)), "tif")


def fault(image: bytes, max_pixels: int) -> tuple[str, str] | None:
    """What is wrong with an encoded image, as a reason of the quarantine and a detail; None for one that is sound.

    An image of more than `max_pixels` pixels is not decoded, any other once and to its end; of a JPEG every byte is
    read, but only one pixel in 64 is made.
    """
    try:
        with _open(image) as source:
            width, height = source.size
            if width * height > max_pixels:
                return "image-too-large", f"{width * height} pixels, more than data.max_pixels = {max_pixels}"
            if source.format in JPEGS:
                source.draft(None, (1, 1))
                source.load()
                return None
            source.verify()  # a PNG's checksums; uses the object up
        picture(image)
    except Image.DecompressionBombError as error:
        return "image-too-large", str(error)
    except UnidentifiedImageError:  # its text holds a memory address, which would differ from run to run
        return "broken-image", f"{len(image)} bytes that are none of {', '.join(IMAGE_FORMATS)}"
    except Exception as error:  # Pillow's decoders raise whatever damaged bytes lead them to
        return "broken-image", f"{type(error).__name__}: {error}"
    return None


def shown(image: bytes) -> tuple[bytes, str]:
    """A file that any viewer shows as `picture` does, and its media type: the image's own where it is plain already.

    Raises what `picture` raises.
    """
    with _open(image) as source:
        kind, plain = source.format, source.mode in ("L", "RGB") and not source.has_transparency_data
        upright = _orientation(source) == 1 if kind == "JPEG" else kind == "PNG" and not png_may_turn(image)
        still = not getattr(source, "is_animated", False)
    if plain and upright and still:
        return image, f"image/{kind.lower()}"
    buffer = io.BytesIO()
    if kind in JPEGS:
        picture(image).save(buffer, "JPEG", quality=QUALITY, subsampling=0)
        return buffer.getvalue(), "image/jpeg"
    picture(image).save(buffer, "PNG")
    return buffer.getvalue(), "image/png"


def _open(image: bytes) -> Image.Image:
    return Image.open(io.BytesIO(image), formats=IMAGE_FORMATS)


def _orientation(source: Image.Image) -> int:
    """EXIF orientation, 1 to 8; 1 where there is none, or none that can be read."""
    with suppress(Exception):  # damaged metadata is no reason to refuse pixels, and no viewer does
        return int(source.getexif().get(Base.Orientation, 1))
    return 1


def png_may_turn(image: bytes) -> bool:
    """Whether a PNG holds metadata that could name an orientation; looking for it may take decoding the file."""
    return any(mark in image for mark in (b"eXIf", b"Raw profile type exif", b"XML:com.adobe.xmp"))


def _flat(source: Image.Image) -> Image.Image:
    """Pixels of any mode as RGB, on white where they are transparent."""
    if source.mode.startswith(("I", "F")):
        source = _eight_bits(source)
    if not source.has_transparency_data:
        return source.convert("RGB")
    clear = source.convert("RGBA")
    white = Image.new("RGB", clear.size, "white")
    white.paste(clear, mask=clear.getchannel("A"))
    return white


def _eight_bits(source: Image.Image) -> Image.Image:
    """Grey levels of 16 bits, whole numbers or fractions, as 8 bits; what is wider still is scaled to its own range."""
    levels = np.asarray(source).astype(np.float64)
    levels = np.nan_to_num(levels, posinf=0.0, neginf=0.0)
    low, high = float(levels.min()), float(levels.max())
    if source.mode == "F":
        low, high = (0.0, 1.0) if low >= 0 and high <= 1 else (0.0, 255.0) if low >= 0 and high <= 255 else (low, high)
    elif low >= 0 and high <= 65535:
        low, high = 0.0, 65535.0
    grey = Image.fromarray(np.round((levels - low) * (255 / ((high - low) or 1.0))).astype(np.uint8))
    clear = source.info.get("transparency")
    if isinstance(clear, int):
        alpha = Image.fromarray(np.where(levels == clear, 0, 255).astype(np.uint8))
        return Image.merge("LA", (grey, alpha))
    return grey
