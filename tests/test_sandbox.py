"""The sandbox against code that wants out, wants everything, or wants to look as if it had passed."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from harness import sandbox
from harness.errors import SandboxError
from harness.sandbox import Job, SandboxResult, bubblewrap, run_many, run_python, runner, syscalls

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def box() -> None:
    """Skips where code cannot be confined, saying why."""
    reason = sandbox.available()
    if reason is not None:
        pytest.skip(reason)


def run(code: str, *, timeout_s: float = 3.0, memory_mb: int = 256, stdin: str = "") -> SandboxResult:
    return run_python(code, timeout_s=timeout_s, memory_mb=memory_mb, stdin=stdin)


def refused(code: str, *errors: str) -> None:
    result = run(code)
    assert result.state == "error"
    assert any(error in result.stderr for error in errors), result.stderr


@pytest.mark.usefixtures("box")
class TestOrdinaryCode:
    def test_runs_with_its_input_and_output(self) -> None:
        result = run("import sys\nprint(sys.stdin.read()[::-1])\nprint('!', file=sys.stderr)", stdin="olleh")
        assert (result.state, result.exit_code) == ("ok", 0)
        assert (result.stdout, result.stderr, result.truncated) == ("hello\n", "!\n", False)

    def test_an_error_shows_its_own_traceback_only(self) -> None:
        result = run("def f():\n    return 1 / 0\nf()")
        assert (result.state, result.exit_code) == ("error", 1)
        assert result.stderr.startswith('Traceback (most recent call last):\n  File "<code>", line 3')
        assert "ZeroDivisionError" in result.stderr

    @pytest.mark.parametrize("leave", ["import sys; sys.exit(0)", "import os; os._exit(0)", "raise SystemExit"])
    def test_leaving_early_is_not_success(self, leave: str) -> None:
        result = run(f"{leave}\nassert False")
        assert (result.state, result.exit_code) == ("error", 0)

    def test_is_a_script_of_its_own(self) -> None:
        result = run(
            "from dataclasses import dataclass\n@dataclass\nclass A:\n    x: int\n"
            "import sys\nassert __name__ == '__main__' and sys.modules['__main__'].A is A\nprint(sys.argv)"
        )
        assert (result.state, result.stdout) == ("ok", "['code.py']\n"), result.stderr

    def test_threads_and_the_standard_library_work(self) -> None:
        code = "import threading, sqlite3, ssl, ctypes, decimal\nt = threading.Thread(target=print, args=('hi',))\n"
        assert run(code + "t.start(); t.join()").stdout == "hi\n"

    def test_a_set_has_the_same_order_every_time(self) -> None:
        outputs = {run("print(list({'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h'}))").stdout for _ in range(4)}
        assert len(outputs) == 1

    def test_many_run_at_once_and_keep_their_order(self) -> None:
        codes = ["print(0)", "1 / 0", "while True: pass", *(f"print({n})" for n in range(3, 12))]
        results = run_many([Job(code, timeout_s=1.0, memory_mb=256) for code in codes], workers=4)
        assert [r.state for r in results[:3]] == ["ok", "error", "timeout"]
        assert [r.stdout for r in results[3:]] == [f"{n}\n" for n in range(3, 12)]


@pytest.mark.usefixtures("box")
class TestConfinement:
    @pytest.mark.parametrize("path", ["/x", "/usr/lib/x", "/python/x", "/dev/x", "/etc/x", "../x"])
    def test_nothing_outside_tmp_can_be_written(self, path: str) -> None:
        refused(f"open({path!r}, 'w')", "Read-only file system", "No such file", "Permission denied")

    def test_the_host_sees_nothing_of_what_was_written(self, tmp_path: Path) -> None:
        name = f"{tmp_path.name}-{os.getpid()}"
        assert run(f"open('/tmp/{name}', 'w').write('x')").ok
        assert not (Path("/") / "tmp" / name).exists()

    @pytest.mark.parametrize("path", ["/etc/passwd", "/etc/shadow", "/proc/1/environ", "/sys", "/root", "/home"])
    def test_host_files_are_not_there(self, path: str) -> None:
        refused(f"import os\nos.stat({path!r})", "No such file")

    def test_the_users_home_and_this_repository_are_not_there(self) -> None:
        for path in (Path.home(), Path(__file__)):
            refused(f"import os\nos.stat({str(path)!r})", "No such file")

    def test_installed_packages_are_not_there(self) -> None:
        refused("import pydantic", "ModuleNotFoundError")

    def test_only_the_interpreter_is_visible(self) -> None:
        result = run("import os\nprint(os.getuid(), os.getcwd(), *os.listdir('/'))")
        user, folder, *names = result.stdout.split()
        assert (user, Path(folder).name) == ("65534", "tmp")
        assert set(names) <= {"dev", "etc", "lib", "lib64", "python", "tmp", "usr"}

    def test_environment_secrets_are_not_visible(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("A_SECRET_TOKEN", "hunter2")
        result = run("import os\nprint(dict(os.environ))")
        assert result.ok
        assert "hunter2" not in result.stdout

    def test_descriptors_of_the_host_are_not_inherited(self) -> None:
        with open(__file__) as secret:
            os.set_inheritable(secret.fileno(), True)
            result = run(
                "import os\nfor fd in range(3, 64):\n    try: print(fd, os.read(fd, 10))\n    except OSError: pass"
            )
        assert result.ok
        assert result.stdout == ""

    def test_the_network_cannot_be_reached(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            for address in (("127.0.0.1", port), ("1.1.1.1", 53)):
                refused(f"import socket\nsocket.create_connection({address!r}, 1)", "Operation not permitted")
        refused("import urllib.request\nurllib.request.urlopen('http://example.com', timeout=1)", "URLError")

    @pytest.mark.parametrize("family", ["AF_UNIX", "AF_INET", "AF_NETLINK", "AF_ALG", "AF_VSOCK"])
    def test_no_family_of_sockets_is_there_for_not_all_are_of_a_network_namespace(self, family: str) -> None:
        refused(f"import socket\nsocket.socket(socket.{family}, socket.SOCK_STREAM)", "Operation not permitted")
        assert run("import asyncio\nasyncio.run(asyncio.sleep(0))\nprint('slept')").stdout == "slept\n"

    @pytest.mark.parametrize(
        "code",
        ["import os\nos.fork()", "import subprocess\nsubprocess.run(['/python/bin/python', '-V'])",
         "import os\nos.posix_spawn('/python/bin/python', ['python', '-V'], {})",
         "import multiprocessing as m\nm.Process(target=print).start()"],
    )  # fmt: skip
    def test_no_second_process_can_start(self, code: str) -> None:
        refused(code, "PermissionError", "Operation not permitted")

    @pytest.mark.parametrize("call", ["unshare(0x10000000)", "ptrace(0, 0, 0, 0)", "memfd_create(b'x', 0)"])
    def test_calls_that_widen_the_surface_are_refused(self, call: str) -> None:
        code = f"import ctypes, os\nc = ctypes.CDLL(None, use_errno=True)\nr = c.{call}\nprint(r, ctypes.get_errno())"
        assert run(code).stdout == "-1 1\n"

    def test_no_privilege_is_left(self) -> None:
        refused("import os\nos.setuid(0)", "Operation not permitted", "Invalid argument")
        refused(
            "import resource as r\nr.setrlimit(r.RLIMIT_AS, (2**40, 2**40))", "not allowed to raise", "Operation not"
        )
        refused("import os\nos.kill(1, 9)\nos.kill(os.getppid(), 9)\nos.kill(-1, 9)", "Error", "")


@pytest.mark.usefixtures("box")
class TestBounds:
    def test_a_loop_is_stopped_at_its_time(self) -> None:
        began = time.monotonic()
        result = run("print('on my way', flush=True)\nwhile True: pass", timeout_s=0.5)
        assert (result.state, result.exit_code, result.stdout) == ("timeout", None, "on my way\n")
        assert time.monotonic() - began < 5

    @pytest.mark.parametrize(
        "code",
        ["import time\ntime.sleep(60)",
         "import os, time\nfor fd in range(64):\n    try: os.close(fd)\n    except OSError: pass\ntime.sleep(60)",
         "import signal, time\nfor s in range(1, 65):\n    try: signal.signal(s, signal.SIG_IGN)\n"
         "    except (OSError, ValueError): pass\ntime.sleep(60)",
         "import threading, time\nthreading.Thread(target=time.sleep, args=(60,)).start()"],
    )  # fmt: skip
    def test_waiting_is_stopped_whatever_it_does_to_its_descriptors_and_signals(self, code: str) -> None:
        result = run(code, timeout_s=0.5)
        assert result.state == "timeout"
        assert result.seconds < 5

    @pytest.mark.parametrize("code", ["x = 'a' * 10**11", "x = []\nwhile True: x.append('a' * 10**6)"])
    def test_memory_is_bounded(self, code: str) -> None:
        assert run(code, timeout_s=20).state == "memory"

    def test_memory_of_threads_is_bounded(self) -> None:
        code = (
            "import threading, time\nthreading.stack_size(32 * 1024)\n"
            "for _ in range(100000): threading.Thread(target=time.sleep, args=(30,)).start()"
        )
        assert run(code).state in ("error", "timeout", "memory")

    def test_a_fork_bomb_never_starts(self) -> None:
        result = run("import os\nwhile True:\n    try: os.fork()\n    except OSError: pass", timeout_s=0.5)
        assert result.state == "timeout"

    def test_a_flood_of_output_is_cut(self) -> None:
        result = run("import sys\nwhile True: print('x' * 10**6); print('y' * 10**6, file=sys.stderr)", timeout_s=1)
        assert result.state == "timeout"
        assert result.truncated
        assert len(result.stdout) == len(result.stderr) == runner.OUTPUT_BYTES

    def test_much_output_does_not_fail_a_program(self) -> None:
        result = run("print('x' * 10**6)")
        assert (result.ok, result.truncated, len(result.stdout)) == (True, True, runner.OUTPUT_BYTES)

    def test_output_that_is_no_text_is_bounded_text(self) -> None:
        result = run("import sys\nsys.stdout.buffer.write(bytes(range(256)) * 1000)")
        assert result.ok
        assert len(result.stdout) <= runner.OUTPUT_BYTES

    def test_files_in_tmp_are_bounded(self) -> None:
        refused("open('/tmp/a', 'wb').write(b'a' * 10**8)", "File too large")
        refused("for i in range(64): open(f'/tmp/{i}', 'wb').write(b'a' * 10**6)", "No space left")

    def test_a_crash_of_the_interpreter_is_an_error(self) -> None:
        result = run("import ctypes\nctypes.string_at(0)")
        assert (result.state, result.exit_code) == ("error", 139)

    def test_nothing_outlives_the_call(self) -> None:
        before = _processes()
        run("import time\ntime.sleep(60)", timeout_s=0.3)
        assert _processes() <= before

    def test_a_pipe_that_another_process_holds_open_is_no_timeout(self, monkeypatch: pytest.MonkeyPatch) -> None:
        held: list[int] = []
        genuine = runner._pipe

        def held_open(ours: ExitStack, theirs: ExitStack) -> tuple[int, int]:
            read, write = genuine(ours, theirs)
            held.append(os.dup(write))
            return read, write

        monkeypatch.setattr(runner, "_pipe", held_open)
        result = run("print(1)", timeout_s=10)
        for fd in held:
            os.close(fd)
        assert result.state == "ok"
        assert result.seconds < 5

    def test_a_killed_harness_takes_the_sandbox_with_it(self) -> None:
        code = "import time\ntime.sleep(61)"
        script = f"from harness.sandbox import run_python\nrun_python({code!r}, timeout_s=60, memory_mb=256)"
        before = _processes()
        parent = subprocess.Popen([sys.executable, "-c", script], cwd=Path(__file__).parents[1])
        deadline = time.monotonic() + 20
        while _processes() <= before and time.monotonic() < deadline:
            time.sleep(0.05)
        parent.kill()
        parent.wait()
        while not _processes() <= before and time.monotonic() < deadline:
            time.sleep(0.05)
        assert _processes() <= before


def _processes() -> set[int]:
    """Running Bubblewrap processes of this machine."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if (folder / "comm").read_text().strip() == "bwrap":
                found.add(int(folder.name))
        except OSError:
            continue
    return found


