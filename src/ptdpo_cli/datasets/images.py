"""Pictures as they come from a user's files: checked before they are decoded, then always 8-bit RGB, upright."""

from __future__ import annotations

import io
import re
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote

import numpy as np
from PIL import Image, ImageDraw
from PIL.Image import Transpose

from ptdpo_cli.errors import UsageError

MAX_PIXELS = 50_000_000           # about 7,000 x 7,000: a decoded picture takes at most 200 MB as RGBA
MAX_BYTES = 64 * 2**20            # of the encoded file
FETCH_SECONDS = 60.0              # for one picture, from request to last byte
# Named, because Pillow would otherwise try every plugin, and some of those (EPS) start other programs.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")

_BOX_COLOUR = (230, 0, 120)
_EXIF_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Transpose.FLIP_LEFT_RIGHT, 3: Transpose.ROTATE_180, 4: Transpose.FLIP_TOP_BOTTOM, 5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270, 7: Transpose.TRANSVERSE, 8: Transpose.ROTATE_90,
}
_URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://|data:")
_FILE = re.compile(r"file://(?=/)", re.IGNORECASE)
_opening = threading.Lock()


def check_image(data: bytes, *, where: str = "", max_pixels: int = MAX_PIXELS, max_bytes: int = MAX_BYTES):
    """(width, height) from the header alone, as stored (before any EXIF turn); no pixel is decoded.

    Errors: UsageError if the file is empty, too long, of an unknown format or has more than `max_pixels` pixels.
    """
    with _open(data, where, max_pixels, max_bytes) as image:
        return image.size


def decode_rgb(data: bytes, *, where: str = "", max_pixels: int = MAX_PIXELS, max_bytes: int = MAX_BYTES,
               least: int | None = None) -> Image.Image:
    """The picture as 8-bit RGB: first frame, turned by its EXIF orientation, alpha laid over white.

    16-bit greys keep their high byte; CMYK is converted without a colour profile. Errors: UsageError as in
    `check_image`, and if the file is truncated or its pixels cannot be read (Pillow's leniency stays off).
    With `least` a JPEG comes as small as its decoder makes it at no extra cost, no side below that many pixels.
    """
    with _open(data, where, max_pixels, max_bytes) as image:
        try:
            if least is not None:
                image.draft(image.mode, (least, least))
            image.load()
            orientation = _orientation(image)
            rgb = _rgb(image)
            return rgb.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else rgb
        except MemoryError:
            raise
        except Exception as error:      # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error, ...
            raise _unreadable(where, data, error) from error


def with_boxes(picture: Image.Image, boxes: Sequence[Sequence[float]]) -> Image.Image:
    """The picture with the outlines of boxes (x0, y0, x1, y1 in 0…1) drawn on a copy; itself where there is none."""
    if not boxes:
        return picture
    drawn = picture.copy()
    draw, line = ImageDraw.Draw(drawn), max(1, round(min(picture.size) / 150))
    for left, top, right, bottom in (in_pixels(box, picture.size) for box in boxes):
        draw.rectangle((left, top, max(left, right), max(top, bottom)), outline=_BOX_COLOUR, width=line)
    return drawn


def in_pixels(box: Sequence[float], size: tuple[int, int]) -> tuple[int, ...]:
    """A box in 0…1 as the first and last column and row of a picture of this size: x0, y0, x1, y1."""
    return tuple(round(share * (side - 1)) for share, side in zip(box, (*size, *size), strict=True))


def read_image_file(path: str, root: Path, *, where: str = "", max_bytes: int = MAX_BYTES) -> bytes:
    """The bytes of an image file inside `root`; relative paths start there, `file:///a.png` is the path /a.png.

    Errors: UsageError for another URL, a path that leaves `root` (by `..`, as an absolute path or through a symbolic
    link), a missing file, and anything that is not a plain file of at most `max_bytes`.
    """
    path, at = plain_path(path), _at(where)
    if is_address(path):
        raise UsageError(f"{at}an image is given by URL, and nothing is fetched",
                         expected="a path to an image file", found=_short(path),
                         hint="let http and https addresses be fetched with `--set data.fetch_urls=true`, or download "
                         "the images and put their paths, or their bytes, in the data")
    try:
        root = root.resolve(strict=True)
        file = (root / path).resolve()
        if not file.is_relative_to(root):
            raise UsageError(f"{at}the image lies outside the image folder", expected=f"a path inside {root}",
                             found=_short(path), hint="set data.image_root to the folder that holds all images")
        if not file.is_file():          # also keeps a FIFO or a device from blocking the read
            raise UsageError(f"{at}no such image file", expected=str(file), found="a folder" if file.is_dir() else
                             "nothing there", hint="paths start at data.image_root, by default the data file's folder")
        if (size := file.stat().st_size) > max_bytes:
            raise _too_long(f"{at}{_short(path)}", size, max_bytes)
        return file.read_bytes()
    except (OSError, RuntimeError, ValueError) as error:    # no permission, a loop of links, a NUL, a name too long
        raise UsageError(f"{at}the image file cannot be read", found=f"{_short(path)}: {error}"[:200]) from error


