"""An upstream in trouble: it resets, stalls, answers nonsense and goes away, and counts what reaches it."""

import asyncio
import random
from collections import deque

PERIOD = 10.0
# Arrivals are seen a little later than they are sent, and not all by the same time: windows are judged this much shorter.
SHORTER = 0.25

KINDS = {
    "plain": 700,
    "chunked": 120,
    "slow": 60,
    "unavailable": 20,
    "limit": 1,
    "reset_before": 30,
    "reset_within": 30,
    "nonsense": 20,
    "short": 10,
    "stall": 5,
}


class Upstream:
    """What arrived, and what became of it."""

    def __init__(self, limit, seed):
        self.limit = limit
        self.dice = random.Random(seed)
        self.recent = deque()
        self.arrived = 0
        self.under_way = 0
        self.breaches = 0
        self.most = 0
        self.kinds = dict.fromkeys(KINDS, 0)
        self.calm = False
        self.connections = set()
        self.server = None
        self.port = 0

    async def open(self):
        """Listens, on the port from before if there was one."""
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", self.port, backlog=1024)
        self.port = self.server.sockets[0].getsockname()[1]

    async def flap(self):
        """Is away for a second of every fifteen, with all its connections."""
        while True:
            await asyncio.sleep(14)
            self.server.close()
            for writer in list(self.connections):
                writer.transport.abort()
            await asyncio.sleep(1)
            await self.open()

    def count(self):
        """Notes an arrival, and whether more have come in the period than may."""
        now = asyncio.get_running_loop().time()
        self.arrived += 1
        self.recent.append(now)
        while self.recent[0] <= now - (PERIOD - SHORTER):
            self.recent.popleft()
        self.most = max(self.most, len(self.recent))
        if len(self.recent) > self.limit:
            self.breaches += 1

    async def serve(self, reader, writer):
        self.connections.add(writer)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.count()
                self.under_way += 1
                try:
                    length = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
                    if length:
                        await reader.readexactly(int(length[0].split(b":")[1]))
                    if not await self.answer(writer):
                        return
                finally:
                    self.under_way -= 1
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.LimitOverrunError):
            pass
        finally:
            self.connections.discard(writer)
            writer.transport.abort()

    async def answer(self, writer):
        """Answers in one of many ways; says whether the connection lives on."""
        kind = "plain" if self.calm else self.dice.choices(list(KINDS), KINDS.values())[0]
        self.kinds[kind] += 1
        if kind == "plain":
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello")
        elif kind == "chunked":
            writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
            for _ in range(5):
                writer.write(b"5\r\nhello\r\n")
                await writer.drain()
                await asyncio.sleep(0.01)
            writer.write(b"0\r\n\r\n")
        elif kind == "slow":
            await asyncio.sleep(self.dice.uniform(0.1, 0.8))
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nslow")
        elif kind == "unavailable":
            writer.write(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n")
        elif kind == "limit":
            writer.write(b"HTTP/1.1 429 Too Many Requests\r\nretry-after: 1\r\ncontent-length: 0\r\n\r\n")
        elif kind == "reset_before":
            return False
        elif kind == "reset_within":
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\nbegun")
            await writer.drain()
            return False
        elif kind == "nonsense":
            writer.write(bytes(self.dice.randrange(256) for _ in range(200)) + b"\r\n\r\n")
            await writer.drain()
            return False
        elif kind == "short":
            writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nno chunk\r\n")
            await writer.drain()
            return False
        elif kind == "stall":
            await asyncio.sleep(20)
            return False
        await writer.drain()
        return True
