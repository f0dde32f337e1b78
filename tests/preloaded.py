"""A `python` that need not import TensorFlow: every call is a fork of one process that has.

The commands of a page are short programs, and half of the time of each is that import. Whether a
program imports what it needs is for the tests that start processes of their own.
"""

import gc
import json
import os
import runpy
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_CALL = """\
#!{python} -IS
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    socket.send_fds(server, [b"."], [0, 1, 2])
    call = [os.getcwd(), dict(os.environ), [*{start!r}, *sys.argv[1:]]]
    server.sendall(json.dumps(call).encode())
    server.shutdown(socket.SHUT_WR)
    sys.exit(int(server.recv(100) or b"1"))
"""
_PROGRAMS = {"python": (), "extractkit": ("-m", "extractkit")}


@contextmanager
def programs(folder: Path) -> Iterator[Path]:
    """Fill a folder, for PATH, with `python` and `extractkit`, which work within the block."""
    address = str(folder / "calls")
    for name, start in _PROGRAMS.items():
        script = folder / name
        script.write_text(_CALL.format(python=sys.executable, address=address, start=start))
        script.chmod(0o755)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(address)
        listening.listen()
        number = str(listening.fileno())
        server = subprocess.Popen(
            [sys.executable, "-m", __name__, number],
            cwd=Path(__file__).parents[1],
            pass_fds=[listening.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
    # Only the server has it now: should it fail, whoever calls fails too, instead of waiting.
    try:
        yield folder
    finally:
        server.kill()
        server.wait()


def serve(listening: socket.socket) -> None:
    """Answer calls in forks of this process without end; return in each fork once its call ends."""
    while True:
        call, _ = listening.accept()
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            listening.close()
            return _answer(call)
        call.close()


def _answer(call: socket.socket) -> None:
    """Run what is called in a fork, and send its exit code when that has ended."""
    _, standard, _, _ = socket.recv_fds(call, 1, 3)
    text = b"".join(iter(lambda: call.recv(65536), b""))
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        call.sendall(str(os.waitstatus_to_exitcode(status) % 256).encode())
        os._exit(0)
    call.close()
    for number, descriptor in enumerate(standard):
        os.dup2(descriptor, number)
        os.close(descriptor)
    # What these know of their files, whether one can seek, say, is of the files before.
    sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    folder, variables, arguments = json.loads(text)
    os.chdir(folder)
    os.environ.clear()
    os.environ |= variables
    _run(arguments)


def _run(arguments: list[str]) -> None:
    """Do what `python` does with these arguments."""
    if arguments[0] == "-c":
        sys.argv, sys.path[0] = ["-c", *arguments[2:]], ""
        exec(compile(arguments[1], "<string>", "exec"), {"__name__": "__main__"})
    elif arguments[0] == "-m":
        sys.argv, sys.path[0] = arguments[1:], str(Path.cwd())
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    elif arguments[0].startswith("-"):
        raise ValueError(f"{shlex.join(arguments)}: no such option is known here")
    else:
        sys.argv, sys.path[0] = arguments, str(Path(arguments[0]).parent)
        runpy.run_path(arguments[0], run_name="__main__")


if __name__ == "__main__":
    import h5py  # noqa: F401
    import hydra.main  # noqa: F401
    import keras_hub  # noqa: F401

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those who answer
    gc.freeze()
    serve(socket.socket(fileno=int(sys.argv[1])))
