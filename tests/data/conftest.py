"""Servers that misbehave, and no patience with them."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from functaconv.data import patience
from tests.data.servers import Answer, Script, serving

SHORT = "0.6"
"""seconds: how long one is waited for who is silent on purpose"""


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short pauses; but on a busy machine an answer may take a while."""
    monkeypatch.setenv(patience.TIMEOUT_VARIABLE, "6")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")


@pytest.fixture
def serve(hasty: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Script]]:
    """Serves some content with the answers given, one for each request, the last one for all that follow."""
    with ExitStack() as stack:

        def begin(content: bytes, *answers: Answer) -> Script:
            if any(answer.silent for answer in answers):
                monkeypatch.setenv(patience.TIMEOUT_VARIABLE, SHORT)
            return stack.enter_context(serving(Script(content, list(answers) or [Answer()])))

        yield begin
