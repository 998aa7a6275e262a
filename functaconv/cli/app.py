"""The application: its commands, its errors, its exit codes."""

import os
import re
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from functaconv import __version__
from functaconv.cli import demo, encode, fit_base, inspect, pack, recipes, render, report
from functaconv.cli.console import say
from functaconv.data.noise import Noise, heard
from functaconv.errors import FunctaconvError, OutputExistsError

_CANNOT_WRITE = "give an output in a directory that may be written to, on a disk that has room"


class _InOrder(TyperGroup):
    """Commands in the order of the work, not of the alphabet."""

    def list_commands(self, ctx: object) -> list[str]:  # noqa: ARG002 - typer's signature
        return list(self.commands)


class _Command(TyperCommand):
    """Help without a line per environment variable: they all have one pattern, which the application's help tells."""

    def get_params(self, ctx: Any) -> list[Any]:
        params = list(super().get_params(ctx))
        for param in params:
            if hasattr(param, "show_envvar"):
                param.show_envvar = False
        return params


app = typer.Typer(
    cls=_InOrder,
    help="Convert array datasets to functasets: one shared coordinate network, one small fitted latent per item.",
    no_args_is_help=True,
    epilog="Every option can also be given as FUNCTACONV_<COMMAND>_<OPTION>, such as FUNCTACONV_ENCODE_BITS=8.",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"auto_envvar_prefix": "FUNCTACONV", "help_option_names": ["-h", "--help"]},
)
for name, module, summary in (
    ("pack", pack, "A folder of images or arrays becomes shards."),
    ("fit-base", fit_base, "Learn the shared base network."),
    ("encode", encode, "Fit a latent per item: shards become a functaset."),
    ("render", render, "Decode items at any size or place."),
    ("report", report, "Quality, size and speed; the worst items."),
    ("inspect", inspect, "What a base, functaset or shard set holds."),
    ("recipes", recipes, "Presets of fit-base, and all settings."),
    ("demo", demo, "All of it on photographs, in a minute."),
):
    app.command(name, cls=_Command, short_help=summary)(module.command)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"functaconv {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    show_version: Annotated[  # not named `version`: FUNCTACONV_VERSION may well be set to something else
        bool,
        typer.Option("--version", callback=_version, is_eager=True, show_envvar=False, help="Show the version."),
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command in `sys.argv` and exit with its code."""
    # OpenMP reads this when torch loads it; threads that spin while another process needs their core cost more than
    # they bring (measured: 8 items/s with two threads on two busy cores, 40 where they wait, 29 with one)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run a command; its exit code. Expected errors are told in two lines, without a traceback."""
    try:
        with heard() as noise, _told(noise, arguments):
            code = app(args=list(arguments), prog_name="functaconv", standalone_mode=False)
        sys.stdout.flush()
        if code == 130:
            # typer swallows a KeyboardInterrupt
            say("error: stopped by Ctrl-C")
        return code if isinstance(code, int) else 0
    except FunctaconvError as error:
        _tell(arguments, str(error), error.hint)
        return error.exit_code
    except (BrokenPipeError, SystemExit) as error:
        # typer makes a SystemExit of a broken pipe
        if not isinstance(error.__context__ if isinstance(error, SystemExit) else error, BrokenPipeError):
            raise
        # the reader of our output has closed it; Python must not write to it at exit either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (KeyboardInterrupt, typer.Abort):
        say("error: stopped by Ctrl-C")
        return 130
    except OSError as error:
        # input that cannot be read is an InputError by now, so this is output that cannot be written
        where = f": {error.filename}" if error.filename else ""
        _tell(arguments, f"cannot write: {error.strerror or error}{where}", _CANNOT_WRITE)
        return OutputExistsError.exit_code
    except Exception as error:
        # click's own errors are not exported by typer; they are told apart by what they can do
        show, code = getattr(error, "format_message", None), getattr(error, "exit_code", None)
        if type(error).__name__ == "NoArgsIsHelpError" and isinstance(code, int):
            say(str(error))
            return code
        if show is not None and isinstance(code, int):
            _tell(arguments, show(), _usage_hint(arguments, error))
            return code
        if type(error).__name__ == "Exit" and isinstance(code, int):
            return code
        if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
            _tell(arguments, f"out of memory: {error}".partition("\n")[0], "a smaller --batch-size needs less")
            return 1
        _tell(arguments, f"internal error: {type(error).__name__}: {error}", "this is a bug; -v shows where")
        return 1


@contextmanager
def _told(noise: Noise, arguments: Sequence[str]) -> Iterator[None]:
    """Print the warnings of libraries when the block ends, before its error."""
    try:
        yield
    finally:
        for line in () if _has_flag(arguments, "quiet") else noise.lines():
            say(f"warning: {line}")


def _has_flag(arguments: Sequence[str], name: str) -> bool:
    short = f"-[qv]*{name[0]}[qv]*"
    return any(argument == f"--{name}" or re.fullmatch(short, argument) for argument in arguments)


def _tell(arguments: Sequence[str], message: str, hint: str | None) -> None:
    if _has_flag(arguments, "verbose"):
        traceback.print_exc()
    say(f"error: {message}")
    if hint:
        say(f"hint: {hint}")


def _usage_hint(arguments: Sequence[str], error: Exception) -> str:
    context = getattr(error, "ctx", None)
    # an option without its value comes without a context
    names = [command.name for command in app.registered_commands if command.name in arguments[:1]]
    command = getattr(context, "command_path", " ".join(["functaconv", *map(str, names)]))
    return f"`{command} --help` shows what it takes"
