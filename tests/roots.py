"""The zarr.json of a functaset, in which the attributes are a text, to be read and tampered with."""

import json
from pathlib import Path
from typing import Any


def parsed_root(content: bytes) -> dict[str, Any]:
    root: dict[str, Any] = json.loads(content)
    root["attributes"]["functaconv"] = json.loads(root["attributes"]["functaconv"])
    return root


def root_text(root: dict[str, Any]) -> str:
    """As it is stored."""
    attributes = root["attributes"]
    return json.dumps({**root, "attributes": {**attributes, "functaconv": json.dumps(attributes["functaconv"])}})


def read_root(store: Path) -> dict[str, Any]:
    return parsed_root((store / "zarr.json").read_bytes())


def write_root(store: Path, root: dict[str, Any]) -> None:
    (store / "zarr.json").write_text(root_text(root))
