"""Child processes and their supervisor, with small programs in place of the services."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

from fashiondpo.errors import Conflict, Unavailable
from services.embedded.lock import only_one
from services.embedded.processes import Child, Command
from services.embedded.supervisor import READY, ChildDied, Stopped, Supervisor

ROOT = Path(__file__).resolve().parents[2]

SLEEPS = "import time; print('here I am', flush=True); time.sleep(60)"
IGNORES_SIGTERM = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
)


def says_when_it_ends(file: Path, name: str) -> str:
    return textwrap.dedent(f"""
        import signal, sys, time
        def end(*_):
            time.sleep(0.1)
            open({str(file)!r}, "a").write({name + " "!r})
            sys.exit(0)
        signal.signal(signal.SIGTERM, end)
        print("up", flush=True)
        time.sleep(60)
    """)


def program(source: str, name: str = "program", stdin: str = "") -> Command:
    return Command(name, [sys.executable, "-c", source], dict(os.environ), stdin)


def eventually(condition, timeout_s: float = 10.0) -> bool:
    limit = time.monotonic() + timeout_s
    while time.monotonic() < limit:
        if condition():
            return True
        time.sleep(0.02)
    return False


def wrote(child: Child, text: str) -> bool:
    return eventually(lambda: text in child.log_file.read_text())


@pytest.fixture
def child(tmp_path):
    """Starts a program; what is still running at the end is killed."""
    children = []

    def start(source: str, **options) -> Child:
        children.append(Child(program(source, **options), tmp_path / "logs" / "program.log"))
        return children[-1]

    yield start
    for one in children:
        one.kill()


@pytest.fixture
def supervisor(tmp_path):
    """Without signal handlers; everything is stopped at the end."""
    made = Supervisor(tmp_path / "logs", stop_timeout_s=0.5)
    yield made
    made.stop([])


class TestChild:
    def test_writes_into_its_log_file_behind_what_was_there(self, child):
        first = child("print('one')")
        assert eventually(lambda: first.exit_code == 0)
        second = child("import sys; print('two', file=sys.stderr)")
        assert eventually(lambda: second.exit_code == 0)
        assert second.log_file.read_text() == "one\ntwo\n"
        assert second.last_lines(5) == ["two"]

    def test_reads_what_it_is_given(self, child):
        assert wrote(child("print(input()[::-1])", stdin="drowssap\n"), "password")

    def test_that_ends_before_it_reads_is_no_failure_of_ours(self, child):
        one = child("pass", stdin="x" * 1_000_000)
        assert eventually(lambda: one.exit_code == 0)

    def test_shows_its_environment_and_no_other(self, tmp_path):
        command = Command("p", [sys.executable, "-c", "import os; print(os.environ)"], {"ONLY": "this"})
        one = Child(command, tmp_path / "p.log")
        assert wrote(one, "'ONLY': 'this'")
        assert "PATH" not in one.log_file.read_text()
        one.kill()

    def test_that_is_killed_takes_what_it_started_with_it(self, child):
        one = child("import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])")
        assert eventually(lambda: psutil.Process(one.pid).children())
        grandchild = psutil.Process(one.pid).children()[0]
        one.kill()
        assert eventually(lambda: not grandchild.is_running() or grandchild.status() == psutil.STATUS_ZOMBIE)

    def test_does_not_hear_the_terminals_ctrl_c(self, child):
        assert os.getpgid(child(SLEEPS).pid) != os.getpgid(0)

    def test_dies_when_the_process_that_started_it_is_killed(self, tmp_path):
        source = textwrap.dedent(f"""
            import sys, time
            from pathlib import Path
            from services.embedded.processes import Child, Command
            child = Child(Command("c", [sys.executable, "-c", {SLEEPS!r}], {{}}), Path({str(tmp_path / "c.log")!r}))
            print(child.pid, flush=True)
            time.sleep(60)
        """)
        parent = subprocess.Popen([sys.executable, "-c", source], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        orphan = psutil.Process(int(parent.stdout.readline()))
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        parent.stdout.close()
        assert eventually(lambda: not orphan.is_running() or orphan.status() == psutil.STATUS_ZOMBIE)


class TestSupervisor:
    def test_tells_what_is_ready_until_everything_is(self, supervisor):
        supervisor.start(program(SLEEPS))
        told, asked = [], []
        late = lambda: READY if len(asked) > 2 else asked.append(1) or "not yet"  # noqa: E731
        supervisor.wait_until_ready({"late": late, "early": lambda: READY}, 10, told.append)
        assert told == ["early", "late"]

    def test_says_what_is_not_ready_in_time(self, supervisor):
        with pytest.raises(Unavailable, match="model: loading"):
            supervisor.wait_until_ready({"model": lambda: "loading", "other": lambda: READY}, 0.2)

    def test_tells_the_last_words_of_a_process_that_dies(self, supervisor):
        supervisor.start(program("print('before'); raise SystemExit('no such model')", "generator"))
        with pytest.raises(ChildDied, match=r"generator ended with exit code 1[\s\S]*no such model"):
            supervisor.watch()

    def test_does_not_wait_for_the_dead(self, supervisor):
        supervisor.start(program("pass"))
        with pytest.raises(ChildDied):
            supervisor.wait_until_ready({"never": lambda: "no"}, 60)

    def test_starts_nothing_again(self, supervisor):
        dead = supervisor.start(program("pass"))
        with pytest.raises(ChildDied):
            supervisor.watch()
        with pytest.raises(ChildDied):
            supervisor.start(program(SLEEPS))
        assert dead.exit_code == 0

    def test_stops_group_by_group(self, supervisor, tmp_path):
        order = tmp_path / "order"
        children = [
            supervisor.start(program(says_when_it_ends(order, name), name)) for name in ("store", "api", "task")
        ]
        assert all(wrote(child, "up") for child in children)
        supervisor.stop([["task"], ["api"], ["store"]])
        assert order.read_text().split() == ["task", "api", "store"]

    def test_kills_what_does_not_stop_in_time(self, supervisor):
        deaf = supervisor.start(program(IGNORES_SIGTERM))
        assert wrote(deaf, "deaf")
        supervisor.stop([["program"]])
        assert deaf.exit_code == -signal.SIGKILL

    def test_stops_on_a_signal_and_at_once_on_the_second(self, tmp_path):
        made = Supervisor(tmp_path / "logs", stop_timeout_s=60)
        before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
        made.listen_to_signals()
        try:
            deaf = made.start(program(IGNORES_SIGTERM))
            assert wrote(deaf, "deaf")
            os.kill(os.getpid(), signal.SIGTERM)
            with pytest.raises(Stopped):
                made.wait_until_ready({"never": lambda: "no"}, 60)
            signal.setitimer(signal.ITIMER_REAL, 0.3)
            signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
            made.stop([["program"]])
            assert deaf.exit_code == -signal.SIGKILL
        finally:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            for number, handler in zip((signal.SIGINT, signal.SIGTERM), before, strict=True):
                signal.signal(number, handler)


class TestOnlyOne:
    def test_refuses_a_second_process_and_names_the_first(self, tmp_path):
        with only_one(tmp_path), pytest.raises(Conflict, match=str(os.getpid())), only_one(tmp_path):
            pass

    def test_lets_the_next_one_in_afterwards(self, tmp_path):
        for _ in range(2):
            with only_one(Path(tmp_path) / "run"):
                pass
