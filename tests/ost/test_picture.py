"""Pictures: pixels are what a person sees, whatever the file's mode, depth, transparency or orientation."""

import base64
import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from ost.data.picture import IMAGE_FORMATS, fault, picture, shown, size_of
from ost.report.template import thumbnail

RED, GREEN, BLUE, WHITE, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)
ROOMY = 10**8


def encoded(image: Image.Image, form: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    """What compresses badly, so that a cut file lacks something."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8))


def turned(orientation: int, form: str = "JPEG") -> bytes:
    """A 40 × 24 image, red at the left and blue below, stored as `orientation` says."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 95, "subsampling": 0} if form == "JPEG" else {}
    stored = {1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6}[orientation]  # what undoes the turn
    exif_back = Image.Exif()
    exif_back[0x0112] = stored
    source = upright()
    source.info["exif"] = exif_back.tobytes()
    return encoded(ImageOps.exif_transpose(source), form, exif=exif, **options)


def upright() -> Image.Image:
    image = Image.new("RGB", (40, 24), WHITE)
    image.paste(RED, (0, 0, 8, 24))
    image.paste(BLUE, (0, 16, 40, 24))
    return image


def png(colour_type: int, depth: int, rows: list[bytes], width: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG written by hand, for what Pillow does not write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, len(rows), depth, colour_type, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunk(*own) for own in chunks) + body + chunk(b"IEND", b"")


# --- what is seen -----------------------------------------------------------------------------------------------------


def transparent_forms() -> dict[str, bytes]:
    """A black image whose left half is clear, in each form that can be."""
    rgba = Image.new("RGBA", (8, 4), (0, 0, 0, 255))
    rgba.paste((0, 0, 0, 0), (0, 0, 4, 4))
    palette = Image.new("P", (8, 4), 1)
    palette.putpalette([0, 0, 0, 0, 0, 0])
    palette.paste(0, (0, 0, 4, 4))
    grey = Image.new("L", (8, 4), 0)
    grey.paste(7, (0, 0, 4, 4))
    sixteen = [struct.pack(">8H", *[7] * 4, *[0] * 4)] * 4
    colours = [b"\7\7\7" * 4 + b"\0\0\0" * 4] * 4
    return {
        "RGBA": encoded(rgba),
        "LA": encoded(rgba.convert("LA")),
        "WEBP": encoded(rgba, "WEBP", lossless=True),
        "TIFF": encoded(rgba, "TIFF"),
        "GIF": encoded(palette, "GIF", transparency=0),
        "P, one clear colour": encoded(palette, transparency=0),
        "P, half-clear colours": encoded(palette, transparency=b"\0\xff"),
        "L, a clear level": encoded(grey, transparency=7),
        "RGB, a clear colour": png(2, 8, colours, 8, (b"tRNS", struct.pack(">3H", 7, 7, 7))),
        "16 bits, a clear level": png(0, 16, sixteen, 8, (b"tRNS", struct.pack(">H", 7))),
    }


@pytest.mark.parametrize("form", transparent_forms())
def test_what_is_transparent_is_white(form):
    seen = picture(transparent_forms()[form])
    assert seen.mode == "RGB"
    assert seen.size == (8, 4)
    assert [seen.getpixel(place) for place in ((0, 0), (3, 3), (4, 0), (7, 3))] == [WHITE, WHITE, BLACK, BLACK]


def test_half_transparent_is_half_white():
    assert picture(encoded(Image.new("RGBA", (2, 2), (255, 0, 0, 128)))).getpixel((0, 0)) == (255, 127, 127)


def test_a_digit_on_transparent_ground_can_be_read():
    """REPORTS 12: black on black for the model, black on white in the report."""
    digit = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    digit.paste((0, 0, 0, 255), (3, 1, 5, 7))
    levels = np.asarray(picture(encoded(digit)))
    assert levels.min() == 0 and levels.max() == 255


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_upright(orientation, form):
    data = turned(orientation, form)
    seen = picture(data)
    assert seen.size == (40, 24) == size_of(data)
    difference = np.abs(np.asarray(seen).astype(int) - np.asarray(upright()).astype(int))
    assert difference[2:14, 12:].mean() < 8 and difference[18:, 10:].mean() < 8 and difference[2:14, :6].mean() < 8
    assert fault(data, ROOMY) is None


def test_the_turning_is_that_of_transformers_and_datasets_loaders():
    for orientation in range(1, 9):
        data = turned(orientation)
        theirs = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
        assert np.array_equal(np.asarray(theirs), np.asarray(picture(data)))


def test_an_orientation_behind_the_pixels_counts():
    data = turned(6, "PNG")
    start = data.index(b"eXIf") - 4
    length = struct.unpack(">I", data[start : start + 4])[0] + 12
    moved = data[:start] + data[start + length : -12] + data[start : start + length] + data[-12:]
    assert size_of(moved) == picture(moved).size == (40, 24)


@pytest.mark.parametrize("exif", [b"Exif\0\0broken", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b""])
def test_damaged_metadata_does_not_hide_pixels(exif):
    data = encoded(upright(), "JPEG", exif=exif)
    assert picture(data).size == size_of(data) == (40, 24)
    assert fault(data, ROOMY) is None


def grey_ramp(dtype) -> np.ndarray:
    return np.linspace(0, np.iinfo(dtype).max, 256).astype(dtype).reshape(1, 256)


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_16_bits_of_grey_become_8(form):
    seen = np.asarray(picture(encoded(Image.fromarray(grey_ramp(np.uint16)), form)))[0, :, 0]
    assert np.abs(seen.astype(int) - np.arange(256)).max() <= 1
    assert (seen[0], seen[-1]) == (0, 255)


def test_a_dark_image_of_16_bits_stays_dark():
    dark = Image.fromarray(np.full((2, 2), 300, dtype=np.uint16))
    assert picture(encoded(dark)).getpixel((0, 0)) == (1, 1, 1)


def test_16_bits_of_colour_become_8():
    row = struct.pack(">6H", 65535, 0, 0, 0, 32768, 65535)
    seen = picture(png(2, 16, [row, row], 2))
    assert seen.getpixel((0, 0)) == RED
    assert np.allclose(seen.getpixel((1, 0)), (0, 128, 255), atol=1)


def test_fractions_and_wide_integers_are_seen_as_their_range():
    ramp = np.linspace(0, 1, 256, dtype=np.float32).reshape(1, 256)
    for scale, dtype in ((1, np.float32), (255, np.float32), (2**31 - 1, np.int32)):
        data = encoded(Image.fromarray((ramp.astype(np.float64) * scale).astype(dtype)), "TIFF")
        seen = np.asarray(picture(data))[0, :, 0]
        assert np.abs(seen.astype(int) - np.arange(256)).max() <= 1
    assert picture(encoded(Image.fromarray(np.full((1, 1), np.nan, np.float32)), "TIFF")).size == (1, 1)


def test_one_bit_and_cmyk():
    assert picture(encoded(Image.new("1", (3, 3), 1))).getpixel((1, 1)) == WHITE
    assert picture(encoded(Image.new("1", (3, 3), 0), "TIFF")).getpixel((1, 1)) == BLACK
    cyan = picture(encoded(Image.new("CMYK", (16, 16), (255, 0, 0, 0)), "JPEG", quality=95)).getpixel((8, 8))
    assert np.allclose(cyan, (0, 255, 255), atol=4)


def test_the_first_frame_is_seen():
    frames = [Image.new("RGB", (4, 4), colour) for colour in (GREEN, RED)]
    for form, options in (("GIF", {}), ("WEBP", {"lossless": True}), ("PNG", {}), ("TIFF", {})):
        data = encoded(frames[0], form, save_all=True, append_images=frames[1:], **options)
        assert picture(data).getpixel((0, 0)) == GREEN, form


@settings(max_examples=60)
@given(
    mode=st.sampled_from(["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"]),
    form=st.sampled_from(["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"]),
    width=st.integers(1, 40),
    height=st.integers(1, 40),
    seed=st.integers(0, 9),
)
def test_whatever_is_written_is_sound_and_of_its_size(mode, form, width, height, seed):
    levels = np.random.default_rng(seed).integers(0, 255, (height, width, 4), dtype=np.uint8)
    image = Image.fromarray(levels)
    image = Image.fromarray(levels[..., 0].astype(np.uint16) * 257) if mode == "I;16" else image.convert(mode)
    try:
        data = encoded(image, form)
    except (OSError, ValueError):  # a form that has no such mode: Pillow writes no such file
        return
    assert fault(data, ROOMY) is None
    assert size_of(data) == picture(data).size == (width, height)
    assert picture(data).mode == "RGB"
    again, kind = shown(data)
    assert kind in ("image/png", "image/jpeg")
    assert np.abs(np.asarray(picture(again)).astype(int) - np.asarray(picture(data)).astype(int)).mean() < 12


# --- what a viewer is sent --------------------------------------------------------------------------------------------


def test_a_plain_file_is_sent_as_it_is():
    for form in ("PNG", "JPEG"):
        data = encoded(noise(20, 10), form)
        assert shown(data) == (data, f"image/{form.lower()}")


@pytest.mark.parametrize(
    "data", [turned(6), transparent_forms()["RGBA"], encoded(noise(8, 8), "BMP")], ids=["turned", "clear", "BMP"]
)
def test_what_a_viewer_might_show_otherwise_is_written_anew(data):
    again, _ = shown(data)
    assert again != data
    with Image.open(io.BytesIO(again)) as image:
        assert image.mode == "RGB" and not image.getexif().get(0x0112)
        assert np.abs(np.asarray(image).astype(int) - np.asarray(picture(data)).astype(int)).mean() < 4


def test_the_report_shows_what_the_model_sees():
    for data in (turned(6), transparent_forms()["LA"], encoded(Image.fromarray(grey_ramp(np.uint16)))):
        uri = thumbnail(data)["uri"].removeprefix("data:image/png;base64,")
        with Image.open(io.BytesIO(base64.b64decode(uri))) as page:
            assert np.array_equal(np.asarray(page), np.asarray(picture(data)))


# --- faults -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"subsampling": 0}, {"restart_marker_rows": 1}], ids=str
)
@pytest.mark.parametrize("missing", [1, 2, 3, 50, 1000, 5000])
def test_a_cut_jpeg_is_found_though_few_pixels_are_made(missing, options):
    data = encoded(noise(120, 90), "JPEG", **options)
    assert fault(data, ROOMY) is None
    reason, detail = fault(data[:-missing], ROOMY)
    assert reason == "broken-image" and "truncated" in detail
    with pytest.raises(OSError, match="truncated"):
        picture(data[:-missing])


