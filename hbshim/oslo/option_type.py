"""An option of hbshim as a type of oslo.config."""

from __future__ import annotations

import dataclasses
from typing import Any

from oslo_config import types

from hbshim.errors import OptionError


class OptionType(types.ConfigType):  # type: ignore[misc]
    """Accepts the values that an option of hbshim accepts.

    Parameters:
        name: the option's name in oslo.config.
        field: the field of the dataclass.

    Raises:
        ValueError: it does not; oslo.config adds file and option.
    """

    def __init__(self, name: str, field: dataclasses.Field[Any]) -> None:
        super().__init__(type_name=field.metadata["accepts"])
        self._name = name
        self._field = field

    def __call__(self, value: object) -> object:
        try:
            return self._field.metadata["parse"](value)
        except OptionError as error:
            # It has its own text, perhaps because the value holds a password.
            raise ValueError(str(error)) from None
        except (ValueError, OverflowError, TypeError):
            raise ValueError(
                f"{self._name}={value!r} is not valid; "
                f"use one of: {self._field.metadata['accepts']}"
            ) from None

    def __deepcopy__(self, _memo: object) -> OptionType:
        return self  # never changes, and its field cannot be copied

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other._name == self._name

    def __hash__(self) -> int:
        return hash(self._name)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._name!r})"

    def _formatter(self, value: object) -> str:
        return str(value)
