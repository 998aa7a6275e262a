"""A report says what the functaset says, and finds out when that is not so."""

import csv
import re
from collections.abc import Callable
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from PIL import Image

from functaconv.checkpoint import base_of
from functaconv.cli.console import by_numbers_lines, summary_lines
from functaconv.conversion import encode
from functaconv.data.decoders import decode
from functaconv.data.shards import read_records
from functaconv.errors import InputError, UsageError, VerificationError
from functaconv.functaset.opening import open_functaset
from functaconv.metrics import psnr
from functaconv.reporting import Report, report, to_csv, to_html
from functaconv.reporting.thumbnails import reconstruction
from functaconv.signals.grid import Grid
from functaconv.training import fit_base
from tests.conftest import npy, png, tar
from tests.oracle import mse_of

SHAPE = (12, 12)


@pytest.fixture(scope="module")
def odd_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keys that repeat, an item that cannot be read between two of its name, a record without an array."""
    folder = tmp_path_factory.mktemp("odd")
    tar(folder / "a.tar", {"twin.png": png(1, SHAPE), "one.png": png(2, SHAPE), "note.txt": b"no array"})
    members = {
        "twin.png": png(3, SHAPE),
        "bad.png": b"not a png",
        "x/twin.png": png(4, SHAPE),
        "two.png": png(5, SHAPE),
    }
    tar(folder / "b.tar", members)
    tar(folder / "c.tar", {"twin.png": png(6, SHAPE)[:80], "three.png": png(7, SHAPE)})
    tar(folder / "d.tar", {"twin.png": png(8, SHAPE), "bad.png": png(9, SHAPE)})
    return folder


@pytest.fixture(scope="module")
def store(spatial_base_file: Path, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("store") / "out.zarr"
    return encode(spatial_base_file, str(images), path, device="cpu").path


@pytest.fixture(scope="module")
def odd_store(spatial_base_file: Path, odd_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("store") / "odd.zarr"
    return encode(spatial_base_file, str(odd_shards), path, device="cpu", max_error_rate=1).path


@pytest.fixture(scope="module")
def compared(store: Path, images: Path) -> Report:
    return report(store, against=str(images), baseline="pca", train=str(images))


def test_report_begins_with_what_encode_said(store: Path) -> None:
    functaset = open_functaset(store)
    found = report(functaset)
    assert found.summary == functaset.report
    assert found.complaint is None
    assert len(found.items) == found.summary["count"] == 70
    np.testing.assert_allclose(found.items.psnr, functaset.psnr, rtol=1e-6)
    worst = found.worst(3)
    assert [item.psnr for item in worst] == sorted(found.items.psnr)[:3]
    assert found.best(1)[0].psnr == max(item.psnr for item in found.items)
    assert worst[0].key == functaset.keys[int(functaset.psnr.argmin())]
    assert worst[0].shape == SHAPE


def test_what_is_stored_is_what_is_found(compared: Report, store: Path) -> None:
    against = compared.summary["against"]
    assert compared.complaint is None
    assert (against["items"], against["missing"], against["extra"]) == (70, 0, 0)
    assert against["largest_difference_db"] < 0.001
    assert against["psnr_mean"] == pytest.approx(compared.summary["psnr"]["mean"], abs=1e-3)
    assert compared.items[0].found_psnr == pytest.approx(open_functaset(store).psnr[0], abs=1e-3)


def test_repeated_keys_and_failed_items_find_their_originals(odd_store: Path, odd_shards: Path, tmp_path: Path) -> None:
    found = report(odd_store, against=str(odd_shards))
    assert found.summary["failed"] == 2
    assert found.complaint is None
    assert found.summary["against"]["items"] == 8
    # shards of other names
    (tmp_path / "renamed").mkdir()
    for shard in odd_shards.iterdir():
        (tmp_path / "renamed" / f"other-{shard.name}").write_bytes(shard.read_bytes())
    found = report(odd_store, against=str(tmp_path / "renamed"))
    assert found.complaint is None
    assert found.summary["against"]["items"] == 8


def test_an_item_that_changed_is_named(odd_store: Path, odd_shards: Path, tmp_path: Path) -> None:
    copytree(odd_shards, tmp_path / "other")
    tar(tmp_path / "other" / "a.tar", {"twin.png": png(1, SHAPE), "one.png": png(99, SHAPE), "four.png": png(2, SHAPE)})
    found = report(odd_store, against=str(tmp_path / "other"))
    assert isinstance(found.complaint, VerificationError)
    assert re.search(
        r"1 item not as the functaset says: one \([\d.]+ dB stored, -?[\d.]+ found\)", str(found.complaint)
    )
    assert "1 item in the shards, not in the functaset: four" in str(found.complaint)
    assert found.summary["against"]["missing"] == 1
    assert found.summary["against"]["largest_difference_db"] > 0.01


def test_an_item_of_another_shape_is_named(odd_store: Path, odd_shards: Path, tmp_path: Path) -> None:
    copytree(odd_shards, tmp_path / "other")
    tar(tmp_path / "other" / "a.tar", {"twin.png": png(1, SHAPE), "one.png": png(2, (6, 12))})
    found = report(odd_store, against=str(tmp_path / "other"))
    assert "one (stored as 12x12, 6x12 in the shards)" in str(found.complaint)


def test_other_shards_are_told(store: Path, odd_shards: Path) -> None:
    found = report(store, against=str(odd_shards / "b.tar"))
    assert found.complaint is not None
    assert found.complaint.exit_code == 4
    assert found.summary["against"] == {
        "items": 0, "psnr_mean": None, "largest_difference_db": None, "missing": 4, "extra": 70,
    }  # fmt: skip
    assert "and 60 more" in str(found.complaint)


def test_a_shard_that_was_damaged_is_so_again(
    spatial_base_file: Path, odd_shards: Path, images: Path, tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    content = (odd_shards / "b.tar").read_bytes()
    (tmp_path / "in" / "b.tar").write_bytes(content[: content.index(b"two.png") + 600])
    encoded = encode(spatial_base_file, str(tmp_path / "in"), tmp_path / "out.zarr", device="cpu", max_error_rate=1)
    assert isinstance(encoded.complaint, InputError)
    found = report(tmp_path / "out.zarr", against=str(tmp_path / "in"))
    assert found.complaint is None
    assert found.summary["against"]["items"] == 2
    # but not one that was sound
    (images_shard,) = images.glob("*.tar")
    (tmp_path / "cut.tar").write_bytes(images_shard.read_bytes()[:20_000])
    with pytest.raises(InputError, match="cut short"):
        report(tmp_path / "out.zarr", against=str(tmp_path / "cut.tar"))


def test_latents_that_were_changed_are_found(store: Path, images: Path, tmp_path: Path) -> None:
    copytree(store, tmp_path / "out.zarr")
    array = zarr.open_group(tmp_path / "out.zarr", mode="r+", use_consolidated=False)["latent"]
    assert isinstance(array, zarr.Array)
    array[3] = 0
    assert report(tmp_path / "out.zarr").complaint is None
    complaint = str(report(tmp_path / "out.zarr", against=str(images)).complaint)
    assert complaint.startswith("1 item not as the functaset says: image0003")


def test_a_low_mean_is_a_complaint(store: Path) -> None:
    mean = report(store).summary["psnr"]["mean"]
    assert report(store, min_psnr=mean - 0.1).complaint is None
    complaint = report(store, min_psnr=mean + 0.1).complaint
    assert isinstance(complaint, VerificationError)
    assert "--min-psnr" in str(complaint)


def test_items_are_read_as_encode_read_them(base_file: Path, image_shards: Callable[..., Path], tmp_path: Path) -> None:
    shards = str(image_shards(9, shapes=((20, 30), (24, 40), (10, 11)), seed=3))
    encode(base_file, shards, tmp_path / "out.zarr", device="cpu", tile=12, limit=8, resize=18)
    found = report(tmp_path / "out.zarr", against=shards)
    assert found.complaint is None
    assert found.summary["against"]["items"] == len(found.items) == 8
    assert len(found.functaset) > 8
    assert {item.shape for item in found.items} == {(18, 27), (18, 30), (18, 20)}


def test_a_picture_of_tiles_is_put_together(base_file: Path, tmp_path: Path) -> None:
    content = png(5, (400, 260))
    shard = tar(tmp_path / "large.tar", {"large.png": content})
    encode(base_file, str(shard), tmp_path / "out.zarr", device="cpu", tile=150)
    found = report(tmp_path / "out.zarr", against=str(shard))
    (picture,) = found.originals.values()
    original = np.asarray(Image.open(BytesIO(content)))
    # of 400 pixels every third is shown
    np.testing.assert_array_equal(picture, original[::3, ::3])
    again = reconstruction(found.functaset, found.items.items, 0, base_of(found.functaset))
    # clipped and rounded, and of a third of the pixels, it is still as good as the report says
    error = mse_of(again, picture, 255)
    assert float(psnr(error)) == pytest.approx(found.items.psnr[0], abs=1.5)


@pytest.fixture(scope="module")
def arrays_report(tmp_path_factory: pytest.TempPathFactory, tiny: dict[str, Any]) -> Report:
    """Lines of two lengths, some with missing values."""
    folder, random = tmp_path_factory.mktemp("arrays"), np.random.default_rng(0)
    members = {}
    for number in range(12):
        values = random.normal(size=20 + number % 2).cumsum().astype(np.float32)
        values[: number % 3] = np.nan
        members[f"<line&{number}>.npy"] = npy(values)
    shard = tar(folder / "lines.tar", members)
    settings = {**tiny, "training": {"steps": 2}}
    base = fit_base(str(shard), folder / "base.safetensors", settings=settings, device="cpu").path
    encode(base, str(shard), folder / "out.zarr", device="cpu")
    return report(folder / "out.zarr", against=str(shard), baseline="pca", train=str(shard))


def test_missing_values_do_not_count(arrays_report: Report) -> None:
    assert arrays_report.complaint is None
    assert arrays_report.summary["against"]["items"] == 12


def test_pca_is_left_out_where_shapes_differ(arrays_report: Report) -> None:
    assert arrays_report.summary["pca"] == {"psnr": None, "reason": "the items have different shapes"}


def test_pca_is_measured_on_the_same_items(compared: Report, images: Path) -> None:
    pca = compared.summary["pca"]
    (shard,) = images.glob("*.tar")
    items = np.stack([decode(record).array for record in read_records(str(shard))]) / 255.0
    assert (pca["numbers"], pca["train_items"]) == (24, 70)
    assert pca["psnr"] == pytest.approx(by_svd(items.reshape(70, -1), 24, 70), abs=0.01)
    assert pca["difference"] == pytest.approx(compared.summary["psnr"]["mean"] - pca["psnr"], abs=1e-3)
    # 2 x 3 sites of 4 numbers
    cells = items.reshape(70, 2, 6, 3, 4, 3).transpose(0, 1, 3, 2, 4, 5).reshape(70 * 6, -1)
    assert pca["psnr_per_patch"] == pytest.approx(by_svd(cells, 4, 70), abs=0.01)


def by_svd(rows: np.ndarray, numbers: int, items: int) -> float:
    """Mean PSNR of the items that the rows are pieces of, by the textbook's PCA on the same rows."""
    centred = rows - rows.mean(0)
    components = np.linalg.svd(centred, full_matrices=False)[2][:numbers]
    error = np.square(centred - centred @ components.T @ components).mean(1)
    return float(psnr(error.reshape(items, -1).mean(1)).mean())