@pytest.mark.parametrize("form", ["PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_a_cut_file_of_any_form_is_found(form):
    data = encoded(noise(60, 50), form, **({"compression": "raw"} if form == "TIFF" else {}))
    assert fault(data, ROOMY) is None
    for share in (0.3, 0.6, 0.95):
        assert fault(data[: int(len(data) * share)], ROOMY)[0] == "broken-image"


def test_a_changed_byte_of_a_png_is_found():
    data = bytearray(encoded(noise(60, 50)))
    data[len(data) // 2] ^= 1
    assert fault(bytes(data), ROOMY)[0] == "broken-image"


def test_too_many_pixels_are_refused_undecoded(monkeypatch):
    data = encoded(Image.new("RGB", (300, 200)))
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("it was decoded"))
    assert fault(data, 59_999) == ("image-too-large", "60000 pixels, more than data.max_pixels = 59999")


def test_an_image_is_decoded_once(monkeypatch):
    data, loads, decoder = encoded(noise(30, 20)), [], Image._getdecoder
    monkeypatch.setattr(Image, "_getdecoder", lambda *args, **options: loads.append(1) or decoder(*args, **options))
    assert fault(data, ROOMY) is None
    assert len(loads) == 1


@pytest.mark.parametrize("data", [b"", b"GIF8", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"<svg/>", b"\0" * 99], ids=str)
def test_what_is_no_image_says_what_would_be(data):
    reason, detail = fault(data, ROOMY)
    assert reason == "broken-image"
    assert "0x" not in detail, "an address would differ from run to run"
    with pytest.raises(OSError, match="cannot identify"):
        picture(data)


@pytest.mark.parametrize("form", ["PPM", "TGA", "PCX", "ICO", "SGI"])
def test_no_other_decoder_is_reached(form):
    data = encoded(noise(16, 16), form)
    assert form not in IMAGE_FORMATS
    assert fault(data, ROOMY) == ("broken-image", f"{len(data)} bytes that are none of {', '.join(IMAGE_FORMATS)}")
    with pytest.raises(OSError, match="cannot identify"):
        picture(data)


@settings(max_examples=200)
@given(data=st.data())
def test_damage_never_escapes_as_anything_but_a_fault(data):
    whole = data.draw(st.sampled_from([turned(6), *transparent_forms().values(), encoded(noise(9, 9), "GIF")]))
    broken = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 6))):
        broken[data.draw(st.integers(0, len(broken) - 1))] = data.draw(st.integers(0, 255))
    found = fault(bytes(broken), 10_000)
    if found is None:
        assert picture(bytes(broken)).size == size_of(bytes(broken))
