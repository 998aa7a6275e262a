"""Numbers of a result as bars: `chart.py RESULT.json TABLE OUT.png [NUMBER]`, TABLE as in `rmse` or `scores:1/2`."""

import json
import sys
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

result = json.loads(Path(sys.argv[1]).read_text())
table = result
for name in sys.argv[2].split(":"):
    table = table[name]
table = {name: value[sys.argv[4]] if isinstance(value, dict) else value for name, value in table.items()}
figure, axes = plt.subplots(figsize=(6, 0.5 + 0.4 * len(table)), layout="constrained")
bars = axes.barh(list(table), list(table.values()), color=["#2a6f97", *["#b8c4cc"] * (len(table) - 1)])
axes.bar_label(bars, padding=3)
axes.invert_yaxis()
axes.spines[["top", "right"]].set_visible(False)
axes.set(title=f"{result['task']}: {result['data']}", xlabel=sys.argv[4] if len(sys.argv) > 4 else sys.argv[2])
figure.savefig(sys.argv[3], dpi=100)
