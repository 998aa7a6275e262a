"""What libraries warn of is told once, with the name of the file, and nothing of it is printed."""

import io
import logging
import threading
import warnings

import numpy as np
import pytest
from PIL import Image

from functaconv.data.items import Record
from functaconv.data.noise import heard, now_reading
from functaconv.modalities import Axes
from functaconv.modalities.reading import Reading


def damaged_tiff() -> bytes:
    """Of which libtiff says something to stderr, and goes on."""
    buffer = io.BytesIO()
    bits = np.random.default_rng(0).integers(0, 2, (40, 50), dtype=np.uint8) * 255
    Image.fromarray(bits).convert("1").save(buffer, "TIFF", compression="group4")
    content = bytearray(buffer.getvalue())
    start = len(content) // 3
    content[start : start + 40] = b"\xff" * 40
    return bytes(content)


def test_warnings_are_told_once_with_the_first_name() -> None:
    def read(name: str) -> None:
        now_reading(name)
        warnings.warn("Corrupt  EXIF\ndata", UserWarning, stacklevel=1)

    with heard() as noise:
        for name in ("a.jpg", "b.jpg", "c.jpg"):
            thread = threading.Thread(target=read, args=(name,))
            thread.start()
            thread.join()
        logging.getLogger("tifffile").warning("an odd %s", "tag")
        warnings.warn("not for users", DeprecationWarning, stacklevel=1)
    assert noise.lines() == ["a.jpg: Corrupt EXIF data (and 2 more times)", "an odd tag"]
    with pytest.raises(UserWarning, match="again"):
        warnings.warn("again", UserWarning, stacklevel=1)


def test_many_warnings_are_few_lines() -> None:
    with heard() as noise:
        for number in range(30):
            warnings.warn(f"number {number}", UserWarning, stacklevel=1)
    assert len(noise.lines()) == 11
    assert noise.lines()[-1] == "and 20 more warnings of libraries"


def test_what_libtiff_writes_to_stderr_is_a_warning(capfd: pytest.CaptureFixture[str]) -> None:
    reading = Reading(Axes("image", 2, 1))
    with heard() as noise:
        signal = reading.signal(Record(0, 0, "scans/0001", {"tif": damaged_tiff()}))
    assert signal is not None
    assert signal.shape == (40, 50)
    assert noise.lines()[0].startswith("scans/0001: libtiff: Fax4Decode: Bad code word at line")
    assert capfd.readouterr().err == ""
