"""Waits until an address answers 200, as long as a process lives; says what is missing if it does not in time."""

import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

LONGEST_S = 600.0


def main() -> None:
    """Arguments: the address, and the number of the process."""
    url, process = sys.argv[1:]
    last, deadline = "no answer", time.monotonic() + LONGEST_S
    while time.monotonic() < deadline and Path("/proc", process).exists():
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                sys.stdout.write(f"   {url}: {answer.read().decode()}\n")
                return
        except urllib.error.HTTPError as error:
            last = error.read().decode()
        except OSError as error:
            last = str(error)
        time.sleep(0.25)
    sys.exit(f"{url}: {last}")


if __name__ == "__main__":
    main()
