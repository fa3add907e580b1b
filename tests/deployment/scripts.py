"""The Python scripts below deploy/, as modules."""

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

from tests.deployment.composition import ROOT


def load_script(name: str) -> ModuleType:
    """A script of the repository, loaded without running its main part."""
    spec = spec_from_file_location(Path(name).stem, ROOT / name)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
