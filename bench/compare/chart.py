"""The figures as one picture: what a request costs, and what the crowd got."""

from html import escape

from peers import OURS
from strict import DIRECT

WIDTH, ROW, LABEL, ROOM = 860, 24, 220, 130
STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #1f2328 }
  .title { font-weight: 600; font-size: 15px }
  .other { fill: #9aa4b2 } .ours { fill: #0a7d5a } .line { stroke: #d0d7de } .back { fill: #ffffff }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 } .other { fill: #6e7681 } .ours { fill: #2ea97f } .line { stroke: #30363d } .back { fill: #0d1117 }
  }
"""


def svg(figures):
    """None when nothing was measured that it shows."""
    panels = []
    if figures.get("requests"):
        bars = [(name, one["cpu"] * 1e6, f"{one['cpu'] * 1e6:.1f} µs") for name, one in figures["requests"].items()]
        panels.append(("CPU per proxied request, µs", bars))
    strict = next(iter(figures.get("strict", {}).items()), None)
    if strict:
        name, by_peer = strict
        bars = [(peer, one["refused"], f"{one['refused']:,.0f}") for peer, one in by_peer.items()]
        panels.append((f"429s seen by clients ({name})", bars))
        bars = [(peer, one["used"], f"{one['used'] * 100:.1f} %") for peer, one in by_peer.items()]
        panels.append(("Share of the quota used", bars))
        bars = [(peer, one["jain"], f"{one['jain']:.3f}") for peer, one in by_peer.items()]
        panels.append(("Fairness between clients beside a greedy one (Jain index)", bars))
    return picture(panels) if panels else None


def picture(panels):
    parts, top = [], 16
    for title, bars in panels:
        parts.append(f'<text class="title" x="16" y="{top + 14}">{escape(title)}</text>')
        top += 28
        most = max(value for _, value, _ in bars) or 1
        for name, value, said in bars:
            width = value / most * (WIDTH - LABEL - ROOM)
            kind = "ours" if name.startswith(OURS) else "other"
            label = "direct" if name == DIRECT else name
            parts.append(f'<text x="{LABEL - 8}" y="{top + 15}" text-anchor="end">{escape(label)}</text>')
            parts.append(f'<rect class="{kind}" x="{LABEL}" y="{top + 3}" width="{max(width, 1):.1f}" height="{ROW - 8}" rx="2"/>')
            parts.append(f'<text x="{LABEL + width + 8:.1f}" y="{top + 15}">{escape(said)}</text>')
            top += ROW
        parts.append(f'<line class="line" x1="{LABEL}" y1="{top - len(bars) * ROW}" x2="{LABEL}" y2="{top}"/>')
        top += 20
    body = "\n  ".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{top}" viewBox="0 0 {WIDTH} {top}" role="img" '
        f'aria-label="Benchmark figures; the tables hold the same">\n  <style>{STYLE}</style>\n'
        f'  <rect class="back" width="{WIDTH}" height="{top}"/>\n  {body}\n</svg>\n'
    )
