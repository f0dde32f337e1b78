"""A `python` that need not import its packages: every call is a fork of one process that has.

Most of the time of a short program is spent on imports. Whether a program imports what it needs is
for the tests that start processes of their own.
"""

import fcntl
import gc
import json
import os
import runpy
import select
import shlex
import signal
import socket
import subprocess
import sys
import types
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path

_CALL = """\
#!{python} -IS
import json, os, resource, signal, socket, sys
def inherited():
    for number in range(3, 256):
        try:
            if os.get_inheritable(number):
                yield number
        except OSError:
            pass
passed = [*inherited()]
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    socket.send_fds(server, [b"."], [0, 1, 2, *passed])
    call = [os.getcwd(), dict(os.environ), [*{start!r}, *sys.argv[1:]], passed]
    server.sendall(json.dumps(call).encode())
    server.shutdown(socket.SHUT_WR)
    code = int(server.recv(100) or b"1")
if code < 0:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if -code != signal.SIGKILL:
        signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
sys.exit(code)
"""
_ONLY = """\
#!{python} -IS
import os, sys
if tuple(sys.argv[1:3]) in {calls!r}:
    os.execv({served!r}, [{served!r}, *sys.argv[1:]])
os.execv({python!r}, [{python!r}, *sys.argv[1:]])
"""
_PYTHON = Path(sys.executable)  # whatever tests put there later
_PROGRAMS = {"python": (), "extractkit": ("-m", "extractkit")}


@contextmanager
def programs(folder: Path, modules: Sequence[str], python: Path = _PYTHON) -> Iterator[Path]:
    """Fill a folder, for PATH, with `python` and `extractkit`, which work within the block.

    Args:
        folder: An empty folder.
        modules: What each program finds imported, where it is installed.
        python: What the programs find as `sys.executable` and start processes of their own with.
    """
    address = str(folder / "calls")
    for name, start in _PROGRAMS.items():
        _write(folder / name, _CALL.format(python=_PYTHON, address=address, start=start))
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(address)
        listening.listen()
        number = str(listening.fileno())
        server = subprocess.Popen(
            [_PYTHON, "-m", __name__, number, str(python), *modules],
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


def only_for(name: str, calls: Sequence[tuple[str, str]], folder: Path) -> Path:
    """Write a `python` that answers some calls as the folder's does, and the rest by itself.

    Args:
        name: of the program, which is written into the folder.
        calls: the first two arguments of each, as `("-m", MODULE)`.
    """
    served = str(folder / "python")
    _write(folder / name, _ONLY.format(python=str(_PYTHON), calls=tuple(calls), served=served))
    return folder / name


def _write(path: Path, script: str) -> None:
    path.write_text(script)
    path.chmod(0o755)


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
    """Run what is called in a fork, and send its exit code when that has ended.

    The fork is killed with the process that called.
    """
    _, given, _, _ = socket.recv_fds(call, 1, 250)
    text = b"".join(iter(lambda: call.recv(65536), b""))
    child = os.fork()
    if child:
        for descriptor in given:
            os.close(descriptor)
        either = select.poll()
        either.register(call, 0)  # only that it is closed
        either.register(os.pidfd_open(child), select.POLLIN)
        if any(descriptor == call.fileno() for descriptor, _ in either.poll()):
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        with suppress(OSError):
            call.sendall(str(os.waitstatus_to_exitcode(status)).encode())
        os._exit(0)
    call.close()
    folder, variables, arguments, passed = json.loads(text)
    away = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, 512) for descriptor in given]
    for descriptor in given:
        os.close(descriptor)
    for number, descriptor in zip((0, 1, 2, *passed), away, strict=True):
        os.dup2(descriptor, number)
        os.close(descriptor)
    # What these know of their files, whether one can seek, say, is of the files before.
    written = variables.get("PYTHONIOENCODING")
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding=written, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", 1, written, "backslashreplace", closefd=False)  # noqa: SIM115
    sys.dont_write_bytecode = "PYTHONDONTWRITEBYTECODE" in variables
    os.chdir(folder)
    os.environ.clear()
    os.environ |= variables
    _run(arguments)


def _run(arguments: list[str]) -> None:
    """Do what `python` does with these arguments."""
    if arguments[0] == "-P":
        del sys.path[0]
        _code(arguments[1:])
    elif arguments[0] == "-c":
        sys.path[0] = ""
        _code(arguments)
    elif arguments[0] == "-m":
        sys.argv, sys.path[0] = arguments[1:], str(Path.cwd())
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    elif arguments[0].startswith("-"):
        raise ValueError(f"{shlex.join(arguments)}: no such option is known here")
    else:
        sys.argv, sys.path[0] = arguments, str(Path(arguments[0]).parent)
        runpy.run_path(arguments[0], run_name="__main__")


def _code(arguments: list[str]) -> None:
    _, code, *given = arguments
    sys.argv = ["-c", *given]
    sys.modules["__main__"] = main = types.ModuleType("__main__")
    exec(compile(code, "<string>", "exec"), main.__dict__)


if __name__ == "__main__":
    calls = socket.socket(fileno=int(sys.argv[1]))
    select.select([calls], [], [])  # where nobody calls, nothing is imported
    for module in sys.argv[3:]:
        with suppress(ImportError):
            import_module(module)
    sys.executable = sys.argv[2]
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those who answer
    gc.freeze()
    serve(calls)
