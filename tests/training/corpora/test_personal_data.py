"""Personal data: what is masked, and what looks like it and is not."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.corpora.personal_data import KINDS, PersonalData

FOUND = [
    ("Write to jane.doe+x@mail.example.co.uk.", "Write to <email>."),
    ("<kir@iitb.fhg.de>, müller@exämple.de", "<<email>>, <email>"),
    ("https://jane:s3cret@example.com/path", "https://<credentials>@example.com/path"),
    ("mysql://root:pw@[::1]/db", "mysql://<credentials>@[::1]/db"),
    ("IBAN DE89 3704 0044 0532 0130 00.", "IBAN <iban>."),
    ("GB82WEST12345698765432", "<iban>"),
    ("AT61 1904 3002 3457 3201 BANK", "<iban> BANK"),
    ("card 4111 1111 1111 1111, thanks", "card <card>, thanks"),
    ("5500-0000-0000-0004 378282246310005", "<card> <card>"),
    ("3782 822463 10005", "<card>"),
    ("SSN 078-05-1120", "SSN <ssn>"),
    ("from 84.19.3.200:443 and 8.8.4.40.", "from <ip>:443 and <ip>."),
    ("at 2a00:1450:4001:81b::200e now", "at <ip> now"),
    ("call +49 30 901820 or +1 (415) 555-2671", "call <phone> or <phone>"),
    ("+442071838750", "<phone>"),
    ("(415) 555-2671, 415.555.2671, 1-800-555-0199", "<phone>, <phone>, <phone>"),
    ("Tel.: 030/901820-0; Fax 030 9018201", "Tel.: <phone>; Fax <phone>"),
    ("Telefon 0123 456789\nphone no: 5552671", "Telefon <phone>\nphone no: <phone>"),
]

NOT_FOUND = [
    "version 1.2.3.4 and v10.20.30.40",  # versions
    "lib-1.22.3.4, 1.22.333.4444, 5.0.3.1, >= 12.1.10.4",
    "2024-01-02 12:34:56, 01/02/2024, 2024.01.02.12",  # dates and times
    "ISBN 978-3-16-148410-0, 0-306-40615-2, 9783161484100",
    "10.0.0.1, 127.0.0.1, 192.168.1.20, 0.0.0.0, 255.255.255.0, 203.97.0.0/16, 239.255.255.250",  # nobody's addresses
    "::1, fe80::1, 2001:db8::1, std::vector, 2024:10:11, 20:30:40",
    "4111 1111 1111 1112, 1234567890123456, 20240102123456",  # Luhn and issuers
    "DE89 3704 0044 0532 0130 01, DE8937040044, XX82WEST12345698765432",  # check digits and lengths
    "000-12-3456, 666-12-3456, 123-45-67890, 2078-05-1120",
    "getty@tty1.service, icon@2x.png, git@github.com:user/project, @handle, a@b, user@localhost",
    "http://example.com:80/@x, ssh://git@example.com",
    "1,234,567.8901, 3.14159265358979, 123 456 7890123",
    "+1, C++11, a+49 30 901820x, 1000 000 0000",
    "tel 2024, phone 2024-01-02, fax 12",
]


@pytest.mark.parametrize(("text", "masked"), FOUND)
def test_masks(text, masked):
    found = Counter()
    assert PersonalData()(text, found) == masked
    assert found == Counter(kind for kind in KINDS for _ in range(masked.count(f"<{kind}>")))


@pytest.mark.parametrize("text", NOT_FOUND)
def test_leaves(text):
    found = Counter()
    assert PersonalData()(text, found) == text
    assert not found


def test_masks_only_the_kinds_that_are_asked_for():
    text = "jane@example.com 078-05-1120"
    assert PersonalData(["ssn"])(text, Counter()) == "jane@example.com <ssn>"
    with pytest.raises(ValueError, match=r'expected some of credentials, .*phone, got "name"'):
        PersonalData(["name"])


@settings(deadline=None)
@given(st.text(st.characters(), max_size=300) | st.text("0123456789+-. ()/:@aTelF", max_size=120))
def test_takes_any_text(text):
    found = Counter()
    masked = PersonalData()(text, found)
    assert (masked == text) == (not found)


@pytest.mark.parametrize(
    "text", ["1" * 50_000, "a." * 25_000 + "@", "+1 " * 20_000, "1.1" * 20_000, "://" + "a:" * 25_000]
)
def test_time_grows_with_length_only(text):
    """A pattern that tries out all ways to split such a text would not come back."""
    PersonalData()(text + "@x", Counter())
