"""The Celery app of the trainer: how its worker, its beat and its queue are set up. Tasks: services/trainer/tasks.py."""

from __future__ import annotations

from typing import Any

from celery import Celery
from celery.beat import Scheduler

from fashiondpo.errors import InvalidInput
from fashiondpo.storage.redis_connection import without_password
from services.trainer.queue import ADVANCE, RECONCILE, REMOVE_OLD, ROUNDS, SCORE_TRAFFIC, START_IF_DUE, UPKEEP
from services.trainer.settings import SLOWEST_STEP_S, TrainerSettings

BROKER_TIMEOUT_S = 5.0
"""For connecting to the broker and for its answers; a task is sent, or refused, within this time."""


def celery_app(settings: TrainerSettings) -> Celery:
    """The app of worker, beat and API; nothing is connected before it is used.

    Raises:
        InvalidInput: if there is no broker.
    """
    if settings.redis_url is None:
        raise InvalidInput("workers need Redis: set TRAINER_REDIS_URL")
    app = Celery("fashiondpo", set_as_current=False)
    app.conf.update(
        broker_url=settings.redis_url.get_secret_value(),
        **_broker(settings),
        **_tasks(settings),
        **_pool(settings),
        beat_schedule=beat_schedule(settings),
        # in memory: what is due is seen from the records, so there is nothing to remember in a file
        beat_scheduler=f"{Scheduler.__module__}:{Scheduler.__name__}",
        beat_max_loop_interval=min(5.0, settings.reconcile_s),
    )
    return app


def beat_schedule(settings: TrainerSettings) -> dict[str, dict[str, Any]]:
    """What is looked after from time to time. A call that nobody took before the next one is due is forgotten."""
    every = {
        RECONCILE: settings.reconcile_s,
        SCORE_TRAFFIC: settings.score_traffic_s,
        **({START_IF_DUE: settings.continuous_check_s} if settings.continuous_sets else {}),
        **({REMOVE_OLD: settings.keep_check_s} if settings.keep_rounds or settings.keep_rounds_days else {}),
    }
    return {
        name: {"task": name, "schedule": seconds, "options": {"queue": UPKEEP, "expires": seconds}}
        for name, seconds in every.items()
    }


def broker_name(settings: TrainerSettings) -> str:
    """The broker's address, fit for a log."""
    return without_password(settings.redis_url.get_secret_value()) if settings.redis_url is not None else "none"


def _broker(settings: TrainerSettings) -> dict[str, Any]:
    return {
        "broker_transport_options": {
            # Redis hands a task that nobody acknowledged to another worker after so many seconds; with acks_late a
            # slice must be over long before.
            "visibility_timeout": settings.visibility_timeout_s,
            "global_keyprefix": f"{settings.redis_prefix}:queue:",
            "socket_timeout": BROKER_TIMEOUT_S,
            "socket_connect_timeout": BROKER_TIMEOUT_S,
            "socket_keepalive": True,
            "health_check_interval": 15,
        },
        "broker_connection_timeout": BROKER_TIMEOUT_S,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,  # for ever: a worker without a broker has nothing else to do
        "worker_enable_remote_control": False,
        "task_default_queue": UPKEEP,
        "task_create_missing_queues": True,
    }


def _tasks(settings: TrainerSettings) -> dict[str, Any]:
    return {
        "include": ["services.trainer.tasks"],
        "task_routes": {ADVANCE: {"queue": ROUNDS}},
        "task_serializer": "json",
        "accept_content": ["json"],
        "event_serializer": "json",
        "task_ignore_result": True,
        "task_acks_late": True,
        "task_reject_on_worker_lost": True,
        "worker_prefetch_multiplier": 1,
        # a step that hangs must not hold its round for ever: the child is killed and the round goes on elsewhere
        "task_time_limit": settings.slice_s + SLOWEST_STEP_S,
    }


def _pool(settings: TrainerSettings) -> dict[str, Any]:
    return {
        "worker_pool": "prefork",
        "worker_pool_start_method": "spawn",  # CUDA does not survive a fork
        "worker_concurrency": 1,  # one process owns the device
        # the other value has lost tasks when Redis was restarted
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "worker_soft_shutdown_timeout": settings.shutdown_timeout_s,
        "worker_proc_alive_timeout": 60.0,
        "worker_hijack_root_logger": False,
        "worker_redirect_stdouts": False,
    }
