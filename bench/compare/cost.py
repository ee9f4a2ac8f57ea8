"""Part one: what a proxy costs. CPU, requests a second, latency, memory, start; and how our own cost grows."""

import statistics
import time

from bench import LOAD_CORE, PROXY_CORE, note
from peers import COOLDOWN, COOLDOWN_MODELS, NGINX, OURS

# How long one peer is measured before the next one has its turn, in seconds.
TURN = 1
WAITING = 8_000
STARTS = 7
SMALL_POST = '{"model":"m","messages":[{"role":"user","content":"Hello"}]}'
# At rest and slow enough that a proxy's core never becomes the limit.
CALM = 3_000


def medians(rounds):
    """The median of each figure over the rounds of a peer."""
    return {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}


def beside_nginx(rounds):
    """Medians of each peer. A machine that others share changes its speed within seconds: what a peer takes is compared with what
    nginx took in the same round, and the median of these ratios tells more than the ratio of two medians."""
    for peer in rounds.values():
        for one, nginx in zip(peer, rounds.get(NGINX, [])):
            one["times"] = one["cpu"] / nginx["cpu"]
            if "half_p99" in one:
                one["half_more"] = one["half_p99"] - nginx["half_p99"]
    return {name: medians(peer) for name, peer in rounds.items()}


def requests(bench):
    """Plain requests, as fast as each peer can and at half of that. All run at once; one at a time is measured, in short turns."""
    serving, rounds, at_rest = {}, {}, {}
    for peer in bench.standing():
        with bench.attempt(peer.name):
            serving[peer.name] = bench.start(peer)
            at_rest[peer.name] = serving[peer.name].process.resident()
    for number in range(bench.turns):
        for name in [name for name in serving if name not in bench.failures]:
            note(f"requests, turn {number + 1} of {bench.turns}: {name}")
            with bench.attempt(name):
                figures = bench.wrk(serving[name], TURN)
                half = bench.steady(serving[name], figures["rate"] / 2, TURN)
                figures |= {"half_p50": half["p50"], "half_p99": half["p99"], "half_cpu": half["cpu"]}
                rounds.setdefault(name, []).append(figures)
    for running in serving.values():
        bench.stop(running.process)
    return {
        name: figures | {"at_rest": at_rest[name]}
        for name, figures in beside_nginx(rounds).items()
        if name not in bench.failures
    }


def bodies(bench, gateways):
    """Chats of 2 kB and 200 kB: forwarded as they are, and routed by the model that they name."""
    ways = {NGINX: bench.peers[NGINX], OURS: COOLDOWN, COOLDOWN_MODELS.name: COOLDOWN_MODELS, **gateways}
    found = {}
    for size in (2_000, 200_000):
        serving, rounds = {}, {}
        for name, peer in ways.items():
            if name not in bench.failures:
                with bench.attempt(name):
                    serving[name] = bench.start(peer)
        for number in range(bench.turns):
            for name, running in serving.items():
                note(f"chats of {size} bytes, turn {number + 1} of {bench.turns}: {name}")
                # Gateways answer a few a second.
                seconds = 5 if name in gateways else TURN
                with bench.attempt(name):
                    rounds.setdefault(name, []).append(bench.wrk(running, seconds, size))
        for running in serving.values():
            bench.stop(running.process)
        for name, figures in beside_nginx(rounds).items():
            if name not in bench.failures:
                found.setdefault(name, {})[str(size)] = figures
    return found


