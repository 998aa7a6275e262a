"""Draw what `solver_pairs` logged: `python -m tests.benchmarks.solver_curves OUT.jsonl CURVES.png` (needs matplotlib).

One panel per cell: PSNR (dB) on 256 test items against seconds of training for both solvers; the stars, and PCA's line,
are for all test items.
"""

import json
import sys
from pathlib import Path

from tests.benchmarks.solver_pairs import SOLVERS, log_of


def main() -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    rows = [json.loads(line) for line in Path(sys.argv[1]).read_text().splitlines()]
    figure, panels = pyplot.subplots(1, len(rows), figsize=(4 * len(rows), 3.2), layout="constrained", squeeze=False)
    for row, panel in zip(rows, panels[0], strict=True):
        for solver in SOLVERS:
            log = log_of(Path(sys.argv[1]).with_suffix(""), row["cell"], solver)
            points = [json.loads(line) for line in log.read_text().splitlines()]
            points = [point for point in points if point["validation_psnr"] is not None]
            seconds = [point["seconds"] for point in points]
            (line,) = panel.plot(seconds, [point["validation_psnr"] for point in points], "o-", ms=3, label=solver)
            panel.plot(seconds[-1:], [row[solver]["psnr"]], "*", ms=11, color=line.get_color(), clip_on=False)
        if row["pca"]["psnr"] is not None:
            panel.axhline(row["pca"]["psnr"], color="0.5", ls="--", lw=1, label="PCA")
        panel.set(title=row["cell"], xlabel="seconds of training, one thread", ylabel="PSNR, dB")
        panel.grid(alpha=0.3)
    panels[0][0].legend(frameon=False, fontsize=8)
    figure.savefig(sys.argv[2], dpi=130)


if __name__ == "__main__":
    main()
