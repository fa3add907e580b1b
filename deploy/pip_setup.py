"""Writes how pip is set up here, by files and environment, as one pip.conf; prints the local places that it names."""

import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

# What a build needs to know; where this machine keeps its caches and logs does not belong to it.
CARRIED = {
    "cert",
    "constraint",
    "default-timeout",
    "extra-index-url",
    "find-links",
    "index-url",
    "no-index",
    "trusted-host",
    "proxy",
}


def effective_settings() -> dict[str, str]:
    """What pip itself goes by: a later source overrides an earlier one."""
    listing = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], check=True, capture_output=True, text=True
    ).stdout
    settings: dict[str, str] = {}
    sources: dict[str, str] = {}
    for line in listing.splitlines():
        name, _, value = line.partition("=")
        source, _, key = name.rpartition(".")
        # pip lists variables of the environment first, though they win.
        if key in CARRIED and sources.get(key) != ":env:":
            settings[key], sources[key] = value.strip("'\""), source
    return settings


def local_places(settings: dict[str, str]) -> list[str]:
    """Files and folders of this machine that the settings name."""
    places = set()
    for word in " ".join(settings.values()).split():
        if word.startswith("file:"):
            place = Path(url2pathname(urlsplit(word).path))
            # A simple index refers to files beside itself.
            places.add(place.parent if place.name == "simple" else place)
        elif word.startswith("/") and Path(word).exists():
            places.add(Path(word))
    return sorted(map(str, places))


def main() -> None:
    """Write pip.conf to the path given; print a place a line."""
    settings = effective_settings()
    lines = [f"{key} = {value}" for key, value in sorted(settings.items())]
    Path(sys.argv[1]).write_text("\n".join(["[global]", *lines, ""]))
    sys.stdout.writelines(f"{place}\n" for place in local_places(settings))


if __name__ == "__main__":
    main()
