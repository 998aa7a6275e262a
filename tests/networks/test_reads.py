"""Sums over the cells that read a site do not depend on the order in which threads come by."""

import pytest
import torch

from functaconv.networks.reads import OrderedSum, Reads


@pytest.mark.parametrize("index", [[0, 0, 0], [2, 1, 0], [3, 0, 3, 2, 0], [3, 3]], ids=str)
def test_rows_of_a_number_are_added_up(index: list[int]) -> None:
    count, values = 3, torch.randn(2, len(index), 4, dtype=torch.float64)
    expected = torch.zeros(2, count + 1, 4, dtype=torch.float64)
    for row, number in enumerate(index):
        expected[:, number] += values[:, row]
    found = OrderedSum.of(torch.tensor(index), count)(values)
    torch.testing.assert_close(found, expected[:, :count])


def test_rows_are_added_in_their_order_whatever_stands_between() -> None:
    # in float32 the order shows
    values = torch.tensor([1e8, -1e8, 1.0, 0.5])[None, :, None]
    together = OrderedSum.of(torch.tensor([0, 0, 0, 1]), 2)(values)[0, 0]
    spread = OrderedSum.of(torch.tensor([1, 0, 0, 0]), 2)(values[:, [3, 0, 1, 2]])[0, 0]
    assert together.equal(spread)


def test_pairs_of_sites_leave_out_what_lies_beyond_the_border() -> None:
    reads, sites = Reads(torch.tensor([[0, 1], [1, 2], [1, 1]]), 2), 2
    values = torch.arange(12.0, dtype=torch.float64)[None, :, None]
    found = reads.onto_pairs(values).reshape(sites, sites)
    # cell 0: (0,0) (0,1) (1,0) (1,1); of cell 1 only (1,1); cell 2 reads site 1 twice: four times (1,1)
    assert found.tolist() == [[0.0, 1.0], [2.0, 3.0 + 4.0 + 8.0 + 9.0 + 10.0 + 11.0]]


def test_a_cell_that_reads_a_site_of_its_own_needs_no_table() -> None:
    reads = Reads(torch.tensor([[2], [0]]), 3, is_distinct=True)
    assert reads._onto_places.rows is None
    assert reads.onto_sites(torch.tensor([[[5.0], [7.0]]])).tolist() == [[[7.0], [0.0], [5.0]]]
