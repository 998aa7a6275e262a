"""The source of fields, and errors about it in words."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath

from functaconv.data.buckets import judge
from functaconv.data.folder import clean_key
from functaconv.data.naming import scheme_of, shown
from functaconv.data.patience import SILENCE_HINT, LostError, source_timeout
from functaconv.data.remote import RefusedError
from functaconv.errors import FunctaconvError, InputError, ServiceError

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

    @classmethod
    def of(cls, source: str | Path, name: str | None = None, label: str | None = None) -> "Origin":
        """Keys begin with `name`, by default the file's name without its suffix; errors speak of `label`."""
        is_url = scheme_of(str(source)) is not None
        label = label or (shown(str(source)) if is_url else str(source))
        place = PurePosixPath(label.partition("://")[2]) if is_url else Path(source).absolute()
        return cls(label, place, clean_key(place.stem if name is None else name), is_url)

    @property
    def suffix(self) -> str:
        return self.place.suffix.lower().removeprefix(".")

    @contextmanager
    def trouble(self, what: str, hint: str | None = DAMAGED) -> Iterator[None]:
        """Turn every error of a library in the block into an InputError: formats, codecs and networks share no class.

        A silent server is a ServiceError. For a URL, messages of libraries are not repeated, nor shown with `-v`: they
        may contain the URL with its credentials.
        """
        try:
            with warnings.catch_warnings():
                if self.is_url:
                    warnings.simplefilter("ignore")
                yield
        except (FunctaconvError, MemoryError):
            raise
        except Exception as error:
            if not self.is_url:
                text = str(getattr(error, "strerror", None) or error).strip()
                reason = text.partition("\n")[0] or type(error).__name__
                raise InputError(f"{self.shown}: {what}: {reason[:300]}", hint=hint) from error
            raise self._judged(error, what, hint) from None

    def _judged(self, error: Exception, what: str, hint: str | None) -> FunctaconvError:
        judged = judge(self.shown, error, source_timeout())
        if isinstance(judged, LostError) and judged.silent:
            return ServiceError(f"{self.shown} has sent nothing for {source_timeout():g} s", hint=SILENCE_HINT)
        if isinstance(judged, RefusedError):
            return InputError(f"{self.shown}: {what}: the server answers {judged}", hint=judged.hint)
        if isinstance(judged, LostError):
            return ServiceError(f"{self.shown}: {what}: {judged}", hint="run the command again when the server is well")
        names = [kind.__name__ for kind in type(error).__mro__]
        reason = "there is none" if "FileNotFoundError" in names else f"not as expected ({names[0]})"
        return InputError(f"{self.shown}: {what}: {reason}", hint=hint)
