"""Data sets of the Hugging Face Hub as files: from a folder beside the data, from what was downloaded before, or fetched."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..core.errors import CostarError, shorten

SUFFIXES = (".jsonl", ".jsonl.zst", ".jsonl.gz", ".parquet")


def hub_files(
    name: str, place: str, folders: Sequence[Path], *, fetch: bool, prefix: str = ""
) -> list[tuple[str, Path]]:
    """(name, path) of the files of `owner/name`, or of `owner/name/glob`, in the order of their paths; `prefix` is what a
    suite file writes before the name.

    A folder `owner/name` below one of the folders comes first, then the cache of huggingface_hub, then, with `fetch`, a
    download; without it, a data set that is not here has no files.

    Raises:
        CostarError: not a name, no such data set or no way to it, or no file of a known kind in it; `place` is named.
    """
    parts = name.split("/", 2)
    if len(parts) < 2 or not all(parts):
        raise CostarError(place, found=name, expected=f'"{prefix}owner/name"', mend="correct the name")
    repository, pattern = "/".join(parts[:2]), parts[2] if len(parts) > 2 else "**/*"
    folder = next((f / repository for f in folders if (f / repository).is_dir()), None)
    if folder is None:
        folder = _snapshot(repository, place, folders, fetch=fetch)
    if folder is None:
        return []
    try:
        files = sorted(path for path in folder.glob(pattern) if path.is_file() and path.name.endswith(SUFFIXES))
    except (NotImplementedError, ValueError) as error:  # a pattern that begins with /, or holds a**
        raise CostarError(
            place, found=f"{pattern} ({shorten(error)})", expected="a pattern of files", mend="correct the pattern"
        ) from None
    if not files:
        raise CostarError(
            place, found=f"no file {pattern} in {folder}", expected=" ".join(SUFFIXES), mend="correct the pattern"
        )
    return [(f"{repository}/{path.relative_to(folder)}", path) for path in files]


def _snapshot(repository: str, place: str, folders: Sequence[Path], *, fetch: bool) -> Path | None:
    """The folder of a data set of the Hub: from the cache, or downloaded with `fetch`; None when it is not here."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    patterns = [f"*{suffix}" for suffix in SUFFIXES]
    try:
        return Path(
            snapshot_download(repository, repo_type="dataset", allow_patterns=patterns, local_files_only=not fetch)
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, ConnectionError, OSError, ValueError) as error:
        if not fetch:
            return None
        raise CostarError(
            place,
            found=f"no such data set, or no way to it ({shorten(error, 100)})",
            expected=f"the data set {repository} on the Hub, or its files in {folders[0] / repository}",
            mend="check the name and the network, or put a copy of the repository there",
        ) from None
