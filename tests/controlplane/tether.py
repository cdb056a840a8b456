"""Become another program, tied to the life of the one that started it: tether.py PARENT-PROCESS-ID PROGRAM ARGUMENT...

Run as a script between fork and exec. The alternative, a preexec_fn, runs Python in a fork of a process with threads.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h; survives exec


def main() -> None:
    """Never returns: exec, or the exit that explains why not."""
    parent, program = int(sys.argv[1]), sys.argv[2:]
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
