"""The command line that confines one interpreter: what it can see, and nothing else."""

from __future__ import annotations

import shutil
import sys
import sysconfig
from functools import cache
from pathlib import Path

from harness.errors import SandboxError

INSTALL = "install Bubblewrap (Debian, Ubuntu: apt-get install bubblewrap; Fedora: dnf install bubblewrap)"
NAMESPACES = (
    "this machine does not let Bubblewrap make user namespaces; allow them (sysctl kernel.unprivileged_userns_clone=1, "
    "user.max_user_namespaces above 0, an AppArmor profile for bwrap on Ubuntu 24.04, or a container started with "
    "--security-opt seccomp=unconfined --security-opt apparmor=unconfined)"
)
_HOME = "/python"
_TMP = "/tmp"  # noqa: S108 - of the sandbox, not of the host
_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache")


def command(seccomp_fd: int, info_fd: int, tmp_bytes: int) -> list[str]:
    """The words before the interpreter's own arguments; `/tmp` holds at most `tmp_bytes`.

    The filter is read from `seccomp_fd`; which process is the first one inside is written to `info_fd`.

    Raises:
        SandboxError: Bubblewrap is not installed.
    """
    return [
        executable(),
        "--unshare-all", "--unshare-user", "--uid", "65534", "--gid", "65534", "--cap-drop", "ALL",
        "--hostname", "sandbox", "--die-with-parent", "--new-session", "--seccomp", str(seccomp_fd),
        "--info-fd", str(info_fd),
        "--clearenv", "--setenv", "PATH", f"{_HOME}/bin", "--setenv", "HOME", _TMP, "--setenv", "LANG", "C.UTF-8",
        "--setenv", "LD_LIBRARY_PATH", f"{_HOME}/lib",
        # Both sides of a pair must see the same order of a set.
        "--setenv", "PYTHONHASHSEED", "0",
        *_mounts(),
        "--dev-bind", "/dev/null", "/dev/null", "--ro-bind", "/dev/urandom", "/dev/urandom",
        "--size", str(tmp_bytes), "--tmpfs", _TMP, "--remount-ro", "/", "--chdir", _TMP,
        f"{_HOME}/bin/python", "-s", "-S", "-B", "-P",
    ]  # fmt: skip


def executable() -> str:
    """Path of `bwrap`.

    Raises:
        SandboxError: it is not on PATH; the message says how to install it.
    """
    found = shutil.which("bwrap")
    if found is None:
        raise SandboxError(f"untrusted code needs a sandbox and there is no bwrap on PATH: {INSTALL}")
    return found


@cache
def _mounts() -> tuple[str, ...]:
    """Read-only views of the shared libraries and, under a neutral path, of the interpreter and its library."""
    words: list[str] = []
    for name in _LIBRARIES:
        path = Path(name)
        if path.is_symlink():
            words += ["--symlink", str(path.readlink()), name]
        elif path.exists():
            words += ["--ro-bind", name, name]
    return (*words, *_interpreter())


def _interpreter() -> list[str]:
    base = Path(sys.base_prefix)
    library = Path(sysconfig.get_path("stdlib"))
    inside = f"{_HOME}/{sys.platlibdir}/{library.name}"
    binary = Path(sys.executable).resolve()
    words = ["--ro-bind", str(binary), f"{_HOME}/bin/python", "--ro-bind", str(library), inside]
    for shared in sorted((base / "lib").glob("lib*.so*")) if base != Path("/usr") else []:
        words += ["--ro-bind", str(shared.resolve()), f"{_HOME}/lib/{shared.name}"]
    if (library / "site-packages").is_dir():  # what is installed beside the interpreter is none of the code's business
        words += ["--size", "4096", "--tmpfs", f"{inside}/site-packages", "--remount-ro", f"{inside}/site-packages"]
    return words
