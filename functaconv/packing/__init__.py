"""Raw files to shards: `pack` makes webdataset tars of a folder, the same bytes for the same folder and seed."""

from functaconv.packing.options import ITEMS_PER_SHARD, PackOptions
from functaconv.packing.reading import Failure
from functaconv.packing.summary import PackSummary
from functaconv.packing.workflow import PackPlan, pack, plan

__all__ = ["ITEMS_PER_SHARD", "Failure", "PackOptions", "PackPlan", "PackSummary", "pack", "plan"]
