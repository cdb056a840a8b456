"""The table of `make demo-shop`: what it makes of the services' lines."""

import json
from pathlib import Path
from typing import Any

from examples.shop.run.table import Table

LINE = {"at": 1.0, "service": "order-service", "caller": "storefront", "status": 201, "certificate": "aa"}


def write(path: Path, *lines: dict[str, Any] | str) -> None:
    with path.open("a") as file:
        file.writelines(f"{one if isinstance(one, str) else json.dumps(one)}\n" for one in lines)


def table(path: Path) -> Table:
    found = Table(lambda: [path])
    found.read()
    return found


def test_requests_refusals_and_credentials_are_counted_by_caller_and_service(tmp_path: Path) -> None:
    log = tmp_path / "log"
    write(log, LINE, LINE | {"status": 403, "certificate": "bb", "reason": "no"}, LINE | {"caller": "other"})
    found = table(log)
    assert (found.requests, found.refused, found.number("storefront", "order-service", "certificate")) == (3, 1, 2)
    _head, _other, row = found.columns()
    assert row == ["storefront", "order-service", "2", "1", "2  bb", "", "", "", "403 no"]


def test_a_credential_that_comes_back_is_the_newest_and_counts_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    write(log, *(LINE | {"certificate": one} for one in ("aa", "bb", "aa")))
    assert table(log).columns()[1][4] == "2  aa"


def test_a_line_is_read_once_and_only_when_it_is_whole(tmp_path: Path) -> None:
    log = tmp_path / "log"
    write(log, LINE)
    found = table(log)
    with log.open("a") as file:
        file.write(json.dumps(LINE)[:20])
    found.read()
    assert found.requests == 1
    with log.open("a") as file:
        file.write(json.dumps(LINE)[20:] + "\n")
    found.read()
    assert found.requests == 2


def test_other_lines_and_missing_files_are_left_alone(tmp_path: Path) -> None:
    log = tmp_path / "log"
    write(log, "INFO started", "{half", "{}", LINE)
    assert table(log).requests == 1
    assert table(tmp_path / "none").requests == 0


def test_retries_and_faults_are_found(tmp_path: Path) -> None:
    log = tmp_path / "log"
    write(log, LINE | {"retries": 2}, LINE | {"status": 503}, "x attempt 1 at the database failed: AdminShutdown")
    found = table(log)
    assert (found.retries, found.database_retries, [one["status"] for one in found.errors]) == (2, 1, [503])


def test_a_new_beginning_forgets_what_was(tmp_path: Path) -> None:
    log = tmp_path / "log"
    write(log, LINE)
    found = table(log)
    found.begin()
    assert (found.requests, found.rows) == (0, {})
    write(log, LINE)
    found.read()
    assert found.requests == 1


def test_customers_have_no_certificate_and_a_leased_user_is_shown_by_what_tells_it_apart(tmp_path: Path) -> None:
    log = tmp_path / "log"
    edge = {name: value for name, value in LINE.items() if name not in {"caller", "certificate"}}
    write(log, edge | {"service": "storefront"}, edge | {"database": "v-token-sh-orders-pWQ8h3Lk92-1795634012"})
    rows = table(log).columns()[1:]
    assert [row[0] for row in rows] == ["customers", "without certificate"]
    assert rows[1][7] == "1  pWQ8h3Lk"
