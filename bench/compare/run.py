#!/usr/bin/env python3
"""Measures Cooldown Proxy beside other proxies, in one run on this machine, and prints what it found.

Part one is what a proxy costs, part two what a crowd of clients gets from a strict upstream through it. The proxies run on core
0, the load and the upstream on core 1; rounds alternate between the peers, and figures are medians over the rounds. What is
missing is installed; what cannot be had is skipped. Needs Linux with two cores. BENCH_GATEWAYS=1 adds LiteLLM and Portkey.
"""

import argparse
import datetime
import json
import os
import platform
import re
import signal
import subprocess
import sys
from pathlib import Path

import chart
import cost
import strict
import tables
from bench import Bench
from install import note, programs
from peers import COOLDOWN, GATEWAYS, NGINX, OURS, PROXIES
from process import Failed

ROOT = Path(__file__).resolve().parents[2]
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).absolute()
PARTS = ("requests", "bodies", "waiting", "starts", "strict", "growth")


def main():
    options = read_options()
    figures, failures = {}, {}
    if options.figures:
        figures = json.loads(Path(options.figures).read_text())
    if not options.figures or options.only != list(PARTS):
        anew, failures = measure(options)
        figures |= anew
    report(figures, options)
    for failure in failures.values():
        note(f"failed: {failure}")
    return 1 if failures else 0


def read_options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one short round of everything: about five minutes")
    parser.add_argument("--only", metavar="PARTS", default=",".join(PARTS), help=f"of {','.join(PARTS)}")
    parser.add_argument("--peers", metavar="NAMES", default=",".join(PROXIES), help="whom to compare with, beside us")
    parser.add_argument("--out", metavar="FOLDER", default=str(TARGET / "bench"), help="for figures, Markdown and chart")
    parser.add_argument(
        "--figures", metavar="FILE", help="show these figures of an earlier run instead of measuring; with --only, all but those parts"
    )
    parser.add_argument("--update", action="store_true", help="write what was found into README.md and docs/")
    options = parser.parse_args()
    options.only, options.peers = options.only.split(","), options.peers.split(",")
    for word in [*(set(options.only) - set(PARTS)), *(set(options.peers) - set(PROXIES))]:
        parser.error(f"there is no {word}")
    return options


def measure(options):
    if platform.system() != "Linux" or len(os.sched_getaffinity(0)) < 2:
        sys.exit("bench: it reads /proc and needs two cores, one for the proxy and one for the load: so Linux, with two cores")
    gateways = GATEWAYS if os.environ.get("BENCH_GATEWAYS") == "1" else {}
    wanted = {name: peer for name, peer in {**PROXIES, **gateways}.items() if name in options.peers or name in gateways}
    found = programs(TARGET / "bench-peers", ["nginx", "wrk", *(peer.program for peer in wanted.values())])
    for name in ("nginx", "wrk"):
        if name not in found:
            sys.exit(f"bench: without {name} there is nothing to measure with")
    found |= built()
    peers = {name: peer for name, peer in PROXIES.items() if name in wanted and peer.program in found}
    gateways = {name: peer for name, peer in gateways.items() if peer.program in found}
    length = {"rounds": 1, "seconds": 2, "turns": 3} if options.quick else {"rounds": 3, "seconds": 5, "turns": 48}
    bench = Bench(found, {**peers, OURS: COOLDOWN}, **length)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("bench: stopped"))
    try:
        bench.start_upstream()
        figures = {"about": about(bench, gateways)}
        figures |= parts(bench, gateways, options)
    except Failed as failure:
        sys.exit(f"bench: {failure}")
    finally:
        bench.close()
    return figures, bench.failures


def parts(bench, gateways, options):
    """Everything that was asked for, one after the other. A part that fails does not take the others with it."""
    names = strict.QUICK if options.quick else list(strict.UPSTREAMS)
    seconds = 4 if options.quick else 10
    every = {
        "requests": lambda: cost.requests(bench),
        "bodies": lambda: cost.bodies(bench, gateways),
        "waiting": lambda: cost.waiting(bench),
        "starts": lambda: cost.starts(bench, gateways),
        "strict": lambda: strict.measure(bench, gateways, names, seconds, rounds=1),
        "growth": lambda: cost.growth(bench),
    }
    found = {}
    for part in (part for part in PARTS if part in options.only):
        with bench.attempt(part):
            found[part] = every[part]()
    return found | {"decisions": decisions()}


def built():
    """Ours, built as it is shipped, and the generator of the loads."""
    cargo = os.environ.get("CARGO", "cargo")
    for package, program in (("cooldown-proxy", "cooldown-proxy"), ("cooldown-bench", "bench-load")):
        words = [cargo, "build", "--quiet", "--release", "--locked", "-p", package, "--bin", program]
        if subprocess.run(words, cwd=ROOT).returncode:
            sys.exit(f"bench: {program} could not be built")
    return {name: TARGET / "release" / name for name in ("cooldown-proxy", "bench-load")}


def decisions():
    """What `cargo bench` found about the pacer alone, if it was run: nanoseconds by name."""
    found = {}
    for file in sorted((TARGET / "criterion").glob("*/new/estimates.json")):
        name = json.loads(file.with_name("benchmark.json").read_text())["title"]
        found[name] = json.loads(file.read_text())["mean"]["point_estimate"]
    return found


def about(bench, gateways):
    """The machine, the versions and how long it was measured."""
    processor = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    versions = [peer.described(bench.programs) for peer in [*bench.peers.values(), *gateways.values()]]
    load = os.getloadavg()[0]
    return {
        "date": datetime.date.today().isoformat(),
        "machine": f"{os.cpu_count()} cores of {processor.group(1) if processor else platform.machine()}, Linux {platform.release()}",
        "versions": versions,
        "measured": f"requests and chats in {bench.turns} turns of {cost.TURN} s, growth in {bench.rounds} of {bench.seconds} s",
        "busy": f"load average {load:.1f} before it began",
    }


def report(figures, options):
    """Text for who waits for it; Markdown, chart and figures as files; and the pages, if they are to be brought up to date."""
    made = tables.tables(figures)
    about = [f"{figures['about']['date']}, {figures['about']['machine']}: {', '.join(figures['about']['versions'])}."]
    about.append(f"{figures['about']['measured']}; {figures['about']['busy']}.")
    print("\n".join([*about, *map(tables.text, made)]))
    page = "\n\n".join(["\n".join(about), "![What was found, as bars](benchmarks.svg)", *map(tables.markdown, made)])
    short = tables.markdown(tables.readme(figures))
    picture = chart.svg(figures)
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "figures.json").write_text(json.dumps(figures, indent=1))
    (out / "benchmarks.md").write_text(page + "\n")
    (out / "readme.md").write_text(short + "\n")
    if picture:
        (out / "benchmarks.svg").write_text(picture)
    if options.update:
        replace(ROOT / "docs/benchmarks.md", page)
        replace(ROOT / "README.md", short)
        if picture:
            (ROOT / "docs/benchmarks.svg").write_text(picture)
    note(f"figures, Markdown and chart are in {out}")


def replace(path, page):
    """Puts a page between the two marks in a file."""
    begin, end = "<!-- bench: begin -->", "<!-- bench: end -->"
    before, found, rest = path.read_text().partition(begin)
    _, ends, after = rest.partition(end)
    if not found or not ends:
        sys.exit(f"bench: {path} has no `{begin}` and `{end}` to write between")
    path.write_text(f"{before}{begin}\n{page}\n{end}{after}")


if __name__ == "__main__":
    sys.exit(main())
