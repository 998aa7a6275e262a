"""The networks of the field: `python -m tests.benchmarks.networks DATA OUT.jsonl CELL[@MINUTES][+SEED] ...`.

DATA is a folder with a folder for every dataset, each with train-*.tar and test-*.tar. A cell is

- `heart/MODULATION`: fifty faces learned by heart with one network and modulations of this kind (`by_heart.py`);
- `DATA-LATENT/KIND-MODULATION`, `DATA-LATENT/preset-NAME`, `DATA-LATENT/linear`, `DATA-LATENT/default`: a base learned
  for MINUTES at width 64 on the training items (`linear`: the closed form, `default`: what fit-base makes without
  options, at its own width), on all test items, beside PCA and the closed form; other options of fit-base follow after
  commas, as in `cifar10-256/siren-fmm,solver=gradient,network.rank=3`;
- `resolution/KIND-MODULATION`: milliseconds of the processor per megapixel rendered, 64 to 2048 pixels a side; beside
  them `resolution/linear`, `resolution/default` and, of 8 x 8 sites, `resolution/windows`.

`heart`, `equal` and `resolution` alone stand for all of their cells. One thread, a line of JSON per cell in OUT.jsonl.
`python -m tests.benchmarks.networks --picture OUT.jsonl PICTURE.png` draws PSNR against milliseconds per item,
`python -m tests.benchmarks.networks --markdown OUT.jsonl` prints the table of README.
"""

import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

from functaconv.construction import build
from functaconv.modalities import Axes
from functaconv.recipe import Recipe
from functaconv.signals.grid import Grid
from functaconv.signals.normalizer import Normalizer
from tests.benchmarks import by_heart
from tests.benchmarks.closed_form import ran
from tests.benchmarks.provenance import provenance

WIDTH = 64
DATA = {
    "cifar10-64": "cifar10", "cifar10-256": "cifar10", "cifar10-8x8x16": "cifar10", "lfw64-256": "lfw64",
    "modelnet10_vox32-256": "modelnet10_vox32", "era5_t2m_italy-16": "era5_t2m_italy",
    "era5_t2m_uk-16": "era5_t2m_uk", "era5_global_t-32": "era5_global_t", "era5_global_z-32": "era5_global_z",
}  # fmt: skip
# settings of each network beside its width; all else is as the presets of the data have it
NETWORKS: dict[str, dict[str, object]] = {
    "siren": {},
    "fourier": {"learned": True, "features": 64, "layers": 4, "activation": "gelu"},
    "polynomial": {},
    "multiscale": {},
}
CHEAP, DEAR = ("shift", "film", "adain", "mfilm", "lowrank"), ("fmm", "gate", "hyper", "factorized")
GENERATORS = ("inr-gan-fmm", "inr-gan-multiscale", "poly-inr", "film")
# what the closed form has beside its cosines; the default is that of 32 x 32 images with a global latent
CLOSED: dict[str, dict[str, object]] = {
    "linear": {},
    "default": {"knots": (32, 32), "map_width": 48},
    "windows": {"numbers": 16, "sites": (8, 8), "interpolation": "window"},
}
COLOURS = {"linear": "black", "default": "red", "preset": "gray", "siren": "tab:blue", "fourier": "tab:orange",
           "polynomial": "tab:green", "multiscale": "tab:purple"}  # fmt: skip
SIDES = (64, 128, 256, 512, 1024, 2048)


def cells_of(table: str) -> Iterator[str]:
    """All cells of a table; a cell stands for itself."""
    if table == "heart":
        yield from (f"heart/{modulation}" for modulation in by_heart.CASES)
    elif table == "resolution":
        networks = (*CLOSED, "siren-shift", "fourier-film", "polynomial-film", "multiscale-film")
        yield from (f"resolution/{network}" for network in networks)
    elif table == "equal" or table in DATA:
        for data in [table] if table in DATA else DATA:
            yield from (f"{data}/{name}" for name in names_for(data))
    else:
        yield table


def names_for(data: str) -> Iterator[str]:
    """Networks that make sense for a latent: matrices and multiscale for global ones only."""
    is_global = "x" not in data.rpartition("-")[2]
    yield from ("linear", "default")
    for kind in NETWORKS:
        if kind != "multiscale" or is_global:
            own = ("affine", "levels") if kind == "polynomial" else ()
            yield from (f"{kind}-{name}" for name in (*own, *CHEAP, "readout", *(DEAR if is_global else ())))
    if is_global:
        yield from (f"preset-{name}" for name in GENERATORS)


