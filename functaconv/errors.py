"""The errors a user can meet: each says what was found, and carries a hint and an exit code."""

import difflib
import importlib
from collections.abc import Mapping
from typing import Any, TypeVar

Entry = TypeVar("Entry")
# names that a hint lists beside the nearest one
MOST_LISTED = 20


class FunctaconvError(Exception):
    """What went wrong, in words for the user; `hint` says what to do next."""

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(FunctaconvError):
    """The request makes no sense: an unknown name, options that contradict each other."""

    exit_code = 2


class TooManyFailuresError(FunctaconvError):
    """The work is finished, but more items failed than were allowed."""

    exit_code = 3


class VerificationError(FunctaconvError):
    """What is stored does not verify, or is worse than asked for."""

    exit_code = 4


class InputError(FunctaconvError):
    """The input is missing, unreadable, truncated, changed, or not what was expected."""

    exit_code = 65


class ChangedInputError(InputError):
    """The input is not what it was when the work began."""


class MissingExtraError(FunctaconvError):
    """An optional package or service is needed and not there."""

    exit_code = 69


class ServiceError(FunctaconvError):
    """A server or a command that gives the input does not answer, or no longer: the input itself may be sound."""

    exit_code = 69


class OutputExistsError(FunctaconvError):
    """The output exists and is not ours, or was made with other settings."""

    exit_code = 73


class StoppedError(FunctaconvError):
    """Stopped from outside with everything saved: run the same command again to go on."""

    exit_code = 75


class ItemError(Exception):
    """One item cannot be converted; the message is the reason that its row in `failed.jsonl` gives."""


class OtherVariablesError(ItemError):
    """A grid that holds other variables than those before it."""


def imported(module: str, extra: str, what: str) -> Any:
    """A module of an optional package; without the package, a `MissingExtraError` says that `what` needs it."""
    try:
        return importlib.import_module(module)
    except (ImportError, RuntimeError) as error:
        # ecCodes raises RuntimeError where its library is not found
        package = getattr(error, "name", None) or module
        raise MissingExtraError(
            f"{what} needs the package {package} ({error})", hint=f"pip install 'functaconv[{extra}]'"
        ) from error


def lookup(table: Mapping[str, Entry], name: str, *, what: str) -> Entry:
    """The entry under a name; an unknown name is a `UsageError` that gives the nearest one."""
    if name in table:
        return table[name]
    near = difflib.get_close_matches(name, table, n=1, cutoff=0.4)
    known = "" if near and len(table) > MOST_LISTED else "known: " + ", ".join(sorted(table))
    raise UsageError(
        f"there is no {what} {name!r}", hint=((f"did you mean {near[0]!r}? " if near else "") + known).strip()
    )
