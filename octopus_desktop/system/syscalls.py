"""What a process gives up for good before it runs somebody's code: other processes, the network, most of the memory.

Limits of the kernel (``setrlimit``) and, on Linux, a filter of system calls (seccomp). Both need no privilege and
cannot be taken back. A refused call fails with EPERM, which Python raises where it was made. Knows nothing of the code.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import resource
import struct
import sys

_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _MODE_FILTER = 38, 22, 2
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_LOAD, _EQUAL, _AT_LEAST, _SET, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06  # BPF: ld word, jeq, jge, jset, ret
_CLONE_THREAD = 0x00010000
_X32 = 0x40000000  # x86-64 calls by 32-bit pointers have numbers of their own

# machine: audit architecture, (clone, clone3), and the numbers of what is refused. linux/audit.h, asm/unistd.h
_MACHINES: dict[str, tuple[int, tuple[int, int], dict[str, int]]] = {
    "x86_64": (
        0xC000003E,
        (56, 435),
        {
            "fork": 57, "vfork": 58, "execve": 59, "execveat": 322, "socket": 41, "socketpair": 53,
            "memfd_create": 319, "memfd_secret": 447, "ptrace": 101, "process_vm_readv": 310, "process_vm_writev": 311,
            "pidfd_open": 434, "pidfd_getfd": 438, "unshare": 272, "setns": 308, "mount": 165, "io_uring_setup": 425,
            "add_key": 248, "request_key": 249, "keyctl": 250, "bpf": 321, "perf_event_open": 298, "userfaultfd": 323,
            "shmget": 29, "msgget": 68, "kill": 62, "tkill": 200, "tgkill": 234, "rt_sigqueueinfo": 129,
            "rt_tgsigqueueinfo": 297, "pidfd_send_signal": 424,
        },
    ),
    "aarch64": (
        0xC00000B7,
        (220, 435),
        {
            "execve": 221, "execveat": 281, "socket": 198, "socketpair": 199, "memfd_create": 279, "memfd_secret": 447,
            "ptrace": 117, "process_vm_readv": 270, "process_vm_writev": 271, "pidfd_open": 434, "pidfd_getfd": 438,
            "unshare": 97, "setns": 268, "mount": 40, "io_uring_setup": 425, "add_key": 217, "request_key": 218,
            "keyctl": 219, "bpf": 280, "perf_event_open": 241, "userfaultfd": 282, "shmget": 194, "msgget": 186,
            "kill": 129, "tkill": 130, "tgkill": 131, "rt_sigqueueinfo": 138, "rt_tgsigqueueinfo": 240,
            "pidfd_send_signal": 424,
        },
    ),
}  # fmt: skip


def limit_itself(memory_bytes: int) -> None:
    """From now on: so many bytes of address space, no byte written to any file, few open files, no core dump."""
    for what, most in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(what)
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        try:
            resource.setrlimit(what, (most, most))
        except (ValueError, OSError):  # macOS knows no limit of the address space
            continue


def stay_alone() -> bool:
    """From now on this process starts no other one, signals none, looks into none and opens no socket; threads it may
    start. Returns whether that is in force: it is on Linux, on x86-64 and 64-bit ARM. Call it before any thread is."""
    known = _MACHINES.get(platform.machine())
    if not sys.platform.startswith("linux") or known is None or sys.byteorder != "little":
        return False
    program = _program(*known)
    code = ctypes.create_string_buffer(program, len(program))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    head = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(code))  # struct sock_fprog
    return bool(libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.create_string_buffer(head, len(head)), 0, 0) == 0)


def _program(architecture: int, clones: tuple[int, int], refused: dict[str, int]) -> bytes:
    """The filter. Words of struct seccomp_data: number at 0, architecture at 4, the first argument at 16."""
    deny, missing = _ERRNO | errno.EPERM, _ERRNO | errno.ENOSYS  # without clone3 the C library takes clone
    numbers = sorted(refused.values())
    clone, clone3 = clones
    # Lines after the numbers: clone?, allow, load flags, thread?, deny, allow, missing
    code = [
        (_LOAD, 0, 0, 4),
        (_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, deny),
        (_LOAD, 0, 0, 0),
        (_AT_LEAST, len(numbers) + 5, 0, _X32),
        *((_EQUAL, len(numbers) - i + 4, 0, number) for i, number in enumerate(numbers)),
        (_EQUAL, 5, 0, clone3),
        (_EQUAL, 1, 0, clone),
        (_RETURN, 0, 0, _ALLOW),
        (_LOAD, 0, 0, 16),
        (_SET, 2, 0, _CLONE_THREAD),
        (_RETURN, 0, 0, deny),
        (_RETURN, 0, 0, missing),
        (_RETURN, 0, 0, _ALLOW),
    ]
    return b"".join(struct.pack("HBBI", *line) for line in code)
