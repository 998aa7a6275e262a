"""Where fields come from, and whatever goes wrong there, in words."""

import importlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from functaconv.errors import FunctaconvError, InputError, MissingExtraError
from functaconv.sources.folder import clean_key

DAMAGED = "the file may be damaged or incomplete: get it again"


@dataclass(frozen=True, slots=True)
class Origin:
    """A file, a directory or a URL."""

    shown: str
    """in errors: without user and query, which may be credentials"""
    place: PurePath
    key: str
    """where keys begin"""
    is_url: bool
    secrets: tuple[str, ...]
    """what of a URL is not shown"""

    @classmethod
    def of(cls, source: str | Path, name: str | None = None) -> "Origin":
        """Keys begin with `name`, by default the file's name without its suffix."""
        is_url = re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", str(source)) is not None
        parts = urlsplit(str(source) if is_url else "")
        user, _, host = parts.netloc.rpartition("@")
        place = PurePosixPath(parts.path) if is_url else Path(source).absolute()
        return cls(
            shown=f"{parts.scheme}://{host}{parts.path}" if is_url else str(source),
            place=place,
            key=clean_key(place.stem if name is None else name),
            is_url=is_url,
            secrets=tuple(part for part in (user, parts.query, parts.fragment) if part),
        )

    @property
    def suffix(self) -> str:
        return self.place.suffix.lower().removeprefix(".")

    @contextmanager
    def trouble(self, what: str, hint: str | None = DAMAGED) -> Iterator[None]:
        """Whatever a library raises in here is an InputError: formats, codecs and networks share no error."""
        try:
            yield
        except (FunctaconvError, MemoryError):
            raise
        except Exception as error:
            text = str(getattr(error, "strerror", None) or error).strip()
            reason = text.partition("\n")[0] or type(error).__name__
            for secret in self.secrets:
                reason = reason.replace(secret, "...")
            raise InputError(f"{self.shown}: {what}: {reason[:300]}", hint=hint) from error


def imported(module: str, extra: str, what: str) -> Any:
    try:
        return importlib.import_module(module)
    except (ImportError, RuntimeError) as error:
        # ecCodes raises RuntimeError where its library is not found
        package = getattr(error, "name", None) or module
        raise MissingExtraError(
            f"{what} needs the package {package} ({error})", hint=f"pip install 'functaconv[{extra}]'"
        ) from None
