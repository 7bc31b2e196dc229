"""valgrind's memcheck over the C tests of the core, and over one Python process that talks to itself.

    make valgrind

memcheck sees what the sanitizers do not: decisions on uninitialised bytes. In the Python part only what has a frame of
kacore's own C or Cython code counts; CPython with PYTHONMALLOC=malloc is clean enough for that. Exit status 1: errors.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SRC, TESTS_C = ROOT / "src", ROOT / "tests" / "c"
COMPILER = shlex.split(os.environ.get("CC", "cc"))
MEMCHECK = ["valgrind", "--quiet", "--error-exitcode=9", "--leak-check=no", "--num-callers=30"]
# A server on loopback and a client in one process: kept-alive, pipelined, chunked, large, malformed, cut off.
CONVERSATION = """
import asyncio
import kacore

async def app(scope, receive, send):
    body = b""
    more = scope["method"] == "POST"
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    if scope["path"] == "/raise":
        raise RuntimeError("on purpose")
    await asyncio.sleep(0)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x-a", b"b")]})
    await send({"type": "http.response.body", "body": b"part", "more_body": True})
    await send({"type": "http.response.body", "body": body or b"y" * 100_000})

def wsgi(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [environ["wsgi.input"].read() or b"z" * 20_000]

TEXTS = [
    b"GET / HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n" * 5,
    b"POST / HTTP/1.1\\r\\nHost: a\\r\\nContent-Length: 5\\r\\nExpect: 100-continue\\r\\n\\r\\nhello",
    b"POST / HTTP/1.1\\r\\nHost: a\\r\\nTransfer-Encoding: chunked\\r\\n\\r\\n5\\r\\nhello\\r\\n0\\r\\nx: y\\r\\n\\r\\n",
    b"HEAD /?a=%20 HTTP/1.1\\r\\nHost: a\\r\\nCookie: a\\r\\nX-Long: " + b"l" * 5000 + b"\\r\\n\\r\\n",
    b"GET / HTTP/1.0\\r\\n\\r\\n",
    b"GET /raise HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n",
    b"rubbish\\r\\n\\r\\n",
    b"GET / HTTP/1.1\\r\\nHo",
]

async def say(port, text, piece):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for at in range(0, len(text), piece):
        writer.write(text[at : at + piece])
        await asyncio.sleep(0)
    writer.write_eof()
    n = len(await reader.read())
    writer.close()
    return n

async def main():
    total = 0
    for application, options in ((app, {"lifespan": "off"}), (wsgi, {"interface": "wsgi", "threads": 1})):
        server = kacore.Server(application, port=0, access_log="off", **options)
        serving = asyncio.create_task(server.serve(handle_signals=False))
        await server.started()
        for text in TEXTS:
            for piece in (len(text), 37):
                total += await say(server.port, text, piece)
        server.table.check()
        server.shutdown(now=True)
        await serving
    assert total > 500_000, total

asyncio.run(main())
print("conversation ended well")
"""


def compiled(source, directory):
    """The object of it, made once for all programs."""
    made = Path(directory, f"{source.stem}.o")
    if not made.exists():
        flags = ["-std=gnu11", "-O1", "-g", "-DKA_DEBUG=1", f"-I{SRC / 'core'}", f"-I{SRC / 'epoll'}", f"-I{TESTS_C}"]
        subprocess.run([*COMPILER, *flags, "-c", source, "-o", made], check=True)
    return made


def check_c(program, directory):
    text = program.read_text()
    linked = re.search(r"link:([\w ]+)", text)[1].split()
    sources = [path for room in linked for path in SRC.rglob(f"{room}/*.c")]
    wrapped = re.search(r"wrap:([\w ]+)", text)
    wraps = [f"-Wl,--wrap={name}" for name in wrapped[1].split()] if wrapped else []
    objects = [compiled(source, directory) for source in (program, *sources, *([TESTS_C / "faults.c"] if wraps else []))]
    binary = Path(directory, program.stem)
    subprocess.run([*COMPILER, *objects, *wraps, "-o", binary], check=True)
    env = {**os.environ, "ENGINE_SEEDS": "1-1", "ENGINE_SCENE": "everything"}
    return subprocess.run([*MEMCHECK, "--leak-check=full", binary], env=env, timeout=300, capture_output=True, text=True)


def errors_of_ours(report):
    """The errors that memcheck printed and that have a frame of the extension."""
    blocks = re.split(r"(?m)^==\d+== \n", report)
    return [block for block in blocks if re.search(r"\b(?:ka_\w+|__pyx_\w+) \(", block)]


def check_python(directory):
    script = Path(directory, "conversation.py")
    script.write_text(textwrap.dedent(CONVERSATION))
    env = {**os.environ, "PYTHONMALLOC": "malloc"}
    return subprocess.run([*MEMCHECK, "--error-exitcode=0", sys.executable, str(script)], env=env, timeout=600,
                          capture_output=True, text=True)  # fmt: skip


def main():
    if shutil.which("valgrind") is None:
        print("valgrind is not installed")
        return 1
    failed = []
    with tempfile.TemporaryDirectory() as directory:
        for program in sorted(TESTS_C.glob("*_test.c")):
            began = time.monotonic()
            done = check_c(program, directory)
            is_right = done.returncode == 0
            print(f"{program.stem:<14}{'passed' if is_right else 'FAILED'} in {time.monotonic() - began:.0f} s")
            if not is_right:
                failed.append(program.stem)
                print(done.stdout[-2000:] + done.stderr[-4000:])
        began = time.monotonic()
        done = check_python(directory)
        errors = errors_of_ours(done.stderr)
        is_right = done.returncode == 0 and not errors and "ended well" in done.stdout
        print(f"{'conversation':<14}{'passed' if is_right else 'FAILED'} in {time.monotonic() - began:.0f} s")
        if not is_right:
            failed.append("conversation")
            print(done.stdout[-2000:] + "\n".join(errors[:5]) + done.stderr[-3000:])
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
