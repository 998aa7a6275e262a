"""Of several processes one has a claim, until it gives it back or is dead."""

import json
import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from functaconv.errors import OutputExistsError
from functaconv.functaset.claims import Claims, Owner

ELSEWHERE = "another machine"
BEAT, SILENCE = 0.05, 0.5


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "out.zarr/_parts").mkdir(parents=True)
    return tmp_path / "out.zarr/_parts"


@pytest.fixture
def ours(folder: Path) -> Iterator[Claims]:
    with closing(Claims(folder, Owner("run", 0, 2), beat=BEAT, silence=SILENCE)) as claims:
        yield claims


@pytest.fixture
def theirs(folder: Path) -> Iterator[Claims]:
    """Another rank of the same run, on a machine of which nothing is known but its files."""
    owner = replace(Owner("run", 1, 2), machine=ELSEWHERE, host="far")
    with closing(Claims(folder, owner, beat=BEAT, silence=SILENCE)) as claims:
        yield claims


@pytest.fixture(autouse=True)
def no_heart_beats_on(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whoever a test leaves behind as dead or silent ends with it."""
    made: list[Claims] = []
    plain = Claims.__init__

    def noting(self: Claims, *arguments: Any, **options: Any) -> None:
        made.append(self)
        plain(self, *arguments, **options)

    monkeypatch.setattr(Claims, "__init__", noting)
    yield
    for claims in made:
        claims.close()


def dead_pid() -> int:
    """Of a process that was."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_one_has_it_until_it_gives_it_back(ours: Claims, theirs: Claims) -> None:
    assert ours.take("a") is None
    held = theirs.take("a")
    assert held is not None
    assert held.owner == ours.owner
    assert theirs.take("b") is None
    ours.give_back("a")
    assert theirs.take("a") is None
    taken = ours.take("a")
    assert taken is not None
    assert taken.owner == theirs.owner


def test_taking_again_what_one_has_is_fine(ours: Claims) -> None:
    assert ours.take("a") is None
    assert ours.take("a") is None


def test_a_dead_process_of_this_machine_loses_it_at_once(folder: Path, ours: Claims) -> None:
    gone = Claims(folder, replace(Owner("run", 1), pid=dead_pid()), beat=3600)
    assert gone.take("a") is None
    started = time.monotonic()
    assert ours.take("a") is None
    assert time.monotonic() - started < SILENCE
    assert [held.owner for held in [gone.take("a")] if held] == [ours.owner]


def test_a_pid_that_was_given_to_another_process_is_not_its_owner(folder: Path, ours: Claims) -> None:
    if not Owner("run").born:
        pytest.skip("this system does not tell when a process began")
    gone = Claims(folder, replace(Owner("run", 1), born="1"), beat=3600)
    assert gone.take("a") is None
    assert ours.take("a") is None


def test_a_silent_process_of_another_machine_loses_it_after_a_while(folder: Path, ours: Claims) -> None:
    silent = Claims(folder, replace(Owner("run", 1), machine=ELSEWHERE), beat=3600)
    assert silent.take("a") is None
    assert ours.take("a") is not None
    assert ours.await_dead(["a"]) == []
    assert ours.take("a") is None


def test_a_living_process_of_another_machine_keeps_it(ours: Claims, theirs: Claims) -> None:
    assert theirs.take("a") is None
    for _ in range(3):
        assert [held.owner for held in ours.await_dead(["a"])] == [theirs.owner]
        time.sleep(SILENCE / 2)
    assert ours.take("a") is not None


def test_a_clock_that_goes_backwards_kills_nobody(
    ours: Claims, theirs: Claims, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert theirs.take("a") is None
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now - 1e6)
    os.utime(folder / "a.claim", (now + 1e6, now + 1e6))
    assert ours.await_dead(["a"]) != []
    os.utime(folder / "a.claim", (0, 0))
    assert ours.await_dead(["a"]) != []


def test_a_living_process_of_another_run_is_named(folder: Path, ours: Claims) -> None:
    with closing(Claims(folder, replace(Owner("another run"), token=uuid.uuid4().hex), beat=BEAT)) as other:
        assert other.take("a") is None
        with pytest.raises(OutputExistsError, match=f"another run: rank 0 .pid {os.getpid()} on ") as caught:
            ours.take("a")
    assert caught.value.exit_code == 73
    assert ours.take("a") is None


def test_a_dead_process_of_another_run_is_in_nobodys_way(folder: Path, ours: Claims) -> None:
    gone = Claims(folder, replace(Owner("another run"), pid=dead_pid()), beat=3600)
    assert gone.take("a") is None
    assert ours.take("a") is None


def test_a_silent_process_of_another_run_and_machine_is_in_nobodys_way_either(folder: Path, ours: Claims) -> None:
    owner = replace(Owner("other", 0, 1), machine=ELSEWHERE)
    (folder / "a.claim").write_text(json.dumps({"owner": asdict(owner), "beats": 3}))
    assert ours.take("a") is None


def test_who_was_silent_in_the_same_run_is_waited_for_when_it_must_be_known(folder: Path, ours: Claims) -> None:
    owner = replace(Owner("run", 1, 2), machine=ELSEWHERE)
    (folder / "a.claim").write_text(json.dumps({"owner": asdict(owner), "beats": 3}))
    assert ours.take("a") is not None
    assert ours.take_surely("a") is None


def test_who_lives_keeps_what_must_be_known(ours: Claims, theirs: Claims) -> None:
    assert theirs.take("a") is None
    held = ours.take_surely("a")
    assert held is not None
    assert held.owner == theirs.owner
    with pytest.raises(OutputExistsError, match=r"out\.zarr is being written"):
        ours.insist("a")


def test_what_is_over_waits_for_nobody(folder: Path) -> None:
    owner = replace(Owner("other", 0, 1), machine=ELSEWHERE)
    (folder / "a.claim").write_text(json.dumps({"owner": asdict(owner), "beats": 3}))
    with closing(Claims(folder, Owner("run", 0, 2), is_over=lambda: True)) as claims:
        held = claims.take_surely("a")
    assert held is not None
    assert held.owner == owner


def test_what_was_taken_over_is_not_given_back_by_who_had_it(folder: Path, ours: Claims) -> None:
    silent = Claims(folder, replace(Owner("run", 1), machine=ELSEWHERE), beat=BEAT, silence=SILENCE)
    assert silent.take("a") is None
    file = folder / "a.claim"
    file.write_bytes(file.read_bytes().replace(silent.owner.token.encode(), ours.owner.token.encode()))
    time.sleep(4 * BEAT)
    silent.close()
    assert json.loads(file.read_bytes())["owner"]["token"] == ours.owner.token


def test_a_claim_that_cannot_be_read_is_taken_over_after_a_while(folder: Path, ours: Claims) -> None:
    (folder / "a.claim").write_bytes(b"{")
    assert ours.take("a") is None


def test_of_many_at_once_one_gets_it(folder: Path) -> None:
    gone = Claims(folder, replace(Owner("run", 99), pid=dead_pid()), beat=3600)
    for attempt in range(20):
        name = f"part-{attempt}"
        assert gone.take(name) is None
        everyone = [Claims(folder, Owner("run", rank), beat=3600) for rank in range(8)]
        found: list[int] = []
        start = threading.Barrier(len(everyone))

        def run(claims: Claims, name: str = name, start: threading.Barrier = start, found: list[int] = found) -> None:
            start.wait()
            if claims.take(name) is None:
                found.append(claims.owner.rank)

        threads = [threading.Thread(target=run, args=(claims,)) for claims in everyone]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 1
        for claims in everyone:
            claims.close()
    assert list(folder.glob("*.claim")) == []


def test_without_hard_links_it_works_too(folder: Path, ours: Claims, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object) -> None:
        raise OSError("not supported")

    monkeypatch.setattr(os, "link", no_links)
    with closing(Claims(folder, Owner("run", 1), beat=BEAT)) as other:
        assert ours.take("a") is None
        held = other.take("a")
    assert held is not None
    assert held.owner == ours.owner
