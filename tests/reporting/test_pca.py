"""The best linear code: the same by either way of computing it, and as sklearn has it."""

import numpy as np
import pytest
import torch
from torch import Tensor

from functaconv.reporting.pca import Analysis, Pca, analysis, cells_of, of_incomplete


def rows_of(count: int, values: int, seed: int = 0) -> Tensor:
    """Values of falling variance around a mean that is far from zero."""
    generator = torch.Generator().manual_seed(seed)
    spread = 1 / torch.arange(1, values + 1)
    return 5 + torch.randn(count, values, generator=generator) * spread @ torch.randn(
        values, values, generator=generator
    )


def fitted(found: Analysis | None, rows: Tensor, numbers: int, portion: int = 7) -> Pca:
    assert found is not None
    for start in range(0, len(rows), portion):
        found.add(rows[start : start + portion])
    return found.pca(numbers)


def by_svd(rows: Tensor, others: Tensor, numbers: int) -> np.ndarray:
    """Mean squared error per row of the textbook's PCA."""
    train, test = rows.double().numpy(), others.double().numpy()
    mean = train.mean(0)
    components = np.linalg.svd(train - mean, full_matrices=False)[2][:numbers]
    centred = test - mean
    return np.square(centred - centred @ components.T @ components).mean(1)


# more rows than values, and fewer
@pytest.mark.parametrize(("count", "values"), [(200, 30), (40, 300)])
@pytest.mark.parametrize("rows_known", [True, False])
def test_error_is_that_of_a_singular_value_decomposition(count: int, values: int, rows_known: bool) -> None:
    rows, others = rows_of(count, values), rows_of(20, values, seed=1)
    found = fitted(analysis(values, count if rows_known else None), rows, 12)
    assert found.items == count
    # float32 products
    np.testing.assert_allclose(found.error(others).numpy(), by_svd(rows, others, 12), rtol=2e-3)


def test_error_is_that_of_sklearn() -> None:
    decomposition = pytest.importorskip("sklearn.decomposition")
    rows, others = rows_of(300, 40), rows_of(20, 40, seed=1)
    theirs = decomposition.PCA(10, svd_solver="full").fit(rows.double().numpy())
    again = theirs.inverse_transform(theirs.transform(others.double().numpy()))
    expected = np.square(others.double().numpy() - again).mean(1)
    np.testing.assert_allclose(fitted(analysis(40, 300), rows, 10).error(others).numpy(), expected, rtol=2e-3)


def test_portions_do_not_matter() -> None:
    rows = rows_of(2500, 20)
    errors = [fitted(analysis(20, None), rows, 5, portion).error(rows) for portion in (50, 900, 2500)]
    torch.testing.assert_close(errors[0], errors[1], rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(errors[0], errors[2], rtol=1e-4, atol=1e-7)


def test_all_components_leave_nothing() -> None:
    rows = rows_of(50, 6)
    assert float(fitted(analysis(6, 50), rows, 6).error(rows).max()) < 1e-9


def test_one_that_needs_too_much_memory_is_not_made() -> None:
    assert analysis(20_000, None) is None
    # few rows: their products are small
    assert analysis(20_000, 100) is not None
    assert analysis(3_000_000, 100_000) is not None


def test_as_many_rows_are_taken_as_there_is_room_for() -> None:
    found = Analysis(30, "cpu")
    rows = rows_of(100, 6)
    assert fitted(found, rows, 3).items == found.rows == 30
    torch.testing.assert_close(fitted(Analysis(30, "cpu"), rows, 3).mean, rows[:30].mean(0))


def test_cells_are_the_points_of_a_site() -> None:
    image = torch.arange(4 * 6 * 2).reshape(1, 24, 2)
    cells = cells_of(image, (4, 6), (2, 3))
    assert cells is not None
    grid = image.reshape(4, 6, 2)
    expected = [grid[r : r + 2, c : c + 2].flatten() for r in (0, 2) for c in (0, 2, 4)]
    assert torch.equal(cells, torch.stack(expected))
    assert cells_of(image, (4, 6), (3, 3)) is None
    assert cells_of(image, (24,), (2, 3)) is None


def test_rows_that_miss_values_have_nearly_the_same_components() -> None:
    rows, others = rows_of(160, 40).split((120, 40))
    missing = torch.rand(rows.shape, generator=torch.Generator().manual_seed(2)) < 0.2
    found = of_incomplete(rows.masked_fill(missing, torch.nan).nan_to_num(), ~missing, 6)
    assert found is not None
    assert float(found.error(others).mean()) < 1.1 * by_svd(rows, others, 6).mean()
    # filled with their mean they would not have
    mean = (rows * ~missing).sum(0) / (~missing).sum(0)
    once = fitted(analysis(40, 120), torch.where(missing, mean, rows), 6)
    assert found.error(others).mean() < 0.9 * once.error(others).mean()


def test_coordinates_are_those_of_the_values_there_are() -> None:
    rows = rows_of(100, 30)
    found = fitted(analysis(30, 100), rows, 5)
    exact, valid = found.reconstruct(rows[:4]), torch.ones(4, 30, dtype=torch.bool)
    torch.testing.assert_close(found.reconstruct(rows[:4], valid), exact, rtol=1e-3, atol=1e-3)
    valid[:, ::3] = False
    # what is missing does not matter
    torch.testing.assert_close(found.reconstruct(exact.masked_fill(~valid, 7.0), valid), exact, rtol=1e-3, atol=1e-3)
