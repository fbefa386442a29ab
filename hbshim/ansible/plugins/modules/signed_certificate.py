"""The module ``signed_certificate``: an authority, and the certificates that it signs."""

from __future__ import annotations

DOCUMENTATION = r"""
module: signed_certificate
short_description: A certificate authority in a directory, and certificates that it signs
description:
  - Makes the authority where it is missing.
  - It is meant for tests and for deployments without a public key infrastructure of their own.
options:
  directory:
    description: Directory of the authority, with C(ca.key) and C(ca.pem).
    type: path
    required: true
  request:
    description: A request to sign, as PEM. Without one, only the authority is made.
    type: str
    default: ""
  days:
    description: For how many days the certificate is valid.
    type: int
    default: 365
author: the authors of hbshim
attributes:
  check_mode:
    description: Reports whether an authority would be made, and signs nothing.
    support: full
"""

EXAMPLES = r"""
- name: Make an authority
  hbshim.messaging.signed_certificate:
    directory: /etc/hbshim/pki
"""

RETURN = r"""
authority:
  description: Certificate of the authority, as PEM. Empty in check mode where there is none.
  type: str
  returned: always
certificate:
  description: The signed certificate, as PEM.
  type: str
  returned: always
"""

import os
import tempfile

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.hbshim.messaging.plugins.module_utils.openssl import OpensslError, openssl

_YEARS = 10
_EXTENSIONS = """\
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth, clientAuth
authorityKeyIdentifier = keyid
"""


def make_authority(directory: str) -> None:
    """Make the key and the certificate of an authority."""
    os.makedirs(directory, mode=0o700, exist_ok=True)
    os.umask(0o077)
    arguments = ("-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    files = ("-keyout", f"{directory}/ca.key", "-out", f"{directory}/ca.pem")
    uses = ("-addext", "keyUsage=critical,keyCertSign,cRLSign")
    name = ("-subj", "/CN=hbshim messaging CA", "-days", str(_YEARS * 365))
    openssl("req", *arguments, *files, *uses, *name)


def sign(directory: str, request: str, days: int) -> str:
    """Return the certificate for a request."""
    with tempfile.NamedTemporaryFile("w", suffix=".cnf") as file:
        file.write(_EXTENSIONS)
        file.flush()
        authority = ("-CA", f"{directory}/ca.pem", "-CAkey", f"{directory}/ca.key")
        signed: str = openssl(
            *("x509", "-req", *authority, "-days", str(days)),
            *("-copy_extensions", "copy", "-extfile", file.name),
            given=request,
        )
        return signed


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path", "required": True},
            "request": {"type": "str", "default": ""},
            "days": {"type": "int", "default": 365},
        },
        supports_check_mode=True,
    )
    given = module.params
    directory, request = given["directory"], given["request"]
    missing = not os.path.exists(f"{directory}/ca.pem")
    authority = certificate = ""
    try:
        if not module.check_mode:
            if missing:
                make_authority(directory)
            if request:
                certificate = sign(directory, request, given["days"])
    except OpensslError as error:
        module.fail_json(msg=str(error))
    if os.path.exists(f"{directory}/ca.pem"):
        with open(f"{directory}/ca.pem") as file:
            authority = file.read()
    changed = missing or bool(request)
    module.exit_json(changed=changed, authority=authority, certificate=certificate)


if __name__ == "__main__":
    main()
