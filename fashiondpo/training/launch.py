"""Start processes that train together, on one machine or several: `python -m fashiondpo.training.launch --processes 2 JOB`.

Every machine runs this once; a training job is a file that `fashiondpo.joint_training` describes. If one process fails, the
others are ended, and if whoever started this dies, all of them do. Instead of this, `accelerate launch` and `torchrun` can
start `-m fashiondpo.joint_training JOB`. Nothing is loaded at first, so that a parent's death is noticed from the start.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import runpy
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

WORKER_MODULE = "fashiondpo.joint_training"
FAILURES_FILE = "failed-processes.json"
LOGS_FOLDER = "logs"
END_S = 10
"""Processes whose companion has failed have so long to end by themselves."""

_PR_SET_PDEATHSIG = 1


def main(arguments: Sequence[str]) -> int:
    """Start the processes, or be one of them; returns the exit status."""
    options = _parser().parse_args(arguments)
    if options.parent is not None:
        die_with(options.parent)
    if options.is_process:
        die_with(os.getppid())
        sys.argv = [WORKER_MODULE, str(options.job)]
        runpy.run_module(WORKER_MODULE, run_name="__main__", alter_sys=True)
        return 0
    if options.nodes > 1 and options.rendezvous is None:
        _parser().error("several machines need --rendezvous HOST:PORT, an address of the machine with --node-rank 0")
    return _launch(options)


def die_with(parent: int) -> None:
    """Have the kernel kill this process when that one, its parent, dies; at once if it is dead already."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m fashiondpo.training.launch", description=__doc__)
    parser.add_argument("job", type=Path, help="the training job; every machine sees this file")
    parser.add_argument("--processes", type=int, default=1, help="on this machine; one per device")
    parser.add_argument("--nodes", type=int, default=1, help="machines")
    parser.add_argument("--node-rank", type=int, default=0, help="number of this machine, from 0")
    parser.add_argument("--rendezvous", help="HOST:PORT of the machine with number 0")
    parser.add_argument("--parent", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--is-process", action="store_true", help=argparse.SUPPRESS)
    return parser


def _launch(options: argparse.Namespace) -> int:
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, Std
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    folder: Path = options.job.parent
    logs = folder / LOGS_FOLDER / f"node-{options.node_rank}"
    logs.mkdir(parents=True, exist_ok=True)
    is_alone = options.nodes == 1
    config = LaunchConfig(
        min_nodes=options.nodes,
        max_nodes=options.nodes,
        nproc_per_node=options.processes,
        run_id="training",
        rdzv_backend="c10d" if is_alone else "static",
        rdzv_endpoint="127.0.0.1:0" if is_alone else options.rendezvous,
        rdzv_configs={} if is_alone else {"rank": options.node_rank},
        local_addr="127.0.0.1" if is_alone else None,
        max_restarts=0,  # whoever supervises decides whether to go on from the checkpoint
        monitor_interval=0.1,
        logs_specs=DefaultLogsSpecs(log_dir=str(logs), redirects=Std.ALL),
        shutdown_timeout=END_S,
    )
    command = [sys.executable, "-m", "fashiondpo.training.launch", "--is-process", str(options.job)]
    try:
        elastic_launch(config, command[0])(*command[1:])
    except ChildFailedError as error:
        failures = [
            {"rank": rank, "exit_code": failure.exitcode, "log": _log_of(logs, failure.local_rank)}
            for rank, failure in sorted(error.failures.items())
        ]
        (folder / FAILURES_FILE).write_text(json.dumps(failures))
        return 1
    return 0


def _log_of(logs: Path, local_rank: int) -> str:
    """What the newest process of that number wrote."""
    found = sorted(logs.glob(f"*/attempt_*/{local_rank}/stderr.log"), key=lambda path: path.stat().st_mtime)
    return str(found[-1]) if found else ""


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
