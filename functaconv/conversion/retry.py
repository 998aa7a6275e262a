"""`--retry-failed`: from a functaset back to its blocks, without those in which a record failed."""

from pathlib import Path

import numpy as np

from functaconv.conversion.work import Work
from functaconv.errors import InputError
from functaconv.functaset.attributes import Range
from functaconv.functaset.blocks import Block
from functaconv.functaset.grids import GridTable
from functaconv.functaset.reader import Functaset
from functaconv.functaset.schema import columns
from functaconv.functaset.unfinished import Parts, create


def reopen(work: Work, functaset: Functaset) -> int:
    """Replace a functaset by an unfinished one with those of its blocks that have no failure.

    The caller holds the lock. Returns the number of records that are to be converted again.
    """
    attributes, bad, repaired = functaset.attributes, dict[int, list[int]](), set[int]()
    if len(attributes.blocks) != len(work.names):
        raise InputError(f"{functaset.path} does not say how its shards were cut", hint="--overwrite converts all anew")
    for failure in functaset.each_failure():
        bad.setdefault(failure.input, []).append(failure.record)
        if failure.is_damage:
            # what follows the damage may be there now
            repaired.add(failure.input)
    records_again = 0

    def fill(root: Path) -> None:
        nonlocal records_again
        parts = Parts(root)
        for shard, ranges in enumerate(attributes.blocks):
            rows = np.flatnonzero(functaset.shards == shard)
            start, records = 0, functaset.measure("record")[rows]
            for number, one in enumerate(ranges):
                if shard in repaired or any(start <= record < one.stop for record in bad.get(shard, ())):
                    records_again += one.stop - start
                else:
                    first, end = np.searchsorted(records, [start, one.stop])
                    is_last = number == len(ranges) - 1
                    parts.write(_block(work, functaset, rows[first:end], shard, number, start, one, is_last))
                start = one.stop

    create(functaset.path, work.plan, work.budgets, run=None, fill=fill)
    return records_again


def _block(
    work: Work, functaset: Functaset, rows: np.ndarray, shard: int, number: int, start: int, span: Range, is_last: bool
) -> Block:
    """Rows of a functaset as the block that they came from."""

    def column(name: str) -> np.ndarray:
        array = functaset.stored(name)
        assert array is not None
        # rows of a block lie together
        return array.read(slice(int(rows[0]), int(rows[-1]) + 1) if len(rows) else slice(0, 0))

    layout = functaset.attributes.layout
    wanted = columns(layout, meta="meta" in functaset.descriptions)
    values = {one.name: column(one.name) for one in wanted if one.name != "shard"}
    grids = None
    if layout.kind.has_coordinates:
        grids = GridTable()
        for place, row in enumerate(rows):
            axes, missing = functaset.grid_of(int(row))
            grid = values["grid"][place] = grids.number(*axes.axes)
            values["mask"][place] = grids.mask_number(grid, missing)
    return Block(
        shard=shard,
        number=number,
        start=start,
        stop=span.stop,
        is_last=is_last,
        source=functaset.attributes.input[shard],
        run=work.digest,
        columns=values,
        grids=grids,
        ignored=span.ignored,
    )
