"""The client, on a core of its own: wrk, or for what it cannot do h2load, websockets.c, openssl.

Its counts beside the server's CPU time are the figures.
"""

import os
import re
import subprocess
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from servers.peers import HERE
from servers.process import NotMeasured, Place, Running

BROWSER_FIELDS = {
    "User-Agent": "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
    "Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8",
    "Accept-Language": "en-GB,en;q=0.7,de;q=0.3",
    "Accept-Encoding": "gzip, deflate, br",
    "DNT": "1",
    "Cookie": "session=4f1c2b7a9d8e4f60b3a2; theme=dark; seen=1718000000",
    "Upgrade-Insecure-Requests": "1",
    "Sec-Fetch-Dest": "document",
    "Sec-Fetch-Mode": "navigate",
    "Sec-Fetch-Site": "none",
    "Sec-Fetch-User": "?1",
    "Cache-Control": "max-age=0",
}  # and wrk's own Host: 13 fields
PIPELINE = """
init = function(args)
    local all = {}
    for i = 1, 16 do all[i] = wrk.format(nil, "/") end
    sixteen = table.concat(all)
end
request = function() return sixteen end
"""
POST = 'wrk.method = "POST"; wrk.body = string.rep("x", 1024)'
UPLOAD = 'wrk.method = "POST"; wrk.body = string.rep("x", 1048576)'
WEBSOCKETS = HERE.parent / "websockets.c"


@dataclass(frozen=True)
class Load:
    connections: int = 64
    fields: dict[str, str] = field(default_factory=dict)
    script: str = ""
    threads: int = 1
    streams: int = 0  # HTTP/2 by h2load, so many at once on each connection; 0: wrk
    content: str = ""  # name of a file that is sent with each, for h2load
    closes: bool = False  # the server closes after each answer, which wrk takes for errors of reading
    message: int = 0  # bytes of a websocket's message, which the server sends back
    resumes: bool = False  # a TLS connection for each request, one after the other, all of one session


def to_microseconds(text: str) -> float:
    number, unit = re.fullmatch(r"([\d.]+)(us|ms|s|m)", text).groups()
    return float(number) * {"us": 1, "ms": 1e3, "s": 1e6, "m": 6e7}[unit]


def wrk_command(server: Running, load: Load, cores: str, seconds: int, scratch: Path) -> list[str]:
    command = f"taskset -c {cores} wrk -t{load.threads} -c{load.connections} -d{seconds}s --latency".split()
    for name, value in load.fields.items():
        command += ["-H", f"{name}: {value}"]
    if load.script:
        (scratch / "wrk.lua").write_text(load.script)
        command += ["-s", str(scratch / "wrk.lua")]
    return [*command, server.url]


def read_wrk(done: subprocess.CompletedProcess, closes: bool = False) -> dict[str, float]:
    """Raises NotMeasured when an answer was wrong, since a figure would then mean nothing."""
    counted = re.search(r"(\d+) requests in", done.stdout)
    wrong = re.search(r"Non-2xx.*|Socket errors.*", done.stdout)
    if done.returncode != 0 or not counted or int(counted[1]) == 0:
        raise NotMeasured(f"wrk: {(done.stderr or done.stdout).strip()[-200:]}")
    if wrong and not (closes and re.fullmatch(r"Socket errors: connect 0, read \d+, write 0, timeout 0", wrong[0])):
        raise NotMeasured(wrong[0].strip())
    return {
        "n": int(counted[1]),
        "rps": float(re.search(r"Requests/sec:\s+([\d.]+)", done.stdout)[1]),
        "p99_us": to_microseconds(re.search(r"^ +99%\s+(\S+)", done.stdout, re.M)[1]),
    }


def h2load_command(server: Running, load: Load, place: Place, seconds: int) -> list[str]:
    """By time; what begins before it is counted only then."""
    command = f"taskset -c {place.client_cores} h2load -t1 -c{load.connections} -m{load.streams} -D{seconds}".split()
    command += [] if server.peer.is_http2 else ["--h1"]
    return [*command, *(["-d", str(place.files / load.content)] if load.content else []), server.url]


def read_h2load(done: subprocess.CompletedProcess) -> dict[str, float]:
    """As read_wrk. h2load counts what it has asked in its last moment and did not wait for as failed."""
    counted = re.search(r"(\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout", done.stdout)
    codes = re.search(r"status codes: (\d+) 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx", done.stdout)
    if done.returncode != 0 or not counted or not codes or int(codes[1]) == 0:
        raise NotMeasured(f"h2load: {(done.stderr or done.stdout).strip()[-200:]}")
    if any(map(int, codes.groups()[1:])) or int(counted[3]) or int(counted[4]):
        raise NotMeasured(f"{codes[0]}; {counted[0]}")
    return {"n": int(codes[1]), "rps": float(re.search(r"finished in .*?, ([\d.]+) req/s", done.stdout)[1])}


def websockets_command(server: Running, load: Load, place: Place, seconds: int) -> list[str]:
    program = place.scratch / "websockets"
    if not program.exists():
        subprocess.run([os.environ.get("CC", "cc"), "-std=gnu11", "-O2", WEBSOCKETS, "-o", program], check=True)
    return f"taskset -c {place.client_cores} {program} {server.port} {load.connections} {load.message} {seconds}".split()


def read_websockets(done: subprocess.CompletedProcess) -> dict[str, float]:
    counted = re.fullmatch(r"(\d+) messages in ([\d.]+) s, 99 % in (\d+) us\n", done.stdout)
    if done.returncode != 0 or not counted:
        raise NotMeasured((done.stderr or done.stdout).strip()[-200:])
    return {"n": int(counted[1]), "rps": int(counted[1]) / float(counted[2]), "p99_us": float(counted[3])}


def resuming_command(server: Running, place: Place, seconds: int) -> list[str]:
    command = f"taskset -c {place.client_cores} openssl s_time -connect 127.0.0.1:{server.port} -reuse -www / -time {seconds}"
    return command.split()


def read_resuming(done: subprocess.CompletedProcess) -> dict[str, float]:
    """s_time prints an r for each connection that resumed a session, and an asterisk for others."""
    counted = re.search(r"(\d+) connections in (\d+) real seconds", done.stdout)
    resumed = re.search(r"^r+$", done.stdout, re.M)
    if done.returncode != 0 or not counted or not resumed:
        raise NotMeasured(f"openssl s_time: {(done.stderr or done.stdout).strip()[-200:] or 'no session was resumed'}")
    return {"n": int(counted[1]), "rps": int(counted[1]) / int(counted[2])}


def measure(server: Running, load: Load, place: Place, seconds: int) -> dict[str, float]:
    """One round: CPU time of the server for each response, responses a second, p99, and how busy the server was."""
    if load.streams:
        command, read = h2load_command(server, load, place, seconds), read_h2load
    elif load.message:
        command, read = websockets_command(server, load, place, seconds), read_websockets
    elif load.resumes:
        command, read = resuming_command(server, place, seconds), read_resuming
    else:
        command = wrk_command(server, load, place.client_cores, seconds, place.scratch)
        read = partial(read_wrk, closes=load.closes)
    before, began = server.cpu(), time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 20)
    spent, took = server.cpu() - before, time.monotonic() - began
    figures = read(done)
    n = figures.pop("n")
    return {"cpu_us": spent / n * 1e6, **figures, "busy": spent / took}
