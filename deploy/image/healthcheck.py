"""Asks the service of this container for /livez or /readyz: exit status 0 if it says yes. For HEALTHCHECK, which has no curl here."""

import os
import sys
import urllib.request

PORTS = {"generator": 8000, "judge-quality": 8001, "judge-compat": 8002, "judge-personal": 8003, "trainer": 8004}
"""Where services listen unless they are told otherwise."""


def main() -> None:
    """Ask, and leave with an error if the answer is not 200."""
    service = os.environ["FASHIONDPO_SERVICE"]
    port = os.environ.get(f"{service.upper().replace('-', '_')}_PORT") or PORTS[service]
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/{sys.argv[1]}", timeout=4).close()
    except OSError as error:
        sys.exit(f"{sys.argv[1]}: {error}")


if __name__ == "__main__":
    main()
