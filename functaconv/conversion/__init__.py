"""Encoding: shards in, functaset out, block by block.

`options` says what can be asked, `work` what that means for a base, `plan` what a dry run shows, `tasks` how the input
is cut. `reading` decodes it, `block` makes rows of it, `job` is what an engine runs. `run` is what one process does,
`seal` makes a functaset of the blocks, `retry` begins anew with what failed.
"""

from functaconv.conversion.options import EncodeOptions
from functaconv.conversion.plan import DryRun, dry_run
from functaconv.conversion.progress import Watcher
from functaconv.conversion.run import Encoded, encode

__all__ = ["DryRun", "EncodeOptions", "Encoded", "Watcher", "dry_run", "encode"]
