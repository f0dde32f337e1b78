"""A `python` that need not import its packages: every call is a fork of one process that has.

Most of the time of a short program is spent on imports. Whether a program imports what it needs is
for the tests that start processes of their own.
"""

import atexit
import fcntl
import gc
import marshal
import os
import runpy
import select
import shlex
import signal
import socket
import subprocess
import sys
import threading
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import NoReturn

# These scripts run thousands of times, so they import no more than is built into the interpreter.
_CALL = """\
import marshal, os, sys, _socket
def inherited():
    for number in range(3, 256):
        try:
            if os.get_inheritable(number):
                yield number
        except OSError:
            pass
passed = [*inherited()]
server = _socket.socket(_socket.AF_UNIX)
server.connect({address!r})
sent = b"".join(number.to_bytes(4, sys.byteorder) for number in (0, 1, 2, *passed))
server.sendmsg([b"."], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, sent)])
call = [os.getcwd(), dict(os.environ), [*{start!r}, *sys.argv[1:]], passed]
server.sendall(marshal.dumps(call))
server.shutdown(_socket.SHUT_WR)
code = int(server.recv(100) or b"1")
if code < 0:
    import resource, signal
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if -code != signal.SIGKILL:
        signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
sys.exit(code)
"""
_ONLY = """\
import os, sys
if tuple(sys.argv[1:3]) not in {calls!r}:
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
    for name in _PROGRAMS:
        _write(folder / name, _call(folder, name))
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(folder / "calls"))
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


def only_for(
    name: str, calls: Sequence[tuple[str, str]], folder: Path, otherwise: Path = _PYTHON
) -> Path:
    """Write a `python` that answers some calls as the folder's does, and hands on the rest.

    Args:
        name: of the program, which is written into the folder.
        calls: the first two arguments of each, as `("-m", MODULE)`.
        otherwise: The `python` for other calls.
    """
    only = _ONLY.format(python=str(otherwise), calls=tuple(calls))
    _write(folder / name, only + _call(folder, "python"))
    return folder / name


def _call(folder: Path, name: str) -> str:
    return _CALL.format(address=str(folder / "calls"), start=_PROGRAMS[name])


def _write(path: Path, script: str) -> None:
    path.write_text(f"#!{_PYTHON} -IS\n{script}")
    path.chmod(0o755)


def serve(listening: socket.socket) -> NoReturn:
    """Answer calls in forks of this process without end.

    A fork is killed with the process that called it.
    """
    polled = select.poll()
    polled.register(listening, select.POLLIN)
    calls: dict[int, tuple[socket.socket, int]] = {}  # by the descriptors that are polled
    while True:
        for descriptor, _ in polled.poll():
            if descriptor == listening.fileno():
                call, _ = listening.accept()
                try:
                    child = _begin(call, [listening.fileno(), *calls])
                except ConnectionError:  # the process that called has ended
                    call.close()
                    continue
                ended = os.pidfd_open(child)
                calls[call.fileno()] = calls[ended] = call, child
                polled.register(call, 0)  # only that it is closed
                polled.register(ended, select.POLLIN)
            elif descriptor in calls:
                call, child = calls[descriptor]
                os.kill(child, signal.SIGKILL)  # it has ended, or the process that called has
                _, status = os.waitpid(child, 0)
                for one in [one for one, (_, number) in calls.items() if number == child]:
                    polled.unregister(one)
                    del calls[one]
                    if one != call.fileno():
                        os.close(one)
                with call, suppress(OSError):
                    call.sendall(str(os.waitstatus_to_exitcode(status)).encode())


def _begin(call: socket.socket, others: Sequence[int]) -> int:
    """Run what is called in a fork, without the other descriptors here; return its number."""
    _, given, _, _ = socket.recv_fds(call, 1, 250)
    text = b"".join(iter(lambda: call.recv(65536), b""))
    child = os.fork()
    if child == 0:
        for descriptor in (call.fileno(), *others):
            os.close(descriptor)
        _end(partial(_answer, given, text))
    for descriptor in given:
        os.close(descriptor)
    return child


def _end(answer: Callable[[], None]) -> NoReturn:
    """End this fork as Python ends, except that it takes no module apart.

    Each object touched on the way would first have to be copied from the process that was forked.
    """
    code = 1
    try:
        answer()
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        if code and not isinstance(stop.code, int):
            print(stop.code, file=sys.stderr)
    except KeyboardInterrupt:
        code = -signal.SIGINT
        sys.excepthook(*sys.exc_info())
    except BaseException:  # noqa: BLE001 - Python would print it, too
        sys.excepthook(*sys.exc_info())
    finally:
        threading._shutdown()
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        if code < 0:
            signal.signal(-code, signal.SIG_DFL)
            os.kill(os.getpid(), -code)
        os._exit(code & 0xFF)


def _answer(given: list[int], text: bytes) -> None:
    """Do in a fork what is called."""
    folder, variables, arguments, passed = marshal.loads(text)
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
    if arguments[0] == "-u":
        sys.stdout.reconfigure(write_through=True)
        del arguments[0]
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
    if composing := sys.modules.get("extractkit.config.compose"):
        # The first time, Hydra looks for its plugins and the parsers learn their grammars.
        composing.compose(["model=keras", "model.path=net.keras", "selectors=outputs"])
    sys.executable = sys.argv[2]
    gc.freeze()
    serve(calls)
