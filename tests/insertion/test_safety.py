"""Every kind of secret is found and masked; numbers and names of ordinary texts pass."""

from __future__ import annotations

import random
import string
import time

import pytest
from costar.insertion.safety import findings, masked
from hypothesis import given
from hypothesis import strategies as st


def kinds(text: str) -> list[str]:
    return [finding.what for finding in findings(text)]


def random_signs(count: int, signs: str = string.ascii_letters + string.digits) -> str:
    """Varied signs, so that no live-looking key stands in this file."""
    return "".join(random.Random(count).choices(signs, k=count))


def with_check_digit(digits: str) -> str:
    """A number and the digit that makes its Luhn sum a multiple of ten."""
    total = sum(
        (int(d) * 2 - 9 if int(d) > 4 else int(d) * 2) if i % 2 == 0 else int(d) for i, d in enumerate(digits[::-1])
    )
    return digits + str(-total % 10)


visa_numbers = st.text("0123456789", min_size=14, max_size=14).map(lambda rest: with_check_digit("4" + rest))
separators = st.sampled_from(["", " ", "-"])


@given(number=visa_numbers, between=st.lists(separators, min_size=15, max_size=15))
def test_a_card_is_found_however_it_is_grouped(number: str, between: list[str]) -> None:
    grouped = "".join(digit + sign for digit, sign in zip(number, [*between, ""]))
    text = f"Pay with {grouped}, please."
    finding = next(each for each in findings(text) if each.what == "payment card")  # a part may be another number too
    assert grouped not in finding.excerpt
    assert number not in finding.excerpt


@given(number=visa_numbers, place=st.integers(0, 15), change=st.integers(1, 9), sign=separators)
def test_a_number_with_one_digit_changed_is_no_card(number: str, place: int, change: int, sign: str) -> None:
    other = number[:place] + str((int(number[place]) + change) % 10) + number[place + 1 :]
    grouped = sign.join(other[i : i + 4] for i in range(0, 16, 4))
    assert kinds(f"Pay with {grouped}, please.") == []


@pytest.mark.parametrize(
    ("prefix", "length"), [("51", 16), ("2221", 16), ("2720", 16), ("34", 15), ("36", 14), ("6011", 16), ("3528", 16)]
)
def test_other_issuers_are_known(prefix: str, length: int) -> None:
    number = with_check_digit(prefix + random_signs(length - len(prefix) - 1, string.digits))
    assert kinds(number) == ["payment card"]
    assert kinds(f"{number[:4]} {number[4:]}") == ["payment card"]
    assert kinds(with_check_digit("1" + number[1:-1])) == []


def test_a_card_is_found_beside_other_numbers() -> None:
    number = with_check_digit("4" + random_signs(14, string.digits))
    grouped = " ".join(number[i : i + 4] for i in range(0, 16, 4))
    assert kinds(f"{grouped} 12 27 123 4 5 6") == ["payment card"]
    assert kinds(f"12 34 {number} 123") == ["payment card"]
    assert kinds(f"{grouped}\n{number}") == ["payment card"] * 2


@pytest.mark.parametrize(
    "key",
    [
        "AKIA" + random_signs(16, string.ascii_uppercase + "234567"),
        "ASIA" + random_signs(16, string.ascii_uppercase + "234567"),
        *(f"gh{sign}_" + random_signs(36) for sign in "pos"),
        "github_pat_" + random_signs(82),
        *(f"xox{sign}-" + random_signs(24, string.digits) + "-" + random_signs(20) for sign in "abp"),
        "AIza" + random_signs(35),
        "sk-" + random_signs(48),
        "sk-ant-api03-" + random_signs(90),
        "sk-proj-" + random_signs(60),
        "sk_live_" + random_signs(24),
        "glpat-" + random_signs(20),
        "hf_" + random_signs(34),
        "npm_" + random_signs(36),
        "-----BEGIN " + "RSA PRIVATE KEY-----",
        "-----BEGIN " + "PRIVATE KEY-----",
        "eyJ" + random_signs(20) + ".eyJ" + random_signs(40) + "." + random_signs(43),
    ],
    ids=lambda key: key[:11],
)
def test_access_keys_are_found_and_not_repeated(key: str) -> None:
    for text in (key, f'export TOKEN="{key}"', f"(see {key})."):
        (finding,) = findings(text)
        assert finding.what == "access key"
        assert key not in finding.excerpt
        assert len(finding.excerpt) <= 9


