"""Encoding: shards in, functaset out, block by block.

`work` says what is to be done, `parts` which blocks this process takes, `reading` gives their records, `encoding` makes
rows of them, `share` is what one process does of it, `workflow` seals the functaset; `actors` does all of it on a Ray
cluster.
"""

from functaconv.conversion.actors import encode_with_ray
from functaconv.conversion.share import Watcher
from functaconv.conversion.workflow import Encoded, Plan, encode, plan

ENGINES = {"local": encode, "ray": encode_with_ray}

__all__ = ["ENGINES", "Encoded", "Plan", "Watcher", "encode", "encode_with_ray", "plan"]
