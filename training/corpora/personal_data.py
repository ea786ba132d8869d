"""Personal data in texts: found by precise patterns, each checked as far as it can be, and masked.

Rather some data is missed than a version, a date or an ISBN masked: telephone numbers need a country code, North American
groups or a word such as "phone" before them; card numbers and IBANs need right check digits; IP addresses are public ones.
"""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Callable, Sequence

KINDS = ("credentials", "email", "iban", "card", "ssn", "ip", "phone")
# Endings that no domain has: files, and the units that systemd names as in getty@tty1.service.
_ENDINGS = (
    "service socket timer mount automount swap target path slice scope device conf png jpg jpeg gif svg webp css js json "
    "html xml txt pdf exe dll"
)
_NO_DOMAINS = frozenset(_ENDINGS.split())
# ISO 13616: characters of each country's IBANs.
_IBANS = (
    "AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BI27 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DJ27 DK18 DO28 EE20 EG29 "
    "ES24 FI18 FK18 FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HN28 HR21 HU28 IE22 IL23 IQ23 IS26 IT27 JO30 KW30 KZ20 "
    "LB28 LC32 LI21 LT20 LU20 LV21 LY25 MC27 MD24 ME22 MK19 MN20 MR27 MT31 MU30 NI28 NL18 NO15 OM23 PK24 PL28 PS29 "
    "PT25 QA29 RO24 RS22 RU33 SA24 SC31 SD18 SE24 SI19 SK24 SM27 SO23 ST25 SV28 TL23 TN24 TR26 UA29 VA22 VG24 XK20 YE30"
)
_IBAN_LENGTHS = {each[:2]: int(each[2:]) for each in _IBANS.split()}

_CREDENTIALS = re.compile(r"(?<=://)[^\s/@:]{1,100}:[^\s/@]{1,100}(?=@[\w\[])")
_EMAIL = re.compile(
    r"(?<![\w.+%-])(?<!://)[\w+%-](?:[\w.+%-]{0,62}[\w+%-])?@"
    r"(?:\w(?:[\w-]{0,61}\w)?\.){1,8}([^\W\d_]{2,24})(?![\w-]|:[\w~/])"  # user@host:path is for scp
)
_IBAN = re.compile(r"(?<![A-Za-z0-9])[A-Z]{2}\d\d(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?(?![A-Za-z0-9])")
_CARD = re.compile(
    r"(?<![\w.,+-])(?:\d{13,19}|\d{4}(?: \d{4}){2,3}(?: \d{1,3})?|\d{4}(?:-\d{4}){3}|3\d{3}([ -])\d{6}\1\d{4,5})"
    r"(?![\w-]|[.,]\d)"
)
_ISSUERS = re.compile(
    r"4(?:\d{12}|\d{15}|\d{18})|5[1-5]\d{14}|2(?:22[1-9]|2[3-9]\d|[3-6]\d\d|7[01]\d|720)\d{12}|3[47]\d{13}"
    r"|3(?:0[0-5]|[68]\d)\d{11}|6(?:011|5\d\d|4[4-9]\d)\d{12}|35(?:2[89]|[3-8]\d)\d{12}|62\d{14,17}"
)
_SSN = re.compile(r"(?<![\w.,+-])(?!000|666|9)\d{3}-(?!00)\d\d-(?!0000)\d{4}(?![\w-]|[.,]\d)")
_IPV4 = re.compile(r"(?<![\w.-])(?:\d{1,3}\.){3}\d{1,3}(?![\w-]|\.\w|/\d)")
_IPV6 = re.compile(r"(?<![\w:.])[23][0-9A-Fa-f]{3}:[0-9A-Fa-f:]{2,34}(?![\w:]|\.\d)")
_VERSION = re.compile(
    r"\b(?:v|vers?|versi[oó]ns?|releases?|rev|revision|build|since|Version)[.:]?\s{0,2}$|[<>=~]\s?$", re.I
)
_INTERNATIONAL = re.compile(
    r"(?<![\w+.])\+[1-9]\d{0,14}(?:[ ./-]{1,2}\d{1,12}|[ ./-]{0,2}\(\d{1,4}\)[ ./-]{0,2}\d{1,12}){0,6}(?!\w|[.,-]\d)"
)
_NORTH_AMERICAN = re.compile(
    r"(?<![\w.,+/(-])(?:1[ .-])?(?:\([2-9]\d\d\) ?|[2-9]\d\d([ .-]))[2-9]\d\d(?(1)\1|[ .-])\d{4}(?![\w-]|[.,]\d)"
)
_NAMED = re.compile(
    r"(?<!\w)(?:(?:tele)?phone|mobile|telef[oó]no?|téléphone|tel|t[ée]l|fax|hotline|handy)(?: (?:no|nr|number|nummer))?"
    r"[.:]{0,2}\s{0,2}(?!\d{4}-\d\d-\d\d\b)([(\d][\d ()/.-]{5,18}\d)(?!\w|[.,-]\d)",
    re.IGNORECASE,
)


