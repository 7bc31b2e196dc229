"""uvicorn's own tests of what a protocol class has a part in, from its sdist, with kacore's in place of the httptools one.

`make hosts` puts the sdist into build/hosts; without it these tests are skipped. Where kacore means to differ stands
here by name, as in docs/embedding-uvicorn.md: a test that is listed and passes is as wrong as one that fails unlisted.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
IS_ASKED = "TEST_HOSTS" in os.environ  # as `make hosts` sets it: this takes its time
FOUND = sorted(ROOT.glob("build/hosts/uvicorn-*/tests/protocols/test_http.py"))

# What is left out (command, reload, importing, configuration, workers) goes by no protocol class.
SUITES = (
    "protocols/test_http.py",
    "protocols/test_websocket.py",
    "middleware/test_logging.py",
    "middleware/test_proxy_headers.py",
    "test_default_headers.py",
    "test_server.py",
    "test_ssl.py",
)
FIELDS = {"KEEP_ALIVE_TIMEOUT": "5", "DRAIN_GRACE": "0.1", "DRAIN_SPREAD": "0.1"}

# Test of uvicorn -> why kacore's answer is another one.
DIFFERENT = {
    "test_invalid_header_name": "nothing has been sent yet: the client gets a 500, not a bare close",
    "test_response_header_splitting": "the same",
    "test_duplicate_start_message": "the same",
    "test_partial_response_returned": "the same: a start without a body has not been sent yet",
    "test_chunked_encoding": "content that is complete goes out with its Content-Length",
    "test_chunked_encoding_empty_body": "the same",
    "test_message_after_body_complete": "the response is complete and in step: the connection is kept, the error raised",
    "test_value_returned": "the same",
    "test_large_post_request": "over 64 KiB of unread content are not worth a connection: it is closed",
    "test_keepalive_timeout_with_pipelined_requests": "looks at a timer of the connection: there is one for all",
    "test_keepalive_timeout_with_pipelined_websocket_upgrade": "the same; for httptools itself it is skipped",
    "test_max_concurrency": "limit_concurrency is max_connections: N of them are served, and then idle ones go",
    "test_shutdown_during_idle": "an idle connection is answered for drain_grace before it is closed",
    "test_100_continue_sent_when_body_consumed": "RFC 9110 10.1.1: no 100 when content has come already",
    "test_scopes": "the protocol keeps no scope",
    "test_invalid_http_request": "the 400 names the rule that was broken",
    "test_huge_headers_httptools_will_pass": "a field of 64 KiB is over max_header_bytes: 431",
    "test_huge_headers_httptools": "the same",
    "test_httptools_http10_keep_alive_disabled": "an HTTP/1.0 client that asks for keep-alive gets it",
}


@pytest.mark.needs("module:httptools", "module:wsproto", "module:websockets", "module:anyio", "module:httpx2")
@pytest.mark.skipif(not (IS_ASKED and FOUND), reason="`make hosts` fetches the sdist of uvicorn and runs its tests")
@pytest.mark.timeout(300)
def test_uvicorn_tests_differ_only_where_that_is_meant():
    suite = FOUND[-1].parents[2]
    options = ["-p", "uvicorn_in_place", "-o", "addopts=", "-o", "filterwarnings=", "-p", "no:cacheprovider", "-rA"]
    child = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "-q", "--tb=no", "-k", "httptools or not (h11 or zttp)"]
        + [f"tests/{name}" for name in SUITES],
        cwd=suite,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)} | {f"KACORE_{n}": v for n, v in FIELDS.items()},
        capture_output=True,
        text=True,
        timeout=280,
    )
    outcomes = re.findall(r"^(PASSED|FAILED|ERROR) \S+::(test_\w+)", child.stdout, re.MULTILINE)
    passed = {name for outcome, name in outcomes if outcome == "PASSED"}
    failed = {name for outcome, name in outcomes if outcome != "PASSED"}
    assert len(passed) > 120, child.stdout + child.stderr
    assert failed == set(DIFFERENT), child.stdout


def test_every_difference_stands_in_the_documentation():
    text = (ROOT / "docs" / "embedding-uvicorn.md").read_text()
    assert [name for name in DIFFERENT if f"`{name}`" not in text] == []
