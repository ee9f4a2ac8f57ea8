"""What all parts of a run share: where programs are, who failed, the upstream, and the loads."""

import contextlib
import json
import os
import re
import resource
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from install import note
from peers import NGINX, OURS, UPSTREAM, fill
from process import Failed, Ports, Process

HERE = Path(__file__).parent
CORES = sorted(os.sched_getaffinity(0))
PROXY_CORE, LOAD_CORE = {CORES[0]}, {CORES[-1]}
CONNECTIONS = 32
# For the 100,000 waiting requests of `cost.growth`, where the system allows it.
ENOUGH_FILES = 120_000

# What a configuration says where a part of the run does not say otherwise: a limit that is never reached.
VALUES = {
    "RATE": 1_000_000,
    "RATE_PER_MINUTE": 60_000_000,
    "BURST": 100_000,
    "TOKENS": 1_000_000_000,
    "QUEUE": "",
    "WORKERS": 1,
    "MORE_ROUTES": "",
}


@dataclass
class Running:
    """A peer that serves."""

    process: Process
    port: int
    headers: str
    warm: bool = False
    """It has carried a load before."""

    @property
    def target(self):
        return f"127.0.0.1:{self.port}"


class Bench:
    """One run."""

    def __init__(self, programs, peers, rounds, seconds, turns):
        self.programs, self.peers, self.rounds, self.seconds, self.turns = programs, peers, rounds, seconds, turns
        self.failures, self.running = {}, []
        self.ports = Ports()
        allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        self.files = ENOUGH_FILES if allowed == resource.RLIM_INFINITY else min(allowed, ENOUGH_FILES)
        resource.setrlimit(resource.RLIMIT_NOFILE, (self.files, allowed))
        self.folder = tempfile.TemporaryDirectory(prefix="cooldown-bench-")
        self.work = self.folder.name
        self.upstream = None
        # Whatever is done here is done beside the load.
        os.sched_setaffinity(0, LOAD_CORE)

    def close(self):
        while self.running:
            self.running.pop().stop()
        self.folder.cleanup()

    @contextlib.contextmanager
    def attempt(self, name):
        """A peer that fails is told about at the end and measured no further. Without us or nginx there is no table."""
        try:
            yield
        except Failed as failure:
            if name in (OURS, NGINX):
                raise
            note(f"failed: {failure}")
            self.failures[name] = str(failure)

    def standing(self, *names):
        """Those of these peers that are here and have not failed; all proxies if none is named."""
        return [self.peers[name] for name in names or self.peers if name in self.peers and name not in self.failures]

    def start_upstream(self):
        running = self.start(UPSTREAM, LOAD_CORE)
        self.upstream = running.port

    def start(self, peer, cores=None, path="/", nodelay=True, **values):
        """Starts a peer on the proxy's core and waits for its first answer; a port that was taken meanwhile is not the end."""
        for last_try in (False, False, True):
            port = self.ports.free()
            filled = {**VALUES, "FILES": self.files, "CLIENTS": self.files // 2 - 200, "UPSTREAM": self.upstream, **values}
            filled |= {"PORT": port, "WORK": self.work}
            if peer.program == "nginx" and nodelay:
                filled["BURST"] = f"{filled['BURST']} nodelay"
            process = Process(peer.program, peer.command(self.programs, filled), cores or PROXY_CORE, self.work, peer.environment)
            self.running.append(process)
            headers = fill(peer.headers, filled)
            try:
                process.wait_for(port, peer.starts_within, question(peer, path, headers))
            except Failed as failure:
                self.stop(process)
                if last_try or not re.search("address.*in use", str(failure), re.IGNORECASE):
                    raise
            else:
                return Running(process, port, headers)
        raise AssertionError("the last try returns or raises")

    def stop(self, process):
        process.stop()
        self.running.remove(process)

    @contextlib.contextmanager
    def serving(self, peer, **values):
        """A peer that serves for as long as this lasts."""
        running = self.start(peer, **values)
        try:
            yield running
        finally:
            self.stop(running.process)

    # --- loads

    def wrk(self, running, seconds, body_bytes=None):
        """As many requests as it can over 32 connections. CPU a request, requests a second, latencies; seconds."""
        url = f"http://{running.target}/"
        command = ["wrk", "-t", "1", "-c", str(CONNECTIONS), "--latency", "--timeout", "20s", "-d"]
        script = ["-s", HERE / "chat.lua"] if body_bytes else []
        env = {**os.environ, "BODY_BYTES": str(body_bytes), "HEADERS": running.headers}
        if not running.warm:
            self.load([*command, "1s", *script, url], env)
            running.warm = True
        before = running.process.cpu()
        said = self.load([*command, f"{seconds}s", *script, url], env)
        cpu = running.process.cpu() - before
        requests = int(re.search(r"(\d+) requests in", said).group(1))
        # The upstream answers before it has read a large body, and some peers then close the client's connection.
        broken = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", said)
        broken = sum(map(int, broken.groups())) if broken else 0
        if "Non-2xx" in said or not requests or broken > max(CONNECTIONS * 2, requests / 100):
            raise running.process.failed(f"answered wrk with errors: {said}")
        return {
            "cpu": cpu / requests,
            "rate": requests / seconds,
            "full_p50": wrk_time(said, "50%"),
            "full_p99": wrk_time(said, "99%"),
        }

    def load(self, command, env=None):
        done = subprocess.run(
            [str(word) for word in command], env=env, capture_output=True, text=True,
            preexec_fn=lambda: os.sched_setaffinity(0, LOAD_CORE),
        )
        if done.returncode:
            raise Failed(f"{Path(command[0]).name}: {(done.stderr or done.stdout).strip()[-500:]}")
        return done.stdout

    def own_load(self, running, words, before_figures=lambda: None):
        """Our own generator: what it prints, and the CPU seconds and the memory of the peer while it counted."""
        command = [self.programs["bench-load"], words[0], "--target", running.target, *words[1:]]
        child = subprocess.Popen(
            [str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            preexec_fn=lambda: os.sched_setaffinity(0, LOAD_CORE),
        )
        try:
            begun = child.stdout.readline().strip()
            before = running.process.cpu()
            before_figures()
            said = child.stdout.readline()
            cpu = running.process.cpu() - before
            child.wait(30)
            if begun != "begun" or child.returncode:
                raise running.process.failed(f"the load failed: {child.stderr.read().strip()[-500:]}")
        finally:
            child.kill()
            child.communicate()
        return json.loads(said) | {"cpu_seconds": cpu}

    def steady(self, running, rate, seconds, connections=CONNECTIONS, host="a.example"):
        """A constant rate: latencies from the instant at which each request was due, and CPU a request; seconds."""
        words = ["steady", "--rate", f"{rate:.3f}", "--connections", connections, "--seconds", seconds, "--host", host]
        said = self.own_load(running, words)
        if said["failed"] or not said["answered"]:
            raise running.process.failed(f"{said['failed']} of the requests at {rate:.0f}/s failed")
        return {
            "p50": said["p50_us"] / 1e6,
            "p99": said["p99_us"] / 1e6,
            "cpu": said["cpu_seconds"] / said["answered"],
        }


def question(peer, path, headers):
    """The first request to a peer: those that know models are asked for one."""
    body = b""
    line = f"GET {path} HTTP/1.1"
    if peer.knows_models:
        line = "POST /v1/chat/completions HTTP/1.1\r\nContent-Type: application/json"
        body = b'{"model":"m-1","messages":[{"role":"user","content":"Hello."}]}'
    fields = headers or "Authorization: Bearer sk-bench\n"
    fields += f"Host: a.example\nContent-Length: {len(body)}\nConnection: close\n\n"
    return f"{line}\n{fields}".replace("\r", "").replace("\n", "\r\n").encode() + body


def wrk_time(said, share):
    """A line of wrk's latency distribution, in seconds."""
    number, unit = re.search(rf"^\s*{share}\s+([\d.]+)(us|ms|s|m)$", said, re.MULTILINE).groups()
    return float(number) * {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}[unit]
