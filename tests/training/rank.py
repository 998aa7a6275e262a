"""One rank of several, for `test_distributed.py`: fit-base with something done to it, as the variable PLAN says."""

import json
import os
import signal
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from functaconv.errors import InputError
from functaconv.signals.normalizer import Normalizer
from functaconv.training import Watcher, corrected, fit_base
from functaconv.training import run as running
from functaconv.training.gradients import OuterGradients


def change(patches: ExitStack, plan: dict[str, Any]) -> None:
    """`double` computes in float64, and in the update `at` the rank `whose` does `what`: nan, fail, or a signal."""

    def put(owner: Any, name: str, value: Any) -> None:
        patches.enter_context(mock.patch.object(owner, name, value))

    if plan.get("double"):
        build, features = running.build, Normalizer.features
        for module in (running, corrected):
            put(module, "build", lambda *given: build(*given).double())
        put(Normalizer, "features", lambda self, batch: features(self, batch).double())
    descend = OuterGradients.descend

    def changed(gradients: Any, batches: Any, spent: float, updates: int) -> Any:
        loss = descend(gradients, batches, spent, updates)
        is_due = int(os.environ.get("RANK", "0")) == plan["whose"] and updates + 1 in plan["at"]
        # once: not again after a restart
        if is_due and os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0":
            do(plan["what"], gradients.base)
        return loss

    def do(what: str, base: torch.nn.Module) -> None:
        if what == "nan":
            for parameter in base.parameters():
                if parameter.grad is not None:
                    parameter.grad.fill_(torch.nan)
        elif what == "fail":
            raise InputError("this disk is gone", hint="buy another")
        else:
            os.kill(os.getpid(), signal.Signals[what])

    if "what" in plan:
        put(OuterGradients, "descend", changed)


class Telling(Watcher):
    def announce(self, message: str) -> None:
        sys.stderr.write(message + "\n")


def fit(shards: str, output: str, plan: dict[str, Any], **options: Any) -> Any:
    """`fit_base` with the plan."""
    with ExitStack() as patches:
        change(patches, plan)
        return fit_base(shards, output, device="cpu", watcher=Telling(), **options)


if __name__ == "__main__":
    torch.set_num_threads(1)
    plan = json.loads(os.environ["PLAN"])
    if "runs" in plan:
        sys.stdout.write(json.dumps([fit(**each).to_json() for each in plan["runs"]]) + "\n")
        # one that still ran when Python ends could abort the process
        left = [name for file in Path("/proc/self/task").glob("*/comm") if "gloo" in (name := file.read_text())]
        sys.exit(f"threads are left: {left}" if left else 0)
    from functaconv.cli import main

    with ExitStack() as patches:
        change(patches, plan)
        main()
