"""Learning the base: an outer loop over items, around the inner loop that fits their latents.

`learner` makes one update after another, `run` gives it data and time and keeps it safe on disk, `choice` finds the
recipe, `workflow` looks at what is there already.
"""

from functaconv.training.options import FitOptions
from functaconv.training.progress import Progress, Trained, Watcher
from functaconv.training.workflow import fit_base

__all__ = ["FitOptions", "Progress", "Trained", "Watcher", "fit_base"]
