"""A service as a process: `raise SystemExit(run(create_app, Settings()))` in its `__main__.py`.

As soon as requests can come in, a log line on stderr says where: {"event": "listening", "host": …, "port": …, "url": …}.
SIGTERM (or Ctrl-C) stops accepting, finishes what was accepted, closes the app's lifespan and returns 0.
"""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

import uvicorn
from fastapi import FastAPI
from prometheus_client import disable_created_metrics

from fashiondpo.errors import FashionDPOError, InvalidInput
from fashiondpo.serving.lifetime import Lifetime
from fashiondpo.serving.settings import ServingSettings
from fashiondpo.telemetry import capture_standard_logging, configure_logging, log

Settings = TypeVar("Settings", bound=ServingSettings)


def run(create_app: Callable[[Settings], FastAPI], settings: Settings) -> int:
    """Serve until told to stop.

    Args:
        create_app: the service's factory.
        settings: handed to it; address, logs and time to stop are taken from here.

    Returns:
        The process's exit status: 0 after SIGTERM, 1 if it could not start or go on, 2 for settings that are refused.
    """
    disable_created_metrics()  # type: ignore[no-untyped-call] # a second series per figure that nobody reads
    configure_logging(level=settings.log_level, form=settings.log_form)
    of_libraries = "WARNING" if settings.log_level == "INFO" else settings.log_level
    capture_standard_logging(level=of_libraries, form=settings.log_form)
    try:
        check_exposure(settings)
        app = create_app(settings)
    except FashionDPOError as error:
        log().error("refused_to_start", reason=str(error))
        return 2
    lifetime: Lifetime = app.state.lifetime
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,
        log_level="warning",  # what uvicorn says of its beginning and end, we say ourselves
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws="none",
        lifespan="on",
        timeout_graceful_shutdown=max(1, round(settings.shutdown_timeout_s)),
    )
    # uvicorn raises the signal again when it has finished; that must not look like a crash
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    try:
        with suppress(KeyboardInterrupt):
            _Server(config, lifetime).run()
    except SystemExit:  # the port is taken, or the lifespan has failed; uvicorn has logged which
        log().error("failed", reason=f"could not begin to serve on {settings.host}:{settings.port}")
        return 1
    if lifetime.failure is not None:
        log().error("failed", reason=str(lifetime.failure))
        return 1
    log().info("stopped")
    return 0


def check_exposure(settings: ServingSettings) -> None:
    """Refuse to let the whole network in.

    Raises:
        InvalidInput: if no keys are configured and the address can be reached from other machines.
    """
    if not settings.key_ring() and not settings.is_loopback:
        raise InvalidInput(
            f"without API keys this service listens on loopback only, not on {settings.host}: "
            "configure api_keys or api_keys_file"
        )


class _Server(uvicorn.Server):
    """Says where it listens, tells the app when it stops, and stops when the app has failed."""

    def __init__(self, config: uvicorn.Config, lifetime: Lifetime) -> None:
        super().__init__(config)
        self._lifetime = lifetime

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        log().info("listening", host=host, port=port, url=f"http://{shown}:{port}")

    async def on_tick(self, counter: int) -> bool:
        return await super().on_tick(counter) or self._lifetime.failure is not None

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        log().info("stopping", requests=len(self.server_state.tasks))
        self._lifetime.stopping.set()
        await super().shutdown(sockets)
