"""The module ``certificate_request``: a key, and a request for its certificate where needed."""

from __future__ import annotations

DOCUMENTATION = r"""
module: certificate_request
short_description: A private key of this host, and a request where it needs a certificate
description:
  - Makes the key where it is missing. The key never leaves the host.
  - Returns a request if there is no certificate, or if the one that is there expires soon, belongs
    to another key, another authority or other names.
options:
  key:
    description: File of the private key.
    type: path
    required: true
  certificate:
    description: File of the certificate.
    type: path
    required: true
  authority:
    description: Certificate of the authority, as PEM. Empty if it does not exist yet.
    type: str
    required: true
  common_name:
    description: The common name.
    type: str
    required: true
  names:
    description: Alternative names, such as V(DNS:host) and V(IP:192.0.2.1).
    type: list
    elements: str
    required: true
  renew_days:
    description: The certificate is renewed when it expires within as many days.
    type: int
    default: 30
author: the authors of hbshim
attributes:
  check_mode:
    description: Reports what it would do, and makes no key.
    support: full
"""

EXAMPLES = r"""
- name: Make a key
  hbshim.messaging.certificate_request:
    key: /etc/rabbitmq/rabbitmq.key
    certificate: /etc/rabbitmq/rabbitmq.pem
    authority: "{{ tls_authority }}"
    common_name: mq1
    names: ["DNS:mq1"]
"""

RETURN = r"""
request:
  description: The request, as PEM. Empty if no new certificate is needed, and in check mode.
  type: str
  returned: always
reason:
  description: Why a certificate is needed. Empty if none is.
  type: str
  returned: always
"""

import contextlib
import ipaddress
import os
import re
import tempfile

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.hbshim.messaging.plugins.module_utils.openssl import (
    OpensslError,
    openssl,
    succeeds,
)


def reason_for_another(
    key: str, certificate: str, authority: str, names: list[str], renew_days: int
) -> str:
    """Return why another certificate is needed, or an empty string."""
    if not os.path.exists(key):
        return "there is no key"
    if not os.path.exists(certificate):
        return "there is no certificate"
    if not succeeds("x509", "-in", certificate, "-checkend", str(renew_days * 86400), "-noout"):
        return f"it expires within {renew_days} days"
    of_key = openssl("pkey", "-in", key, "-pubout")
    if openssl("x509", "-in", certificate, "-pubkey", "-noout") != of_key:
        return "it belongs to another key"
    with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:
        file.write(authority)
        file.flush()
        if not succeeds("verify", "-CAfile", file.name, certificate):
            return "another authority has signed it"
    if _names_in(certificate) != {_normal(name) for name in names}:
        return "it has other names"
    return ""


def _names_in(certificate: str) -> set[str]:
    shown = openssl("x509", "-in", certificate, "-noout", "-ext", "subjectAltName")
    found = re.findall(r"(DNS|IP Address):([^,\s]+)", shown)
    return {_normal(f"{'IP' if kind == 'IP Address' else kind}:{value}") for kind, value in found}


def _normal(name: str) -> str:
    """Return one form of a name; openssl shows an IPv6 address in another one than most write."""
    kind, _, value = name.strip().partition(":")
    if kind.upper() == "IP":
        with contextlib.suppress(ValueError):
            value = str(ipaddress.ip_address(value))
    return f"{kind}:{value}".lower()


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "key": {"type": "path", "required": True, "no_log": False},
            "certificate": {"type": "path", "required": True},
            "authority": {"type": "str", "required": True},
            "common_name": {"type": "str", "required": True},
            "names": {"type": "list", "elements": "str", "required": True},
            "renew_days": {"type": "int", "default": 30},
        },
        supports_check_mode=True,
    )
    given = module.params
    try:
        reason = reason_for_another(
            given["key"],
            given["certificate"],
            given["authority"],
            given["names"],
            given["renew_days"],
        )
        request = ""
        if reason and not module.check_mode:
            if not os.path.exists(given["key"]):
                os.umask(0o077)
                curve = ("-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:prime256v1")
                openssl("genpkey", *curve, "-out", given["key"])
            subject = given["common_name"].replace("\\", r"\\").replace("/", r"\/")
            names = ",".join(given["names"])
            arguments = ("-subj", f"/CN={subject}", "-addext", f"subjectAltName={names}")
            request = openssl("req", "-new", "-key", given["key"], *arguments)
    except OpensslError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=bool(reason), request=request, reason=reason)


if __name__ == "__main__":
    main()
