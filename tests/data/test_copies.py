"""Random access to shards that have none: local copies, which go when they are not needed any more."""

import bz2
import gc
import gzip
from collections.abc import Callable
from pathlib import Path

import pytest

from functaconv.data.copies import LocalCopies
from functaconv.errors import InputError
from functaconv.modalities import Axes
from functaconv.modalities.reading import Reading
from functaconv.signals.collection import Collection
from tests.data.servers import Script

READING = Reading(Axes("image", 2, 3))


def test_a_collection_copies_what_cannot_be_read_in_any_order(
    image_shards: Callable[..., Path], serve: Callable[..., Script], temporary: Path, tmp_path: Path
) -> None:
    plain, other, remote = sorted(image_shards(7, items_per_shard=3).glob("*.tar"))
    zipped = tmp_path / "named.tar"
    zipped.write_bytes(gzip.compress(other.read_bytes()))
    url = serve(bz2.compress(remote.read_bytes())).url + "/a.tar?SECRET"
    told: list[str] = []
    shards = [str(plain), str(zipped), url]
    items = Collection(shards, lambda one: [READING.signal(one)], copies=LocalCopies(shards, told.append))
    assert [items[index].key for index in (6, 0, 3, 6)] == ["image0006", "image0000", "image0003", "image0006"]
    assert [signal.key for signal in items.all(workers=2)] == [f"image{n:04d}" for n in range(7)]
    assert len(told) == 2
    assert "SECRET" not in "".join(told)
    (folder,) = temporary.iterdir()
    assert len(list(folder.iterdir())) == 2
    del items
    gc.collect()
    assert not folder.exists()


def test_plain_local_tars_stay_where_they_are(image_shards: Callable[..., Path], temporary: Path) -> None:
    (shard,) = image_shards(2).glob("*.tar")
    assert len(Collection([str(shard)], READING.signal)) == 2
    assert list(temporary.iterdir()) == []


def test_a_damaged_shard_is_called_by_its_name(
    image_shards: Callable[..., Path], temporary: Path, tmp_path: Path
) -> None:
    (shard,) = image_shards(5).glob("*.tar")
    zipped = tmp_path / "z.tar"
    zipped.write_bytes(gzip.compress(shard.read_bytes())[:-100])
    with pytest.raises(InputError, match=r"z\.tar: cut short"):
        Collection([str(zipped)], READING.signal)
    zipped.write_bytes(gzip.compress(gzip.compress(shard.read_bytes())))
    with pytest.raises(InputError, match=r"z\.tar: not a tar archive"):
        Collection([str(zipped)], READING.signal)
    zipped.write_bytes(gzip.compress(shard.read_bytes()[:2000]))
    with pytest.raises(InputError, match=r"z\.tar: cut short"):
        Collection([str(zipped)], READING.signal)
