"""Any record of many shards, decoded once."""

from collections.abc import Callable
from pathlib import Path

from functaconv.data.items import Record
from functaconv.modalities import Axes
from functaconv.modalities.reading import Reading
from functaconv.signals.collection import Collection
from functaconv.signals.signal import Signal


def test_a_collection_gives_any_record_and_decodes_it_once(image_shards: Callable[..., Path]) -> None:
    decoded: list[str] = []
    reading = Reading(Axes("image", 2, 3))

    def decode(record: Record) -> list[Signal]:
        decoded.append(record.key)
        return [tile.signal for tile in reading.tiles(record)]

    shards = sorted(map(str, image_shards(7, items_per_shard=3).glob("*.tar")))
    items = Collection(shards, decode)
    assert (len(shards), len(items)) == (3, 7)
    assert [items[index].key for index in (6, 0, 3, 6)] == ["image0006", "image0000", "image0003", "image0006"]
    assert decoded == ["image0006", "image0000", "image0003"]
    assert [signal.key for signal in items.all(workers=2)] == [f"image{n:04d}" for n in range(7)]
    assert len(decoded) == 7
    assert items.bytes_kept == 7 * 12 * 12 * 3


def test_a_collection_keeps_no_more_than_its_memory(image_shards: Callable[..., Path]) -> None:
    reading = Reading(Axes("image", 2, 3))
    (shard,) = image_shards(5).glob("*.tar")
    items = Collection([str(shard)], lambda record: [t.signal for t in reading.tiles(record)], memory=2 * 12 * 12 * 3)
    assert [signal.key for signal in items.all(workers=0)] == [f"image{n:04d}" for n in range(5)]
    assert items.bytes_kept == 2 * 12 * 12 * 3
    assert items[4].key == "image0004"


def test_a_collection_has_so_many_tiles_of_every_record(image_shards: Callable[..., Path]) -> None:
    reading = Reading(Axes("image", 2, 3), tile=12)
    (shard,) = image_shards(3, shapes=[(12, 24), (12, 12), (12, 60)]).glob("*.tar")
    items = Collection([str(shard)], lambda record: [tile.signal for tile in reading.tiles(record)], each=2)
    assert (items.records, len(items)) == (3, 6)
    keys = [None if (signal := items[index]) is None else signal.key for index in range(6)]
    # of five tiles two that lie apart
    assert keys == ["image0000#0,0", "image0000#0,1", "image0001", None, "image0002#0,0", "image0002#0,2"]
    assert [len(items.signals(record)) for record in range(3)] == [2, 1, 5]
    assert sum(1 for _ in items.all(workers=2)) == 8


def test_a_collection_remembers_records_that_gave_nothing(image_shards: Callable[..., Path]) -> None:
    (shard,) = image_shards(4).glob("*.tar")
    items = Collection([str(shard)], lambda _: [])
    assert list(items.all(workers=3)) == []
    assert items.bad == {0, 1, 2, 3}
