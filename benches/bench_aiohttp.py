"""What does kacore.embed.aiohttp cost beside aiohttp's own runner: bytes for an idle connection, CPU us a request?

In turn, in processes of their own, several rounds: `python benches/bench_aiohttp.py [--rounds N]`. Needs wrk for the CPU
time, and 5,000 descriptors. Prints the median and the best of each, and the ratio of the medians.
"""

import argparse
import os
import re
import resource
import socket
import statistics
import subprocess
import sys
import time

IDLE = 4000
REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


def serve(whose: str, listener: int) -> None:
    from aiohttp import web

    from kacore.embed.aiohttp import run_app

    async def hello(request: web.Request) -> web.Response:
        return web.Response(body=b"hello")

    app = web.Application()
    app.router.add_get("/", hello)
    run = run_app if whose == "kacore" else web.run_app
    run(app, sock=socket.socket(fileno=listener), access_log=None, print=None)


def anonymous_bytes(pid: int) -> int:
    with open(f"/proc/{pid}/smaps_rollup") as file:
        return 1024 * int(re.search(r"^Anonymous: +(\d+)", file.read(), re.MULTILINE)[1])


def cpu_seconds(pid: int) -> float:
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def connect(port: int, n: int) -> list[socket.socket]:
    made = []
    for _ in range(n):
        made.append(socket.create_connection(("127.0.0.1", port), timeout=10))
        made[-1].sendall(REQUEST)
        made[-1].recv(4096)
    return made


def idle_bytes(pid: int, port: int) -> float:
    first = connect(port, 200)  # what is allocated once
    before = anonymous_bytes(pid)
    held = connect(port, IDLE)
    grown = anonymous_bytes(pid) - before
    for sock in first + held:
        sock.close()
    return grown / IDLE


def cpu_us(pid: int, port: int) -> float:
    wrk = ["wrk", "-t1", "-c8", "-d2s", f"http://127.0.0.1:{port}/"]
    connect(port, 1)[0].close()
    before = cpu_seconds(pid)
    text = subprocess.run(wrk, capture_output=True, text=True, check=True, timeout=30).stdout
    return (cpu_seconds(pid) - before) * 1e6 / int(re.search(r"(\d+) requests in", text)[1])


def measure(whose: str, question: object) -> float:
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        number = listener.fileno()
        child = subprocess.Popen([sys.executable, __file__, "--serve", whose, str(number)], pass_fds=[number])
        try:
            time.sleep(1.0)
            return question(child.pid, listener.getsockname()[1])
        finally:
            child.terminate()
            child.wait(40)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if args.serve:
        serve(args.serve[0], int(args.serve[1]))
        return
    for title, question in (("bytes an idle connection", idle_bytes), ("CPU us a request", cpu_us)):
        found: dict[str, list[float]] = {"aiohttp": [], "kacore": []}
        for _ in range(args.rounds):
            for whose, values in found.items():
                values.append(measure(whose, question))
        medians = {whose: statistics.median(values) for whose, values in found.items()}
        for whose, values in found.items():
            print(f"{title:26} {whose:8} median {medians[whose]:8.1f} best {min(values):8.1f}")
        print(f"{title:26} kacore / aiohttp {medians['kacore'] / medians['aiohttp']:.3f}")


if __name__ == "__main__":
    main()
