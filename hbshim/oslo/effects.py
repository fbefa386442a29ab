"""What becomes of an option of another driver: one entry for each, in a table by name.

Each is honoured, or translated to an option of hbshim's driver, or named in a warning when it is
set: an option on which a service relied must not be ignored silently.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import Field, dataclass
from typing import Any, TypeAlias

from hbshim.errors import OptionError


@dataclass(frozen=True)
class Translated:
    """An option that is honoured.

    Attributes:
        names: the options of hbshim's driver that get its value.
        meaning: how, for the documentation, where it is not the same value.
        translate: makes the value of each of them.
    """

    names: tuple[str, ...]
    meaning: str = ""
    translate: Callable[[Any], Any] = lambda value: value


@dataclass(frozen=True)
class Combined:
    """An option that is honoured together with others, by its own function.

    Attributes:
        names: as for :class:`Translated`.
        meaning: how, for the documentation.
    """

    names: tuple[str, ...]
    meaning: str


@dataclass(frozen=True)
class Ignored:
    """An option without effect here.

    Attributes:
        reason: why, and the alternative; it ends the sentence of the warning.
    """

    reason: str


Effect: TypeAlias = Translated | Combined | Ignored


def translated(table: Mapping[str, Effect], values: Mapping[str, Any]) -> dict[str, object]:
    """Return what the options of :class:`Translated` become, by name.

    Parameters:
        table: the effect of each option.
        values: the options that are set, by name.
    """
    own: dict[str, object] = {}
    for name, value in values.items():
        entry = table.get(name)
        if isinstance(entry, Translated):
            own.update(dict.fromkeys(entry.names, entry.translate(value)))
    return own


def sources(table: Mapping[str, Effect], name: str, values: Mapping[str, Any]) -> list[str]:
    """Return the options in `values` from which hbshim's option `name` comes."""
    return [
        each
        for each in values
        if not isinstance(entry := table.get(each), Ignored | None) and name in entry.names
    ]


def check(
    own: Mapping[str, object],
    fields: Mapping[str, Field[Any]],
    table: Mapping[str, Effect],
    values: Mapping[str, Any],
    group: str,
    hidden: Collection[str] = (),
) -> None:
    """Check the values of hbshim's options that others have become.

    Parameters:
        own: those options.
        fields: of hbshim's options, by name.
        table, values: as above.
        group: of oslo.config.
        hidden: options whose values are secret.

    Raises:
        OptionError: one is not valid; it names the options that are set.
    """
    for name, value in own.items():
        metadata = fields[name].metadata
        try:
            metadata["parse"](value)
        except (ValueError, OverflowError):
            given = ", ".join(
                f"{source}={'...' if source in hidden else repr(values[source])}"
                for source in sources(table, name, values)
            )
            raise OptionError(
                f"{given} of [{group}] is not valid here; {name}, which it becomes, takes: "
                f"{metadata['accepts']}"
            ) from None


def warnings(
    table: Mapping[str, Effect], values: Mapping[str, Any], group: str, scheme: str
) -> list[str]:
    """Return a sentence for each option that is set and has no effect.

    Parameters:
        table, values: as above.
        group: of oslo.config.
        scheme: of the transport's URL.
    """
    texts = []
    for name, value in values.items():
        entry = table.get(name)
        if entry is None:
            reason = "hbshim does not know this option"
        elif isinstance(entry, Ignored):
            reason = entry.reason
        else:
            continue
        texts.append(f"{name}={value} of [{group}] has no effect on {scheme}: {reason}")
    return texts
