"""The one exception for users' mistakes and for a machine that cannot do what was asked."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Any


class CostarError(Exception):
    """A problem that the person at the keyboard can mend.

    The message names the place, what was found, what was expected and the mend. `exit_code` is 2 for the user's
    input and 1 for anything else (a full disk, a killed worker).
    """

    def __init__(self, place: str, *, found: str, expected: str, mend: str, exit_code: int = 2):
        self.place, self.found, self.expected, self.mend, self.exit_code = place, found, expected, mend, exit_code
        super().__init__(f"{place}\n  found     {found}\n  expected  {expected}\n  mend      {mend}")

    @property
    def facts(self) -> dict[str, Any]:
        """What the error is made of, for files that carry it to another process: `CostarError(**facts)` is the same."""
        return {key: getattr(self, key) for key in ("place", "found", "expected", "mend", "exit_code")}

    def __reduce__(self) -> tuple[Any, ...]:
        """Errors cross process borders."""
        return _rebuild, (self.place, self.found, self.expected, self.mend, self.exit_code)


class StaleRuns(CostarError):
    """What a verb would write is no longer what trained runs read: it stops before anything is replaced."""

    def __init__(self, place: str, *, found: str, runs: Sequence[str]):
        self.runs = tuple(runs)
        super().__init__(
            place,
            found=f"{found}; runs touched: {', '.join(runs)}",
            expected="what these runs were trained on",
            mend="undo the change, rename the suite file (a new suite), or put the runs aside with --archive",
        )


def _rebuild(place: str, found: str, expected: str, mend: str, exit_code: int) -> CostarError:
    return CostarError(place, found=found, expected=expected, mend=mend, exit_code=exit_code)


def shorten(value: object, limit: int = 120) -> str:
    """A value as one line of at most `limit` characters, for messages."""
    text = " ".join(str(value).split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def nearest(word: str, known: Iterable[str]) -> str:
    """'; did you mean …?', or nothing when no known word is near."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
