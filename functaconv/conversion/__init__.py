"""Encoding: shards in, functaset out, block by block.

`work` says what is to be done, `reading` gives blocks of records, `encoding` makes rows of them, `workflow` goes
through all parts and seals the functaset.
"""

from functaconv.conversion.workflow import Encoded, Plan, Watcher, encode, plan

__all__ = ["Encoded", "Plan", "Watcher", "encode", "plan"]
