"""Quality filters for base text: datatrove's own rules, each asked only whether a document stays.

The rules and their limits are datatrove's defaults: Gopher's quality and repetition rules (Rae et al. 2021, section
A.1.1), C4's (Raffel et al. 2020, section 2.2, without its list of bad words, which would need a download) and FineWeb's
(Penedo et al. 2024). A document stays whole or goes: C4's rules for lines only choose the lines whose sentences it
counts (five must be left), the text itself is not edited.

The rules were made for web pages. datatrove counts a run of signs as a word, and Gopher's rules ask for a letter in 80 %
of words: most texts with code or markup go, also with spaCy's words (two thirds of real design documents, a tenth of
government pages, none of speeches). A document of more than 100,000 words, a whole book, goes as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..core.errors import CostarError, nearest

FILTERS = {
    "gopher-quality": "GopherQualityFilter",
    "gopher-repetition": "GopherRepetitionFilter",
    "c4": "C4QualityFilter",
    "fineweb": "FineWebQualityFilter",
}


@dataclass(frozen=True, kw_only=True)
class QualityFilter:
    """A filter by its name in the suite file. It can be sent to a worker process."""

    name: str
    step: Any

    def reason(self, text: str) -> str:
        """Why a document of this text is dropped, as `c4: curly_bracket` in datatrove's words, or ""."""
        from datatrove.data import Document
        from datatrove.pipeline.filters.base_filter import get_filter_result

        # a document of its own, because C4's filter edits what it is given
        stays, reason = get_filter_result(self.step.filter(Document(text=text, id="")))
        return "" if stays else f"{self.name}: {reason}"


def check_quality(names: Sequence[str]) -> None:
    """Check the names under `[corpus] quality` without loading anything.

    Raises:
        CostarError: a name is not known, or stands twice.
    """
    for place, name in enumerate(names):
        if name in FILTERS and name not in names[:place]:
            continue
        twice = name in FILTERS
        raise CostarError(
            "[corpus] quality",
            found=f"{name!r} twice" if twice else repr(name),
            expected=f"some of {', '.join(FILTERS)}, each once",
            mend="remove one" if twice else f"correct the name{nearest(name, FILTERS)}",
        )


def load_filters(names: Sequence[str]) -> tuple[QualityFilter, ...]:
    """The filters of these names, in this order.

    Raises:
        CostarError: a name is not known, or stands twice.
    """
    check_quality(names)
    if not names:
        return ()
    from datatrove.pipeline import filters

    from .regex_words import RegexWords

    return tuple(
        QualityFilter(name=name, step=getattr(filters, FILTERS[name])(language=RegexWords())) for name in names
    )


def first_failure(filters: Sequence[QualityFilter], text: str) -> str:
    """The reason of the first filter that drops a document, as `gopher-repetition: dup_para_frac`; "" when it stays."""
    return next((reason for each in filters if (reason := each.reason(text))), "")
