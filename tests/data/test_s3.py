"""Shards from S3, as moto has it, and as a server that breaks off."""

import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from functaconv.data import patience
from functaconv.data.expansion import expand_shards
from functaconv.data.grids import open_fields
from functaconv.data.shards import read_records
from functaconv.data.storage import fingerprint, opened
from functaconv.errors import ChangedInputError, InputError, ServiceError, UsageError
from tests.archives import tar
from tests.data.servers import Answer, Script, breaking
from tests.data.test_shards import MEMBERS, as_pairs, read

pytest.importorskip("obstore", reason="the extra remote is not installed")
CONTENT = tar([(f"{number:03d}.npy", bytes([number]) * 2500) for number in range(200)])
RECORDS = as_pairs(read(CONTENT))


OBJECTS = ("d/t-0.tar", "d/t-1.tar", "d/t-2.tar", "d/deep/t-3.tar")
SOMEONE = {"AWS_ACCESS_KEY_ID": "someone", "AWS_SECRET_ACCESS_KEY": "SECRET", "AWS_DEFAULT_REGION": "us-east-1"}


@pytest.fixture
def at(hasty: None, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Sets where S3 is."""
    for name, value in SOMEONE.items():
        monkeypatch.setenv(name, value)

    def begin(url: str) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)

    return begin


@pytest.fixture(scope="module")
def service() -> Iterator[Any]:
    """A bucket of boto3's, in moto."""
    moto = pytest.importorskip("moto.server", reason="moto is not installed")
    boto3 = pytest.importorskip("boto3", reason="boto3 is not installed")
    running = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    access = dict(zip(("aws_access_key_id", "aws_secret_access_key", "region_name"), SOMEONE.values(), strict=True))
    s3 = boto3.resource("s3", endpoint_url=f"http://{host}:{port}", **access)
    try:
        yield s3.create_bucket(Bucket="bucket")
    finally:
        s3.meta.client.close()
        running.stop()


@pytest.fixture
def bucket(service: Any, at: Callable[[str], None]) -> Any:
    """With four tars and a note."""
    at(service.meta.client.meta.endpoint_url)
    for key in OBJECTS:
        service.put_object(Key=key, Body=tar(MEMBERS))
    service.put_object(Key="d/notes.txt", Body=b"")
    return service


def test_objects_are_named_as_files_are(bucket: Any) -> None:
    for spec, keys in [
        ("s3://bucket/d/t-1.tar", ["d/t-1.tar"]),
        ("s3://bucket/d/t-{0..1}.tar", ["d/t-0.tar", "d/t-1.tar"]),
        ("s3://bucket/d/t-{2,0}.tar,s3://bucket/d/t-1.tar", ["d/t-2.tar", "d/t-0.tar", "d/t-1.tar"]),
        ("s3://bucket/d/t-[12].*", ["d/t-1.tar", "d/t-2.tar"]),
        ("s3://bucket/d/", ["d/t-0.tar", "d/t-1.tar", "d/t-2.tar"]),
        ("s3://bucket/*/*/t-?.tar", ["d/deep/t-3.tar"]),
        ("s3://bucket/**/t-?.tar", ["d/deep/t-3.tar", "d/t-0.tar", "d/t-1.tar", "d/t-2.tar"]),
    ]:
        assert expand_shards([spec]) == [f"s3://bucket/{key}" for key in keys]


def read_known(name: str, found: dict[str, str | int]) -> None:
    with opened(name, known=found) as stream:
        list(read_records(name, stream=stream))


def test_an_object_is_read_and_known_again(bucket: Any) -> None:
    name = "s3://bucket/d/t-1.tar"
    assert as_pairs(list(read_records(name))) == as_pairs(read(tar(MEMBERS)))
    found = fingerprint(name)
    assert found == {"name": "t-1.tar", "size": len(tar(MEMBERS)), "etag": bucket.Object("d/t-1.tar").e_tag}
    bucket.put_object(Key="d/t-1.tar", Body=tar(MEMBERS[:2]))
    with pytest.raises(ChangedInputError, match=r"s3://bucket/d/t-1\.tar is not what it was"):
        read_known(name, found)


def test_a_way_to_the_service_that_breaks_costs_no_record(bucket: Any, at: Callable[[str], None]) -> None:
    for number in range(3):
        bucket.put_object(Key=f"many/{number}.tar", Body=CONTENT)
    names = expand_shards(["s3://bucket/many/"])
    assert len(names) == 3
    with breaking(int(bucket.meta.client.meta.endpoint_url.rpartition(":")[2]), after=200_000) as url:
        at(url)
        for name in names:
            assert as_pairs(list(read_records(name))) == RECORDS
    bucket.objects.filter(Prefix="many/").delete()


def test_a_zarr_store_in_a_bucket_is_read_like_a_folder(bucket: Any, tmp_path: Any) -> None:
    xarray = pytest.importorskip("xarray", reason="the extra era5 is not installed")
    axes = {"time": [0.0, 1.0], "latitude": ("latitude", [50.0, 40.0], {"units": "degrees_north"}),
            "longitude": ("longitude", [0.0, 10.0, 20.0], {"units": "degrees_east"})}  # fmt: skip
    values = np.arange(12, dtype=np.float32).reshape(2, 2, 3)
    dataset = xarray.Dataset({"t": (("time", "latitude", "longitude"), values)}, coords=axes)
    dataset.to_zarr(tmp_path / "a.zarr", zarr_format=2, consolidated=False)
    files = [path for path in (tmp_path / "a.zarr").rglob("*") if path.is_file()]
    for path in files:
        bucket.upload_file(str(path), path.relative_to(tmp_path).as_posix())
    with open_fields("s3://bucket/a.zarr") as fields:
        found = [array for _, array, _ in fields]
    bucket.objects.filter(Prefix="a.zarr/").delete()
    np.testing.assert_array_equal(found, values)


def test_a_container_of_azure_needs_an_account(hasty: None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AZURE_")]:
        monkeypatch.delenv(name)
    with pytest.raises(InputError, match=r"401 Unauthorized \(no account\)") as caught:
        list(read_records(expand_shards(["az://container/a.tar"])[0]))
    assert caught.value.hint == "set AZURE_STORAGE_ACCOUNT_NAME"


def test_an_object_that_disappears_has_changed(bucket: Any) -> None:
    found = fingerprint("s3://bucket/d/t-1.tar")
    bucket.Object("d/t-1.tar").delete()
    with pytest.raises(ChangedInputError, match=r"s3://bucket/d/t-1\.tar is gone"):
        read_known("s3://bucket/d/t-1.tar", found)


def test_names_that_lead_nowhere(bucket: Any) -> None:
    for spec, kind, reason in [
        ("s3://bucket/none.tar", InputError, r"s3://bucket/none.tar: the server answers 404 Not Found"),
        ("s3://nowhere/a.tar", InputError, r"404 Not Found"),
        ("s3://nowhere/", InputError, r"cannot list s3://nowhere/: .* 404 Not Found"),
        ("s3://bucket/none-*.tar", InputError, "no object matches"),
        ("s3://bucket/none/", InputError, "no object matches"),
        ("s3://bucket", InputError, "no valid name of a bucket and an object"),
        ("s3://KEY:SECRET@bucket/a.tar", UsageError, "credentials have no place"),
    ]:
        with pytest.raises(kind, match=reason) as caught:
            list(read_records(expand_shards([spec])[0]))
        assert caught.value.hint
        assert "SECRET" not in str(caught.value)


def test_long_lists_come_in_pages(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "2")
    assert len(bucket.meta.client.list_objects_v2(Bucket="bucket")["Contents"]) == 2
    assert len(expand_shards(["s3://bucket/**"])) == 5


def test_no_credentials_are_an_input_error(
    at: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    at("http://127.0.0.1:2")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(InputError, match="no credentials found") as caught:
        list(read_records("s3://bucket/a.tar"))
    assert caught.value.hint


@pytest.mark.parametrize("spec", ["s3://bucket/a-*.tar"])
def test_a_service_that_is_down_is_a_service_error(at: Callable[[str], None], spec: str) -> None:
    at("http://127.0.0.1:1")
    with pytest.raises(ServiceError, match=r"no connection to the server \(tried 5 times\)"):
        list(read_records(expand_shards([spec])[0]))


@pytest.mark.parametrize(
    ("answers", "kind", "requests"),
    [
        ([Answer(stop=200_000), Answer()], None, 2),
        ([Answer(503), Answer(500), Answer()], None, 3),
        ([Answer(silent=True), Answer()], None, 2),
        ([Answer(stop=200_000), Answer(etag='"b"')], ChangedInputError, 2),
        ([Answer(stop=200_000), Answer(404)], ChangedInputError, 2),
        ([Answer(503)], ServiceError, 5),
        ([Answer(403)], InputError, 1),
    ],
)
def test_a_service_with_troubles(
    serve: Callable[..., Script],
    at: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    answers: list[Answer],
    kind: type | None,
    requests: int,
) -> None:
    script = serve(CONTENT, *answers)
    if any(answer.silent for answer in answers):
        monkeypatch.setenv(patience.TIMEOUT_VARIABLE, "1.4")
    at(script.url)
    if kind is None:
        assert as_pairs(list(read_records("s3://bucket/a.tar"))) == RECORDS
    else:
        with pytest.raises(kind) as caught:
            list(read_records("s3://bucket/a.tar"))
        assert "s3://bucket/a.tar" in str(caught.value)
        assert type(caught.value) is kind
    assert len(script.asked) == requests
