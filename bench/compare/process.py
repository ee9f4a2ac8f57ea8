"""Processes that are measured: pinned to cores, accounted with all their children, and gone at the end."""

import contextlib
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


class Failed(Exception):
    """Something that was to be measured does not work. Says what and why."""


class Process:
    """One that runs in the background, with its output in a file."""

    def __init__(self, name, command, cores, work, env=None):
        self.name = name
        self.log = Path(work, f"{name}.log")
        with self.log.open("ab") as log:
            self.child = subprocess.Popen(
                [str(word) for word in command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **(env or {})},
                cwd=work,
                start_new_session=True,
                preexec_fn=lambda: os.sched_setaffinity(0, cores),
            )

    @property
    def pid(self):
        return self.child.pid

    def stop(self):
        """Ends it and its children. Nobody waits for requests that are in line on purpose."""
        for sign, patience in ((signal.SIGTERM, 3), (signal.SIGKILL, 10)):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, sign)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.child.wait(patience)
        self.child.wait()

    def failed(self, what):
        """What is raised when it does not do what it should: with the end of what it printed."""
        said = self.log.read_text(errors="replace").strip().splitlines()[-15:]
        return Failed("\n    ".join([f"{self.name}: {what}", *said]))

    def family(self):
        """It and its children: nginx works in a child of its master."""
        found = [self.pid]
        for pid in found:
            with contextlib.suppress(OSError):
                for thread in Path(f"/proc/{pid}/task").iterdir():
                    found += [int(child) for child in (thread / "children").read_text().split()]
        return found

    def cpu(self):
        """Seconds of CPU that it and its children have taken, in user and kernel mode."""
        ticks = 0
        for pid in self.family():
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                ticks += int(fields[11]) + int(fields[12])
        return ticks / TICKS

    def resident(self):
        """Resident memory in bytes; pages that its processes share count once."""
        total = 0
        for pid in self.family():
            with contextlib.suppress(OSError):
                for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                    if line.startswith("Pss:"):
                        total += int(line.split()[1]) * 1024
        return total

    def descriptors(self):
        """How many files and sockets it has open."""
        total = 0
        for pid in self.family():
            with contextlib.suppress(OSError):
                total += len(os.listdir(f"/proc/{pid}/fd"))
        return total

    def wait_for(self, port, seconds, question):
        """Waits until this question gets a 200."""
        end, said = time.monotonic() + seconds, b""
        while time.monotonic() < end:
            if self.child.poll() is not None:
                raise self.failed(f"ended with {self.child.returncode} instead of serving")
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1) as connection:
                connection.settimeout(5)
                connection.sendall(question)
                said = connection.recv(300)
                if b" 200 " in said.partition(b"\r\n")[0]:
                    return
            time.sleep(0.0005)
        raise self.failed(f"gave no 200 within {seconds} s, but {said!r}")


class Ports:
    """Ports that nobody uses, below those that the system gives to clients. None is given twice."""

    def __init__(self):
        self.next = 20000 + os.getpid() % 1000 * 8

    def free(self):
        while self.next < 32000:
            self.next += 1
            with contextlib.suppress(OSError), socket.socket() as probe:
                probe.bind(("127.0.0.1", self.next))
                return self.next
        self.next = 20000
        return self.free()
