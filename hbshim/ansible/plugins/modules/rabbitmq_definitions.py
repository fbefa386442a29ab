"""The module ``rabbitmq_definitions``: virtual hosts, users, permissions and policies."""

from __future__ import annotations

DOCUMENTATION = r"""
module: rabbitmq_definitions
short_description: Virtual hosts, users, permissions and policies of RabbitMQ
description:
  - Runs on a node of the cluster, and compares with what the node exports.
  - Imports what is missing or different in one command. No password is an argument of a command.
options:
  vhosts:
    description: Virtual hosts, with C(name) and C(state).
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: The name.
        type: str
        required: true
      state:
        description: Whether it is there. Its queues are deleted with it.
        type: str
        choices: [present, absent]
        default: present
  users:
    description: Users.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: The name.
        type: str
        required: true
      password:
        description: The password. Without one, the user can log in with a certificate alone.
        type: str
      tags:
        description: What the user may do in the management API, such as V(monitoring).
        type: list
        elements: str
        default: []
      state:
        description: Whether it is there.
        type: str
        choices: [present, absent]
        default: present
  permissions:
    description: What a user may do in a virtual host.
    type: list
    elements: dict
    default: []
    suboptions:
      user:
        description: The user.
        type: str
        required: true
      vhost:
        description: The virtual host.
        type: str
        required: true
      configure:
        description: Names that it may declare and delete, as a regular expression.
        type: str
        default: ".*"
      write:
        description: Names to which it may send.
        type: str
        default: ".*"
      read:
        description: Names from which it may receive.
        type: str
        default: ".*"
  policies:
    description: Policies.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: The name.
        type: str
        required: true
      vhost:
        description: The virtual host.
        type: str
        required: true
      pattern:
        description: Names of queues and exchanges, as a regular expression.
        type: str
        required: true
      definition:
        description: What applies to them.
        type: dict
        required: true
      apply_to:
        description: Queues, exchanges, or both.
        type: str
        choices: [all, queues, exchanges, classic_queues, quorum_queues, streams]
        default: all
      priority:
        description: The policy with the highest one applies.
        type: int
        default: 0
author: the authors of hbshim
attributes:
  check_mode:
    description: Reports what it would change.
    support: full
  diff_mode:
    description: Shows names, and neither passwords nor their hashes.
    support: full
"""

EXAMPLES = r"""
- name: Let the service nova use RabbitMQ
  hbshim.messaging.rabbitmq_definitions:
    vhosts:
      - name: /nova
    users:
      - name: nova
        password: "{{ nova_oslomsg_notify_password }}"
    permissions:
      - user: nova
        vhost: /nova
  no_log: true
"""

RETURN = r"""
changes:
  description: What was changed, a line for each.
  type: list
  elements: str
  returned: always
"""

import base64
import hashlib
import hmac
import json
import os
import shutil
import subprocess
import tempfile
from typing import Any

from ansible.module_utils.basic import AnsibleModule

_HASHING = "rabbit_password_hashing_sha256"
_Json = dict[str, Any]


class CommandError(Exception):
    """rabbitmqctl has failed; the message is what it wrote."""


class Changes:
    """What differs between what is wanted and what a node has.

    Parameters:
        current: what the node exports.
    """

    def __init__(self, current: _Json) -> None:
        self._current = current
        self.imported: dict[str, list[_Json]] = {}
        self.commands: list[list[str]] = []
        self.lines: list[str] = []

    def vhost(self, wanted: _Json) -> None:
        name = wanted["name"]
        there = self._find("vhosts", name=name) is not None
        if wanted["state"] == "absent":
            if there:
                self._remove(f"virtual host {name}", ["delete_vhost", name])
        elif not there:
            self._import("vhosts", f"virtual host {name}", {"name": name})

    def user(self, wanted: _Json) -> None:
        name, found = wanted["name"], self._find("users", name=wanted["name"])
        if wanted["state"] == "absent":
            if found is not None:
                self._remove(f"user {name}", ["delete_user", name])
            return
        tags = sorted(wanted["tags"])
        if found is None or sorted(_tags(found)) != tags or not _has_password(found, wanted):
            hashed = _hashed(wanted["password"]) if wanted["password"] else ""
            user = {"name": name, "password_hash": hashed, "hashing_algorithm": _HASHING}
            self._import("users", f"user {name}", {**user, "tags": tags, "limits": {}})

    def permission(self, wanted: _Json) -> None:
        key = {"user": wanted["user"], "vhost": wanted["vhost"]}
        self._unless_same(
            "permissions", key, wanted, f"permissions of {wanted['user']} in {wanted['vhost']}"
        )

    def policy(self, wanted: _Json) -> None:
        policy = {**wanted, "apply-to": wanted["apply_to"]}
        del policy["apply_to"]
        key = {"name": policy["name"], "vhost": policy["vhost"]}
        self._unless_same("policies", key, policy, f"policy {key['name']} in {key['vhost']}")

    def _unless_same(self, kind: str, key: _Json, wanted: _Json, line: str) -> None:
        if self._find(kind, **key) != wanted:
            self._import(kind, line, wanted)

    def _find(self, kind: str, **key: str) -> _Json | None:
        for each in self._current.get(kind, ()):
            if all(each.get(name) == value for name, value in key.items()):
                found: _Json = each
                return found
        return None

    def _import(self, kind: str, line: str, entry: _Json) -> None:
        self.imported.setdefault(kind, []).append(entry)
        self.lines.append(f"set {line}")

    def _remove(self, line: str, command: list[str]) -> None:
        self.commands.append(command)
        self.lines.append(f"remove {line}")


