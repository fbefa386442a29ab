"""SASLprep (RFC 4013): user names and passwords as both sides of SCRAM have to write them."""

from __future__ import annotations

import stringprep
import unicodedata

from hbshim.errors import OptionError

_PROHIBITED = (
    stringprep.in_table_a1,  # not assigned in Unicode 3.2
    stringprep.in_table_c12,
    stringprep.in_table_c21_c22,
    stringprep.in_table_c3,
    stringprep.in_table_c4,
    stringprep.in_table_c5,
    stringprep.in_table_c6,
    stringprep.in_table_c7,
    stringprep.in_table_c8,
    stringprep.in_table_c9,
)


def saslprep(text: str) -> str:
    """Return a text in its normal form.

    Raises:
        OptionError: it has a character that is not allowed; the message does not show it.
    """
    mapped = "".join(
        " " if stringprep.in_table_c12(char) else char
        for char in text
        if not stringprep.in_table_b1(char)
    )
    normal = unicodedata.ucd_3_2_0.normalize("NFKC", mapped)
    if any(check(char) for char in normal for check in _PROHIBITED):
        raise OptionError("user or password has a character that SASL SCRAM does not allow")
    # Text in two directions cannot be distinguished from other text that looks the same.
    if any(map(stringprep.in_table_d1, normal)) and (
        any(map(stringprep.in_table_d2, normal))
        or not (stringprep.in_table_d1(normal[0]) and stringprep.in_table_d1(normal[-1]))
    ):
        raise OptionError("user or password mixes directions of writing, which SCRAM forbids")
    return normal
