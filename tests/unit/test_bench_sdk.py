"""`make bench-sdk` runs, and its JSON has what its users read. What anything takes is no matter of a test."""

import json

from bench.sdk.__main__ import main

WAYS = {
    "token ES256": {"joserfc"},
    "verify request 30 B": {"by hand"},
    "sign request 30 B": {"by hand"},
    "verify RFC 9421 1 KiB": set(),
    "policy, first of 4 rules": {"CEL, all facts", "in Python"},
    "policy, last of 4 rules": {"CEL, all facts", "in Python"},
    "permission, 2 of 4": set(),
    "a service's whole stack": set(),
    "handshake, CRL of 10": {"ssl with CRL", "sdk, peers by SPIFFE ID"},
    "look at mounted files": set(),
    "take over a rotation": set(),
}


def test_each_case_beside_its_floor(capsys, monkeypatch):
    chosen = [part for name in WAYS for part in ("--only", name)]
    monkeypatch.setattr("sys.argv", ["bench.sdk", "--samples", "2", *chosen])
    assert main() == 0
    told = capsys.readouterr()
    results = json.loads(told.out)
    assert results["unit"] == "microseconds a call" and results["samples"] == 2
    assert {"python", "openssl", "cryptography", "cpus", "load_before", "load_after"} == set(results["machine"])
    for name, others in WAYS.items():
        case = results["cases"][name]
        assert case["calls_a_sample"] >= 1
        assert set(case["variants"]) == {"floor", "sdk"} | others, name
        for figures in case["variants"].values():
            assert {"p50_us", "p99_us", "least_us", "x_floor"} == set(figures)
            assert 0 <= figures["least_us"] <= figures["p50_us"] <= figures["p99_us"]
        assert case["variants"]["floor"]["x_floor"] == 1
        assert name in told.err
