"""One rank of several, for `test_parallel.py`: fit-base with something done to it, as the variable PLAN says."""

import json
import os
import signal
import sys
from contextlib import ExitStack
from typing import Any
from unittest import mock

import torch

from functaconv.errors import InputError
from functaconv.signals.normalizer import Normalizer
from functaconv.training import fit_base, learner
from functaconv.training import run as running


def change(patches: ExitStack, plan: dict[str, Any]) -> None:
    """`double` computes in float64, `save_every` seconds the state is saved, and in the update `at` the rank `whose`
    does `what`: nan, fail, or a signal; from then on a rank is waited for `timeout` seconds.
    """

    def put(owner: Any, name: str, value: Any) -> None:
        patches.enter_context(mock.patch.object(owner, name, value))

    if plan.get("double"):
        build, features = running.build, Normalizer.features
        put(running, "build", lambda *given: build(*given).double())
        put(Normalizer, "features", lambda self, batch: features(self, batch).double())
    if "save_every" in plan:
        put(running, "SAVE_EVERY", plan["save_every"])
    descend = learner.Learner._descend

    def changed(learning: Any, batch: Any, spent: float) -> Any:
        loss = descend(learning, batch, spent)
        if learning.updates + 1 in plan["at"] and "timeout" in plan:
            # not from the start: on a busy machine the ranks may start a minute apart
            learning.ensemble._timeout = plan["timeout"]
        is_due = learning.ensemble.rank == plan["whose"] and learning.updates + 1 in plan["at"]
        # once: not again after a restart
        if is_due and os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0":
            do(plan["what"], learning)
        return loss

    def do(what: str, learning: Any) -> None:
        if what == "nan":
            for parameter in learning._shared:
                if parameter.grad is not None:
                    parameter.grad.fill_(torch.nan)
        elif what == "fail":
            raise InputError("this disk is gone", hint="buy another")
        else:
            os.kill(os.getpid(), signal.Signals[what])

    if "what" in plan:
        put(learner.Learner, "_descend", changed)


def fit(shards: str, output: str, plan: dict[str, Any], **options: Any) -> Any:
    """`fit_base` with the plan."""
    with ExitStack() as patches:
        change(patches, plan)
        return fit_base(shards, output, device="cpu", **options)


if __name__ == "__main__":
    torch.set_num_threads(1)
    plan = json.loads(os.environ["PLAN"])
    if "runs" in plan:
        sys.stdout.write(json.dumps([fit(**each).to_json() for each in plan["runs"]]) + "\n")
        sys.exit(0)
    from functaconv.cli import main

    with ExitStack() as patches:
        change(patches, plan)
        main()
