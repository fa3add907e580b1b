"""Entry point of the command line."""

from __future__ import annotations

import os
import sys

from rich.markup import escape

from fashiondpo.errors import FashionDPOError

_QUIET = {"DIFFUSERS_VERBOSITY": "error", "TRANSFORMERS_VERBOSITY": "error", "TQDM_DISABLE": "1"}
"""The libraries' own bars and notices, which would tear ours apart; what is set already stays."""

_INTERRUPTED = 130
"""The exit code into which typer turns Ctrl-C."""


def main() -> None:
    """Run a command; a mistake of the user ends in one clear line and exit code 2."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    from fashiondpo.cli.commands import app  # the libraries read the environment when they are imported
    from fashiondpo.cli.show import error_console

    try:
        app()
    except FashionDPOError as error:
        error_console.print(f"[red]error[/red] ({error.code}): {escape(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(2 if error.status < 500 else 1)
    except SystemExit as end:
        if end.code == _INTERRUPTED:
            error_console.print("stopped; run the same command again to go on")
        raise


if __name__ == "__main__":
    main()
