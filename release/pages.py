"""Texts of a release from the templates beside this file, and the hash of all that writes them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

from ..core.hashing import sha256_file

SNIPPET = re.compile(r"^```python\n(.*?)^```", re.S | re.M)


def rendered(template: str, **facts: Any) -> str:
    """A page from a template; an unknown name is an error. `thousands` writes a number with commas."""
    return _templates().get_template(template).render(**facts)


def rendered_snippets(template: str, **facts: Any) -> list[str]:
    """The Python snippets of a template, without the text around them."""
    text = (Path(__file__).parent / template).read_text(encoding="utf-8")
    return [_templates().from_string(block).render(**facts) for block in SNIPPET.findall(text)]


def _templates() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
    )
    environment.filters["thousands"] = "{:,}".format
    return environment


def yaml_text(value: Mapping[str, Any]) -> str:
    """A YAML file, keys in their order, lists as blocks."""
    from huggingface_hub import CardData

    return f"{CardData(**value).to_yaml()}\n"


def room_sha256() -> list[str]:
    """The hashes of the code and the templates of this room, so that what they write follows them."""
    room = Path(__file__).parent
    return [sha256_file(path) for path in sorted([*room.glob("*.j2"), *room.rglob("*.py")])]
