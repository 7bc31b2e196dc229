"""aiohttp's own tests of its server, from its sdist, with kacore's classes in place of aiohttp's.

`make hosts` puts the sdist into build/hosts; without it these tests are skipped. Where kacore means to differ
stands here by name, as in docs/embedding-aiohttp.md: a test that is listed and passes is as wrong as one that fails
unlisted.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
IS_ASKED = "TEST_HOSTS" in os.environ  # as `make hosts` sets it: this takes its time
FOUND = sorted(ROOT.glob("build/hosts/aiohttp-*/tests/test_web_functional.py"))
SUITES = (
    "test_web_functional.py",
    "test_web_protocol.py",
    "test_web_runner.py",
    "test_web_server.py",
    "test_web_sendfile_functional.py",
    "test_web_websocket_functional.py",
    "test_run_app.py",
)

# Test of aiohttp -> why it is another thing here.
DIFFERENT = {
    "test_http11_keep_alive_default": "Keep-Alive is advertised, and then Connection: keep-alive is sent",
    "test_http10_keep_alive_with_headers_close": "a response that ends the connection says Connection: close to all",
    "test_keepalive_expires_on_time": "looks at a timer of the connection: there is one for all",
    "test_websocket_disable_keepalive_no_armed_handle": "the same",
    "test_trickled_headers_closed_at_first_request_deadline": "who goes on sending is heard out, so that it can read the 408",
    "test_run_app_https": "the loop is also given the time that a TLS handshake has",
    "test_run_app_https_unix_socket": "the same",
    "test_run_app_pass_apprunner_kwargs": "gives keepalive_timeout an object that is no number",
    "test_shutdown_timeout_handler": "who is cancelled is answered 503 and has gone before the server counts",
}


@pytest.mark.needs("module:pytest_mock", "module:trustme")
@pytest.mark.skipif(not (IS_ASKED and FOUND), reason="`make hosts` fetches the sdist of aiohttp and runs its tests")
@pytest.mark.timeout(400)
def test_aiohttp_server_tests_differ_only_where_that_is_meant(python_environment):
    options = ["-p", "aiohttp_in_place", "-o", "addopts=", "-o", "filterwarnings=", "-o", "timeout=60"]
    child = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "-p", "no:cacheprovider", "--import-mode=importlib", "-qrA", "--tb=no"]
        + [f"tests/{name}" for name in SUITES],
        cwd=FOUND[-1].parents[1],
        # Safe path: aiohttp's directory is in this one, without what was compiled.
        env={**python_environment, "PYTHONPATH": os.path.dirname(__file__), "PYTHONSAFEPATH": "1"},
        capture_output=True,
        text=True,
        timeout=380,
    )
    outcomes = re.findall(r"^(PASSED|FAILED|ERROR) \S+::(\w+)", child.stdout, re.MULTILINE)
    failed = {name for outcome, name in outcomes if outcome != "PASSED"}
    assert sum(outcome == "PASSED" for outcome, _ in outcomes) > 400, child.stdout + child.stderr
    assert failed == set(DIFFERENT), child.stdout


def test_every_difference_from_aiohttp_stands_in_the_documentation():
    text = (ROOT / "docs" / "embedding-aiohttp.md").read_text()
    assert [name for name in DIFFERENT if f"`{name}`" not in text] == []