def main() -> None:
    if sys.argv[1] in ("--picture", "--markdown"):
        rows = [json.loads(line) for line in Path(sys.argv[2]).read_text().splitlines()]
        if sys.argv[1] == "--markdown":
            print(markdown(rows))
        else:
            picture(rows, Path(sys.argv[3]))
        return
    data, out = Path(sys.argv[1]), Path(sys.argv[2])
    torch.set_num_threads(1)
    for asked in sys.argv[3:]:
        table, minutes, seed = parsed(asked)
        for cell in cells_of(table):
            row = measured(data, cell, minutes, seed)
            with out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            print(shown(row), flush=True)


def parsed(asked: str) -> tuple[str, float, int]:
    """`CELL@MINUTES+SEED`."""
    match = re.fullmatch(r"([^@+]+)(?:@([\d.]+))?(?:\+(\d+))?", asked)
    if match is None:
        raise SystemExit(f"cannot read the cell {asked!r}")
    return match[1], float(match[2] or 5), int(match[3] or 0)


def measured(data: Path, cell: str, minutes: float, seed: int) -> dict[str, Any]:
    table, name = cell.split("/")
    if table == "heart":
        row = by_heart.learned(name, data, minutes)
    elif table == "resolution":
        row = rendering_cost(name)
    else:
        row = quality(data, table, name, minutes, seed)
    return {"cell": cell, **row, **provenance(), "threads": 1, "load_average": round(os.getloadavg()[0], 1)}


def asked_for(name: str) -> list[str]:
    """Options of fit-base."""
    name, *others = name.split(",")
    kind, _, modulation = name.partition("-")
    settings = [word for other in others for word in (["--set", other] if "." in other else [f"--{other}"])]
    if kind == "preset":
        return ["--preset", modulation, "--set", f"network.width={WIDTH}", *settings]
    network = {} if name in CLOSED else network_of(name)
    return [
        word for key, value in network.items() for word in ("--set", f"network.{key}={json.dumps(value)}")
    ] + settings


def network_of(name: str) -> dict[str, object]:
    """Settings of a recipe."""
    if name in CLOSED:
        return {"kind": "fourier"}
    kind, _, modulation = name.partition("-")
    return {"kind": kind, "modulation": modulation, "width": WIDTH, **NETWORKS[kind]}


def quality(data: Path, table: str, name: str, minutes: float, seed: int, device: str = "cpu") -> dict[str, Any]:
    """A base on all test items; on the CPU with one thread."""
    run, on = partial(ran, on_one_thread=device == "cpu"), ("--device", device)
    train, test = (str(data / DATA[table] / f"{split}-*.tar") for split in ("train", "test"))
    options = ["--latent", table.rpartition("-")[2], "--seed", str(seed), *asked_for(name)]
    if table.endswith("-256") and name == "siren-lowrank":
        # as many numbers in four layers as the latent has; 32, the usual rank, are 128
        options += ["--set", "network.rank=64"]
    options += ["--minutes", "0" if name == "linear" else f"{minutes:g}"]
    with tempfile.TemporaryDirectory() as folder:
        base, store = f"{folder}/base.safetensors", f"{folder}/test.zarr"
        trained = run("fit-base", train, base, *on, *options)
        size, known = Path(base).stat().st_size, run("inspect", base)
        encoded = run("encode", base, test, store, *on)
        told = run("report", store, "--against", test, "--baseline", "pca", "--train", train, *on)
    return {
        "psnr": told["psnr"]["mean"], "pca": told["pca"]["psnr"], "items": told["count"],
        "milliseconds_per_item": round(1000 / encoded["items_per_second"], 3), "base_bytes": size,
        "validation_psnr": trained["validation_psnr"], "closed_form_validation_psnr": trained["closed_form"]["psnr"],
        "updates": trained["updates"], "minutes": minutes, "seed": seed, "network": known["network"],
        "parameters": known["parameters"],
        "command": " ".join(["functaconv", "fit-base", f"{DATA[table]}/train-*.tar", "BASE", *options]),
    } | {key: told[key] for key in ("voxel_accuracy", "iou", "rmse", "units") if key in told}  # fmt: skip


