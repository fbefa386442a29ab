"""A callback plugin: names the tasks that change something in a play where nothing may change.

A play with the variable `must_change_nothing` repeats what an earlier one has done.
`wsgi_harness/roles` takes a line of this plugin for a failure of the scenario.
"""

from __future__ import annotations

from typing import Any

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: unchanged
type: aggregate
short_description: Tasks that change something in a play where nothing may change
description:
  - Writes a line for each such task.
"""


class CallbackModule(CallbackBase):  # type: ignore[misc]
    """Looks at the results of plays with the variable `must_change_nothing`."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "unchanged"
    CALLBACK_NEEDS_ENABLED = True

    _looks = False

    def v2_playbook_on_play_start(self, play: Any) -> None:
        self._looks = bool(play.vars.get("must_change_nothing"))

    def v2_runner_on_ok(self, result: Any) -> None:
        if self._looks and result._result.get("changed"):
            host, task = result._host.get_name(), result._task.get_name()
            self._display.display(f"hbshim: not idempotent on {host}: {task}")
