"""What must not stand in a record's text: live credentials, and numbers and addresses that may belong to someone.

Records are made to be memorized and given back, so a real card number among them would be published with the model. Each
pattern is checked as far as its own arithmetic allows (check digits, issuers, reserved domains), so that years, ISBNs,
tables and hexadecimal ids pass. It is a net, not a proof: a text without findings may still be private.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

Hit = tuple[int, int]  # where it begins and ends in the text

# What a text without findings lacks as a rule. Looking for these is several times faster than for the patterns below,
# which look back at what stands before.
_ACCOUNT = re.compile(r"[A-Z][A-Z][0-9][0-9]")
_NUMBER = re.compile(r"[0-9](?:[ -]?[0-9]){8}")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One finding: what it is, and enough of it to find the place, never all of it."""

    what: str
    excerpt: str


def findings(text: str) -> list[Finding]:
    """What a text holds that must not be published, in the order of the text; empty for an ordinary one.

    `what` is "payment card", "access key", "e-mail address", "bank account", "social security number" or "phone number".
    Reads ordinary prose at tens of megabytes a second.
    """
    hits = [("access key", *hit) for hit in access_keys(text)]
    if "@" in text:
        hits += [("e-mail address", *hit) for hit in email_addresses(text)]
    if "+" in text:
        hits += [("phone number", *hit) for hit in phone_numbers(text)]
    if _ACCOUNT.search(text):
        hits += [("bank account", *hit) for hit in bank_accounts(text)]
    if _NUMBER.search(text):
        hits += [("payment card", *hit) for hit in payment_cards(text)]
        hits += [("social security number", *hit) for hit in social_security_numbers(text)]
    hits.sort(key=lambda hit: hit[1:])
    return [Finding(what=what, excerpt=masked(text[begin:end])) for what, begin, end in hits]


