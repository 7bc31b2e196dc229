"""What does it cost to look? CPU time of a server in percent of one core: with nobody, with pages, with readers of /events.

    python benches/bench_looking.py --workers 1 --connections 10000 --viewers 10 --seconds 60

Idle connections from many networks; the time is the scheduler's own, of the server and all of its children.
"""

import argparse
import asyncio
import resource
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

APP = "def app(request): return b'hi'\n"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def processes(pid):
    found = [pid]
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        found += processes(int(child))
    return found


def cpu_seconds(pid):
    return sum(int(Path(f"/proc/{one}/schedstat").read_text().split()[0]) for one in processes(pid)) / 1e9


async def idle(port, k):
    reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(f"127.0.{k % 200}.{k % 13 + 1}", 0))
    writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    await reader.readuntil(b"hi")
    return writer


async def view(port, target, seen):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(f"GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        while data := await reader.read(1 << 20):
            seen[0] += len(data)
    finally:
        writer.close()


async def measure(name, pid, seconds):
    before, began = cpu_seconds(pid), time.monotonic()
    await asyncio.sleep(seconds)
    share = (cpu_seconds(pid) - before) / (time.monotonic() - began)
    print(f"{name:<28} {100 * share:6.3f} % of a core", flush=True)


async def run(args, port, admin, pid):
    kept = []
    for k in range(0, args.connections, 200):
        kept += await asyncio.gather(*(idle(port, j) for j in range(k, min(k + 200, args.connections))))
    await asyncio.sleep(3)
    await measure("nobody", pid, args.seconds)
    for target in ("/events?page", "/events"):
        seen = [0]
        viewers = [asyncio.create_task(view(admin, target, seen)) for _ in range(args.viewers)]
        await asyncio.sleep(3)
        seen[0] = 0
        await measure(f"{args.viewers} of {target}", pid, args.seconds)
        print(f"{'':<28} {seen[0] / args.viewers / args.seconds:6.0f} bytes a second for each")
        for viewer in viewers:
            viewer.cancel()
        await asyncio.gather(*viewers, return_exceptions=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--connections", type=int, default=10_000)
    parser.add_argument("--viewers", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=60.0)
    args = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    port, admin = free_port(), free_port()
    with tempfile.TemporaryDirectory() as where:
        Path(where, "looked.py").write_text(APP)
        command = [sys.executable, "-m", "kacore", "serve", "looked:app", "--port", str(port), "--admin", str(admin)]
        several = ["--workers", str(args.workers)] if args.workers > 1 else []
        server = subprocess.Popen([*command, *several, "--log-level", "warning"], cwd=where)
        try:
            for _ in range(200):
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", admin)) == 0:
                        break
                time.sleep(0.1)
            time.sleep(2)
            asyncio.run(run(args, port, admin, server.pid))
        finally:
            server.terminate()
            server.wait(60)


if __name__ == "__main__":
    main()
