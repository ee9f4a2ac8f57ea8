"""From figures to tables, and from tables to text and Markdown."""

from dataclasses import dataclass

from peers import COOLDOWN_LEARNING, COOLDOWN_MODELS, NGINX, OURS
from strict import DIRECT

NONE = "–"


@dataclass(frozen=True)
class Table:
    title: str
    head: tuple
    rows: list
    notes: str = ""


def tables(figures):
    """All that were measured, in the order of the page."""
    made = []
    if "requests" in figures:
        made += [cost(figures), latency(figures)]
    if "bodies" in figures:
        made.append(bodies(figures))
    made += [crowd(name, by_peer) for name, by_peer in figures.get("strict", {}).items()]
    if "growth" in figures:
        made.append(growth(figures))
    if figures.get("decisions"):
        made.append(decisions(figures))
    goals = reached(figures)
    if goals:
        made.append(Table("Goals", ("figure", "goal", "measured", "reached"), goals))
    return made


# --- the tables


def cost(figures):
    rows = []
    for name, one in figures["requests"].items():
        rows.append((
            name,
            micros(one["cpu"]),
            times(one),
            f"{one['rate']:,.0f}",
            f"{one['at_rest'] / 1e6:.1f} MB",
            kilobytes(figures.get("waiting", {}).get(name, {}).get("each")),
            millis(figures.get("starts", {}).get(name)),
        ))
    head = ("", "CPU per request", f"× {NGINX}", "requests/s", "memory at rest", "per waiting request", "start to first answer")
    held = next(iter(figures.get("waiting", {}).values()), {}).get("waiting", 0)
    notes = (
        "CPU time of the proxy's processes, by the system's own accounting, for each request of wrk over 32 keep-alive connections; "
        "requests a second on the one core. What a peer takes beside nginx is the median of the ratios to nginx in the same round. "
    )
    if held:
        notes += (
            f"Memory of {held:,} requests in line, each with its connection and a body of 60 bytes: "
            f"{NONE} where a proxy has no line and refuses instead. HAProxy's line is for a busy server, not for a rate."
        )
    return Table("What a request costs", head, rows, notes)


def latency(figures):
    rows = [
        (name, *(millis(one[part]) for part in ("half_p50", "half_p99", "full_p50", "full_p99")), micros(one["half_cpu"]))
        for name, one in figures["requests"].items()
    ]
    head = ("", "half load p50", "half load p99", "full load p50", "full load p99", "CPU per request at half load")
    notes = (
        "Half load is a constant rate of half of the peer's own full rate; a latency counts from the instant at which the request was "
        "due, so waiting behind a slow answer is not hidden. Full load is wrk's: each connection asks again as soon as it is answered."
    )
    return Table("Latency", head, rows, notes)


def bodies(figures):
    rows = []
    for name, sizes in figures["bodies"].items():
        way = "routes by model" if name not in (NGINX, OURS) else "forwards"
        cells = [name.removesuffix(", by model"), way]
        for size in ("2000", "200000"):
            one = sizes.get(size)
            cells += [micros(one["cpu"]), times(one)] if one else [NONE, NONE]
        rows.append((*cells, f"{sizes['2000']['rate']:,.0f}"))
    head = ("", "", "2 kB", f"× {NGINX}", "200 kB", f"× {NGINX}", "requests/s of 2 kB")
    notes = (
        "CPU per request for a chat of so many bytes whose model is named last. Routing takes reading the body for model and prompt, "
        "estimating its tokens, and settling them by the usage in the answer."
    )
    return Table("Chats", head, rows, notes)


def crowd(name, by_peer):
    rows = []
    for peer, one in by_peer.items():
        told = NONE
        if one["predictions"]:
            told = f"{one['miss_p50_ms']:,.0f} ms ({one['miss_p50_percent']:.0f} %)"
        rows.append((
            peer,
            f"{one['refused']:,.0f}",
            f"{one['failed']:,.0f}",
            f"{one['breaches']:,.0f}",
            percent(one["used"]),
            f"{one['jain']:.3f}",
            NONE if one["jitter_ms"] is None else f"{one['jitter_ms']:,.1f} ms",
            f"{one['wait_p50_ms']:,.0f} ms",
            f"{one['wait_p99_ms']:,.0f} ms",
            told,
        ))
    head = (
        "", "429s at clients", "other errors", "429s at the upstream", "quota used", "Jain index", "departure jitter p99",
        "answer p50", "answer p99", "told wait is off by",
    )
    return Table(f"Strict upstream: {name}", head, rows)


def growth(figures):
    names = {
        "connections": "open connections, one in use at a time",
        "waiting": "requests in line, 2,000 a second leaving",
        "routes": "routes, the last of them asked for",
        "workers": "workers, on both cores beside the load",
    }
    rows = []
    for part, by_count in figures["growth"].items():
        first = next(iter(by_count.values()))
        for count, cpu in by_count.items():
            rows.append((f"{int(count):,} {names[part]}", micros(cpu), ratio(cpu, first)))
    notes = "CPU per request of Cooldown Proxy at a constant rate. As many requests wait as this system allows open files for."
    return Table("Growth", ("", "CPU per request", "× the first"), rows, notes)


def decisions(figures):
    rows = [(name, f"{nanos / 1000:.2f} µs") for name, nanos in figures["decisions"].items()]
    return Table("One decision", ("the pacer alone", "time"), rows, "Means of `cargo bench -p cooldown-bench`.")


