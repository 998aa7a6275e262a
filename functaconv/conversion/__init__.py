"""Encoding: shards in, functaset out, block by block.

`work` says what is to be done, `parts` which blocks this process takes, `reading` gives their records, `encoding` makes
rows of them, `workflow` goes through all parts and seals the functaset; `actors` does so on a Ray cluster.
"""

from functaconv.conversion.actors import encode_with_ray
from functaconv.conversion.workflow import Encoded, Plan, Watcher, encode, plan

ENGINES = {"local": encode, "ray": encode_with_ray}

__all__ = ["ENGINES", "Encoded", "Plan", "Watcher", "encode", "encode_with_ray", "plan"]
