"""Everything on one machine: `python -m services.embedded --run runs/up`, or `fashiondpo up`. Logic: supervisor.py."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress

from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from fashiondpo.clients.addresses import ADDRESSES_FILE, write_addresses
from fashiondpo.errors import FashionDPOError
from fashiondpo.storage.records import first_problem
from fashiondpo.telemetry import configure_logging
from services.embedded.lock import only_one
from services.embedded.plan import STOP_ORDER, Plan, make_plan
from services.embedded.processes import stop_with
from services.embedded.readiness import service_check, valkey_check, worker_check
from services.embedded.settings import EmbeddedSettings, inherited_environment
from services.embedded.supervisor import ChildDied, Stopped, Supervisor

_console = Console()


def main(arguments: Sequence[str]) -> int:
    """Run until told to stop; returns the exit code: 0 after Ctrl-C or SIGTERM, 1 if something failed."""
    configure_logging(level="WARNING")
    try:
        settings = EmbeddedSettings.from_arguments(arguments)
    except ValidationError as error:
        return _fail(first_problem(error))
    try:
        if settings.parent is not None:
            stop_with(settings.parent)
        with only_one(settings.folder):
            return run(settings)
    except FashionDPOError as error:
        return _fail(str(error))


def run(settings: EmbeddedSettings) -> int:
    """Start everything, say where it is, and watch it until somebody wants it to stop."""
    supervisor = Supervisor(settings.folder / "logs", stop_timeout_s=settings.stop_timeout_s)
    supervisor.listen_to_signals()
    plan = make_plan(settings, inherited_environment())
    exit_code = 0
    try:
        _start(supervisor, plan, settings)
        write_addresses(settings.folder, plan.described(os.getpid()))
        _show(plan, settings)
        supervisor.watch()
    except Stopped:
        pass
    except ChildDied as error:
        exit_code = _fail(str(error))
    except FashionDPOError as error:
        exit_code = _fail(str(error))
    except OSError as error:
        exit_code = _fail(f"{error.filename or settings.folder}: {error.strerror}; look at its disk and its owner")
    finally:
        with suppress(OSError):
            (settings.folder / ADDRESSES_FILE).unlink(missing_ok=True)
        _say("Stopping …")
        supervisor.stop(STOP_ORDER)
    _say(f"Stopped; the data are kept in {settings.run}")
    return exit_code


def _start(supervisor: Supervisor, plan: Plan, settings: EmbeddedSettings) -> None:
    _say(f"Starting Valkey, five services and a worker; their logs are in {settings.run}/logs …")
    supervisor.start(plan.valkey)
    supervisor.wait_until_ready({"valkey": valkey_check(plan.redis_url)}, settings.start_timeout_s)
    children = {command.name: supervisor.start(command) for command in plan.services}
    checks = {name: service_check(url) for name, url in plan.addresses.items()}
    checks["worker"] = worker_check(children["worker"])
    if plan.waiting:
        first = {"judge_compat": checks.pop("judge_compat")}
        supervisor.wait_until_ready(first, settings.start_timeout_s, _say_ready)
        for command in plan.waiting:
            supervisor.start(command)
    supervisor.wait_until_ready(checks, settings.start_timeout_s, _say_ready)


def _say_ready(name: str) -> None:
    _say(f"  {name} is ready")


def _show(plan: Plan, settings: EmbeddedSettings) -> None:
    table = Table("service", "address", "documentation")
    for name, url in plan.addresses.items():
        table.add_row(name, url, f"{url}/docs")
    _console.print(table)
    _say(f"Records are kept by Valkey in {settings.run}/valkey, pictures and weights in {settings.run}/artifacts.")
    _say("Ctrl-C stops everything; the next start goes on with the same data.")


def _say(text: str) -> None:
    _console.print(text, markup=False, highlight=False, soft_wrap=True)


def _fail(problem: str) -> int:
    Console(stderr=True).print(f"error: {problem}", markup=False, highlight=False, soft_wrap=True)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
