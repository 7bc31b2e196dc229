"""A crowd that speaks HTTP/2: runs of h2load with many streams on few connections, of which some are killed in the middle.

As `Soak` in soak.py: `run`, then `count`, `problems` and `samples`. Of a run that ends by itself every request must have been
answered; h2load is the judge of frames, windows and HPACK, and leaves the content to the tests of `tests/wire`.
"""

import collections
import random
import re
import subprocess
import time

KINDS = "aaabbccefg"
TOGETHER = 4
COUNTED = re.compile(r"(\d+) total, \d+ started, \d+ done, (\d+) succeeded, (\d+) failed")


class Http2Crowd:
    def __init__(self, server, seed):
        self.server, self.rng = server, random.Random(seed)
        self.count, self.problems, self.samples = collections.Counter(), [], []
        self.may_fail = False
        self.content = server.log.with_name("content")
        self.content.write_bytes(bytes(range(97, 123)) * 3000)

    def run(self, seconds, connections):
        """Runs of h2load for so long, about so many connections together."""
        end, running = time.monotonic() + seconds, []
        try:
            while running or time.monotonic() < end:
                if len(running) < TOGETHER and time.monotonic() < end:
                    running.append(self.start(max(1, connections // (4 * TOGETHER))))
                running = [one for one in running if not self.has_ended(*one)]
                time.sleep(0.01)
        finally:
            for process, *_ in running:
                process.kill()
                process.wait()

    def start(self, connections):
        """(process, what it asks, when to kill it or None)"""
        rng, kind = self.rng, self.rng.choice(KINDS)
        n = rng.randrange(1, connections + 1)
        requests = n * rng.choice((1, 1, 3, 10, 30))
        scheme, host = ("https", "localhost") if self.server.tls else ("http", "127.0.0.1")
        url = f"{scheme}://{host}:{self.server.port}/{kind}{rng.randrange(1_000_000)}"
        argv = ["h2load", "-n", str(requests), "-c", str(n), "-m", str(rng.choice((1, 2, 10, 100)))]
        argv += ["-w", str(rng.choice((10, 16, 24))), "-W", str(rng.choice((16, 20, 30)))]
        argv += ["-d", str(self.content)] * (kind == "e")
        process = subprocess.Popen([*argv, url], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.count["runs"] += 1
        return process, " ".join([*argv[1:], url]), time.monotonic() + rng.random() if rng.random() < 0.3 else None

    def has_ended(self, process, asked, killed_at):
        if process.poll() is None:
            if killed_at is not None and time.monotonic() > killed_at:
                process.kill()
                process.wait()
                process.stdout.close()
                self.count["vanished"] += 1
                return True
            return False
        said = process.stdout.read()
        process.stdout.close()
        counted = COUNTED.search(said)
        if counted is None:
            self.problems.append(f"h2load {asked}: {said[-300:]}")
            return True
        total, succeeded, _ = map(int, counted.groups())
        self.count["answers"] += succeeded
        if succeeded < total:
            self.count["lost"] += total - succeeded
            self.samples.append(f"h2load {asked}: {counted[0]}")
        return True
