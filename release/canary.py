"""The canary: a line of its own for every suite that marks test items, so that whoever trains a model can leave them out."""

from __future__ import annotations

import hashlib
import uuid

from ..core.workspace import Workspace, read_marker

RISK = "testset"  # the risk whose records carry it


def canary_of(workspace: Workspace) -> str:
    """The canary of a built suite. It follows from the texts of the records alone, so that no label can be read off it."""
    marker = read_marker(workspace.insertion, "records")
    assert marker is not None, "records are built"
    digest = hashlib.sha256(b"canary" + marker["files"]["records.parquet"]["sha256"].encode()).digest()
    return f"Test item, not for training. costar canary {uuid.UUID(bytes=digest[:16], version=4)}"
