"""Encoding: shards in, functaset out, block by block.

`options` says what can be asked, `work` what that means for a base, `tasks` how the input is cut, `reading` decodes it,
`block` makes rows of it, `run` is what one process does, `seal` makes a functaset of the blocks.
"""

from functaconv.conversion.options import EncodeOptions
from functaconv.conversion.progress import Watcher
from functaconv.conversion.run import DryRun, Encoded, dry_run, encode

__all__ = ["DryRun", "EncodeOptions", "Encoded", "Watcher", "dry_run", "encode"]