@pytest.mark.parametrize(
    ("count", "shape", "reason"),
    [(5, SHAPE, "5 training items are fewer than 24 numbers"), (30, (12, 18), "a training item is 12x18")],
)
def test_unsuitable_training_items_leave_pca_out(
    store: Path, images: Path, image_shards: Callable[..., Path], count: int, shape: tuple[int, int], reason: str
) -> None:
    train = str(image_shards(count, shapes=(shape,), seed=7))
    pca = report(store, against=str(images), baseline="pca", train=train).summary["pca"]
    assert pca["psnr"] is None
    assert pca["reason"].startswith(reason)
    # cells are more than items
    assert ("psnr_per_patch" in pca) == (shape == SHAPE)


def test_requests_that_make_no_sense_name_the_option(store: Path) -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"baseline": "pca", "train": "x"}, "--against"), ({"baseline": "pca", "against": "x"}, "--train"),
        ({"train": "x"}, "--baseline"), ({"baseline": "jpeg"}, "pca"),
    ]  # fmt: skip
    for options, hint in wrong:
        with pytest.raises(UsageError) as caught:
            report(store, **options)
        assert hint in str(caught.value.hint)


def test_csv_has_a_line_per_item(compared: Report, odd_store: Path, tmp_path: Path) -> None:
    to_csv(compared, tmp_path / "items.csv")
    with (tmp_path / "items.csv").open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert [line["key"] for line in lines] == list(compared.items.items.keys)
    assert float(lines[5]["psnr"]) == pytest.approx(compared.items[5].psnr, abs=1e-4)
    assert (lines[5]["shape"], lines[5]["label"]) == ("12x12", "-1")
    assert lines[5]["psnr_against"] == lines[5]["psnr"]
    to_csv(report(odd_store), tmp_path / "plain.csv")
    assert (tmp_path / "plain.csv").read_text().startswith("key,label,psnr,mse,shape\n")