# --- goals


def reached(figures):
    """Each goal whose figures were measured."""
    goals = []

    def goal(what, wanted, said, is_reached):
        goals.append((what, wanted, said, "yes" if is_reached else "no"))

    plain = figures.get("requests", {})
    if NGINX in plain and OURS in plain:
        ours = plain[OURS]
        goal("CPU per request", "≤ 1.00 × nginx", f"{times(ours)} ×", ours["times"] <= 1)
        more = ours["half_more"] * 1000
        goal("latency p99 at half load", "≤ nginx + 0.1 ms", f"{more:+.2f} ms", more <= 0.1)
        goal("memory at rest", "≤ 20 MB", f"{ours['at_rest'] / 1e6:.1f} MB", ours["at_rest"] <= 20e6)
    chats = figures.get("bodies", {})
    if NGINX in chats and COOLDOWN_MODELS.name in chats:
        routed = chats[COOLDOWN_MODELS.name]["2000"]
        said = f"{times(routed)} ×"
        goal("CPU of a chat of 2 kB, routed by model", "≤ 1.25 × nginx forwarding it", said, routed["times"] <= 1.25)
    each = figures.get("waiting", {}).get(OURS, {}).get("each")
    if each:
        goal("memory per waiting request", "≤ 9.7 kB", kilobytes(each), each <= 9_700)
    start = figures.get("starts", {}).get(OURS)
    if start:
        goal("start to first answer", "≤ 50 ms", millis(start), start <= 0.05)
    for name, by_peer in figures.get("strict", {}).items():
        one = by_peer.get(OURS)
        if one:
            clean = one["breaches"] == 0 and one["refused"] == 0 and one["failed"] == 0
            said = f"{one['breaches']:,.0f} 429s, {percent(one['used'])}, {one['jain']:.3f}"
            goal(name, "no 429, ≥ 99 % used, Jain ≥ 0.99", said, clean and one["used"] >= 0.99 and one["jain"] >= 0.99)
    return goals


def readme(figures):
    """The short table of the README: who stands between the crowd and an upstream of 50 a second, and what it costs."""
    plain, waiting = figures.get("requests", {}), figures.get("waiting", {})
    strict = next(iter(figures.get("strict", {}).values()), {})
    names = [name for name in [*plain, *strict] if name not in (DIRECT, COOLDOWN_LEARNING.name, "Caddy")]
    names = [name for name in dict.fromkeys(names) if name != OURS] + [OURS]

    def row(title, of):
        return (title, *(of(name) for name in names))

    def part(of_all, name, show):
        return show(of_all[name]) if name in of_all else NONE

    rows = [
        row("429s that clients see", lambda name: part(strict, name, lambda one: f"{one['refused']:,.0f}")),
        row("429s at the upstream", lambda name: part(strict, name, lambda one: f"{one['breaches']:,.0f}")),
        row("quota used", lambda name: part(strict, name, lambda one: percent(one["used"]))),
        row("fairness (Jain index)", lambda name: part(strict, name, lambda one: f"{one['jain']:.3f}")),
        row("CPU per request", lambda name: part(plain, name, lambda one: micros(one["cpu"]))),
        row("memory per waiting request", lambda name: part(waiting, name, lambda one: kilobytes(one["each"]))),
        row("memory at rest", lambda name: part(plain, name, lambda one: f"{one['at_rest'] / 1e6:.1f} MB")),
    ]
    return Table("", ("", *names), rows)


# --- cells


def micros(seconds):
    return f"{seconds * 1e6:,.1f} µs"


def millis(seconds):
    if seconds is None:
        return NONE
    return f"{seconds * 1e3:,.2f} ms" if seconds < 0.0995 else f"{seconds * 1e3:,.0f} ms"


def kilobytes(size):
    return NONE if size is None else f"{size / 1e3:.1f} kB"


def percent(share):
    return f"{share * 100:.1f} %"


def times(one):
    """What a peer takes beside nginx."""
    return f"{one['times']:.2f}" if "times" in one else NONE


def ratio(one, other):
    return f"{one / other:.2f}" if other else NONE


# --- text and Markdown


def text(table):
    """For a terminal."""
    widths = [max(len(str(row[place])) for row in [table.head, *table.rows]) for place in range(len(table.head))]
    lines = ["", table.title]
    for row in [table.head, *table.rows]:
        cells = [cell.ljust(width) if place == 0 else cell.rjust(width) for place, (cell, width) in enumerate(zip(row, widths))]
        lines.append(("  " + "  ".join(cells)).rstrip())
    return "\n".join([*lines, *wrapped(table.notes, "  ")])


def markdown(table):
    """For a page; with its title, if it has one."""
    lines = [f"### {table.title}", ""] if table.title else []
    lines += ["| " + " | ".join(row) + " |" for row in [table.head]]
    lines.append("|---" * len(table.head) + "|")
    for row in table.rows:
        bold = row[0] == OURS
        lines.append("| " + " | ".join(f"**{cell}**" if bold and cell and cell != NONE else cell for cell in row) + " |")
    notes = wrapped(table.notes, "")
    return "\n".join([*lines, *([""] if notes else []), *notes])


def wrapped(words, indent):
    lines, line = [], indent
    for word in words.split():
        if len(line) + len(word) > 138:
            lines.append(line.rstrip())
            line = indent
        line += word + " "
    return [*lines, line.rstrip()] if line.strip() else lines