def waiting(bench):
    """Memory of each request that waits, where there is a line to wait in. Each holds a connection and a small body."""
    # Ten a second leave, but for HAProxy, whose only queue is for a server that is busy.
    lines = {NGINX: {"RATE": 10, "BURST": 200_000, "nodelay": False}, "HAProxy": {"QUEUE": "maxconn 1"}, OURS: {"RATE": 10}}
    found = {}
    count = min(WAITING, bench.files // 2 - 500)
    for peer in bench.standing(*lines):
        note(f"memory of {count} waiting requests: {peer.name}")
        with bench.attempt(peer.name), bench.serving(peer, **lines[peer.name]) as running:
            before = running.process.resident(), running.process.descriptors()
            after = []
            words = ["hold", "--connections", count, "--settle", 2, "--seconds", 1, "--path", "/", "--body", SMALL_POST]
            said = bench.own_load(running, words, lambda: after.extend((running.process.resident(), running.process.descriptors())))
            held = after[1] - before[1]
            if held < count * 0.99:
                raise running.process.failed(f"only {held} of {count} connections are there")
            if peer.name != "HAProxy" and said["answered"] > count / 100:
                raise running.process.failed(f"{said['answered']} requests were answered that should have waited")
            found[peer.name] = {"waiting": count, "each": (after[0] - before[0]) / count}
    return found


def starts(bench, gateways):
    """From the start of the program to the first answer through it."""
    found = {}
    for peer in [*bench.standing(), *(peer for name, peer in gateways.items() if name not in bench.failures)]:
        note(f"start to first request: {peer.name}")
        taken = []
        with bench.attempt(peer.name):
            for _ in range(STARTS if peer.name not in gateways else 1):
                began = time.monotonic()
                with bench.serving(peer):
                    taken.append(time.monotonic() - began)
        if taken and peer.name not in bench.failures:
            found[peer.name] = statistics.median(taken)
    return found


def growth(bench):
    """CPU a request at a constant rate, as the things that could make it dearer grow."""
    return {
        "connections": by_connections(bench),
        "waiting": by_waiting(bench),
        "routes": by_routes(bench),
        "workers": by_workers(bench),
    }


def rounds_of(bench, what, measure):
    """The median CPU a request of a few rounds, each of a process of its own."""
    costs = []
    for number in range(bench.rounds):
        note(f"{what}, round {number + 1} of {bench.rounds}")
        costs.append(measure())
    return statistics.median(costs)


def by_connections(bench):
    found = {}
    for count in (10, 1_000, 10_000):
        count = min(count, bench.files // 2 - 500)

        def measure(count=count):
            with bench.serving(COOLDOWN) as running:
                return bench.steady(running, CALM, bench.seconds, connections=count)["cpu"]

        found[count] = rounds_of(bench, f"{count} connections", measure)
    return found


def by_waiting(bench):
    """As many as there is room for with descriptors to spare: each waiting request has a connection of its own."""
    rate, found = 2_000, {}
    for count in (10, 1_000, 100_000):
        count = min(count, bench.files * 5 // 6 if bench.files > 100_000 else bench.files * 3 // 5)

        def measure(count=count):
            with bench.serving(COOLDOWN, RATE=rate) as running:
                words = ["hold", "--connections", count, "--settle", 2, "--seconds", bench.seconds, "--path", "/"]
                said = bench.own_load(running, words)
                if said["failed"] or not said["answered"]:
                    raise running.process.failed(f"{said['failed']} of {count} waiting requests failed")
                return said["cpu_seconds"] / said["answered"]

        found[count] = rounds_of(bench, f"{count} waiting", measure)
    return found


def by_routes(bench):
    found = {}
    for count in (1, 100, 10_000):
        upstream = f"http://127.0.0.1:{bench.upstream}"
        routes = "".join(f'  h{number}.example: "{upstream}"\n' for number in range(count))

        def measure(count=count, routes=routes):
            with bench.serving(COOLDOWN, MORE_ROUTES=routes) as running:
                return bench.steady(running, CALM, bench.seconds, host=f"h{count - 1}.example")["cpu"]

        found[count] = rounds_of(bench, f"{count} routes", measure)
    return found


def by_workers(bench):
    """On both cores, beside the load."""
    found = {}
    for count in (1, 2):

        def measure(count=count):
            with bench.serving(COOLDOWN, cores=PROXY_CORE | LOAD_CORE, WORKERS=count) as running:
                return bench.steady(running, CALM, bench.seconds)["cpu"]

        found[count] = rounds_of(bench, f"{count} workers", measure)
    return found