class PersonalData:
    """Masks personal data: `<email>`, `<phone>`, and so on.

    Args:
        kinds: which of `KINDS`; None: all. ValueError for another.

    `credentials` are the user and the password in a URL, `card` credit cards, `ssn` US social security numbers.
    """

    def __init__(self, kinds: Sequence[str] | None = None):
        for kind in kinds or ():
            if kind not in KINDS:
                raise ValueError(f'cleaning.personal_data_kinds: expected some of {", ".join(KINDS)}, got "{kind}"')
        self.kinds = tuple(kind for kind in KINDS if kinds is None or kind in kinds)

    def __call__(self, text: str, found: Counter[str]) -> str:
        """Returns the text with masks in place of personal data, and counts what was found by kind."""
        # What most texts do not have is looked for first: it takes a tenth of the time.
        at, digits = "@" in text, _DIGITS.search(text) is not None
        number = digits and _NUMBER.search(text) is not None
        for kind in self.kinds:
            if at if kind in ("credentials", "email") else digits if kind in ("iban", "ip") else number:
                for pattern, is_one in _PATTERNS[kind]:
                    text = pattern.sub(_masking(kind, is_one, found), text)
        return text


_DIGITS = re.compile(r"\d[.:0-9A-Fa-f]")
_NUMBER = re.compile(r"\d(?:[ ().:/-]{0,4}\d){6}")


def _masking(kind: str, is_one: Callable[[re.Match], int], found: Counter[str]) -> Callable[[re.Match], str]:
    """Returns what `re.sub` calls for each match: it puts the mask for the characters that are personal data."""

    def mask(match: re.Match) -> str:
        length = is_one(match)
        if not length:
            return match[0]
        found[kind] += 1
        begin = match.start(match.lastindex) - match.start() if kind == "phone" and match.re is _NAMED else 0
        return f"{match[0][:begin]}<{kind}>{match[0][begin + length :]}"

    return mask


# Each of these returns how many characters of a match are personal data, 0 for none.


def _whole(match: re.Match) -> int:
    return len(match[0])


def _email(match: re.Match) -> int:
    return 0 if match[1].lower() in _NO_DOMAINS else len(match[0])


def _iban(match: re.Match) -> int:
    length = _IBAN_LENGTHS.get(match[0][:2], 0)
    places = [index for index, character in enumerate(match[0]) if character != " "]
    if not length or len(places) < length:
        return 0
    end = places[length - 1] + 1
    if match[0][end : end + 1].isalnum():
        return 0
    number = match[0][:end].replace(" ", "")
    digits = "".join(str(int(character, 36)) for character in number[4:] + number[:4])
    return end if int(digits) % 97 == 1 else 0


def _card(match: re.Match) -> int:
    digits = re.sub(r"\D", "", match[0])
    # Luhn: every second digit from the right doubled, and its digits added.
    total = sum(
        int(digit) if index % 2 == 0 else sum(divmod(2 * int(digit), 10)) for index, digit in enumerate(digits[::-1])
    )
    return len(match[0]) if total % 10 == 0 and _ISSUERS.fullmatch(digits) else 0


def _ip(match: re.Match) -> int:
    try:
        address = ipaddress.ip_address(match[0].rstrip(":"))
    except ValueError:
        return 0
    if address.version == 4:
        # Four single digits are rather a version than one of the few resolvers that have such addresses.
        before = match.string[max(match.start() - 12, 0) : match.start()]
        if all(len(part) == 1 for part in match[0].split(".")) or _VERSION.search(before):
            return 0
    return len(match[0].rstrip(":")) if address.is_global and not address.is_multicast else 0


def _phone(match: re.Match) -> int:
    number = match[match.lastindex] if match.re is _NAMED else match[0]
    digits = sum(map(str.isdigit, number))
    return len(number) if (7 if match.re is _NAMED else 8) <= digits <= 15 else 0


_PATTERNS: dict[str, tuple[tuple[re.Pattern, Callable[[re.Match], int]], ...]] = {
    "credentials": ((_CREDENTIALS, _whole),),
    "email": ((_EMAIL, _email),),
    "iban": ((_IBAN, _iban),),
    "card": ((_CARD, _card),),
    "ssn": ((_SSN, _whole),),
    "ip": ((_IPV4, _ip), (_IPV6, _ip)),
    "phone": ((_INTERNATIONAL, _phone), (_NORTH_AMERICAN, _phone), (_NAMED, _phone)),
}
