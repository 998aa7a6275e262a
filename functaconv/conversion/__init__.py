"""Encoding: shards in, functaset out, block by block.

`options`: what can be asked. `work`: the request, checked against the base. `plan`: a dry run. `tasks`: how the input
is cut. `reading`: decoding. `block`: fitting, and the job that an engine runs. `run`: one process of a run. `seal`:
from blocks to a functaset. `retry`: converting again what failed.
"""

from functaconv.conversion.options import EncodeOptions
from functaconv.conversion.plan import dry_run
from functaconv.conversion.progress import Watcher
from functaconv.conversion.run import Encoded, encode

__all__ = ["EncodeOptions", "Encoded", "Watcher", "dry_run", "encode"]
