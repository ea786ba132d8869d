"""Text as Unicode means it to be: encoding mistakes mended, one form for what looks the same, no control characters."""

from __future__ import annotations

import re
import unicodedata

from training.corpora.libraries import library

FORMS = ("none", "nfc", "nfkc")
# C0 and C1 but for tab and line feed, what Unicode says is no character, and byte order marks. Joiners and direction marks
# stay: scripts need them.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ufdd0-\ufdef\ufeff\ufffe\uffff]")
_ASCII_BREAKS = bytes.maketrans(b"\r\x0b\x0c", b"\n\n\n")
_ASCII_CONTROLS = bytes(code for code in (*range(0x20), 0x7F) if code not in b"\t\n\r\x0b\x0c")
_SURROGATES = re.compile("[\ud800-\udfff]")
_BREAKS = re.compile("[\r\x0b\x0c\x85\u2028\u2029]")
# What ftfy mends besides wrong encodings: entities, escapes, line breaks, lone surrogates.
_MENDABLE = re.compile("[&\x1b\r\x80-\x9f\u2028\u2029\ud800-\udfff]")
_MOST_PASSES = 8


class Repair:
    """Mends text that was decoded with the wrong encoding ("schÃ¶n"), HTML entities and terminal escapes, by ftfy.

    ftfy's changes that are a matter of taste (straight quotation marks, ligatures, widths) are left to normal forms. Repairing
    a second time changes nothing. ImportError, with the remedy, where ftfy is missing.
    """

    def __init__(self):
        ftfy = library("ftfy", "cleaning.repair")
        self._fix, self._is_bad = ftfy.fix_text, ftfy.is_bad
        self._config = ftfy.TextFixerConfig(
            uncurl_quotes=False,
            fix_latin_ligatures=False,
            fix_character_width=False,
            remove_control_chars=False,
            normalization=None,
            explain=False,
        )

    def __call__(self, text: str) -> str:
        """Returns the text, mended."""
        # Most text holds nothing that ftfy would touch, and it takes a while to find that out.
        if _MENDABLE.search(text) is None and (text.isascii() or not self._is_bad(text)):
            return text
        for _ in range(_MOST_PASSES):
            before, text = text, self._fix(text, self._config)
            if text == before:
                break
        return text


def normal(text: str, form: str) -> str:
    """Returns the text in a normal form of Unicode: "nfc" (composed) or "nfkc" (also without compatibility variants)."""
    # Plain ASCII is in every normal form.
    return text if form == "none" or text.isascii() else unicodedata.normalize(form.upper(), text)


def without_controls(text: str) -> str:
    """Returns the text without control characters and noncharacters; what breaks lines elsewhere is a line feed."""
    if text.isascii():
        return text.encode("ascii").translate(_ASCII_BREAKS, _ASCII_CONTROLS).decode("ascii")
    return _CONTROLS.sub("", _BREAKS.sub("\n", text))


def encodable(text: str) -> str:
    """Returns the text without lone surrogates, which JSON can spell and UTF-8 cannot."""
    return text if text.isascii() else _SURROGATES.sub("", text)
