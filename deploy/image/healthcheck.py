"""Asks the service of this container, on its port or the given one: exit status 0 if it answers 200.

For health checks in an image that has no curl: python /app/healthcheck.py readyz
"""

import os
import sys
import urllib.request

PORTS = {"generator": 8000, "judge-quality": 8001, "judge-compat": 8002, "judge-personal": 8003, "trainer": 8004}
"""Where services listen unless they are told otherwise."""


def main(route: str, port: str = "") -> None:
    """Ask, and leave with an error if the answer is not 200."""
    service = os.environ["FASHIONDPO_SERVICE"]
    port = port or os.environ.get(f"{service.upper().replace('-', '_')}_PORT") or str(PORTS[service])
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/{route}", timeout=8).close()
    except OSError as error:
        sys.exit(f"{route}: {error}")


if __name__ == "__main__":
    main(*sys.argv[1:])