@torch.no_grad()
def rendering_cost(name: str) -> dict[str, Any]:
    """Of a fresh network: what it has learned does not matter."""
    latent = {"numbers": 64, **CLOSED.get(name, {})}
    solver = {"kind": "gauss-newton", "chord": True}
    recipe = Recipe().changed({"network": network_of(name), "latent": latent, "solver": solver})
    base = build(recipe, Axes("image", 2, 3), Normalizer((0.0,) * 3, (1.0,) * 3))
    generator, cost = torch.Generator().manual_seed(0), dict[str, float]()
    latents = torch.randn(1, base.field.sites.count, base.latent, generator=generator)
    for side in SIDES:
        coords, seconds = Grid((side, side)).coords(), list[float]()
        # small renders are over before the clock has seen them
        for _ in range(3 if side <= 256 else 1):
            begun = time.process_time()
            base.decode(latents, coords)
            seconds.append(time.process_time() - begun)
        cost[str(side)] = round(1e9 * min(seconds) / side**2, 1)
    return {"milliseconds_per_megapixel": cost, "network": recipe.network.described}


def shown(row: dict[str, Any]) -> str:
    """A row of a table in Markdown."""
    if "mae" in row:
        costs = f"{row['numbers_per_item']} | {row['shared_parameters']} | {row['multiply_adds_per_point']}"
        return f"| {row['cell']} | {costs} | {row['mae']:.3f} | {row['published_mae']} | {row['seconds']:.0f} |"
    if "psnr" in row:
        costs = f"{row['milliseconds_per_item']:.2f} | {row['base_bytes']:,}"
        return f"| {row['cell']} | {row['minutes']:g} | {row['psnr']:.2f} | {row['pca']:.2f} | {costs} |"
    return (
        f"| {row['cell']} | " + " | ".join(f"{cost:.0f}" for cost in row["milliseconds_per_megapixel"].values()) + " |"
    )


def compared(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Rows of five minutes and the first seed, without further options, by data and latent."""
    by_table: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if "psnr" in row and row["minutes"] == 5 and not row["seed"] and "," not in row["cell"]:
            by_table.setdefault(row["cell"].split("/")[0], []).append(row)
    return by_table


def markdown(rows: list[dict[str, Any]]) -> str:
    """PSNR, milliseconds per item and kilobytes of the base: a line for every network, a column for data and latent."""
    cells = {row["cell"]: row for own in compared(rows).values() for row in own}
    tables, names = (list(dict.fromkeys(cell.split("/")[place] for cell in cells)) for place in (0, 1))
    lines = [["", *tables], ["---"] * (1 + len(tables))]
    for name in names:
        line = [f"`{name}`"]
        for table in tables:
            row = cells.get(f"{table}/{name}")
            line.append("" if row is None else f"{row['psnr']:.2f}, {row['milliseconds_per_item']:.1f} ms, "
                        f"{row['base_bytes'] / 1000:.0f} kB")  # fmt: skip
        lines.append(line)
    pca = {table: next(row["pca"] for cell, row in cells.items() if cell.startswith(f"{table}/")) for table in tables}
    lines.append(["PCA", *(f"{pca[table]:.2f}" for table in tables)])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def picture(rows: list[dict[str, Any]], path: Path) -> None:
    """PSNR against milliseconds per item, a panel for every dataset and latent."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot
    from matplotlib.ticker import NullFormatter

    by_table = compared(rows)
    lines = -(-len(by_table) // 2)
    figure, panels = pyplot.subplots(lines, 2, figsize=(10, 3.5 * lines), squeeze=False)
    for panel, (table, own) in zip(panels.flat, by_table.items(), strict=False):
        for kind, colour in COLOURS.items():
            points = [row for row in own if row["cell"].split("/")[1].partition("-")[0] == kind]
            panel.scatter([row["milliseconds_per_item"] for row in points], [row["psnr"] for row in points],
                          color=colour, label=kind, s=18)  # fmt: skip
            for row in points:
                place = (row["milliseconds_per_item"], row["psnr"])
                panel.annotate(row["cell"].split("/")[1].partition("-")[2], place, fontsize=6, color=colour)
        panel.axhline(own[0]["pca"], color="k", linewidth=0.5, linestyle=":")
        panel.set(xscale="log", xlabel="milliseconds per item", ylabel="PSNR (dB)", title=table)
        panel.xaxis.set_minor_formatter(NullFormatter())
    for panel in panels.flat[len(by_table) :]:
        panel.axis("off")
    panels[0][0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    main()
