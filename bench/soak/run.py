#!/usr/bin/env python3
"""Runs the proxy for minutes between a crowd of rude clients and an upstream in trouble, and tells what is left at the end.

    bench/soak/run.py [--seconds 600] [--binary target/release/cooldown-proxy] [--seed 1]

Exits with 1 when the limit was broken, something was left behind, or the proxy ended by itself.
"""

import argparse
import asyncio
import os
import random
import re
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from upstream import PERIOD, Upstream

LIMIT = 1000
CONCURRENCY = 40
CLIENTS = 96
QUIET = 25

CONFIG = """
server: {{host: 127.0.0.1, port: 0, header_timeout: 3s, idle_timeout: 3s, drain_timeout: 5s}}
admin: {{host: 127.0.0.1, port: 0}}
log: {{level: error, access: false}}
queue: {{max_wait: 8s, max_depth: 500}}
routes:
  "*":
    upstream: "http://127.0.0.1:{port}"
    timeout: 2s
    limits: {{requests: {limit}/10s, concurrency: {concurrency}}}
"""


class Proxy:
    """The process."""

    def __init__(self, process, address, admin):
        self.process, self.address, self.admin = process, address, admin

    @classmethod
    async def start(cls, binary, folder, port):
        path = Path(folder) / "config.yaml"
        path.write_text(CONFIG.format(port=port, limit=LIMIT, concurrency=CONCURRENCY).replace("level: error", "level: info"))
        process = await asyncio.create_subprocess_exec(
            binary, "--config", path, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        said = b""
        while b"admin on" not in said:
            line = await asyncio.wait_for(process.stdout.readline(), 20)
            if not line:
                sys.exit(f"the proxy did not start: {said.decode()}")
            said += line
        ports = [int(found) for found in re.findall(rb"http://[^ :]*:(\d+)", said)]
        proxy = cls(process, ports[0], ports[1])
        proxy.lines = Counter()
        proxy.reading = asyncio.create_task(proxy.read())
        return proxy

    async def read(self):
        """What it logs, by kind."""
        while line := await self.process.stdout.readline():
            for kind in (b"panic", b" ERROR ", b" WARN "):
                if kind in line:
                    self.lines[kind.decode().strip()] += 1
                    if kind != b" WARN " or self.lines["WARN"] == 1:
                        print("the proxy says:", line.decode(errors="replace").rstrip(), flush=True)

    def stands(self):
        """Resident memory in MiB, open descriptors, threads."""
        base = Path(f"/proc/{self.process.pid}")
        status = (base / "status").read_text()
        of = lambda name: int(re.search(rf"{name}:\s+(\d+)", status).group(1))
        return of("VmRSS") / 1024, len(os.listdir(base / "fd")), of("Threads")

    async def figures(self):
        reader, writer = await asyncio.open_connection("127.0.0.1", self.admin)
        writer.write(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        text = (await reader.read()).decode()
        writer.close()
        return text


def figure(text, name):
    """The sum over all labels."""
    return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if re.match(rf"{name}[ {{]", line))


async def client(number, port, outcomes, until):
    """Asks again and again, and is rude now and then."""
    dice = random.Random(number)
    while time.monotonic() < until:
        manner = dice.choices(["whole", "leaves", "slow_head", "half_body", "nonsense"], [80, 10, 3, 3, 4])[0]
        try:
            outcomes[await asyncio.wait_for(ask(port, dice, manner), 30)] += 1
        except asyncio.TimeoutError:
            outcomes["hangs"] += 1
        except (OSError, asyncio.IncompleteReadError, ValueError):
            outcomes["broken off"] += 1
        await asyncio.sleep(dice.uniform(0, 0.2))


async def ask(port, dice, manner):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        head = b"GET /x HTTP/1.1\r\nhost: api.example\r\n\r\n"
        if manner == "slow_head":
            writer.write(head[:20])
            await reader.read()
            return "slow head cut"
        if manner == "half_body":
            writer.write(b"POST /x HTTP/1.1\r\nhost: api.example\r\ncontent-length: 9999\r\n\r\nbegun")
            await asyncio.sleep(dice.uniform(0, 1))
            return "left within its body"
        if manner == "nonsense":
            writer.write(bytes(dice.randrange(256) for _ in range(300)) + b"\r\n\r\n")
            await reader.read()
            return "nonsense refused"
        for _ in range(dice.randrange(1, 4)):
            writer.write(head)
            if manner == "leaves":
                await asyncio.sleep(dice.uniform(0, 0.5))
                return "left"
            outcome = await read_answer(reader)
            if outcome is None:
                return "answered, and closed"
        return outcome
    finally:
        writer.transport.abort()


async def read_answer(reader):
    """Reads an answer to its end: its status."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    status = head.split(" ", 2)[1]
    length = re.search(r"content-length: (\d+)", head)
    if length:
        await reader.readexactly(int(length.group(1)))
    elif "chunked" in head:
        while size := int(await reader.readline(), 16):
            await reader.readexactly(size + 2)
        await reader.readline()
    return status


async def soak(arguments):
    upstream = Upstream(LIMIT, arguments.seed)
    await upstream.open()
    outcomes, samples, failures = Counter(), [], []
    with tempfile.TemporaryDirectory() as folder:
        proxy = await Proxy.start(arguments.binary, folder, upstream.port)
        idle = proxy.stands()
        until = time.monotonic() + arguments.seconds
        flapping = asyncio.create_task(upstream.flap())
        crowd = [asyncio.create_task(client(n, proxy.address, outcomes, until)) for n in range(CLIENTS)]
        began = time.monotonic()
        while time.monotonic() < until and proxy.process.returncode is None:
            await asyncio.sleep(min(10, max(0.1, until - time.monotonic())))
            samples.append(proxy.stands())
            memory, descriptors, _ = samples[-1]
            print(f"{time.monotonic() - began:5.0f} s  {memory:6.1f} MiB  {descriptors:4d} descriptors  "
                  f"{upstream.arrived:7d} arrived, {upstream.breaches} breaches", flush=True)
        await asyncio.wait(crowd, timeout=40)
        flapping.cancel()
        upstream.calm = True
        if upstream.server is None or not upstream.server.is_serving():
            await upstream.open()
        await asyncio.sleep(QUIET)
        if proxy.process.returncode is not None:
            sys.exit(f"the proxy ended by itself: {proxy.process.returncode}")
        end, text = proxy.stands(), await proxy.figures()
        waiting = figure(text, "cooldown_upstream_waiting_requests")
        places = [float(line.rsplit(" ", 1)[1]) for line in text.splitlines()
                  if line.startswith("cooldown_upstream_room{") and f'limit="{CONCURRENCY} ' in line]
        alive = await asyncio.wait_for(read_alive(proxy.address), 20)
        proxy.process.send_signal(signal.SIGTERM)
        code = await asyncio.wait_for(proxy.process.wait(), 20)
    check = lambda holds, what: failures.append(what) if not holds else None
    check(upstream.breaches == 0, f"{upstream.breaches} breaches")
    check(waiting == 0, f"{waiting} requests still wait")
    check(upstream.under_way == 0, f"{upstream.under_way} requests under way")
    check(bool(places) and all(room == CONCURRENCY for room in places), f"places not given back: {places}")
    check(end[1] <= idle[1] + 16, f"descriptors: {idle[1]} at first, {end[1]} at the end")
    half = samples[len(samples) // 2 :]
    grows = half[-1][0] - half[0][0] if len(half) > 1 else 0
    check(grows < 8, f"memory grew by {grows:.1f} MiB in the second half")
    check(outcomes["hangs"] == 0, f"{outcomes['hangs']} requests hung")
    check(proxy.lines["panic"] == 0, "it panicked")
    check(alive == "200", f"a last request was answered {alive}")
    check(code == 0, f"exit code {code}")
    print(f"\nafter {arguments.seconds} s, {upstream.arrived} arrivals at the upstream, and {QUIET} s of quiet:")
    print(f"  breaches              {upstream.breaches} (most in {PERIOD:.0f} s: {upstream.most} of {LIMIT})")
    print(f"  still waiting         {waiting:.0f}, under way {upstream.under_way}, free places {places} of {CONCURRENCY}")
    print(f"  memory                {idle[0]:.1f} MiB idle, {max(s[0] for s in samples):.1f} at most, {end[0]:.1f} at the end")
    print(f"  descriptors           {idle[1]} idle, {max(s[1] for s in samples)} at most, {end[1]} at the end")
    print(f"  upstream's answers    {dict(upstream.kinds)}")
    print(f"  clients' outcomes     {dict(outcomes.most_common())}")
    print(f"  log lines             {dict(proxy.lines)}")
    print("  " + ("FAILED: " + "; ".join(failures) if failures else "nothing was left behind"))
    return 1 if failures else 0


async def read_alive(port):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /last HTTP/1.1\r\nhost: api.example\r\n\r\n")
    status = await read_answer(reader)
    writer.close()
    return status


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--binary", default="target/release/cooldown-proxy")
    parser.add_argument("--seed", type=int, default=1)
    sys.exit(asyncio.run(soak(parser.parse_args())))


if __name__ == "__main__":
    main()
