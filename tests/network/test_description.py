"""Descriptions of networks: quantities, overrides, and sentences that name the key where something is wrong; from the command line too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy
import pytest

from gradflow.cli.main import main
from gradflow.network.description import BadNetwork, described, named, network_of, read
from gradflow.network.prediction import predicted_times
from gradflow.runtime import records
from gradflow.views.page import page
from tests.plan.programs import shipped

FILE = """
latency = "20ms"
bandwidth = "100Mbit"
upload = "80Mbit/s"
compute = [0.5, "250ms", 0, 1]
gradient = 1e-3
[links]
"0-1" = { latency = 1 }
"2>3" = { bandwidth = "1MB" }
[nodes]
3 = { upload = 8000, download = "1.5kbit", compute = "2s" }
"""


def file(tmp_path: Path, text: str) -> str:
    path = tmp_path / "net.toml"
    path.write_text(text)
    return str(path)


def test_a_file_says_it_all(tmp_path: Path) -> None:
    links = network_of(file(tmp_path, FILE)).over(4)
    latency = numpy.full((4, 4), 0.02)
    latency[0, 1] = latency[1, 0] = 1
    bandwidth = numpy.full((4, 4), 12.5e6)
    bandwidth[3, 2] = 1e6  # [to, from]
    numpy.testing.assert_allclose(links.latency, latency)
    numpy.testing.assert_allclose(links.bandwidth, bandwidth)
    numpy.testing.assert_allclose(links.upload, [1e7, 1e7, 1e7, 1000])
    numpy.testing.assert_allclose(links.download, [numpy.inf, numpy.inf, numpy.inf, 1500 / 8])
    numpy.testing.assert_allclose(links.compute, [0.5, 0.25, 0, 2])
    numpy.testing.assert_allclose(links.gradient, [1e-3] * 4)


@pytest.mark.parametrize("name", ["lan", "wan"])
def test_the_named_ones_are_whole(name: str) -> None:
    network = network_of(name)
    assert network.title and network.over(3).latency.min() > 0
    assert set(named()) == {"lan", "wan"}


def test_what_a_run_keeps_reads_the_same(tmp_path: Path) -> None:
    for network in (network_of("wan"), network_of(file(tmp_path, FILE))):
        assert read(network.text()) == network and network_of(network.text()) == network


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"latency": "20 parsecs"}, '`latency` must be a time, a number or a text like "20ms", not "20 parsecs"'),
        ({"latency": -1}, "`latency` must be 0 seconds or more, not -1"),
        ({"latency": True}, "`latency` must be a time"),
        ({"bandwidth": 0}, "`bandwidth` must be above 0 bits a second, not 0"),
        ({"bandwidth": "."}, "`bandwidth` must be a bandwidth"),
        ({"bandwidth": float("nan")}, "`bandwidth` must be above 0"),
        ({"compute": [1, "x"]}, "`compute` must be a time"),
        ({"speed": 1}, "there is no key `speed`; keys here are title, latency,"),
        ({"links": {"0-1": {"loss": 1}}}, "there is no key `links.0-1.loss`; keys here are latency, bandwidth"),
        ({"nodes": {"0": {"upload": "fast"}}}, "`nodes.0.upload` must be a bandwidth"),
        ({"links": 3}, "`links`"),
        ({"latency": None}, "`latency` must be a time"),
    ],
)
def test_what_is_wrong_is_said_with_its_key(change: dict[str, Any], said: str) -> None:
    with pytest.raises(BadNetwork) as error:
        described("mine", {"latency": 0.1, "bandwidth": 1000, **change})
    assert str(error.value).startswith("the network `mine`: ") and said in str(error.value)


def test_a_key_that_is_missing_is_named() -> None:
    with pytest.raises(BadNetwork, match="the key `bandwidth` is missing"):
        described("mine", {"latency": 0.1})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"links": {"0-9": {"latency": 1}}}, '`links."0-9"` names the node 9, and there are 4'),
        ({"links": {"1-1": {"latency": 1}}}, "is no pair of nodes"),
        ({"links": {"a-b": {"latency": 1}}}, "is no pair of nodes"),
        ({"nodes": {"4": {"compute": 1}}}, "`nodes.4` is no node; there are 4"),
        ({"compute": [1, 2]}, "`compute` has 2 entries, and there are 4 nodes"),
    ],
)
def test_nodes_that_there_are_not(change: dict[str, Any], said: str) -> None:
    with pytest.raises(BadNetwork) as error:
        described("mine", {"latency": 0.1, "bandwidth": 1000, **change}).over(4)
    assert said in str(error.value)


def test_what_is_no_file_and_no_name(tmp_path: Path) -> None:
    with pytest.raises(BadNetwork, match="there is no network `moon`; there are lan, wan"):
        network_of("moon")
    with pytest.raises(BadNetwork, match="cannot be read"):
        network_of(str(tmp_path / "none.toml"))
    with pytest.raises(BadNetwork, match="cannot be read"):
        network_of(file(tmp_path, "latency = ["))


# ---- the time of a round


def test_a_predicted_round_is_that_of_the_run() -> None:
    program = shipped()["exchanges:gossip_on_digits"]
    times = predicted_times(program, network_of("wan"), 4, [1])
    assert times["phases"] == [pytest.approx(0.001 + 0.05 + 2600 / (12.5e6 / 2))]
    assert times["whole"] == pytest.approx(300 * times["phases"][0])


# ---- the command line


def test_a_run_on_a_network_of_ones_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = file(tmp_path, 'latency = "1s"\nbandwidth = "20800bit"\n')
    words = ["exchanges:gossip_on_digits", "--steps", "4", "--out", str(tmp_path), "--name", "a"]
    assert main(["run", *words, "--network", net]) == 0
    shown = capsys.readouterr().out
    assert "sent: 333 kB in 128 messages over 4 rounds (predicted 333 kB)" in shown and "network: 8 s on net" in shown
    summary = json.loads((tmp_path / "a" / "summary.json").read_text())
    assert summary["sent"]["bytes"] == 4 * 32 * 2600 and summary["sent"]["seconds"] == pytest.approx(8)
    lines = [json.loads(line) for line in (tmp_path / "a" / "metrics.jsonl").read_text().splitlines()]
    assert [line["sent"]["seconds"] for line in lines if line["event"] == "unit_done"] == pytest.approx([2, 4, 6, 8])
    assert [line["network_seconds"] for line in lines if line["event"] == "report"] == pytest.approx([0, 8])
    record = records.read(tmp_path / "a")
    assert [seconds for seconds, _ in record.timed["loss"]] == pytest.approx([0, 8])
    assert "Over the seconds of the network" in page(record) and "sent: 333 kB" in page(record)


def test_sent_stands_beside_the_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "exchanges:gossip_on_digits", "--steps", "3", "--out", str(tmp_path), "--name", "a"]) == 0
    capsys.readouterr()
    assert main(["plan", "exchanges:gossip_on_digits", "--against", str(tmp_path / "a"), "--format", "json"]) == 0
    (row,) = (row for row in json.loads(capsys.readouterr().out)["against"] if row["what"] == "bytes sent")
    assert row["predicted"] == row["measured"] == 3 * 32 * 2600


def test_a_run_without_a_network_counts_all_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "exchanges:gossip_on_digits", "--steps", "2", "--out", str(tmp_path), "--name", "a"]) == 0
    shown = capsys.readouterr().out
    assert "sent: 166 kB in 64 messages over 2 rounds" in shown and "network:" not in shown and "network time" not in shown
    assert records.read(tmp_path / "a").timed == {}


@pytest.mark.parametrize(
    ("spec", "network", "said"),
    [
        ("exchanges:gossip_on_digits", "moon", "there is no network `moon`"),
        ("exchanges:gossip_on_digits", 'latency = "soon"\nbandwidth = 1', "`latency` must be a time"),
        ("exchanges:gossip_on_digits", "latency = 1\nbandwidth = 1\ncompute = [1, 2]", "`compute` has 2 entries, and there are 16 nodes"),
        ("17_diffgrad:digits", "lan", "the program has no topology to run over"),
    ],
)
@pytest.mark.parametrize("command", ["run", "plan"])
def test_a_network_that_cannot_be_used(command: str, spec: str, network: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reference = file(tmp_path, network) if "=" in network else network
    more = ["--out", str(tmp_path / "runs")] if command == "run" else []
    assert main([command, spec, "--network", reference, *more]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_the_plan_shows_the_time_of_a_round(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "exchanges:gossip_on_digits", "--network", "wan", "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)["cost"]["network"]
    assert found["network"] == "wan" and found["phases"] == [pytest.approx(0.051416)]
    assert main(["plan", "exchanges:gossip_on_digits", "--network", "wan"]) == 0
    assert "a round: 51.4 ms (sites far apart" in capsys.readouterr().out


def test_a_run_goes_on_on_the_network_that_it_began_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["run", "exchanges:gossip_on_digits", "--steps", "2", "--network", "lan", "--out", str(tmp_path), "--name", "a"]
    assert main(words) == 0
    assert main(["run", "--resume", str(tmp_path / "a"), "--network", "lan"]) == 0
    assert main(["run", "--resume", str(tmp_path / "a"), "--network", "wan"]) == 3
    assert "`network` is" in capsys.readouterr().err
