"""The server of runs in progress: what it answers, and what it refuses."""

import http.client
import json
import os
import signal
import threading
from contextlib import contextmanager

import pytest
from pages_text import Outline

from fedjax_sim.commands import watch
from fedjax_sim.core.errors import InputError
from fedjax_sim.pages import live


@contextmanager
def served(results):
    """Returns `get(path, **headers) -> (status, headers, text)` while it serves."""
    with live.server(results, "127.0.0.1", 0) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        port = serving.server_address[1]

        def get(path, method="GET", **headers):
            link = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            link.request(method, path, headers=headers)
            answer = link.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read().decode()

        yield get
        serving.shutdown()


def test_it_reads_its_folder_and_nothing_else(make_run, tmp_path):
    make_run("group/a <b>", mta=90.0, asr=1.0)
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "config.json").write_text("{}")
    (make_run.results / "way_out").symlink_to(tmp_path / "secret")
    with served(make_run.results) as get:
        status, headers, text = get("/")
        assert status == 200 and "Set-Cookie" not in headers
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        outline = Outline(text)
        (row,) = json.loads(outline.data)
        assert (row["run"], row["status"]) == ("group/a <b>", "finished")
        assert row["page"] == "/run/group/a%20%3Cb%3E" and "b" not in outline.tags

        status, _, text = get("/data/group/a%20%3Cb%3E")
        assert status == 200 and json.loads(text)["progress"][0]["title"] == "Rates %"
        for path in (
            "/run/..%2Fsecret",
            "/run/../secret",
            "/run/way_out",
            "/run/%00",
            "/run/group",
            "/etc/passwd",
            "//etc/passwd",
        ):
            assert get(path)[0] == 404, path
        # A foreign name that points to this machine gets nothing.
        assert get("/", Host="evil.example")[0] == 403
        assert get("/", Host="evil.example:80")[0] == 403
        assert get("/", method="POST")[0] == 501


def test_an_empty_folder_and_a_folder_of_others(tmp_path):
    with served(tmp_path) as get:
        assert json.loads(get("/runs.json")[2]) == []
        (tmp_path / "x").mkdir()
        (tmp_path / "x" / "config.json").write_text('{"rounds": 3}')
        assert [one["run"] for one in json.loads(get("/runs.json")[2])] == ["x"]
        status, _, text = get("/run/x")
        assert status == 409 and "not the files of a run" in text


def test_a_reader_who_goes_away_ends_nothing(tmp_path, monkeypatch, capsys):
    """Commands let SIGPIPE end them, for `| head`; a server must not."""
    numbers = (signal.SIGPIPE, signal.SIGINT, signal.SIGTERM)
    old = {number: signal.getsignal(number) for number in numbers}
    during = []

    def stop(self):
        during.append(signal.getsignal(signal.SIGPIPE))
        raise KeyboardInterrupt

    monkeypatch.setattr(live.ThreadingHTTPServer, "serve_forever", stop)
    try:
        assert watch.main(["watch", str(tmp_path), "--port=0"]) == 0
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
    assert during == [signal.SIG_IGN]
    assert "http://127.0.0.1:" in capsys.readouterr().out


def test_what_cannot_be_watched_is_one_line(tmp_path, capsys):
    assert watch.main(["watch", str(tmp_path / "none")]) == 2
    assert "there is no such folder" in capsys.readouterr().err
    assert watch.main(["watch"]) == 2
    capsys.readouterr()
    # Which a socket takes for all addresses.
    assert watch.main(["watch", str(tmp_path), "--address="]) == 2
    err = capsys.readouterr().err
    assert "--address=" in err and err.count("\n") == 1
    with pytest.raises(InputError, match="--port"):
        live.server(tmp_path, "192.0.2.1", 0)


def test_one_odd_run_does_not_take_the_list_down(make_run, tmp_path):
    make_run("good", mta=90.0, asr=1.0)
    make_run("nan", mta=90.0, asr=1.0)
    rows = make_run.results / "nan" / "metrics.jsonl"
    row = json.loads(rows.read_text().splitlines()[-1])
    row |= {"round": row["round"] + 1, "mta": float("nan"), "asr": float("inf")}
    with open(rows, "a") as file:
        file.write(json.dumps(row) + "\n")
    (make_run.results / "text").mkdir()
    (make_run.results / "text" / "config.json").write_text('{"rounds": 3}')
    (make_run.results / "text" / "metrics.jsonl").write_text(
        '{"round": 1, "mta": "high"}\n'
    )
    (make_run.results / "endless").mkdir()
    (make_run.results / "endless" / "config.json").write_text('{"rounds": Infinity}')
    (make_run.results / "folder" / "error.txt").mkdir(parents=True)
    (make_run.results / "folder" / "config.json").write_text('{"rounds": 3}')
    for name in ("empty", "list"):
        make_run(name, mta=90.0, asr=1.0)
    (make_run.results / "empty" / "summary.json").write_text("{}")
    (make_run.results / "list" / "summary.json").write_text("[]")
    name = os.fsencode(make_run.results) + b"/\xff"
    os.mkdir(name)
    with open(name + b"/config.json", "w") as file:
        file.write('{"rounds": 3}')

    def refuse(constant):
        raise AssertionError(constant)

    with served(make_run.results) as get:
        status, _, text = get("/runs.json")
        listed = json.loads(text, parse_constant=refuse)
        found = {row["run"]: row for row in listed}
        assert status == 200 and found["good"]["mta"] == 90
        assert found["nan"]["mta"] is None and found["nan"]["asr"] is None
        assert found["text"]["status"] == found["endless"]["status"] == "unreadable"
        assert "high" in found["text"]["line"]
        assert found["folder"]["line"]
        for name in ("empty", "list"):
            assert found[name]["status"] == "unreadable"
            assert "summary.json: " in found[name]["line"]
        assert found["\ufffd"]["page"] == "/run/%FF"
        status, _, text = get("/")
        assert status == 200 and json.loads(Outline(text).data) == listed
        assert get("/run/%FF")[0] == 409  # found, and not all of a run
        status, _, text = get("/data/nan")
        assert status == 200 and json.loads(text, parse_constant=refuse)["progress"]


def test_odd_requests_get_an_answer(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    with served(tmp_path) as get:
        assert get("/", Host="[::1")[0] == 403
        assert get("/run/" + "a" * 300)[0] == get("/run/loop")[0] == 404
        status, headers, text = get("/", method="HEAD")
        assert status == 200 and int(headers["Content-Length"]) > 0 and text == ""
        assert get("/none", method="HEAD")[0] == 404
