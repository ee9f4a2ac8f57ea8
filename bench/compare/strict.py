"""Part two: what the product is for. A crowd with a greedy client, and an upstream that refuses every breach."""

import json
import os
import statistics
import subprocess
import time

from bench import LOAD_CORE, note
from peers import COOLDOWN, COOLDOWN_LEARNING, COOLDOWN_TOKENS, OURS
from process import Failed

# The mean cost of a chat of the crowd, in tokens: as many as its operators would divide the limit on tokens by.
MEAN_TOKENS = 177

# `each`: how many requests every client has under way, so that it always has one waiting; the greedy one has 32 more.
UPSTREAMS = {
    "50 requests a second, sliding window": {"counting": "sliding", "rate": 50},
    "50 requests a second, fixed windows": {"counting": "fixed", "rate": 50},
    "50 requests a second, token bucket": {"counting": "bucket", "rate": 50},
    "2,000 requests a second, sliding window": {"counting": "sliding", "rate": 2_000, "each": 4},
    f"{50 * MEAN_TOKENS:,} tokens a second, sliding window": {"counting": "sliding", "rate": 50, "tokens": True},
    # What it allows must be found by trying, so it takes longer.
    "50 requests a second, and tells nothing": {"counting": "sliding", "rate": 50, "silent": True, "times": 3},
}
QUICK = list(UPSTREAMS)[::4]

# As their users would configure them for so many requests a second: how many may wait, or leave at once.
BURSTS = {"nginx": {"BURST": 1_000, "nodelay": False}, "Traefik": {"BURST": 1}}
DIRECT = "nothing in between"


def measure(bench, gateways, names, seconds, rounds):
    """Each upstream, through each peer."""
    found = {}
    for name in names:
        for number in range(rounds):
            for peer in [None, *contestants(bench, gateways, UPSTREAMS[name])]:
                label = peer.name if peer else DIRECT
                note(f"{name}, round {number + 1} of {rounds}: {label}")
                with bench.attempt(label):
                    figures = one(bench, peer, UPSTREAMS[name], seconds)
                    found.setdefault(name, {}).setdefault(label, []).append(figures)
    return {
        name: {label: middle(runs) for label, runs in by_peer.items() if label not in bench.failures}
        for name, by_peer in found.items()
    }


def contestants(bench, gateways, upstream):
    """Caddy and Portkey limit nothing, so they have nothing to show here; only we can be told nothing."""
    if upstream.get("silent"):
        return [COOLDOWN_LEARNING]
    ours = [COOLDOWN_TOKENS if upstream.get("tokens") else COOLDOWN]
    if upstream["rate"] == 50 and not upstream.get("tokens"):
        ours.append(COOLDOWN_LEARNING)
    others = [name for name in bench.peers if name not in (OURS, "Caddy")]
    gateways = [peer for name, peer in gateways.items() if name != "Portkey" and name not in bench.failures]
    return [*ours, *(bench.standing(*others) if others else []), *gateways]


def one(bench, peer, upstream, seconds):
    """One run of the crowd. Returns what its clients and the upstream counted."""
    seconds *= upstream.get("times", 1)
    rate = upstream["rate"]
    amount = rate * MEAN_TOKENS if upstream.get("tokens") else rate
    command = [bench.programs["bench-load"], "strict", "--counting", upstream["counting"]]
    command += ["--amount", str(amount), "--seconds", str(seconds), "--each", str(upstream.get("each", 1))]
    command += [f"--{option}" for option in ("tokens", "silent") if upstream.get(option)]
    child = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, LOAD_CORE),
    )
    running = None
    try:
        address = child.stdout.readline().strip()
        target = address
        if peer:
            values = {"RATE": rate, "RATE_PER_MINUTE": rate * 60, "TOKENS": amount, **BURSTS.get(peer.name, {})}
            values["UPSTREAM"] = address.rpartition(":")[2]
            running = bench.start(peer, path="/v1/models", **values)
            target = running.target
            # The first question is forgotten by everybody before the crowd comes.
            time.sleep(1.5)
        said, complaints = child.communicate(f"{target}\n", timeout=seconds + 60)
    except subprocess.TimeoutExpired:
        raise Failed(f"{peer.name if peer else DIRECT}: the crowd did not come to an end") from None
    finally:
        child.kill()
        child.communicate()
        if running:
            bench.stop(running.process)
    if child.returncode:
        raise Failed(f"{peer.name if peer else DIRECT}: the crowd failed: {complaints.strip()[-500:]}")
    return flat(json.loads(said))


def flat(said):
    clients, upstream = said["clients"], said["upstream"]
    return {**clients, **upstream}


def middle(runs):
    """Medians of several runs; of breaches and refusals the worst, for one is one too many."""
    figures = {}
    for name in runs[0]:
        values = [run[name] for run in runs if run[name] is not None]
        # What went wrong is told in words.
        pick = max if name in ("refused", "breaches", "failed", "failure", "other") else statistics.median
        figures[name] = pick(values) if values else None
    return figures
