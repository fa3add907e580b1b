"""What a module really loads, and what it does while it is loaded, seen from a fresh process.

Import contracts read source text; they miss what a parent package or a library brings along.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.architecture.checkout import HEAVY_LIBRARIES, ROOT, light_modules, module_name, module_paths

WHAT_IS_LOADED = """
import importlib, json, sys
importlib.import_module(sys.argv[1])
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


def in_fresh_process(program: str, *arguments: str, folder: Path = ROOT) -> list:
    result = subprocess.run(
        [sys.executable, "-B", "-c", program, *arguments], cwd=folder, capture_output=True, text=True, timeout=300,
        check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", light_modules())
class TestLightModule:
    def test_loads_no_neural_network_library(self, name):
        assert not set(in_fresh_process(WHAT_IS_LOADED, name)) & set(HEAVY_LIBRARIES)


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
