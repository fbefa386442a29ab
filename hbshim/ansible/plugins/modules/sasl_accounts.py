"""The module ``sasl_accounts``: the accounts of a router."""

from __future__ import annotations

DOCUMENTATION = r"""
module: sasl_accounts
short_description: The accounts of a router, in a database of Cyrus SASL
description:
  - Makes the database anew if the accounts differ from those that it was made from.
  - Passwords are written to the standard input of saslpasswd2, and are no arguments of a command.
options:
  path:
    description: The database.
    type: path
    required: true
  format:
    description: V(file) has a line C(user@realm password) for each account, for the test router.
    type: str
    choices: [sasldb, file]
    default: sasldb
  group:
    description: Group that may read it.
    type: str
    required: true
  accounts:
    description: The accounts; others are removed.
    type: list
    elements: dict
    required: true
    suboptions:
      user:
        description: The user.
        type: str
        required: true
      realm:
        description: The realm.
        type: str
        required: true
      password:
        description: The password.
        type: str
        required: true
author: the authors of hbshim
attributes:
  check_mode:
    description: Reports whether it would write.
    support: full
"""

EXAMPLES = r"""
- name: Let nova log in
  hbshim.messaging.sasl_accounts:
    path: /etc/skrouterd/accounts
    group: skrouterd
    accounts:
      - user: nova
        realm: AMQP
        password: "{{ nova_oslomsg_rpc_password }}"
  no_log: true
"""

RETURN = r"""
users:
  description: The users that are there now.
  type: list
  elements: str
  returned: always
"""

import hashlib
import hmac
import json
import os
import shutil
import subprocess
import tempfile
from typing import Any

from ansible.module_utils.basic import AnsibleModule

Account = dict[str, str]


class AccountsError(Exception):
    """The accounts cannot be written; the message has no password."""


def _digest(accounts: list[Account], salt: bytes) -> bytes:
    text = json.dumps(sorted(accounts, key=lambda each: (each["realm"], each["user"])))
    return hashlib.scrypt(text.encode(), salt=salt, n=2**14, r=8, p=1)


def is_made_from(path: str, accounts: list[Account]) -> bool:
    """Return whether the database was made from these accounts."""
    if not os.path.exists(path):
        return False
    try:
        with open(f"{path}.digest") as file:
            salt, digest = (bytes.fromhex(part) for part in file.read().split())
    except (OSError, ValueError):
        return False
    return hmac.compare_digest(digest, _digest(accounts, salt))


def make(path: str, kind: str, group: str, accounts: list[Account]) -> None:
    """Replace the database.

    Raises:
        AccountsError: Cyrus refuses an account.
    """
    os.umask(0o077)
    with tempfile.TemporaryDirectory(dir=os.path.dirname(path)) as directory:
        made = os.path.join(directory, "accounts")
        if kind == "file":
            with open(made, "w") as file:
                for each in accounts:
                    file.write(f"{each['user']}@{each['realm']} {each['password']}\n")
        else:
            for each in accounts:
                _add(made, each)
            if not accounts:
                open(made, "w").close()
        shutil.chown(made, "root", group)
        os.chmod(made, 0o640)
        os.replace(made, path)
    salt = os.urandom(16)
    with open(f"{path}.digest", "w") as file:
        file.write(f"{salt.hex()} {_digest(accounts, salt).hex()}\n")


def _add(database: str, account: Account) -> None:
    command = ["saslpasswd2", "-p", "-c", "-f", database, "-u", account["realm"], account["user"]]
    try:
        done = subprocess.run(
            command, input=account["password"], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        raise AccountsError("saslpasswd2 is missing; install the package sasl2-bin") from None
    if done.returncode:
        raise AccountsError(f"saslpasswd2 refuses {account['user']}: {done.stderr.strip()}")


def main() -> None:
    """Run the module."""
    account: dict[str, Any] = {
        "user": {"type": "str", "required": True},
        "realm": {"type": "str", "required": True},
        "password": {"type": "str", "required": True, "no_log": True},
    }
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "format": {"default": "sasldb", "choices": ["sasldb", "file"]},
            "group": {"type": "str", "required": True},
            "accounts": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": account,
            },
        },
        supports_check_mode=True,
    )
    given = module.params
    accounts: list[Account] = given["accounts"]
    for each in accounts:
        if "\n" in each["password"] or "\0" in each["password"]:
            module.fail_json(msg=f"the password of {each['user']} has a line break or a zero byte")
    changed = not is_made_from(given["path"], accounts)
    if changed and not module.check_mode:
        try:
            make(given["path"], given["format"], given["group"], accounts)
        except (AccountsError, OSError, LookupError) as error:
            module.fail_json(msg=str(error))
    users = sorted(f"{each['user']}@{each['realm']}" for each in accounts)
    module.exit_json(changed=changed, users=users)


if __name__ == "__main__":
    main()
