"""Makes the code ready for the site: Sphinx roles, lists of errors over two lines, options."""

from __future__ import annotations

import re
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
        """Show the default of an option, not the call that declares it."""
        call = attr.value
        if isinstance(call, griffe.ExprCall) and str(call.function) in _DEFAULT:
            attr.value = call.arguments[_DEFAULT[str(call.function)]]
