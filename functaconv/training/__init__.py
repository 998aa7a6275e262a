"""Learning the base: an outer loop over items, around the inner loop that fits their latents.

`learner` makes one update after another, `run` gives it data and time and keeps it safe on disk, `workflow` chooses
the recipe and looks at what is there already.
"""

from functaconv.training.run import Progress, Trained, Watcher
from functaconv.training.workflow import fit_base

__all__ = ["Progress", "Trained", "Watcher", "fit_base"]
