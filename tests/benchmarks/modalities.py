"""Voxels and grids by both solvers: `python -m tests.benchmarks.modalities DATA OUT.jsonl [CELL ...]`.

DATA is a folder with a folder for every dataset below, each with train-*.tar and test-*.tar. As in `solver_pairs`, for
each cell two bases of the same size learn side by side, one thread each; PCA with as many numbers is fitted on the same
training items and measured on the same test items. Afterwards a table of all rows is printed.
"""

import json
import sys
from pathlib import Path
from typing import Any

from tests.benchmarks.solver_pairs import SOLVERS, Cell, measure_all

MINUTES = 5
CELLS = {
    "modelnet10_vox32-256": Cell("modelnet10_vox32", "256", MINUTES, {}),
    "modelnet10_vox32-4x4x4x4": Cell("modelnet10_vox32", "4x4x4x4", MINUTES, {"network.width": 128}),
    "modelnet10_bed_vox64-256": Cell("modelnet10_bed_vox64", "256", MINUTES, {}),
    "era5_t2m_uk-16": Cell("era5_t2m_uk", "16", MINUTES, {}),
    "era5_t2m_italy-16": Cell("era5_t2m_italy", "16", MINUTES, {}),
    "era5_global_t-32": Cell("era5_global_t", "32", MINUTES, {}),
    "era5_global_z-32": Cell("era5_global_z", "32", MINUTES, {}),
    "fnoc_winds_global-32": Cell("fnoc_winds_global", "32", MINUTES, {}),
    "ersst5_global-32": Cell("ersst5_global", "32", MINUTES, {}),
    # 27 training items span 26 directions
    "ensembles_tas_global-16": Cell("ensembles_tas_global", "16", MINUTES, {}),
}


def main() -> None:
    out = Path(sys.argv[2])
    measure_all(Path(sys.argv[1]), out, CELLS, sys.argv[3:])
    print(table([json.loads(line) for line in out.read_text().splitlines()]))


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| data, numbers per item | Gauss-Newton | gradient | PCA | right at 0.5, or RMSE | bytes per item | raw |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        found = row["gauss-newton"]
        psnr = [f"{row[solver]['psnr']:.2f}" for solver in reversed(SOLVERS)]
        pca = "" if row["pca"]["psnr"] is None else f"{row['pca']['psnr']:.2f}"
        if "voxel_accuracy" in found:
            also = f"{100 * found['voxel_accuracy']:.2f}% right"
            if "voxel_accuracy" in row["pca"]:
                also += f" (PCA {100 * row['pca']['voxel_accuracy']:.2f}%)"
        else:
            also = ", ".join(f"{value:.3g} {found['units'][name]}" for name, value in found["rmse"].items())
        sizes = f"{found['bytes_per_item']:,.0f} | {row['raw_per_item']:,.0f}"
        lines.append(f"| {row['cell']} | {psnr[0]} | {psnr[1]} | {pca} | {also} | {sizes} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
