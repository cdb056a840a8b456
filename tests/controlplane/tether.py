"""Become another program, tied to the life of the one that started it: tether.py PARENT USER PROGRAM ARGUMENT...

PARENT is a process ID. USER is `-` for the same as now, or USER-ID:GROUP-ID of one whom root becomes. It is done here
because that user need not be able to get at this Python, and first, because the kernel unties who changes its user.

Run as a script between fork and exec. The alternative, a preexec_fn, runs Python in a fork of a process with threads.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h; survives exec


def main() -> None:
    """Never returns: exec, or the exit that explains why not."""
    parent, user, program = int(sys.argv[1]), sys.argv[2], sys.argv[3:]
    if user != "-":
        user_id, group_id = map(int, user.split(":"))
        os.setgroups([])
        os.setgid(group_id)
        os.setuid(user_id)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            sys.exit("the starting process died before the kernel was asked to watch it")
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it, and that too would survive exec
    try:
        os.execvp(program[0], program)
    except OSError as error:
        sys.exit(f"{program[0]}: {error.strerror}")


if __name__ == "__main__":
    main()
