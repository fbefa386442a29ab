"""Errors reach another process as they are: Celery and multiprocessing pickle them."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from hbshim import errors

EXAMPLES = [
    errors.MissingExtraError("pika", "pika", "oslo"),
    errors.UnsupportedVersionError("pika", "2.0", "no _impl", ">=1.3,<2"),
    errors.DriverLoadError("zmq", "package.module:FACTORY", "no such module"),
    errors.BrokerError("the broker refused the login", "check the password"),
    errors.ConnectError("no host answered", final=True),
    errors.TopologyError("the queue is of another type", 406),
    errors.RemoteError("builtins.KeyError", "'x'", "Traceback"),
    errors.OptionError("workers must be at least 1, got 0"),
]


def kinds(kind: type[Exception] = errors.HbshimError) -> Iterator[type[Exception]]:
    yield kind
    for each in kind.__subclasses__():
        yield from kinds(each)


def test_every_error_with_a_constructor_of_its_own_has_an_example() -> None:
    special = {
        each for each in kinds() if "__init__" in vars(each) and each.__module__ == errors.__name__
    }
    assert special <= {type(each) for each in EXAMPLES}


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("again", [lambda e: pickle.loads(pickle.dumps(e)), copy.copy])
def test_an_error_survives(error: Exception, again: Callable[..., Any]) -> None:
    found = again(error)
    assert type(found) is type(error)
    assert str(found) == str(error)
    assert found.args == error.args
    assert vars(found) == vars(error)
