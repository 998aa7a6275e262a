"""Raw files to shards: `pack` makes webdataset tars of a folder, the same bytes for the same folder and seed."""

from functaconv.packing.reading import Failure
from functaconv.packing.workflow import ITEMS_PER_SHARD, PackPlan, PackSummary, pack, plan

__all__ = ["ITEMS_PER_SHARD", "Failure", "PackPlan", "PackSummary", "pack", "plan"]