def masked(secret: str) -> str:
    """At most a quarter and four characters of either end, the rest as one sign: '4111…1111'."""
    kept = min(4, len(secret) // 4)
    return f"{secret[:kept]}…{secret[len(secret) - kept :]}"


def _key_pattern(pattern: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![A-Za-z0-9]){pattern}(?![A-Za-z0-9])")


# A sign that all of a group have, then prefixes that are looked for before the patterns.
_KEYS: tuple[tuple[str, tuple[tuple[str, re.Pattern[str]], ...]], ...] = (
    (
        "_",
        (
            ("gh", _key_pattern(r"gh[oprsu]_[A-Za-z0-9]{36,255}")),
            ("github_pat_", _key_pattern(r"github_pat_[A-Za-z0-9_]{22,255}")),
            ("k_live_", _key_pattern(r"[rs]k_live_[A-Za-z0-9]{16,255}")),
            ("hf_", _key_pattern(r"hf_[A-Za-z0-9]{30,255}")),
            ("npm_", _key_pattern(r"npm_[A-Za-z0-9]{36}")),
        ),
    ),
    (
        "-",
        (
            ("xox", _key_pattern(r"xox[abeoprs]-[A-Za-z0-9-]{10,255}")),
            ("sk-", _key_pattern(r"sk-(?=[A-Za-z_-]{0,60}[0-9])[A-Za-z0-9_-]{20,255}")),
            ("glpat-", _key_pattern(r"glpat-[A-Za-z0-9_-]{20,255}")),
            ("PRIVATE KEY", re.compile(r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----")),
        ),
    ),
    (
        "",
        (
            ("AKIA", _key_pattern(r"AKIA[A-Z0-9]{16}")),
            ("ASIA", _key_pattern(r"ASIA[A-Z0-9]{16}")),
            ("AIza", _key_pattern(r"AIza[A-Za-z0-9_-]{35}")),
            ("eyJ", _key_pattern(r"eyJ[A-Za-z0-9_-]{8,999}\.eyJ[A-Za-z0-9_-]{8,9999}\.[A-Za-z0-9_-]{16,999}")),
        ),
    ),
)
_VARIED = 8  # different signs in a secret; placeholders (sk-xxxx…) have fewer


def access_keys(text: str) -> Iterator[Hit]:
    """Keys and tokens of services in their live formats, private keys in PEM, and JSON web tokens."""
    for sign, keys in _KEYS:
        if sign not in text:
            continue
        for prefix, pattern in keys:
            if prefix not in text:
                continue
            for match in pattern.finditer(text):
                secret = match[0].partition(prefix)[2]
                # AWS marks the keys of its own manuals by their end
                if prefix == "PRIVATE KEY" or (len({*secret}) >= _VARIED and not secret.endswith("EXAMPLE")):
                    yield match.span()


_DOMAIN = re.compile(r"@((?:[\w-]+\.)+[^\W\d_]{2,})")
_LOCAL = re.compile(r"[\w.%+'-]{1,64}\Z")
_RESERVED = frozenset({"example", "test", "invalid", "localhost"})  # RFC 2606, RFC 6761


def email_addresses(text: str) -> Iterator[Hit]:
    """Addresses on domains that someone can own."""
    for match in _DOMAIN.finditer(text):
        local = _LOCAL.search(text[max(0, match.start() - 64) : match.start()])
        *_, second, top = match[1].lower().split(".")
        reserved = top in _RESERVED or (second == "example" and top in ("com", "net", "org"))
        if local and not reserved:
            yield match.start() - len(local[0]), match.end()


_PHONE = re.compile(r"\+[1-9](?:[ ().-]{0,2}[0-9]){6,14}(?![0-9A-Za-z])")
_DECIMAL = re.compile(r"\+[0-9]+\.[0-9]+\Z")
_FICTITIOUS = re.compile(r"1[0-9]{3}55501[0-9]{2}\Z")  # set aside in North America for stories


def phone_numbers(text: str) -> Iterator[Hit]:
    """Numbers in international form, of 8 to 15 digits; those of country code 1 have 11."""
    for match in _PHONE.finditer(text):
        digits = _digits(match[0])
        before = text[max(0, match.start() - 1) : match.start()]
        glued = before.isalnum() or before in ("+", ")")  # a sum, not a number
        right = len(digits) == 11 if digits[0] == "1" else len(digits) >= 8
        if right and not glued and not _DECIMAL.match(match[0]) and not _FICTITIOUS.match(digits):
            yield match.span()


_IBAN = re.compile(r"(?<![A-Za-z0-9])[A-Z]{2}[0-9]{2}(?:[ -]?[A-Z0-9]){11,30}")
# The length of the accounts of each country (ISO 13616): "NO15" is Norway's.
_IBAN_LENGTHS = (
    "NO15 BE16 DK18 FI18 FO18 GL18 NL18 SD18 FK18 MK19 SI19 AT20 BA20 EE20 KZ20 LT20 LU20 MN20 XK20 CH21 HR21 LI21 "
    "LV21 BG22 BH22 CR22 DE22 GB22 GE22 IE22 ME22 RS22 VA22 AE23 GI23 IL23 IQ23 OM23 SO23 TL23 AD24 CZ24 ES24 MD24 "
    "PK24 RO24 SA24 SE24 SK24 TN24 VG24 LY25 PT25 ST25 IS26 TR26 BI27 DJ27 FR27 GR27 IT27 MC27 MR27 SM27 AL28 AZ28 "
    "BY28 CY28 DO28 GT28 HN28 HU28 LB28 NI28 PL28 SV28 BR29 EG29 PS29 QA29 UA29 JO30 KW30 MU30 YE30 MT31 SC31 LC32 RU33"
)


def bank_accounts(text: str) -> Iterator[Hit]:
    """IBANs of the length of their country whose check digits are right, together or in groups."""
    for match in _IBAN.finditer(text):
        place = _IBAN_LENGTHS.find(match[0][:2])
        if place < 0 or place % 5:
            continue
        length = int(_IBAN_LENGTHS[place + 2 : place + 4])
        end = _nth_sign(match[0], length)
        account = re.sub("[ -]", "", match[0][:end])
        following = text[match.start() + end : match.start() + end + 1]
        if len(account) == length and not following.isalnum() and _mod97(account) == 1:
            yield match.start(), match.start() + end


_RUN = re.compile(r"(?<![\w.+/])[0-9](?:[ -]?[0-9]){12,}(?!\w|\.[0-9])")
_GROUPED = re.compile(
    r"(?<![0-9])(?:[0-9]{13,19}|[0-9]{4}(?:[ -][0-9]{4}){3}|[0-9]{4}[ -][0-9]{6}[ -][0-9]{4,5})(?![0-9])"
)
_ISSUED = re.compile(
    r"4(?:[0-9]{12}|[0-9]{15}|[0-9]{18})"  # Visa
    r"|(?:5[1-5]|222[1-9]|22[3-9][0-9]|2[3-6][0-9]{2}|27[01][0-9]|2720)[0-9]+(?<=^[0-9]{16})"  # Mastercard
    r"|3[47][0-9]{13}"  # American Express
    r"|(?:30[0-5]|3095|36|38|39)[0-9]+(?<=^[0-9]{14})"  # Diners Club
    r"|(?:6011|64[4-9]|65|62|35(?:2[89]|[3-8][0-9]))[0-9]{10,17}(?<=^[0-9]{16})"  # Discover, UnionPay, JCB
    r"|(?:62|6011)[0-9]+(?<=^[0-9]{19})"
    r"|(?:5018|5020|5038|6304|6759|676[1-3])[0-9]{9,15}"  # Maestro
)


def payment_cards(text: str) -> Iterator[Hit]:
    """Numbers of 13 to 19 digits of a known issuer with the right check digit, grouped by single spaces or hyphens.

    A run of digits counts as one number however it is grouped; within a longer one, the groups that cards are printed in.
    """
    for run in _RUN.finditer(text):
        if _is_card(_digits(run[0])):
            yield run.span()
            continue
        for part in _GROUPED.finditer(run[0]):
            if _is_card(_digits(part[0])):
                yield run.start() + part.start(), run.start() + part.end()


_SSN = re.compile(r"(?<![\w.-])(?!000|666|9)[0-9]{3}-(?!00)[0-9]{2}-(?!0000)[0-9]{4}(?![\w-]|\.[0-9])")
_PRINTED_SSN = ("078-05-1120", "219-09-9999")  # of a wallet's sample card and an advertisement: void since


def social_security_numbers(text: str) -> Iterator[Hit]:
    """United States numbers in the form ddd-dd-dddd that may have been issued."""
    for match in _SSN.finditer(text):
        if match[0] not in _PRINTED_SSN:
            yield match.span()


def _is_card(digits: str) -> bool:
    return _ISSUED.fullmatch(digits) is not None and _luhn(digits)


def _luhn(digits: str) -> bool:
    """Whether the last digit checks the others: every second from the right is doubled and its digits are summed."""
    doubled = sum(sum(divmod(2 * int(d), 10)) for d in digits[-2::-2])
    return (doubled + sum(int(d) for d in digits[::-2])) % 10 == 0


def _mod97(account: str) -> int:
    """The rest of an IBAN: country and check digits last, letters as numbers from 10 on."""
    return int("".join(str(int(sign, 36)) for sign in account[4:] + account[:4])) % 97


def _digits(text: str) -> str:
    return re.sub("[^0-9]", "", text)


def _nth_sign(text: str, count: int) -> int:
    """The end of the part of a text that has `count` letters and digits."""
    for place, sign in enumerate(text):
        count -= sign.isalnum()
        if not count:
            return place + 1
    return len(text)
