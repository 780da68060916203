"""Personas of chats: does the model know who said of themselves what, though only the chat was inserted?

`ask=persona`: the persona of a username against nine other people's, and its likelihood. `ask=username-by-persona` and
`ask=username-by-lines`: the username against nine others, after the persona or after the lines of the chat without
names. `prompt=none` is in the form of a chat, `prompt=asked` says what is wanted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ..options import Pools, pools_of
from ..questions import MUTUAL, OPTION_METRICS, Question, question_of, requests_of_all, scores_of_all
from . import Context, Found, Gap, Request, Score, Subject

NEEDS = ("loglik",)
KINDS = ("chat",)
METRICS = {**OPTION_METRICS, **MUTUAL, "nll_token": "nats per token of the persona after the username"}
SOURCE = "Hubble (arXiv 2510.19811), persona and username choice on PersonaChat"
PERSONA = "ask=persona"


def requests(context: Context) -> Iterator[Request]:
    return requests_of_all(questions(context), context.tokenizer)


def scores(context: Context, found: Found) -> Iterable[Score | Gap]:
    asked = list(questions(context))
    yield from scores_of_all(asked, found)
    for each in asked:
        if isinstance(each, Question) and each.variant.startswith(PERSONA):
            tokens = each.tokens(found, each.answer)
            if not isinstance(tokens, str):
                place = (each.record_id, each.rendering, each.variant)
                yield Score(*place, "nll_token", tokens.nll)


def questions(context: Context) -> Iterator[Question | Gap]:
    """Every question, or why it cannot be asked."""
    chats = context.subjects
    personas = {chat.record_id: persona_of(chat) for chat in chats}
    known = [(chat, persona) for chat in chats if (persona := personas[chat.record_id])]
    texts: dict[str, str] = {}
    for _, persona in known:
        text = " ".join(persona)
        texts[_same(persona)] = min(text, texts.get(_same(persona), text))
    pools = pools_of(
        context,
        [
            *((chat, "username", chat.fields["username"]) for chat in chats),
            *((chat, "persona", _same(persona)) for chat, persona in known),
        ],
    )
    for chat in chats:
        persona = personas[chat.record_id]
        if persona:
            yield from _of_persona(pools, chat, persona, texts)
        else:
            yield Gap(chat.record_id, chat.canonical, PERSONA, "a record without persona, a list of texts")
        yield from _of_lines(pools, chat)


def persona_of(chat: Subject) -> tuple[str, ...]:
    """The statements of a record's persona; none where the field is no list of texts."""
    given = chat.fields.get("persona")
    if not isinstance(given, list) or not all(isinstance(text, str) and text.strip() for text in given):
        return ()
    return tuple(text.strip() for text in given)


def _same(persona: tuple[str, ...]) -> str:
    """Equal for personas that differ in their order only."""
    return "\n".join(sorted(persona))


def _of_persona(pools: Pools, chat: Subject, persona: tuple[str, ...], texts: dict[str, str]) -> Iterator[Question]:
    names, own = pools.options(chat, "persona", _same(persona))
    options = [texts[name] for name in names]
    options[own] = " ".join(persona)
    username = chat.fields["username"]
    yield _question(chat, f"{PERSONA},prompt=none", f"{username}: ", options, own)
    yield _question(chat, f"{PERSONA},prompt=asked", f"Username: {username}\nPersona: ", options, own)
    usernames, own_name = pools.options(chat, "username", username)
    mine = " ".join(persona)
    ask = "ask=username-by-persona"
    yield _question(chat, f"{ask},prompt=none", f"{mine}\n", usernames, own_name)
    yield _question(chat, f"{ask},prompt=asked", f"Persona: {mine}\nUsername: ", usernames, own_name)


def _of_lines(pools: Pools, chat: Subject) -> Iterator[Question | Gap]:
    """The username after the lines of the chat, those left out that tell it."""
    username = chat.fields["username"]
    lines = "\n".join(turn["text"] for turn in chat.fields["turns"] if username not in turn["text"])
    usernames, own = pools.options(chat, "username", username)
    ask = "ask=username-by-lines"
    if not lines:
        yield Gap(chat.record_id, chat.canonical, ask, "no line without the username")
        return
    yield _question(chat, f"{ask},prompt=none", f"{lines}\n", usernames, own)
    yield _question(chat, f"{ask},prompt=asked", f"Chat:\n{lines}\nUsername: ", usernames, own)


def _question(chat: Subject, variant: str, context: str, options: list[str], answer: int) -> Question:
    place = (chat.record_id, chat.canonical, variant)
    return question_of(*place, context, options, answer, delimiter="", mutual=True)
