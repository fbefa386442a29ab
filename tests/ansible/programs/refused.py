"""Ends with an error unless both backends refuse the login of a service that was removed.

python refused.py FILE
"""

from __future__ import annotations

import sys

from connection import urls

from hbshim import messaging
from hbshim.errors import HbshimError


def main(path: str) -> None:
    rpc, notifications, _ = urls(path)
    for url in (rpc, notifications):
        driver = messaging.connect(url)
        scheme = url.partition("://")[0]
        try:
            client = messaging.Client(driver, messaging.Target("nobody"), timeout=6.0)
            client.prepare(mandatory=True).call("echo", value=1)
        except HbshimError as error:
            said = str(error)
            if "login" not in said and "refused" not in said and "ACCESS" not in said:
                sys.exit(f"{scheme} ended otherwise: {said}")
            print(scheme, said)
        else:
            sys.exit(f"{scheme} accepted the login")
        finally:
            driver.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
