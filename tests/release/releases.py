"""Releases that are changed on purpose."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from costar.release.facts import FACTS, PARTS, SUMS
from costar.release.sums import files_below, sums_text


def summed_again(release: Path) -> None:
    """Give a changed release the sums and the id of what it now holds, as somebody who hides a change would."""
    names = [name for name in files_below(release) if "/" not in name or name.split("/")[0] in PARTS]
    sums = {name: hashlib.sha256((release / name).read_bytes()).hexdigest() for name in names if name != SUMS}
    own = {name: digest for name, digest in sums.items() if name.split("/")[0] in PARTS}
    facts = json.loads((release / FACTS).read_text())
    facts["release_id"] = hashlib.sha256(sums_text(own).encode()).hexdigest()
    (release / FACTS).write_text(json.dumps(facts))
    sums[FACTS] = hashlib.sha256((release / FACTS).read_bytes()).hexdigest()
    (release / SUMS).write_text(sums_text(sums))
