"""Rewrites docstrings for the site: Sphinx roles, and lists of errors that go over two lines."""

from __future__ import annotations

import re
from typing import Any

import griffe

_ROLE = re.compile(r":(?:attr|class|data|func|meth|mod):`~?\.?([^`]+)`")
_WRAPPED_ERRORS = re.compile(r"^( +(?:\w+Error, )*\w+Error,)\n +(?=\w+Error)", re.MULTILINE)


class Docstrings(griffe.Extension):
    """Turns docstrings into what the parser and Markdown expect."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite the docstring of one object before it is parsed."""
        if obj.docstring:
            text = _ROLE.sub(r"`\1`", obj.docstring.value)
            obj.docstring.value = _WRAPPED_ERRORS.sub(r"\1 ", text)