@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("e-mail address", "Write to jane.doe+x@mail.example.io."),
        ("e-mail address", "<jane@example.com.evil.org>"),
        ("e-mail address", "jane@notexample.com"),
        ("bank account", "DE89 3704 0044 0532 0130 00"),
        ("bank account", "to GB29NWBK60161331926819."),
        ("bank account", "NO93 8601 1117 947, Oslo"),
        ("social security number", "SSN 536-22-8841."),
        ("phone number", "call +1 (202) 456-1111"),
        ("phone number", "call +44 20 7946 0958."),
        ("phone number", "+1.202.456.1111"),
        ("phone number", "tel:+4915112345678"),
    ],
)
def test_addresses_accounts_and_numbers_are_found_once(what: str, text: str) -> None:
    (finding,) = findings(text)
    assert finding.what == what
    assert "…" in finding.excerpt


@pytest.mark.parametrize(
    "text",
    [
        "jane@example.com, j@mail.example.org, j@a.test, j@x.invalid, root@localhost, a@b.localhost, j@school.example",
        "In 1998 1999 2000 2001 2002, and 4000 5000 6000 7000.",
        "ISBN 978-0-306-40615-7, ISBN-10 0-306-40615-2, 978 3 16 148410 0",
        "uuid 123e4567-e89b-12d3-a456-426614174000 and 41111111111111111111111111111111",
        "sha 4111111111111111abcdef4111111111111111 or d41d8cd98f00b204e9800998ecf8427e",
        "2003-12-24 10:15:30, 12-11-2004, 1700000000000, 2024-01-02T03:04:05.4111111111111111Z",
        "3.4111111111111111 4.242424242424242 0.51 0.52 0.53 0.54 0.55",
        "/path/2538111-2538021-38 and n=100000000000000000000000",
        "000-12-3456, 666-12-3456, 912-12-3456, 123-00-4567, 123-45-0000, 078-05-1120, 1123-45-6789",
        "+1 202 555 0143, +1 (415) 555-0199, 1+23456789, x+12345678, (a)+12345678, +1.41421356, +5, +12",
        "DE88 3704 0044 0532 0130 00, GB29 NWBK, ZZ89 3704 0044 0532 0130 00",
        "risk-based-management-2024-of-the-year, task-" + "a" * 30 + "1, sk-" + "x" * 30 + "1",
        "AKIA" + "IOSFODNN7EXAMPLE, AKIAK is a name, ghp_short, hf_hub_download, npm_config, eyJ.eyJ.x",
        "@mention, a @ b.com, user@host",
        "",
    ],
)
def test_ordinary_texts_pass(text: str) -> None:
    assert findings(text) == []


def test_findings_come_in_the_order_of_the_text() -> None:
    text = f"+44 20 7946 0958 and a@b.io and {with_check_digit('4' + '2' * 14)} and 536-22-8841"
    assert kinds(text) == ["phone number", "e-mail address", "payment card", "social security number"]


@given(st.text(min_size=1))
def test_an_excerpt_is_never_the_whole(secret: str) -> None:
    assert secret not in masked(secret) or secret == "…"
    assert len(masked(secret)) <= 9


@given(st.text(alphabet="4@+-. aA1_", max_size=300))
def test_any_text_can_be_read(text: str) -> None:
    assert all(finding.what and finding.excerpt for finding in findings(text))


PIECES = [
    "4",
    "4 ",
    "44-",
    "a",
    "a@",
    "a.",
    "@a.",
    "+1",
    "+1 ",
    "AA11",
    "AA11 ",
    "-eyJ",
    "eyJaaaaaaaaa.",
    "sk-",
    "xoxb-",
]


@pytest.mark.parametrize("piece", [*PIECES, "1-", "-----BEGIN ", "PRIVATE KEY A "])
def test_time_grows_with_the_length_only(piece: str) -> None:
    """No pattern starts anew over what it has read: a hundred thousand signs take seconds at the worst."""
    started = time.process_time()
    for before in ("", "@", "-----BEGIN "):
        findings(before + piece * (100_000 // len(piece)) + "!")
    assert time.process_time() - started < 5
