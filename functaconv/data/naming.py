"""Names of shards: which kind each is, and how to show it without secrets."""

import re
from pathlib import PurePath

STDIN = "-"
_PIPE = "pipe:"
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://(.*)", re.DOTALL)
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
# possible names of servers and buckets; anything else may be part of a password with a slash
_HOST = re.compile(r"(\w[\w.-]*|\[[0-9A-Fa-f:.]+\])(:\d+)?|arn:[\w:-]+")


def scheme_of(shard: str) -> str | None:
    """The scheme of a URL in lower case; None for everything else."""
    match = _URL.match(shard)
    return match[1].lower() if match else None


def is_pipe(shard: str) -> bool:
    return shard.startswith(_PIPE)


def command_of(pipe: str) -> str:
    return pipe.removeprefix(_PIPE)


def is_url_like(name: str) -> bool:
    """Whether a name begins as a URL does, a misspelled one too."""
    return _SCHEME.match(name) is not None


def is_local(shard: str) -> bool:
    """A path, and nothing that only looks like one."""
    return shard != STDIN and not is_pipe(shard) and scheme_of(shard) is None


def shown(shard: str) -> str:
    """The shard's name for messages, logs and stores: without user, password, query, fragment and arguments.

    Of a URL scheme, server and path are left, of a pipe the name of the command.
    """
    if shard == STDIN:
        return "stdin"
    if is_pipe(shard):
        words = command_of(shard).split()
        # NAME=value before a command sets a variable, which may be a password
        plain = words and re.fullmatch(r"[\w./+-]+", words[0])
        return f"{_PIPE}{words[0]}{' ...' if len(words) > 1 else ''}" if plain else f"{_PIPE}..."
    match = _URL.match(shard)
    if match is None:
        return shard
    host, slash, path = re.split(r"[?#]", match[2], maxsplit=1)[0].partition("/")
    host = host.rpartition("@")[2]
    return f"{match[1]}://{host}{slash}{path}" if _HOST.fullmatch(host) else f"{match[1]}://..."


def hinted(name: str) -> str:
    """A name that matches nothing, for messages: without what would be secret in a misspelled URL."""
    if scheme_of(name) is not None or is_pipe(name):
        return shown(name)
    if "@" in name:
        # part of a password may stand anywhere before it
        return "..."
    secret = re.search(r":/|[?&#]", name)
    return name if secret is None else f"{name[: secret.start()]}..."


def short_name(shard: str) -> str:
    """The last part of the name, which is the same wherever the shard lies. `-` stays `-`."""
    if shard == STDIN:
        return shard
    return shown(shard) if is_pipe(shard) else PurePath(shown(shard)).name


def printable(name: str) -> str:
    """A file's name as JSON and terminals can hold it; the escapes of bytes that are no UTF-8 keep names different."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
