"""Looks into an image from the inside: does it hold what its service needs, and nothing else? Says no by its status.

It runs with the image's own Python: deploy/build-images mounts it there.
"""

import os
import shutil
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution, distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

BUILD_TOOLS = ("cc", "gcc", "g++", "clang", "ld", "make", "cmake", "rustc", "nvcc", "git")
CACHES = (
    "/root/.cache",
    "/var/lib/fashiondpo/.cache",
    "/var/cache/apt/archives",
    "/var/lib/apt/lists",
    "/tools",
    "/source",
)


def needed(extra: str) -> set[str]:
    """Names of all distributions that fashiondpo needs with one extra, directly or not."""
    reached: set[tuple[str, str]] = set()
    pending = [("fashiondpo", ""), ("fashiondpo", extra)]
    while pending:
        name, wanted = pending.pop()
        if (name, wanted) in reached:
            continue
        reached.add((name, wanted))
        try:
            requirements = distribution(name).requires or []
        except PackageNotFoundError:
            continue  # the report shows it, if something that is there needs it
        for requirement in map(Requirement, requirements):
            if requirement.marker is None or requirement.marker.evaluate({"extra": wanted}):
                dependency = canonicalize_name(requirement.name)
                pending += [(dependency, each) for each in ("", *requirement.extras)]
    return {name for name, _ in reached}


def faults(service: str) -> Iterator[str]:
    """What should not be in the image of a service, or should and is not."""
    installed = {canonicalize_name(each.name) for each in distributions()}
    wanted = needed(service)
    if surplus := installed - wanted:
        yield f"installed, though [{service}] does not need it: {', '.join(sorted(surplus))}"
    if missing := wanted - installed:
        yield f"needed by [{service}] and not installed: {', '.join(sorted(missing))}"
    everywhere = f"{os.environ['PATH']}:/usr/local/bin:/usr/bin:/bin"
    if tools := [tool for tool in BUILD_TOOLS if shutil.which(tool, path=everywhere)]:
        yield f"tools of a build: {', '.join(tools)}"
    if full := [place for place in CACHES if os.access(place, os.R_OK) and any(Path(place).iterdir())]:
        yield f"left over from the build: {', '.join(full)}"
    services = {path.name for path in Path("/app/services").iterdir() if path.is_dir() and path.name != "__pycache__"}
    if services != {service.replace("-", "_")}:
        yield f"code of services {sorted(services)}"
    if os.getuid() == 0:
        yield "the user is root"
    if writable := [str(path) for path in map(Path, ("/app", "/app/venv", "/etc", "/usr")) if os.access(path, os.W_OK)]:
        yield f"its user may write to {', '.join(writable)}"
    if not Path("/app/assets/mini/bundle/difashion.json").is_file():
        yield "the mini models are not there"


def main() -> None:
    """Report on the image that this runs in."""
    found = list(faults(os.environ["FASHIONDPO_SERVICE"]))
    sys.exit("\n".join(found) if found else 0)


if __name__ == "__main__":
    main()
