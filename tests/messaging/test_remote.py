"""Errors keep their type on the way, as far as a peer may choose what is made here."""

from __future__ import annotations

import subprocess
from typing import Any, NoReturn

import pytest

from hbshim import errors
from hbshim.errors import NoSuchMethodError, OptionError, PayloadError, RemoteError
from hbshim.messaging.base_client import ERRORS_ALLOWED
from hbshim.messaging.dispatch import Dispatcher
from hbshim.messaging.remote import Call, error_as_value, error_from_value


def there_and_back(error: Any, allowed: tuple[str, str] = ERRORS_ALLOWED) -> BaseException:
    try:
        raise error
    except Exception as caught:
        return error_from_value(error_as_value(caught), allowed)


def test_an_allowed_error_is_raised_as_what_it_was() -> None:
    back = there_and_back(KeyError("missing"))
    assert isinstance(back, KeyError)
    assert back.args == ("missing",)
    assert isinstance(back.__cause__, RemoteError)
    assert "there_and_back" in back.__cause__.trace


def test_an_error_of_another_module_is_not() -> None:
    back = there_and_back(subprocess.SubprocessError("failed"))
    assert isinstance(back, RemoteError)
    assert back.kind == "subprocess.SubprocessError"
    assert back.text == "failed"


@pytest.mark.parametrize(
    "error", [each for each in vars(errors).values() if isinstance(each, type)]
)
def test_an_error_of_a_call_of_the_methods_own_is_no_error_of_this_call(
    error: type[Any] | type[Exception],
) -> None:
    value = {"module": "hbshim.errors", "kind": error.__name__, "args": ["10.0.0.9: lost"]}
    back = error_from_value(value, ERRORS_ALLOWED)
    answers = error in (NoSuchMethodError, PayloadError)
    assert type(back) is (error if answers else RemoteError)
    if not answers:
        assert back.kind == f"hbshim.errors.{error.__name__}"


@pytest.mark.parametrize("error", [StopIteration("x"), StopAsyncIteration("x")])
def test_the_end_of_a_loop_is_none_here(error: StopAsyncIteration | StopIteration) -> None:
    assert type(there_and_back(error)) is RemoteError


class NoTextError(Exception):
    def __str__(self) -> str:
        return self.args[5]

    __repr__ = __str__


class NoText:
    def __str__(self) -> NoReturn:
        raise ValueError("no text")

    __repr__ = __str__


@pytest.mark.parametrize("error", [NoTextError("x"), ValueError(NoText()), NoTextError(NoText())])
def test_an_error_without_a_text_is_reported(error: ValueError | NoTextError) -> None:
    for brief in (False, True):
        value = error_as_value(error, brief=brief)
        assert type(error).__name__ in str(error_from_value(value, ()))


@pytest.mark.parametrize(
    "value",
    [
        {"module": "builtins", "kind": "exec", "args": ["1"]},
        {"module": "builtins", "kind": "SystemExit", "args": [1]},
        {"module": "builtins", "kind": "no.such.name"},
        {"module": "builtins", "kind": "UnicodeDecodeError", "args": []},
        {"module": "os", "kind": "system", "args": ["true"]},
        "not a mapping",
    ],
)
def test_what_is_no_error_of_ours_is_never_called(
    value: str | dict[str, str | list[int | str]],
) -> None:
    assert isinstance(error_from_value(value, ERRORS_ALLOWED), RemoteError)


@pytest.mark.parametrize("value", [None, {}, {"method": 1}, {"method": "x", "args": [1]}])
def test_what_is_no_request_is_refused(value: dict[str, int | list[int] | str] | None) -> None:
    with pytest.raises(PayloadError, match="sender"):
        Call.from_value(value)


class Plain:
    attribute = "not a method"

    def ping(self, request: None) -> str:
        return "pong"

    def _hidden(self, request: None) -> str:
        return "secret"


class Versioned:
    namespace = "admin"
    version = "2.1"

    def ping(self, request: None) -> str:
        return "admin pong"


def test_a_method_is_found_by_namespace_and_version() -> None:
    dispatcher = Dispatcher([Plain(), Versioned()])
    assert dispatcher.method(Call("ping"))(None) == "pong"
    assert dispatcher.method(Call("ping", namespace="admin", version="2.0"))(None) == "admin pong"


@pytest.mark.parametrize(
    "call",
    [
        Call("_hidden"),
        Call("__init__"),
        Call("attribute"),
        Call("mro"),
        Call("missing"),
        Call("ping", namespace="other"),
        Call("ping", version="1.1"),
        Call("ping", namespace="admin"),
    ],
)
def test_nothing_else_can_be_called(call: Call) -> None:
    with pytest.raises(NoSuchMethodError):
        Dispatcher([Plain(), Versioned()]).method(call)


def test_an_endpoint_of_no_version_is_refused_at_the_start() -> None:
    class Wrong:
        version = "latest"

    with pytest.raises(OptionError, match="latest"):
        Dispatcher([Wrong()])


class OddArgumentsError(Exception):
    args = None  # type: ignore[assignment]


class OddModuleError(Exception):
    pass


OddModuleError.__module__ = 5  # type: ignore[assignment]


@pytest.mark.parametrize(
    "error", [OddArgumentsError(), OddModuleError("text"), ValueError(10**5000)]
)
def test_an_odd_error_still_becomes_a_value(error: ValueError | OddArgumentsError) -> None:
    value = error_as_value(error)
    assert isinstance(value["module"], str)
    assert isinstance(value["args"], list)


def test_hbshims_own_error_is_not_raised_for_a_module_that_imports_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(subprocess, "CallTimeoutError", errors.CallTimeoutError, raising=False)
    value = {"module": "subprocess", "kind": "CallTimeoutError", "args": ["text"]}
    assert isinstance(error_from_value(value, ["subprocess"]), RemoteError)
