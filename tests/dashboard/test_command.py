"""`risk-store dashboard`, as a shell starts and stops it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.command import run


@contextmanager
def served(*arguments: str, **environment: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The command running, and the address it told."""
    command = [sys.executable, "-m", "risk_store", "dashboard", *arguments, "--port", "0"]
    given = {name: value for name, value in os.environ.items() if not name.startswith("RISK_STORE")} | environment
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=given)
    try:
        assert process.stdout is not None
        told = process.stdout.readline()
        address = next((word for word in told.split() if word.startswith("http://")), None)
        assert address, (told, process.stderr and process.stderr.read())
        yield process, address
    finally:
        process.kill()
        process.communicate()


def get(address: str) -> str:
    with urllib.request.urlopen(address, timeout=30) as answer:
        return str(answer.read().decode())


def test_it_serves_the_page_and_stops_at_ctrl_c(store_url: str) -> None:
    with served(store_url) as (process, address):
        assert "risk<b>·</b>store" in get(address)
        assert json.loads(get(f"{address}healthz")) == {"status": "ok"}
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=30)
        assert process.returncode == 130
        assert "Traceback" not in told


def test_a_process_that_is_told_to_end_ends(file: Path) -> None:
    with served(str(file)) as (process, address):
        get(address)
        process.terminate()
        assert process.wait(timeout=30) in (-signal.SIGTERM, 143)


def test_the_url_may_come_from_the_environment(file: Path) -> None:
    with served(RISK_STORE_URL=f"sqlite:///{file}") as (_, address):
        assert file.name in get(address)


def test_it_can_be_started_before_there_is_a_store(tmp_path: Path) -> None:
    with served(f"sqlite:///{tmp_path}/none.db") as (_, address):
        with pytest.raises(urllib.error.HTTPError) as answer:
            get(address)
        page = answer.value.read().decode()
        answer.value.close()
    assert answer.value.code == 503
    assert "risk-store upgrade" in page


def test_the_browser_is_opened_if_asked_for(file: Path, tmp_path: Path) -> None:
    told = tmp_path / "address"
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > {told}\n')
    browser.chmod(0o755)
    with served(str(file), "--open", BROWSER=str(browser)) as (_, address):
        for _attempt in range(300):
            if told.exists() and told.read_text():
                break
            time.sleep(0.1)
        assert told.read_text().strip() == address


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_another_address_is_refused_without_a_name_to_be_asked_by(file: Path, host: str) -> None:
    refused = run("dashboard", str(file), "--host", host)
    assert refused.returncode == 2
    assert "--allowed-host NAME" in refused.stderr
    assert "no login" in refused.stderr


def test_with_a_name_another_address_is_taken_and_warned_of(file: Path) -> None:
    with served(str(file), "--host", "0.0.0.0", "--allowed-host", "risk.example") as (process, address):
        port = address.rsplit(":", 1)[1].strip("/")
        request = urllib.request.Request(f"http://127.0.0.1:{port}/healthz", headers={"Host": "risk.example"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            assert answer.status == 200
        process.terminate()
        _, told = process.communicate()
        assert "no login" in told


def test_a_port_that_is_taken_is_named(file: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        failed = run("dashboard", str(file), "--port", str(port))
    assert failed.returncode == 1
    assert f"127.0.0.1:{port} cannot be used" in failed.stderr
    assert "--port 0" in failed.stderr


@pytest.mark.parametrize(
    ("missing", "arguments", "extra"),
    [("starlette", (), "dashboard"), ("uvicorn", (), "dashboard"), ("prometheus_client", ("--metrics",), "metrics")],
)
def test_without_its_extra_it_says_what_to_install(
    file: Path, monkeypatch: pytest.MonkeyPatch, missing: str, arguments: tuple[str, ...], extra: str
) -> None:
    for name in [name for name in sys.modules if name.startswith(("risk_store.dashboard", "risk_store.metrics"))]:
        monkeypatch.delitem(sys.modules, name)
    for name in [name for name in sys.modules if name.partition(".")[0] == missing]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    failed = run("dashboard", str(file), *arguments)
    assert failed.returncode == 1
    assert failed.stderr.count("\n") == 1
    assert f"pip install 'risk-store[{extra}]'" in failed.stderr


def test_no_secret_of_its_url_is_told() -> None:
    with served("postgresql+psycopg://ann:s3cret@127.0.0.1:1/risk?password=leak") as (process, address):
        with pytest.raises(urllib.error.HTTPError) as answer:
            get(address)
        page = answer.value.read().decode()
        answer.value.close()
        process.terminate()
        printed, told = process.communicate()
    for secret in ("s3cret", "leak"):
        assert secret not in page + printed + told
    assert "cannot be reached" in page
