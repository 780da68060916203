"""What probes ask for and return; of users' probes it is checked, and what they raise is told.

Nothing that a user's probe does ends the measuring: its mistake becomes one gap, or a gap for each wrong value. costar's
own probes are taken at their word.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from dataclasses import replace
from numbers import Real
from typing import Any, TypeVar

from ..core.errors import shorten
from .probes import Context, Found, Gap, Loaded, Prompt, Request, Score

LONGEST_NAME = 60
Asked = TypeVar("Asked", Request, Prompt)


class ProbeFailed(Exception):
    """A user's probe did something that no probe may do; the text says what."""


def requests_of(loaded: Loaded, context: Context) -> list[Request]:
    """The sequences that a probe wants.

    Raises:
        ProbeFailed: a user's probe raised, or asked for what is no sequence.
    """
    return _all(loaded.requests, context, Request, "requests") if loaded.from_user else list(loaded.requests(context))


def prompts_of(loaded: Loaded, context: Context) -> list[Prompt]:
    """The prompts that a probe wants continued.

    Raises:
        ProbeFailed: a user's probe raised, or asked for what is no prompt.
    """
    return _all(loaded.prompts, context, Prompt, "prompts") if loaded.from_user else list(loaded.prompts(context))


def results_of(loaded: Loaded, context: Context, found: Found) -> Iterable[Score | Gap]:
    """What a probe returns; of a user's each is made a `Score` or a `Gap`, and where it fails, one gap says how."""
    return _results(loaded, context, found) if loaded.from_user else loaded.scores(context, found)


def _results(loaded: Loaded, context: Context, found: Found) -> list[Score | Gap]:
    known = {subject.record_id for subject in context.subjects}
    results: list[Score | Gap] = []
    seen: set[tuple[str, ...]] = set()
    try:
        for each in loaded.scores(context, found):
            result = _result(each, loaded, known)
            if isinstance(result, Score):
                if result[:4] in seen:
                    result = Gap(*result[:3], f"{result.metric} was returned twice")
                else:
                    seen.add(result[:4])
            results.append(result)
    except (Exception, SystemExit) as error:  # whatever the user's code raises
        return [Gap("", "", "", f"scores failed: {_told(error)}")]
    return results


def _all(asked: Callable[[Context], Iterable[Any]], context: Context, kind: type[Asked], name: str) -> list[Asked]:
    known = {subject.record_id for subject in context.subjects}
    try:
        found = [_checked(each, kind, known) for each in asked(context)]
    except ProbeFailed as error:
        raise ProbeFailed(f"{name} failed: {error}") from None
    except (Exception, SystemExit) as error:  # whatever the user's code raises
        raise ProbeFailed(f"{name} failed: {_told(error)}") from error
    by_key: dict[tuple[str, str, str], Asked] = {}
    for each in found:
        if by_key.setdefault(each.key, each) != each:
            raise ProbeFailed(f"{name} failed: two of one name, {' '.join(each.key)}")
    return list(by_key.values())


def _checked(each: Any, kind: type[Request] | type[Prompt], known: set[str]) -> Any:
    """A request or prompt with plain integers in it."""
    if not isinstance(each, kind):
        raise ProbeFailed(f"{shorten(repr(each), 60)} is no {kind.__name__}")
    if each.record_id not in known:
        raise ProbeFailed(f"no record {shorten(repr(each.record_id), 60)}")
    if not all(isinstance(part, str) for part in each.key):
        raise ProbeFailed(f"a name that is no text in {shorten(repr(each.key), 60)}")
    if max(map(len, each.key[1:])) > LONGEST_NAME:
        raise ProbeFailed(
            f"a name of {max(map(len, each.key[1:]))} letters, {LONGEST_NAME} at most: files are named after it"
        )
    if isinstance(each, Request):
        if operator.index(each.start) < 0:
            raise ProbeFailed(f"a sequence that starts at {each.start}")
        return replace(each, ids=_ids(each.ids), before=_ids(each.before), start=operator.index(each.start))
    if operator.index(each.new_tokens) < 1:
        raise ProbeFailed(f"a prompt for {each.new_tokens} tokens")
    stops = tuple(str(stop) for stop in each.stops if stop)
    return replace(each, ids=_ids(each.ids), new_tokens=operator.index(each.new_tokens), stops=stops)


def _ids(values: Iterable[Any]) -> tuple[int, ...]:
    ids = tuple(operator.index(value) for value in values)
    if ids and min(ids) < 0:
        raise ProbeFailed(f"the token {min(ids)}")
    return ids


def _result(each: Any, loaded: Loaded, known: set[str]) -> Score | Gap:
    """A score or gap of plain types, or the gap that says what is wrong with it."""
    if isinstance(each, Gap):
        return Gap(*map(_line, each))
    if not isinstance(each, tuple) or len(each) != len(Score._fields):
        return Gap("", "", "", f"{shorten(repr(each), 60)} is neither a Score nor a Gap")
    record_id, rendering, variant, metric, value = each
    place = (str(record_id), _line(rendering), _line(variant))
    if place[0] not in known:
        return Gap(*place, "no record of that name")
    if metric not in loaded.probe.METRICS:
        return Gap(*place, f"{shorten(repr(metric), 60)} is not in METRICS")
    if not isinstance(value, Real) and not (hasattr(value, "item") and getattr(value, "ndim", 1) == 0):
        return Gap(*place, f"{metric} is {shorten(repr(value), 60)}, no number")
    return Score(*place, metric, float(value))


def _line(value: Any) -> str:
    """A value as text on one line, which any file can hold."""
    text = str(value)
    return text if text.isprintable() else repr(text)[1:-1]


def _told(error: BaseException) -> str:
    return _line(f"{type(error).__name__}: {shorten(error)}")
