"""Structured logs, progress and timing. Nothing is configured on import; the CLI and the services do that."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Literal

import structlog

Progress = Callable[[int, int, Mapping[str, float]], None]
"""Called with steps done, steps in total and the newest figures; whoever shows progress implements it."""


def no_progress(_done: int, _total: int, _figures: Mapping[str, float]) -> None:
    """Show nothing."""


def log() -> structlog.stdlib.BoundLogger:
    """The logger; lines carry whatever ids `log_context` has bound."""
    logger: structlog.stdlib.BoundLogger = structlog.get_logger()
    return logger


def configure_logging(*, level: str = "INFO", form: Literal["text", "json"] = "text") -> None:
    """Send log lines to stderr, as text for people or as JSON for collectors."""
    structlog.configure(
        processors=[*_shared_processors(), structlog.processors.format_exc_info, _renderer(form)],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def capture_standard_logging(*, level: str = "WARNING", form: Literal["text", "json"] = "text") -> None:
    """Give the log lines of libraries (uvicorn, celery, …) the same form, and the ids that are bound, on stderr.

    Args:
        level: of what libraries say; they say much at INFO.
        form: as in `configure_logging`.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*_shared_processors(), structlog.stdlib.add_logger_name],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                _renderer(form),
            ],
        )
    )
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(True)
    # a line per outgoing request is the clients' own business
    for chatty in ("httpx", "httpcore"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


def _shared_processors() -> list[structlog.types.Processor]:
    return [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]


def _renderer(form: Literal["text", "json"]) -> structlog.types.Processor:
    return structlog.processors.JSONRenderer() if form == "json" else structlog.dev.ConsoleRenderer()


@contextmanager
def log_context(**ids: str | int) -> Iterator[None]:
    """Every log line inside carries these ids (request_id, round_id, …)."""
    with structlog.contextvars.bound_contextvars(**ids):
        yield


@contextmanager
def timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Add the wall-clock seconds spent inside to `seconds[name]`."""
    started = time.perf_counter()
    try:
        yield
    finally:
        seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - started
