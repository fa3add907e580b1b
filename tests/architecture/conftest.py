import subprocess
from pathlib import Path

import pytest

from tests.architecture.checkout import repository_paths


@pytest.fixture(scope="session")
def repository_files() -> list[Path]:
    """Files that are, or would be, under version control; skips where git cannot tell."""
    try:
        return repository_paths()
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"git cannot list the files: {error}")
