"""What libraries warn of is told once, with the name of the file, and nothing of it is printed."""

import logging
import threading
import warnings

import pytest

from functaconv.data.noise import heard, now_reading


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
