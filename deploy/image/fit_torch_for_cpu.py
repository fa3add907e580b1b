"""Checks that the image's torch is made for the CPU, and lets a torchvision that is made for CUDA be imported beside it.

The usual torchvision wheels are linked against CUDA. Beside a CPU torch their operators cannot be loaded, and the import
fails at two of them that it describes without asking whether they are there. Here they are declared, without a kernel:
calling one still fails. The services call none of them. A torchvision for the CPU is left as it is.
"""

import importlib.metadata
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

DECLARATION = """
if not _has_ops():
    # Operators that are described on import, though they could not be loaded.
    _declared = torch.library.Library("torchvision", "DEF")
    for _name in ("nms", "qnms"):
        _declared.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""


def can_import(module: str) -> bool:
    """Whether a fresh interpreter can import the module."""
    return subprocess.run([sys.executable, "-c", f"import {module}"], capture_output=True, check=False).returncode == 0


def main() -> None:
    """Check torch, then mend torchvision if it is there and cannot be imported."""
    import torch

    if torch.version.cuda is not None:
        sys.exit(f"torch {torch.__version__} is made for CUDA: name an index with builds for the CPU as TORCH_INDEX")
    spec = find_spec("torchvision")
    if spec is None or spec.origin is None or can_import("torchvision"):
        return
    with (Path(spec.origin).parent / "extension.py").open("a") as file:
        file.write(DECLARATION)
    if not can_import("torchvision"):
        sys.exit(f"torchvision {importlib.metadata.version('torchvision')} does not go with torch {torch.__version__}")


if __name__ == "__main__":
    main()
