"""Who is compared, how each is started, and with which configuration beside this file."""

import json
import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent / "peers"

OURS = "Cooldown Proxy"
NGINX = "nginx"


@dataclass(frozen=True)
class Peer:
    """One proxy with one configuration."""

    name: str
    program: str
    files: tuple
    arguments: tuple
    environment: dict = field(default_factory=dict)
    version: tuple = ("--version",)
    headers: str = ""
    """What its clients have to send, one field a line."""
    starts_within: int = 20
    knows_models: bool = False
    """Whether it serves chats alone."""

    def command(self, programs, values):
        """The command line that starts it, after its configuration was written."""
        for file in self.files:
            text = fill((HERE / file).read_text(), values)
            Path(values["WORK"], file).write_text(text)
        arguments = [fill(word, values) for word in self.arguments]
        if self.program == "portkey":
            return ["node", programs["portkey"], *arguments]
        return [programs[self.program], *arguments]

    def described(self, programs):
        """Its name and version."""
        if self.program == "portkey":
            package = json.loads((Path(programs["portkey"]).parents[1] / "package.json").read_text())
            return f"Portkey gateway {package['version']}"
        done = subprocess.run([programs[self.program], *self.version], capture_output=True, text=True)
        found = re.search(r"\d+\.\d+\.\d+[\w.+-]*", done.stdout + done.stderr)
        return f"{self.name} {found.group() if found else '(version unknown)'}"


def fill(text, values):
    """Every @NAME@ in a configuration has a value, or this is a mistake of ours."""
    return re.sub(r"@([A-Z_]+)@", lambda match: str(values[match.group(1)]), text)


def ours(name, file, knows_models=False):
    words = ("--config", f"@WORK@/{file}")
    return Peer(name, "cooldown-proxy", (file,), words, version=("version",), knows_models=knows_models)


COOLDOWN = ours(OURS, "cooldown.yaml")
COOLDOWN_MODELS = ours(f"{OURS}, by model", "cooldown-models.yaml", knows_models=True)
COOLDOWN_TOKENS = ours(OURS, "cooldown-tokens.yaml", knows_models=True)
COOLDOWN_LEARNING = ours(f"{OURS}, told nothing", "cooldown-learning.yaml")

UPSTREAM = Peer("upstream", "nginx", ("upstream.conf",), ("-c", "@WORK@/upstream.conf"))
PROXIES = {
    NGINX: Peer(NGINX, "nginx", ("nginx.conf",), ("-c", "@WORK@/nginx.conf"), version=("-v",)),
    "HAProxy": Peer("HAProxy", "haproxy", ("haproxy.cfg",), ("-db", "-f", "@WORK@/haproxy.cfg"), version=("-v",)),
    "Caddy": Peer(
        "Caddy", "caddy", ("Caddyfile",), ("run", "--config", "@WORK@/Caddyfile"),
        {"GOMAXPROCS": "1", "XDG_DATA_HOME": "/nonexistent", "XDG_CONFIG_HOME": "/nonexistent"}, version=("version",),
    ),
    "Traefik": Peer(
        "Traefik", "traefik", ("traefik.yaml", "traefik-routes.yaml"), ("--configFile=@WORK@/traefik.yaml",),
        {"GOMAXPROCS": "1"}, version=("version",),
    ),
    "Envoy": Peer(
        "Envoy", "envoy", ("envoy.yaml",),
        ("-c", "@WORK@/envoy.yaml", "--concurrency", "1", "--disable-hot-restart", "-l", "error"),
    ),
}
GATEWAYS = {
    "LiteLLM": Peer(
        "LiteLLM", "litellm", ("litellm.yaml",),
        ("--config", "@WORK@/litellm.yaml", "--host", "127.0.0.1", "--port", "@PORT@", "--telemetry", "False"),
        # Without a key of its own it wants to be told that this is meant; and it would fetch prices from the internet.
        {
            "LITELLM_LOG": "ERROR",
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
        },
        starts_within=300, knows_models=True,
    ),
    "Portkey": Peer(
        "Portkey", "portkey", (), ("--port=@PORT@", "--headless"),
        {"NODE_ENV": "production", "TRUSTED_CUSTOM_HOSTS": "127.0.0.1,localhost"},
        headers="x-portkey-provider: openai\nx-portkey-custom-host: http://127.0.0.1:@UPSTREAM@/v1\n"
        "authorization: Bearer sk-bench\n",
        starts_within=60, knows_models=True,
    ),
}
