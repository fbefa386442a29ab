"""Makes the code ready for the site: roles, lists of errors over two lines, options, constants."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import griffe

_ROLE = re.compile(r":(?:attr|class|data|func|meth|mod):`~?\.?([^`]+)`")
_WRAPPED_ERRORS = re.compile(r"^( +(?:\w+Error, )*\w+Error,)\n +(?=\w+Error)", re.MULTILINE)

#: Functions that declare an option, and which argument is its default.
_DEFAULT = {"option": 0, "driver_option": 1}


class Docstrings(griffe.Extension):
    """Turns docstrings and defaults into what the parser and a reader expect."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite the docstring of one object before it is parsed."""
        if obj.docstring:
            text = _ROLE.sub(r"`\1`", obj.docstring.value)
            obj.docstring.value = _WRAPPED_ERRORS.sub(r"\1 ", text)

    def on_attribute_instance(self, *, attr: griffe.Attribute, **_: Any) -> None:
        """Show the comment of a constant, and the default of an option, not its declaration."""
        if attr.docstring is None and (text := _comment_above(attr)):
            attr.docstring = griffe.Docstring(text, parent=attr)
        call = attr.value
        if isinstance(call, griffe.ExprCall) and str(call.function) in _DEFAULT:
            attr.value = call.arguments[_DEFAULT[str(call.function)]]


def _comment_above(attr: griffe.Attribute) -> str:
    """Return the text of the lines that begin with ``#:`` directly above an attribute."""
    if attr.lineno is None or not isinstance(attr.filepath, Path):
        return ""
    above = attr.lines_collection[attr.filepath][: attr.lineno - 1]
    comment = [*itertools.takewhile(lambda line: line.startswith("#: "), reversed(above))]
    return "\n".join(line.removeprefix("#: ") for line in reversed(comment))
