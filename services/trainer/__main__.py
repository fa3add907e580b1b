"""`python -m services.trainer [api|worker|beat]`; settings come from the environment.

api       POST /train and all the rest over HTTP (the default)
worker    works on rounds, one at a time; start one per GPU
beat      reminds workers of what has to be looked after; start one
"""

from __future__ import annotations

import sys

from fashiondpo.errors import FashionDPOError
from fashiondpo.serving.run import run
from fashiondpo.telemetry import capture_standard_logging, configure_logging, log
from services.trainer.settings import TrainerSettings


def main(arguments: list[str]) -> int:
    """Run one of the three; returns the exit status."""
    settings = TrainerSettings()
    role = arguments[0] if arguments else "api"
    if role == "api":
        from services.trainer.app import create_app

        return run(create_app, settings)
    configure_logging(level=settings.log_level, form=settings.log_form)
    capture_standard_logging(level=settings.log_level, form=settings.log_form)
    if role not in ("worker", "beat"):
        log().error("refused_to_start", reason=f"there is no {role!r}: choose api, worker or beat")
        return 2
    return _run_celery(role, arguments[1:], settings)


def _run_celery(role: str, arguments: list[str], settings: TrainerSettings) -> int:
    from services.trainer.queue import ROUNDS, UPKEEP
    from services.trainer.worker import broker_name, celery_app

    try:
        app = celery_app(settings)
    except FashionDPOError as error:
        log().error("refused_to_start", reason=str(error))
        return 2
    level = ["--loglevel", settings.log_level]
    options = {
        "worker": ["--queues", f"{ROUNDS},{UPKEEP}", "--without-gossip", "--without-mingle", "--without-heartbeat"],
        "beat": ["--pidfile", ""],
    }
    log().info("starting", role=role, broker=broker_name(settings))
    try:
        app.start(argv=["--quiet", role, *level, *options[role], *arguments])
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
