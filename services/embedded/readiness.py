"""Asks the embedded processes whether they are ready."""

from __future__ import annotations

from fashiondpo.clients.http import ServiceClient
from fashiondpo.clients.retries import NO_RETRIES
from fashiondpo.errors import FashionDPOError
from fashiondpo.storage.redis_connection import connect, redis_problem
from services.embedded.processes import Child
from services.embedded.supervisor import READY, ReadinessCheck

_TIMEOUT_S = 6.0
_WORKER_IS_READY = " ready."
"""Celery's own words, behind the name of the worker."""


def service_check(url: str) -> ReadinessCheck:
    """Of a service: what /readyz says."""

    def check() -> str:
        with ServiceClient(url, timeout_s=_TIMEOUT_S, retries=NO_RETRIES) as client:
            try:
                readiness = client.readiness()
            except FashionDPOError:
                return "does not answer yet"
        if readiness.is_ready:
            return READY
        return ", ".join(f"{name} {said}" for name, said in readiness.checks.items() if said != READY)

    return check


def valkey_check(url: str) -> ReadinessCheck:
    """Of Valkey: whether it has read its data and answers."""
    return lambda: redis_problem(connect(url, timeout_s=_TIMEOUT_S, retries=0)) or READY


def worker_check(worker: Child) -> ReadinessCheck:
    """Of the Celery worker: whether it has said that it takes tasks."""
    return lambda: READY if worker.has_written(_WORKER_IS_READY) else "has not said that it takes tasks"
