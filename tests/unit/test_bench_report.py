"""What the bench of whole servers makes of its figures: ratios, table, charts. No server runs here."""

import json
import xml.etree.ElementTree as ElementTree
from types import SimpleNamespace

import pytest
from servers import chart, load, report
from servers.process import NotMeasured

MACHINE = {"processor": "a processor", "cores": "2"}
WRK = """Running 3s test @ http://127.0.0.1:1/
  1 threads and 64 connections
  Latency Distribution
     50%  310.00us
     99%    1.37ms
  {requests} requests in 3.00s, 40.00MB read
{wrong}Requests/sec:  66666.67
"""


def capacity(**cpu_us):
    figures = {
        name.replace("_", "-"): {"cpu_us": values, "rps": [1e5] * 3, "p99_us": [900.0] * 3, "busy": [1.0] * 3}
        for name, values in cpu_us.items()
    }
    return {
        "what": "64 connections", "first": "cpu_us", "machine": MACHINE, "figures": figures,
        "lost": {"mrhttp": "did not start"}, "versions": dict.fromkeys(figures, "1.0"),
    }  # fmt: skip


def idle(**bytes_each):
    figures = {name.replace("_", "-"): {"bytes_each": [value]} for name, value in bytes_each.items()}
    return {
        "what": "memory", "first": "bytes_each", "machine": MACHINE, "figures": figures, "lost": {}, "versions": {}
    }  # fmt: skip


@pytest.fixture
def results():
    return {
        "hello": capacity(nginx=[4.0, 5.0, 8.0], kacore_asgi=[5.0, 5.0, 10.0], uvicorn=[20.0, 20.0, 20.0]),
        "idle 2,000": idle(nginx=520.0, kacore_asgi=100.0),
        "idle 18,000": idle(nginx=510.0, kacore_asgi=90.0),
    }


def test_a_ratio_is_the_median_of_the_ratios_within_rounds(results):
    assert report.ratio(results["hello"], "nginx", "kacore-asgi") == pytest.approx(0.8)
    assert report.ratio(results["hello"], "uvicorn", "kacore-asgi") == pytest.approx(4.0)


def test_the_table_names_every_server_its_median_and_best_and_why_one_is_missing(results):
    table = report.text_table(results)
    assert "5.00 (best 4.00) us of CPU" in table
    assert "0.80 nginx, 4.00 uvicorn" in table
    assert "mrhttp" in table and "not measured: did not start" in table
    assert "510 bytes each" in table


def test_a_server_that_waited_for_its_client_is_marked(results):
    metrics = results["hello"]["figures"]["kacore-asgi"]
    assert report.row(results["hello"], "kacore-asgi")["responses/s"] == "100,000"
    metrics["busy"] = [0.7, 0.7, 1.0]
    assert report.row(results["hello"], "kacore-asgi")["responses/s"] == "100,000*"


def test_results_are_the_same_after_they_were_kept(results, tmp_path):
    report.save(tmp_path / "kept" / "server.json", results)
    assert report.load(tmp_path / "kept" / "server.json") == results
    assert len((tmp_path / "kept" / "server.json").read_text().splitlines()) == len(results) + 2
    assert report.load(tmp_path / "absent.json") == {}


def test_the_page_keeps_what_stands_outside_its_marks(results, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    report.put_into(page, results)
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text
    assert "| 64 connections (`hello`) | kacore-asgi | 5.00 (best 5.00) us of CPU |" in text
    report.put_into(page, results)
    assert page.read_text() == text
    (tmp_path / "bare.md").write_text("no marks")
    with pytest.raises(ValueError, match="figures: begin"):
        report.put_into(tmp_path / "bare.md", results)


def test_charts_are_xml_with_a_bar_and_a_line_for_each_server(results):
    drawings = chart.charts(results)
    assert set(drawings) == {"capacity.svg", "idle.svg"}
    space = "{http://www.w3.org/2000/svg}"
    bars = ElementTree.fromstring(drawings["capacity.svg"])
    lengths = [float(bar.get("width")) for bar in bars.iter(f"{space}rect")]
    assert lengths == sorted(lengths, reverse=True) and len(lengths) == 3
    curve = ElementTree.fromstring(drawings["idle.svg"])
    assert len(list(curve.iter(f"{space}path"))) == 2
    assert any("kacore-asgi, 90 B" in text.text for text in curve.iter(f"{space}text"))


def test_charts_of_nothing_are_no_charts():
    assert chart.charts({}) == {}


def wrk(requests, wrong=""):
    return SimpleNamespace(returncode=0, stdout=WRK.format(requests=requests, wrong=wrong), stderr="")


def test_what_wrk_printed_is_read():
    assert load.read_wrk(wrk(200_000)) == {"n": 200_000, "rps": 66666.67, "p99_us": 1370.0}


@pytest.mark.parametrize(
    "done", [wrk(0), wrk(10, "  Non-2xx or 3xx responses: 3\n"), wrk(10, "  Socket errors: connect 0, read 4\n")]
)
def test_a_wrong_answer_gives_no_figure(done):
    with pytest.raises(NotMeasured):
        load.read_wrk(done)


def test_values_are_kept_short():
    assert json.dumps(report.rounded(4.123456789)) == "4.123"
