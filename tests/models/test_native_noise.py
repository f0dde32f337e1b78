"""Standard error of native code goes to the log, also where threads start at once."""

import logging
import os
import threading

import pytest

from extractkit.models.isolation import noise_to_log


def test_it_goes_to_the_log_and_no_further(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with noise_to_log("native"):
        os.write(2, b"one\ntwo\n")
    os.write(2, b"three\n")
    assert caplog.messages == ["native: one", "native: two"]
    assert capfd.readouterr().err == "three\n"


def test_threads_put_back_what_was_there() -> None:
    before = os.fstat(2)

    def noisy() -> None:
        for _ in range(50):
            with noise_to_log("native"):
                os.write(2, b"noise\n")

    threads = [threading.Thread(target=noisy) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    after = os.fstat(2)
    assert (after.st_dev, after.st_ino) == (before.st_dev, before.st_ino)
