"""A modality and a render format that are defined here, registered, and used from shards to files."""

import io
import json
import wave
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from functaconv.cli.console import summary_lines
from functaconv.conversion import encode
from functaconv.data.items import Item
from functaconv.errors import UsageError
from functaconv.functaset.opening import open_functaset
from functaconv.functaset.reader import Functaset
from functaconv.inspection import inspect
from functaconv.modalities import MODALITIES, Axes, ChannelAxis, Measure, Modality
from functaconv.modalities.compared import Compared
from functaconv.rendering import render
from functaconv.rendering.decoding import Picture
from functaconv.rendering.formats import FORMATS, Format
from functaconv.reporting import report, to_csv
from functaconv.training import fit_base
from tests.conftest import npy, tar

RATE, SAMPLES = 8000, 96


class Sound(Modality):
    """Arrays of one axis whose json has a sample rate; judged by their spectra, too."""

    name = "sound"
    plural = "sounds"
    one = "a sound"
    dims = (1,)
    preset = "arrays"
    own_formats = ("wav",)
    usual_format = "wav"
    measures = (Measure("spectral_error", "spectral_error", "error of the spectrum"),)

    def axes(self, items: Sequence[Item], channel_axis: ChannelAxis, asked: str) -> Axes | None:
        if asked != "auto" or not all("sample_rate" in item.attributes and item.array.ndim == 1 for item in items):
            return None
        return Axes(self.name, 1, 1, "none", items[0].array.dtype.itemsize)

    def compare(self, found: Compared) -> dict[str, torch.Tensor]:
        spectra = [torch.fft.rfft(values[..., 0], norm="ortho").abs() for values in (found.decoded, found.features)]
        return {"spectral_error": (spectra[0] - spectra[1]).square().mean(1).sqrt()}


class Wav(Format):
    """16-bit sound files."""

    name = "wav"

    def to_bytes(self, picture: Picture, functaset: Functaset) -> bytes:
        content = io.BytesIO()
        with wave.open(content, "wb") as file:
            file.setnchannels(picture.array.shape[-1])
            file.setsampwidth(2)
            file.setframerate(int(functaset.meta(picture.row)["sample_rate"]))
            file.writeframes(np.rint(32767 * picture.array.clip(-1, 1)).astype("<i2").tobytes())
        return content.getvalue()


@pytest.fixture(scope="module")
def registered() -> Iterator[None]:
    patch = pytest.MonkeyPatch()
    patch.setitem(MODALITIES, "sound", Sound())
    patch.setitem(FORMATS, "wav", Wav())
    with patch.context():
        yield
    patch.undo()


def sound(number: int) -> np.ndarray:
    time = np.arange(SAMPLES) / SAMPLES
    return (0.8 * np.sin(2 * np.pi * (1 + number % 4) * time + number)).astype(np.float32)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    members: dict[str, bytes] = {}
    for number in range(40):
        members[f"{number:02d}.npy"] = npy(sound(number))
        members[f"{number:02d}.json"] = json.dumps({"sample_rate": RATE}).encode()
    return tar(tmp_path_factory.mktemp("sounds") / "sounds.tar", members)


@pytest.fixture(scope="module")
def functaset(registered: None, shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Functaset:
    folder = tmp_path_factory.mktemp("functaset")
    base = folder / "base.safetensors"
    fit_base(str(shards), base, settings={"latent": {"numbers": 8}, "training": {"minutes": 0}}, device="cpu")
    encode(base, str(shards), folder / "sounds.zarr", device="cpu")
    return open_functaset(folder / "sounds.zarr")


def test_its_items_are_recognised_and_its_measure_is_a_column(functaset: Functaset) -> None:
    assert functaset.attributes.modality == "sound"
    assert functaset.measure("spectral_error").shape == (40,)
    assert np.isfinite(functaset.measure("spectral_error")).all()
    assert not inspect(functaset.path, verify=True).problems


def test_report_tells_its_measure_and_agrees_with_the_originals(
    functaset: Functaset, shards: Path, tmp_path: Path
) -> None:
    found = report(functaset, against=str(shards), device="cpu")
    assert found.complaint is None
    stored = functaset.measure("spectral_error").mean()
    assert found.summary["spectral_error"] == pytest.approx(stored, abs=1e-4)
    assert found.summary["against"]["spectral_error"] == pytest.approx(stored, abs=1e-4)
    assert any(line.startswith("error of the spectrum") for line in summary_lines(found.summary))
    to_csv(found, tmp_path / "items.csv")
    assert "spectral_error" in (tmp_path / "items.csv").read_text().splitlines()[0]


def test_it_is_rendered_to_a_format_of_its_own(functaset: Functaset, tmp_path: Path) -> None:
    render(functaset, tmp_path / "wavs", items=[3, 5], device="cpu")
    with wave.open(str(tmp_path / "wavs" / "03.wav")) as file:
        assert file.getframerate() == RATE
        values = np.frombuffer(file.readframes(SAMPLES), "<i2") / 32767
    render(functaset, tmp_path / "one.npy", items=[3], device="cpu")
    np.testing.assert_allclose(values, np.load(tmp_path / "one.npy")[:, 0].clip(-1, 1), atol=1e-4)
    np.testing.assert_allclose(values, sound(3), atol=0.2)


def test_its_format_is_not_for_others(registered: None, tmp_path: Path, array_shards: Callable[..., Path]) -> None:
    data, base = str(array_shards(30, (12,))), tmp_path / "base.safetensors"
    fit_base(data, base, settings={"latent": {"numbers": 4}, "training": {"minutes": 0}}, device="cpu")
    encode(base, data, tmp_path / "arrays.zarr", device="cpu")
    with pytest.raises(UsageError, match="wav is for sounds"):
        render(tmp_path / "arrays.zarr", tmp_path / "out", format="wav", device="cpu")