class TestInfrastructure:
    def test_without_bubblewrap_nothing_runs_and_the_way_out_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", "")
        with pytest.raises(SandboxError, match="apt-get install bubblewrap"):
            run("print(1)")

    def test_available_says_why_not(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", "")
        sandbox.available.cache_clear()
        try:
            assert "apt-get install bubblewrap" in (sandbox.available() or "")
        finally:
            sandbox.available.cache_clear()

    @pytest.mark.parametrize(
        ("says", "hint"),
        [("bwrap: No permissions to create a new namespace, likely because the kernel does not allow it", True),
         ("bwrap: setting up uid map: Permission denied", True), ("bwrap: Unknown option --size", False)],
    )  # fmt: skip
    def test_a_machine_without_namespaces_is_told_how_to_allow_them(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, says: str, hint: bool
    ) -> None:
        fake = tmp_path / "bwrap"
        fake.write_text(f"#!/bin/sh\necho '{says}' >&2\nexit 1\n")
        fake.chmod(0o755)
        monkeypatch.setattr(bubblewrap, "executable", lambda: str(fake))
        with pytest.raises(SandboxError) as caught:
            run("print(1)")
        assert says in str(caught.value)
        assert ("unprivileged_userns_clone" in str(caught.value)) == hint

    def test_a_sandbox_that_never_starts_is_no_timeout_of_the_code(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        fake = tmp_path / "bwrap"
        fake.write_text("#!/bin/sh\nexec sleep 60\n")
        fake.chmod(0o755)
        monkeypatch.setattr(bubblewrap, "executable", lambda: str(fake))
        monkeypatch.setattr(runner, "_START_SECONDS", 0.5)
        with pytest.raises(SandboxError, match="did not start within"):
            run("print(1)", timeout_s=0.1)

    @pytest.mark.usefixtures("box")
    def test_one_job_that_cannot_be_confined_returns_no_result(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(bubblewrap, "executable", lambda: "/nonexistent/bwrap")
        with pytest.raises((SandboxError, FileNotFoundError)):
            run_many([Job("print(1)")])

    @pytest.mark.parametrize("timeout_s", [0.0, -1.0, float("nan"), float("inf")])
    def test_a_time_limit_that_is_none_is_refused(self, timeout_s: float) -> None:
        with pytest.raises(ValueError, match="timeout_s"):
            run("print(1)", timeout_s=timeout_s)

    def test_too_little_memory_to_start_is_refused(self) -> None:
        with pytest.raises(ValueError, match="memory_mb"):
            run("print(1)", memory_mb=8)

    def test_the_filter_knows_two_processors_and_refuses_others(self) -> None:
        assert len(syscalls.program("x86_64")) % 8 == 0
        assert syscalls.program("x86_64") != syscalls.program("aarch64")
        with pytest.raises(SandboxError, match="riscv64"):
            syscalls.program("riscv64")

    @pytest.mark.usefixtures("box")
    def test_an_ordinary_user_is_confined_as_well(self) -> None:
        if os.getuid() != 0 or shutil.which("bwrap") is None:
            pytest.skip("the other tests ran as an ordinary user already")
        words = [
            "bwrap",
            "--unshare-all",
            "--unshare-user",
            "--ro-bind",
            "/usr",
            "/usr",
            "--symlink",
            "usr/lib",
            "/lib",
        ]
        if Path("/lib64").is_symlink():
            words += ["--symlink", "usr/lib64", "/lib64"]
        done = subprocess.run([*words, "/usr/bin/env", "true"], user=65534, group=65534, extra_groups=[], cwd="/")
        assert done.returncode == 0


def test_waiting_for_the_sandbox_leaves_other_threads_running() -> None:
    """Scoring waits in threads; a lock held while waiting would make them a queue."""
    if sandbox.available() is not None:
        pytest.skip(sandbox.available() or "")
    barrier = threading.Barrier(2, timeout=30)

    def work() -> None:
        barrier.wait()
        run("import time\ntime.sleep(1)", timeout_s=5)

    threads = [threading.Thread(target=work) for _ in range(2)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert time.monotonic() - began < 1.9
