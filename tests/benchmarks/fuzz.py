"""Damaged inputs by the hundred thousand: each is accepted, or refused with a documented error; all else is a finding.

    python -m tests.benchmarks.fuzz OUT.json [--count 100000] [--seed 0] [TARGET ...]

Findings: another exception, more than 5 seconds for an input, memory above the cap, a process that dies. A worker
process does the reading, so the run goes on after any of them. Input N of a target with a seed is always the same:

    python -m tests.benchmarks.fuzz --show TARGET:SEED:N      runs it here, with its traceback
"""

import argparse
import json
import multiprocessing
import os
import platform
import resource
import signal
import subprocess
import sys
import time
import traceback
from collections import Counter
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Any

SECONDS, STUCK = 5.0, 60.0
MEMORY = 1 << 30
"""bytes of address space that reading may take beyond what is loaded; some files are of several MiB"""
TOGETHER = 200
"""inputs between two reports of a worker"""
MOST_FINDINGS = 50


class _Hang(BaseException):
    """An input takes too long."""


def main() -> None:
    from tests.fuzzing.targets import TARGETS

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", nargs="?", type=Path)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--show", help="TARGET:SEED:N")
    given = parser.parse_intermixed_args()
    if given.show:
        name, seed, index = given.show.split(":")
        _show(name, int(seed), int(index))
        return
    found = {
        "commit": _commit(),
        "python": platform.python_version(),
        "versions": {
            name: version(name) for name in ("numpy", "torch", "zarr", "numcodecs", "safetensors", "pydantic")
        },
        "seed": given.seed,
        "targets": {},
    }
    for name in given.targets or TARGETS:
        found["targets"][name] = fuzz(name, given.count, given.seed)
        print(name, json.dumps(found["targets"][name]), flush=True)
        if given.out:
            given.out.parent.mkdir(parents=True, exist_ok=True)
            given.out.write_text(json.dumps(found, indent=1) + "\n")
    sys.exit(any(target["findings"] for target in found["targets"].values()))


def fuzz(name: str, count: int, seed: int) -> dict[str, Any]:
    """What became of `count` inputs of a target."""
    started = time.monotonic()
    outcomes, findings, next_one, peak = Counter[str](), list[dict[str, Any]](), 0, 0
    context = multiprocessing.get_context("spawn")
    while next_one < count and len(findings) < MOST_FINDINGS:
        ours, theirs = context.Pipe()
        at = context.Value("q", -1)
        worker = context.Process(target=_work, args=(name, seed, next_one, count, theirs, at), daemon=True)
        worker.start()
        theirs.close()
        with suppress(EOFError):
            while next_one < count and ours.poll(STUCK):
                done = ours.recv()
                next_one, peak = done["next"], max(peak, done["peak"])
                outcomes.update(done["outcomes"])
                findings += done["findings"]
        worker.join(timeout=0 if next_one >= count else 5)
        is_stuck = worker.is_alive() and next_one < count
        if is_stuck:
            worker.kill()
        worker.join()
        if at.value < 0:
            raise RuntimeError(f"{name}: the worker did not come to its first input")
        if next_one < count:
            # what stood in its last report is lost with it, but for where it was
            what = "stuck" if is_stuck else f"the process ended with {worker.exitcode}"
            findings.append({"case": f"{name}:{seed}:{at.value}", "what": what})
            outcomes["died"] += 1
            next_one = at.value + 1
    return {
        "count": next_one,
        "outcomes": dict(sorted(outcomes.items())),
        "findings": findings[:MOST_FINDINGS],
        "seconds": round(time.monotonic() - started, 1),
        "peak_mib": peak >> 20,
    }


def _work(name: str, seed: int, start: int, stop: int, reports: Any, at: Any) -> None:
    """Run inputs `start` to `stop`, with a report every now and then."""
    from tests.fuzzing.targets import TARGETS, cases

    target = TARGETS[name]()
    signal.signal(signal.SIGALRM, _too_long)
    # one sound pass loads what is loaded late
    for _, case in cases(target, name, seed + 1, range(50)):
        with suppress(Exception):
            target.run(case)
    loaded = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (loaded + MEMORY, loaded + MEMORY))
    outcomes, findings = Counter[str](), list[dict[str, Any]]()

    def report(next_one: int) -> None:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
        reports.send({"next": next_one, "outcomes": dict(outcomes), "findings": list(findings), "peak": peak})
        outcomes.clear()
        findings.clear()

    for index, case in cases(target, name, seed, range(start, stop)):
        at.value = index
        outcome, problem = _outcome(target, case)
        outcomes[outcome] += 1
        if problem is not None:
            findings.append({"case": f"{name}:{seed}:{index}", "what": problem})
        if (index + 1) % TOGETHER == 0 or findings:
            report(index + 1)
    report(stop)
    if hasattr(target, "close"):
        target.close()


def _outcome(target: Any, case: Any) -> tuple[str, str | None]:
    from functaconv.errors import FunctaconvError, ItemError

    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        target.run(case)
    except (FunctaconvError, ItemError) as error:
        return f"refused: {type(error).__name__}", None
    except _Hang:
        return "hang", f"more than {SECONDS:g} seconds"
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(last.filename).name}:{last.lineno}"
        return f"finding: {type(error).__name__}", f"{type(error).__name__}: {error!s:.200} ({place})"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return "accepted", None


def _too_long(_number: int, _frame: FrameType | None) -> None:
    raise _Hang


def _show(name: str, seed: int, index: int) -> None:
    from tests.fuzzing.targets import TARGETS, cases

    target = TARGETS[name]()
    ((_, case),) = cases(target, name, seed, range(index, index + 1))
    print(repr(case)[:4000])
    started = time.monotonic()
    try:
        target.run(case)
    finally:
        print(f"{time.monotonic() - started:.2f} s")
        if hasattr(target, "close"):
            target.close()


def _commit() -> str:
    found = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    return found.stdout.strip() or "unknown"


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
