"""Commands of the package in processes of their own, which are stopped, starved and run two at a time."""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import random
import re
import resource
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import yaml

HANGS = 30.0  # seconds after a signal, beyond which a process does not end by itself
LONGEST = 300.0  # seconds of a command that nobody stops, on a busy machine
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)

# A process that has imported the libraries, and nothing else, is copied for each command: they start at once.
_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(
    ["torch", "lightning", "jsonargparse", "fusion.training", "fusion.embed", "fusion.omnisat"]
)


@dataclass
class Ended:
    """A command that has ended: its exit status (negative: the signal that ended it), and what it said."""

    status: int
    said: str


class Command:
    """``fusion ARGUMENTS`` at work.

    Args:
        largest: bytes of a file, beyond which writing fails as on a full disk.
    """

    def __init__(self, arguments: list[str], log: Path, *, largest: int | None = None) -> None:
        self.log = log
        self.process = _SERVER.Process(target=_run, args=(arguments, str(log), largest, dict(os.environ)))
        self.process.start()

    def stop(self, number: int) -> Ended:
        """Sends a signal, unless it has ended already."""
        if self.process.is_alive() and self.process.pid is not None:
            os.kill(self.process.pid, number)
        return self.end(HANGS)

    def end(self, seconds: float = LONGEST) -> Ended:
        self.process.join(seconds)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
            raise AssertionError(f"hangs for more than {seconds:.0f} s: {self.log.read_text()}")
        return Ended(self.process.exitcode, self.log.read_text(errors="replace"))


def run(arguments: list[str], log: Path, *, largest: int | None = None) -> Ended:
    return Command(arguments, log, largest=largest).end()


def require_in_words(ended: Ended) -> None:
    """No traceback, and no number of the operating system in place of a sentence.

    An interruption that comes within a callback of the interpreter is printed and ignored by it: the command goes on.
    """
    said = re.sub(r"Exception ignored in.*?\nKeyboardInterrupt: *\n", "", ended.said, flags=re.DOTALL)
    for bare in ("Traceback (most recent call last)", "[Errno", "Bus error", "core dumped"):
        assert bare not in said, ended.said


def interrupted(arguments: list[str], log: Path, draw: random.Random, seconds: float, times: int) -> list[int]:
    """Starts a command ``times`` times and stops it at a random moment; then lets it come to its end.

    Returns:
        The signals that found it at work.
    """
    met = []
    for _ in range(times):
        command, number = Command(arguments, log), draw.choice(SIGNALS)
        time.sleep(draw.uniform(0.2, 1.0) * seconds)  # before that libraries are imported
        at_work = command.process.is_alive()
        ended = command.stop(number)
        require_in_words(ended)
        if at_work:
            # Before a command has begun to work it ends as any process does.
            usual = {signal.SIGKILL: (-9,), signal.SIGTERM: (-15, 130), signal.SIGINT: (130,)}[number]
            assert ended.status in (*usual, 0), (number, ended)
            met += [number] if ended.status else []
        else:
            assert ended.status == 0, ended
        if ended.status == 0:  # what says that it is finished is
            break
    ended = run(arguments, log)
    require_in_words(ended)
    assert ended.status == 0, ended
    return met


def files(folder: Path, *patterns: str) -> dict[str, bytes]:
    found = (file for pattern in patterns for file in folder.rglob(pattern) if file.is_file())
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in sorted(found)}


def options(settings: dict[str, object]) -> list[str]:
    """``{"reader": {"size": 64}}`` as the command line takes it."""
    return [
        word
        for name, value in settings.items()
        for word in (
            f"--{name}",
            yaml.safe_dump(value, default_flow_style=True, width=10_000).split("\n...")[0].strip(),
        )
    ]


def _run(arguments: list[str], log: str, largest: int | None, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    faulthandler.enable()  # where a crash was, in the log
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if largest is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
    from fusion.cli import main

    status = main(arguments)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