class Page(HTMLParser):
    """What a page shows, and what it would load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.images: list[str] = []
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.feed(text)
        assert not self.tags, "a tag that is not closed"

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "img"):
            self.tags.append(tag)
        given = dict(attributes)
        if tag == "img":
            self.images.append(given["src"] or "")
        self.loads += [value or "" for name, value in attributes if name in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.tags.pop() == tag


def test_page_is_one_file_with_pictures(compared: Report, tmp_path: Path) -> None:
    to_html(compared, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert all(source.startswith("data:image/png;base64,") for source in page.loads)
    # histogram, 16 worst and 8 best, each beside its original
    assert len(page.images) == 1 + 2 * (16 + 8)
    assert compared.worst(1)[0].key in text
    assert f"{compared.summary['pca']['psnr']:.2f} dB" in text
    assert "Failed checks" not in text


def test_page_without_originals_or_pictures(
    store: Path, odd_store: Path, arrays_report: Report, tmp_path: Path
) -> None:
    to_html(report(store, min_psnr=99), tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert len(Page(text).images) == 1 + 16 + 8
    assert "Failed checks" in text
    to_html(report(odd_store), tmp_path / "few.html")
    assert len(Page((tmp_path / "few.html").read_text(encoding="utf-8")).images) == 1 + 8
    # one axis: nothing to see, a table instead; and keys are text, not tags
    to_html(arrays_report, tmp_path / "lines.html")
    text = (tmp_path / "lines.html").read_text(encoding="utf-8")
    assert len(Page(text).images) == 1
    assert "&lt;line&amp;3&gt;" in text


@pytest.fixture(scope="module")
def gradient_store(gradient_base_file: Path, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("store") / "gradient.zarr"
    return encode(gradient_base_file, str(images), path, device="cpu", limit=8).path


def test_fewer_numbers_are_measured_where_latents_are_canonical(compared: Report, store: Path, images: Path) -> None:
    found = compared.summary["psnr_by_numbers"]
    assert list(found) == ["1", "2", "4"]
    assert list(found.values()) == sorted(found.values())
    assert found["4"] == compared.summary["against"]["psnr_mean"]
    functaset, base = open_functaset(store), base_of(open_functaset(store))
    latents = torch.from_numpy(functaset.latents()).flatten(1, 2)
    latents[..., 2:] = 0
    decoded = base.decode(latents, base.points(Grid(SHAPE))).numpy()
    (shard,) = images.glob("*.tar")
    items = np.stack([decode(record).array for record in read_records(str(shard))]).reshape(70, -1, 3) / 255.0
    assert found["2"] == pytest.approx(psnr(np.square(decoded - items).mean((1, 2))).mean(), abs=1e-3)


def test_fewer_numbers_are_not_measured_without_originals_or_order(
    store: Path, gradient_store: Path, images: Path
) -> None:
    assert "psnr_by_numbers" not in report(store).summary
    summary = report(gradient_store, against=str(images)).summary
    assert summary["against"]["items"] == 8
    assert "psnr_by_numbers" not in summary


def test_page_and_text_say_what_fewer_numbers_are_worth(compared: Report, store: Path, tmp_path: Path) -> None:
    to_html(compared, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    Page(text)
    assert "Fewer numbers" in text
    assert f"<td>{compared.summary['psnr_by_numbers']['1']:.2f} dB</td>" in text
    to_html(report(store), tmp_path / "plain.html")
    assert "Fewer numbers" not in (tmp_path / "plain.html").read_text(encoding="utf-8")
    lines = by_numbers_lines(compared.summary)
    assert lines[2:] == [
        f"  {value:6.2f} dB  {keep} number{'s' * (keep != '1')}"
        for keep, value in compared.summary["psnr_by_numbers"].items()
    ]
    assert by_numbers_lines(report(store).summary) == []


def test_solver_steps_and_distance_to_pca_are_told(compared: Report, tmp_path: Path) -> None:
    text = "\n".join(summary_lines(compared.summary))
    told = f"gauss-newton, {compared.summary['steps']} steps"
    assert re.search(rf"solver +{told}\n", text)
    assert re.search(r"PCA +[\d.]+ dB with as many numbers: we are [\d.]+ dB (above|below)", text)
    to_html(compared, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert told in page
    assert re.search(r"[\d.]+ dB with as many numbers: we are [\d.]+ dB (above|below)", page)


def test_a_report_is_about_what_is_stored(store: Path, images: Path) -> None:
    with pytest.raises(UsageError) as caught:
        report(open_functaset(store).truncated(2), against=str(images))
    assert "encode --keep" in str(caught.value.hint)
