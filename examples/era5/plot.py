"""Original, reconstruction and error of one time: `plot.py FILE.nc NATIVE.nc TWICE.nc OUT.png`."""

import sys

import matplotlib.pyplot as plt
import numpy as np
import xarray

file, native, twice, out = sys.argv[1:]
with xarray.open_dataset(native) as found, xarray.open_dataset(twice) as fine, xarray.open_dataset(file) as dataset:
    name = next(iter(found.data_vars))
    now, finer = found[name].isel(time=0), fine[name].isel(time=0)
    time = "time" if "time" in dataset.coords else "valid_time"
    original = dataset[name].sel({time: found["time"][0]}).squeeze()
    error = now - original.values
    longitude, latitude = found["longitude"].values, found["latitude"].values
    extent = (longitude[0], longitude[-1], latitude[-1], latitude[0])
    figure, panels = plt.subplots(1, 4, figsize=(18, 4), constrained_layout=True)
    low, high = float(original.min()), float(original.max())
    for panel, values, title in (
        (panels[0], original, "original"),
        (panels[1], now, "reconstruction"),
        (panels[2], finer, f"at {finer.shape[0]}x{finer.shape[1]}"),
    ):
        picture = panel.imshow(values, vmin=low, vmax=high, extent=extent, aspect="auto")
        panel.set_title(title)
    figure.colorbar(picture, ax=panels[:3], label=f"{name} [{now.attrs.get('units', '')}]")
    most = float(np.abs(error).max())
    picture = panels[3].imshow(error, vmin=-most, vmax=most, extent=extent, aspect="auto", cmap="RdBu_r")
    panels[3].set_title(f"error, RMSE {float(np.sqrt((error**2).mean())):.3f}")
    figure.colorbar(picture, ax=panels[3])
    figure.suptitle(str(found["time"].values[0])[:16])
    figure.savefig(out, dpi=110)
