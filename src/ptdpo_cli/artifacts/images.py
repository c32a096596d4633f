"""Pictures of a `problems` artifact: encoded files, stored once by sha256, fetched a row group at a time."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cached_property, lru_cache

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from ptdpo_cli.artifacts.schemas import IMAGES
from ptdpo_cli.artifacts.store import Artifact
from ptdpo_cli.errors import ArtifactError, UsageError

# Named, because Pillow would otherwise try every plugin, and some of those (EPS) start other programs.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")


def image_hash(data: bytes) -> str:
    """The name of a picture: sha256 of its encoded bytes."""
    return hashlib.sha256(data).hexdigest()


def images_table(images: Iterable[bytes], known: Collection[str] = ()) -> pa.Table:
    """IMAGES rows in order of first appearance, without repeats and without those whose sha256 is `known`.

    Errors: UsageError when the size of a picture cannot be read.
    """
    rows: dict[str, dict] = {}
    for data in images:
        name = image_hash(data)
        if name not in rows and name not in known:
            width, height = _size(data)
            rows[name] = {"sha256": name, "width": width, "height": height, "bytes": data}
    return pa.Table.from_pylist(list(rows.values()), schema=IMAGES)


class ImageReader:
    """`reader[sha256]` is the encoded picture; the last `row_groups` row groups (64 pictures each) stay in memory.

    Errors: ArtifactError when the artifact does not hold the picture, or its file is damaged.
    """

    def __init__(self, artifact: Artifact, *, row_groups: int = 4):
        self._artifact = artifact
        self._open = lru_cache(maxsize=8)(self._open)
        self._pictures = lru_cache(maxsize=row_groups)(self._pictures)

    def __getitem__(self, sha256: str) -> bytes:
        if sha256 not in self._places:
            raise ArtifactError(f"{self._artifact.path} does not hold the picture {sha256[:8]}",
                                hint=f"`ptdpo verify {self._artifact.path}` lists what is damaged")
        shard, group, row = self._places[sha256]
        return self._pictures(shard, group)[row].as_py()

    def __contains__(self, sha256: str) -> bool:
        return sha256 in self._places

    def __len__(self) -> int:
        return len(self._places)

    @cached_property
    def _places(self) -> dict[str, tuple[int, int, int]]:
        """sha256 → shard, row group, row; reads the names alone."""
        places = {}
        for shard in range(self._artifact.shards()):
            for group in range(self._open(shard).num_row_groups):
                for row, name in enumerate(self._column("sha256", shard, group).to_pylist()):
                    places.setdefault(name, (shard, group, row))
        return places

    def _pictures(self, shard: int, group: int) -> pa.ChunkedArray:
        return self._column("bytes", shard, group)

    def _open(self, shard: int) -> pq.ParquetFile:
        path = self._artifact.file(f"images-{shard:05d}.parquet")
        try:
            return pq.ParquetFile(path)
        except (pa.ArrowException, OSError) as error:
            raise self._artifact.unreadable(path, error) from None

    def _column(self, name: str, shard: int, group: int) -> pa.ChunkedArray:
        try:
            return self._open(shard).read_row_group(group, columns=[name]).column(name)
        except (pa.ArrowException, OSError) as error:
            raise self._artifact.unreadable(self._artifact.path / f"images-{shard:05d}.parquet", error) from None


class StoredImages(Sequence[bytes]):
    """A problem's pictures in their order, each fetched when it is looked at: the problems of a run hold none of them.

    Equal to any sequence of the same bytes. Errors: as `ImageReader`.
    """

    def __init__(self, names: Sequence[str], images: Mapping[str, bytes] | ImageReader):
        self.names = tuple(names)       # sha256
        self._images = images

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return tuple(self._images[name] for name in self.names[index])
        return self._images[self.names[index]]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and tuple(self) == tuple(other)

    __hash__ = None


def _size(data: bytes) -> tuple[int, int]:
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            return image.size
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise UsageError("a picture cannot be read", expected=", ".join(FORMATS), found=error) from None