def plain_path(path: str) -> str:
    """`file:///a%20b.png` as /a b.png; anything else as it is."""
    match = _FILE.match(path)
    return unquote(path[match.end():]) if match else path


def is_address(path: str) -> bool:
    """Whether a picture is given by a URL or a data URI, not by a path."""
    return _URL.match(path) is not None


def fetch_image(url: str, *, where: str = "", max_bytes: int = MAX_BYTES, seconds: float = FETCH_SECONDS) -> bytes:
    """The bytes at an http or https address, of whatever type the server says; redirects to other schemes are refused.

    Errors: UsageError for another scheme, an answer other than 200, more than `max_bytes` (counted as they arrive) or
    `seconds`, and when nothing can be reached.
    """
    import httpx

    at = _at(where)
    if not url.lower().startswith(("http://", "https://")):
        raise UsageError(f"{at}this kind of address is not fetched", expected="http or https", found=_short(url))
    data, deadline = bytearray(), time.monotonic() + seconds
    try:
        with httpx.stream("GET", url, follow_redirects=True, timeout=min(seconds, 10.0)) as answer:
            answer.raise_for_status()
            for chunk in answer.iter_bytes():       # decompressed: a small body may be a large one
                data += chunk
                if len(data) > max_bytes:
                    raise _too_long(f"{at}{_short(url)}", len(data), max_bytes)
                if time.monotonic() > deadline:
                    raise httpx.ReadTimeout(f"not done after {seconds:g} s")
    except httpx.HTTPStatusError as error:
        raise UsageError(f"{at}the image was not to be had", found=f"{_short(url)}: {error.response.status_code} "
                         f"{error.response.reason_phrase}") from None
    except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
        raise UsageError(f"{at}the image could not be fetched", found=f"{_short(url)}: {error}"[:200],
                         hint="run the same command again, or put the picture beside the data") from None
    return bytes(data)


def _at(where: str) -> str:
    return f"{where}: " if where else ""


def _open(data: bytes, where: str, max_pixels: int, max_bytes: int) -> Image.Image:
    if len(data) > max_bytes:
        raise _too_long(f"{_at(where)}the image file", len(data), max_bytes)
    # Pillow keeps its own limit in a module variable, and it may be below ours: lifted while the header is read.
    with _opening:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            image = Image.open(io.BytesIO(data), formats=FORMATS)
        except MemoryError:
            raise
        except Exception as error:
            raise _unreadable(where, data, error) from error
        finally:
            Image.MAX_IMAGE_PIXELS = limit
    width, height = image.size
    if width * height > max_pixels:
        raise UsageError(f"{_at(where)}the image is too large", expected=f"at most {max_pixels:,} pixels",
                         found=f"{width:,} x {height:,} = {width * height:,} pixels",
                         hint="scale the image down, or raise data.max_image_pixels if you trust the file")
    return image


def _orientation(image: Image.Image) -> int | None:
    try:
        return image.getexif().get(_EXIF_ORIENTATION)
    except Exception:   # Pillow before 13 on a damaged EXIF block; viewers ignore it, and the pixels are still good
        return None


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):   # Pillow's own conversion would clip everything above 255 to white
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError("32-bit pixels have no agreed white; expected 8 or 16 bits a channel")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def _unreadable(where: str, data: bytes, error: Exception) -> UsageError:
    if data.startswith(b"version https://git-lfs"):
        return UsageError(f"{_at(where)}the image is a Git LFS pointer, not the picture", hint="run `git lfs pull`")
    if not data:
        return UsageError(f"{_at(where)}the image is empty", expected=f"a {', '.join(FORMATS)} file", found="0 bytes")
    reason = "no picture format recognised" if "cannot identify" in str(error) else str(error)[:120]
    return UsageError(f"{_at(where)}the image cannot be read", expected=f"a whole {', '.join(FORMATS)} file",
                      found=f"{len(data):,} bytes: {reason}", hint="replace the file, or drop the row")


def _too_long(what: str, size: int, max_bytes: int) -> UsageError:
    return UsageError(f"{what} is too large", expected=f"at most {max_bytes:,} bytes",
                      found=f"{size:,} bytes", hint="store the image compressed, or scaled down")


def _short(text: str) -> str:
    return text if len(text) <= 80 else text[:77] + "..."