def _tags(user: _Json) -> list[str]:
    tags = user.get("tags", [])
    return list(tags) if isinstance(tags, list) else [tag for tag in tags.split(",") if tag]


def _hashed(password: str, salt: bytes = b"") -> str:
    salt = salt or os.urandom(4)
    return base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()


def _has_password(user: _Json, wanted: _Json) -> bool:
    found = user.get("password_hash") or ""
    if not wanted["password"]:
        return not found
    if user.get("hashing_algorithm", _HASHING) != _HASHING:
        return False
    salt = base64.b64decode(found)[:4]
    return bool(salt) and hmac.compare_digest(found, _hashed(wanted["password"], salt))


def rabbitmqctl(*arguments: str) -> str:
    """Return what rabbitmqctl writes.

    Raises:
        CommandError: it fails, or is not installed.
    """
    command = ["rabbitmqctl", "--silent", *arguments]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        raise CommandError("rabbitmqctl is missing; install the package rabbitmq-server") from None
    if done.returncode:
        raise CommandError(f"rabbitmqctl {arguments[0]}: {(done.stderr or done.stdout).strip()}")
    return done.stdout


def _import(definitions: _Json) -> None:
    """Import definitions, which have hashes of passwords, from a file that RabbitMQ alone reads."""
    # Not by standard input: rabbitmqctl 4.0 does not see its end.
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(definitions, file)
        file.flush()
        shutil.chown(file.name, "rabbitmq")
        rabbitmqctl("import_definitions", file.name)


def _present() -> dict[str, Any]:
    return {"type": "str", "choices": ["present", "absent"], "default": "present"}


def _text(default: str | None = None) -> dict[str, Any]:
    return {"type": "str", "required": True} if default is None else {"default": default}


def _entries(**options: Any) -> dict[str, Any]:
    return {"type": "list", "elements": "dict", "default": [], "options": options}


ARGUMENTS = {
    "vhosts": _entries(name=_text(), state=_present()),
    "users": _entries(
        name=_text(),
        password={"type": "str", "no_log": True},
        tags={"type": "list", "elements": "str", "default": []},
        state=_present(),
    ),
    "permissions": _entries(
        user=_text(), vhost=_text(), configure=_text(".*"), write=_text(".*"), read=_text(".*")
    ),
    "policies": _entries(
        name=_text(),
        vhost=_text(),
        pattern=_text(),
        definition={"type": "dict", "required": True},
        apply_to={
            "default": "all",
            "choices": ["all", "queues", "exchanges", "classic_queues", "quorum_queues", "streams"],
        },
        priority={"type": "int", "default": 0},
    ),
}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    given = module.params
    try:
        changes = Changes(json.loads(rabbitmqctl("export_definitions", "-")))
        for vhost in given["vhosts"]:
            changes.vhost(vhost)
        for user in given["users"]:
            changes.user(user)
        for permission in given["permissions"]:
            changes.permission(permission)
        for policy in given["policies"]:
            changes.policy(policy)
        if not module.check_mode:
            if changes.imported:
                _import(changes.imported)
            for command in changes.commands:
                rabbitmqctl(*command)
    except CommandError as error:
        module.fail_json(msg=str(error))
    lines = changes.lines
    diff = {"before": "", "after": "".join(f"{line}\n" for line in lines)}
    module.exit_json(changed=bool(lines), changes=lines, diff=diff)


if __name__ == "__main__":
    main()
