"""The system call filter: a seccomp program in classic BPF, assembled here because it is thirty instructions.

Namespaces decide what can be reached, this decides what can be asked of the kernel. It refuses (EPERM) new
processes, so that a memory limit per process is a limit for all and a fork bomb cannot start, also when the harness
runs as root, whom RLIMIT_NPROC does not bind; and calls that a program under test has no use for and that widen
the kernel's attack surface or hold memory outside the address space limit. Sockets are among them, since some
families (a virtual machine's to its host) are of no network namespace. Threads and pairs of sockets are allowed.
"""

from __future__ import annotations

import errno
import os
import struct

from harness.errors import SandboxError

_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_NUMBERS = {
    "x86_64": {
        "fork": 57, "vfork": 58, "clone": 56, "clone3": 435, "unshare": 272, "setns": 308, "mount": 165,
        "umount2": 166, "pivot_root": 155, "ptrace": 101, "bpf": 321, "perf_event_open": 298, "userfaultfd": 323,
        "io_uring_setup": 425, "socket": 41, "keyctl": 250, "add_key": 248, "request_key": 249, "memfd_create": 319,
        "shmget": 29, "msgget": 68, "semget": 64, "mq_open": 240, "process_vm_readv": 310,
        "process_vm_writev": 311, "open_by_handle_at": 304, "personality": 135, "fsopen": 430, "open_tree": 428,
    },
    "aarch64": {
        "clone": 220, "clone3": 435, "unshare": 97, "setns": 268, "mount": 40, "umount2": 39, "pivot_root": 41,
        "ptrace": 117, "bpf": 280, "perf_event_open": 241, "userfaultfd": 282, "io_uring_setup": 425,
        "socket": 198, "keyctl": 219, "add_key": 217, "request_key": 218, "memfd_create": 279, "shmget": 194,
        "msgget": 186, "semget": 190, "mq_open": 180, "process_vm_readv": 270, "process_vm_writev": 271,
        "open_by_handle_at": 265, "personality": 92, "fsopen": 430, "open_tree": 428,
    },
}  # fmt: skip

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_OFFSET_NUMBER, _OFFSET_ARCHITECTURE, _OFFSET_FIRST_ARGUMENT = 0, 4, 16
_CLONE_THREAD = 0x00010000
_X32_BIT = 0x40000000


def program(machine: str | None = None) -> bytes:
    """The compiled filter for this machine, in the form that `bwrap --seccomp` reads.

    Raises:
        SandboxError: the processor is neither x86_64 nor aarch64.
    """
    machine = machine or os.uname().machine
    if machine not in _NUMBERS:
        raise SandboxError(f"the sandbox has no system call filter for {machine}; it knows x86_64 and aarch64")
    numbers = dict(_NUMBERS[machine])
    clone, clone3 = numbers.pop("clone"), numbers.pop("clone3")
    steps = [
        _step(_LOAD, _OFFSET_ARCHITECTURE),
        _step(_EQUAL, _ARCHITECTURES[machine], yes=1),
        _step(_RETURN, _KILL),
        _step(_LOAD, _OFFSET_NUMBER),
        *_refuse(_AT_LEAST, _X32_BIT),
        # "No such call" makes the C library fall back to clone, whose flags a filter can read.
        *_refuse(_EQUAL, clone3, errno.ENOSYS),
    ]
    for number in numbers.values():
        steps += _refuse(_EQUAL, number)
    steps += [
        _step(_EQUAL, clone, no=3),
        _step(_LOAD, _OFFSET_FIRST_ARGUMENT),
        _step(_ANY_BIT, _CLONE_THREAD, yes=1),
        _step(_RETURN, _ERRNO | errno.EPERM),
        _step(_RETURN, _ALLOW),
    ]
    return b"".join(steps)


def _step(code: int, value: int, *, yes: int = 0, no: int = 0) -> bytes:
    return struct.pack("=HBBI", code, yes, no, value)


def _refuse(test: int, value: int, error: int = errno.EPERM) -> list[bytes]:
    return [_step(test, value, no=1), _step(_RETURN, _ERRNO | error)]
