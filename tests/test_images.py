"""Every odd picture a data set may hold is made here with Pillow and read back as upright 8-bit RGB."""

import io
import os
import struct
import time
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile

from ptdpo_cli.datasets.images import check_image, decode_rgb, read_image_file
from ptdpo_cli.errors import UsageError

WHERE = "mine.jsonl, line 3"
PILLOWS_LIMIT = Image.MAX_IMAGE_PIXELS


def encode(image: Image.Image, kind: str, **options) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def photo(size=(64, 48)) -> Image.Image:
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8))


def pixels(data: bytes) -> np.ndarray:
    image = decode_rgb(data, where=WHERE)
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation):
    """The stored pixels are turned as the EXIF table says: 6 means that the first row is the right-hand side."""
    stored = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
    upright = {
        1: stored, 2: stored[:, ::-1], 3: stored[::-1, ::-1], 4: stored[::-1], 5: stored.T,
        6: stored[::-1].T, 7: stored[::-1, ::-1].T, 8: stored.T[::-1],
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    big = Image.fromarray(stored).resize((48, 32), Image.Resampling.NEAREST)       # 16-pixel blocks survive JPEG
    for kind in ("JPEG", "PNG", "WEBP"):
        read = pixels(encode(big.convert("RGB"), kind, exif=exif, quality=95))[8::16, 8::16, 0]
        assert np.abs(read - upright).max() <= 8, (kind, orientation)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("block", [b"MM\0\x2a\xff\xff\xff\xff", b"not a TIFF header"])
def test_damaged_exif_is_ignored(block, monkeypatch):
    data = encode(photo(), "JPEG", exif=b"Exif\0\0" + block)
    assert decode_rgb(data, where=WHERE).size == (64, 48)

    def getexif(self):                  # as older Pillow does
        raise SyntaxError("not a TIFF file")
    monkeypatch.setattr(Image.Image, "getexif", getexif)
    assert decode_rgb(data, where=WHERE).size == (64, 48)


def test_palette_with_and_without_transparency():
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 200, 10, 20])
    palette.putpixel((0, 0), 0)
    assert pixels(encode(palette, "PNG"))[1, 1].tolist() == [200, 10, 20]
    assert pixels(encode(palette, "PNG", transparency=0))[0, 0].tolist() == [255, 255, 255]


def test_alpha_lies_over_white():
    """Black at alpha 128 over white: 255 - 128 = 127."""
    assert pixels(encode(Image.new("RGBA", (4, 4), (0, 0, 0, 128)), "PNG"))[0, 0].tolist() == [127] * 3
    assert pixels(encode(Image.new("LA", (4, 4), (0, 128)), "PNG"))[0, 0].tolist() == [127] * 3
    assert pixels(encode(Image.new("RGBA", (4, 4), (9, 9, 9, 0)), "WEBP", lossless=True))[0, 0].tolist() == [255] * 3


def test_cmyk_and_grey():
    assert np.abs(pixels(encode(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG"))[8, 8] - [255, 0, 0]).max() < 12
    assert pixels(encode(Image.new("L", (4, 4), 77), "PNG"))[0, 0].tolist() == [77] * 3
    assert pixels(encode(Image.new("1", (4, 4), 1), "PNG"))[0, 0].tolist() == [255] * 3


def test_sixteen_bit_grey_keeps_the_high_byte():
    """0x8000 = 32768 becomes 128, not 255 as clipping would have it."""
    ramp = np.array([[0, 0x0100, 0x8000, 0xFFFF]], dtype=np.uint16)
    for kind in ("PNG", "TIFF"):
        assert pixels(encode(Image.fromarray(ramp), kind))[0, :, 0].tolist() == [0, 1, 128, 255]


def test_first_frame_of_an_animation():
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    for kind in ("GIF", "WEBP", "PNG"):
        data = encode(frames[0], kind, save_all=True, append_images=frames[1:], lossless=True)
        assert np.abs(pixels(data)[4, 4] - [255, 0, 0]).max() <= 1, kind


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_truncated_is_refused(kind):
    data = encode(photo(), kind)
    assert not ImageFile.LOAD_TRUNCATED_IMAGES
    with pytest.raises(UsageError) as caught:
        decode_rgb(data[:len(data) * 2 // 3], where=WHERE)
    assert str(caught.value).startswith("mine.jsonl, line 3: the image cannot be read")
    assert caught.value.hint


@pytest.mark.parametrize(("data", "message"), [
    (b"", "the image is empty"),
    (b"not a picture", "no picture format recognised"),
    (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no picture format recognised"),    # never Ghostscript
    (encode(Image.new("F", (4, 4)), "TIFF"), "no agreed white"),
])
def test_unreadable_is_refused(data, message):
    with pytest.raises(UsageError, match=message):
        decode_rgb(data, where=WHERE)


def test_ten_thousand_squared_is_refused_and_a_flag_raises_the_limit():
    data = encode(Image.new("1", (10_000, 10_000)), "PNG")
    for check in (check_image, decode_rgb):
        with pytest.raises(UsageError, match="100,000,000 pixels"):
            check(data, where=WHERE)
    assert check_image(data, where=WHERE, max_pixels=10**8) == (10_000, 10_000)


def test_a_bomb_is_refused_from_its_header():
    """A PNG header may claim 60,000 x 60,000 pixels in 60 bytes; Pillow itself refuses that only for its own limit."""
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    data = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    data += struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UsageError, match="60,000 x 60,000"):
            decode_rgb(data, where=WHERE)
        assert check_image(data, where=WHERE, max_pixels=10**10) == (60_000, 60_000)
    assert Image.MAX_IMAGE_PIXELS == PILLOWS_LIMIT is not None
    assert time.perf_counter() - start < 1


def test_encoded_length_is_bounded(tmp_path):
    data = encode(photo(), "PNG")
    with pytest.raises(UsageError, match="too large"):
        check_image(data, where=WHERE, max_bytes=100)
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(UsageError, match="too large"):
        read_image_file("a.png", tmp_path, where=WHERE, max_bytes=100)


def test_paths_stay_inside_the_root(tmp_path):
    root = tmp_path / "data"
    (root / "sub").mkdir(parents=True)
    (root / "sub" / "a.png").write_bytes(b"inside")
    (tmp_path / "secret").write_bytes(b"outside")
    (root / "link").symlink_to(tmp_path / "secret")
    (root / "alias").symlink_to(root / "sub" / "a.png")
    (root / "loop").symlink_to(root / "loop")
    os.mkfifo(root / "pipe")
    for path in ("sub/a.png", "./sub/../sub/a.png", str(root / "sub" / "a.png"), "alias",
                 f"file://{root}/sub/a.png"):
        assert read_image_file(path, root, where=WHERE) == b"inside"
    for path, message in (("../secret", "outside"), (str(tmp_path / "secret"), "outside"), ("link", "outside"),
                          ("https://example.org/a.png", "data.fetch_urls=true"), ("file:///etc/passwd", "outside"),
                          ("file://host/a.png", "URL"), ("ftp://example.org/a.png", "URL"),
                          ("data:image/png;base64,AAAA", "URL"), ("none.png", "no such"), ("sub", "a folder"),
                          ("pipe", "no such"), ("loop", "mine.jsonl"), ("nul\0", "cannot be read"),
                          ("x" * 300, "mine.jsonl")):
        with pytest.raises(UsageError, match=message) as caught:
            read_image_file(path, root, where=WHERE)
        assert caught.value.what.startswith(WHERE) and caught.value.exit_code == 2
