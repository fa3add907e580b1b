"""Entry point of the command line."""

from __future__ import annotations

import os
import sys

from fashiondpo.errors import FashionDPOError

_QUIET = {"DIFFUSERS_VERBOSITY": "error", "TRANSFORMERS_VERBOSITY": "error", "TQDM_DISABLE": "1"}
"""The libraries' own bars and notices, which would tear ours apart; what is set already stays."""


def main() -> None:
    """Run a command; a mistake of the user ends in one clear line and exit code 2."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    from fashiondpo.cli.commands import app  # the libraries read the environment when they are imported
    from fashiondpo.cli.show import error_console

    try:
        app()
    except FashionDPOError as error:
        error_console.print(f"[red]error[/red] ({error.code}): {error}", highlight=False, soft_wrap=True)
        sys.exit(2 if error.status < 500 else 1)
    except KeyboardInterrupt:
        error_console.print("stopped; run the same command again to go on")
        sys.exit(130)


if __name__ == "__main__":
    main()
