#!/usr/bin/env python3
"""Measures what is counted of events over a large store, and prints a Markdown table.

A store is filled by `hookgate seed`: accounts by Zipf's law, of which the largest has a fifth of the events, over 30
days. Summaries, event metrics, event types and accounts are read over one connection, and the same is computed from
the table of events by SQL. `hookgate seed` makes no deliveries: the script adds endpoints, and writes how their deliveries
ended, by endpoint, type and account, into the hours of the rollups.

  tests/load/reads.py path/to/hookgate                                SQLite, in a temporary directory
  tests/load/reads.py path/to/hookgate --data-dir DIR                 the same; the store is kept
  tests/load/reads.py path/to/hookgate --database-url postgres://…    PostgreSQL; needs psql, the rows stay there

A store that was filled before is measured as it is. Only the Python standard library is needed.
"""

import argparse
import contextlib
import http.client
import json
import os
import socket
import sqlite3
import statistics
import subprocess
import tempfile
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

DAYS = 30
COLD_ACCOUNTS = 200
REQUESTS = 200
QUERY_SECONDS_MAX = 20
COUNTED_WAIT_SECONDS = 600
ENDPOINTS = 20
# Accounts whose hours get outcomes: those with the most events.
ACCOUNTS_WITH_OUTCOMES = 100


def arguments(description):
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("hookgate")
    parser.add_argument("--events", type=int, default=5_000_000)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--database-url")
    return parser.parse_args()


class Store:
    def __init__(self, options, directory):
        self.hookgate, self.url, self.directory = options.hookgate, options.database_url, directory
        self.env = {**os.environ, "DATA_DIR": str(directory), "RUST_LOG": "warn"}
        if self.url:
            self.env["DATABASE_URL"] = self.url

    def command(self, *arguments):
        command = [self.hookgate, *arguments, "--output", "json"]
        answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=self.env, text=True).stdout
        return json.loads(answer)

    def rows(self, sql):
        """The rows of a statement, and how long it took in ms."""
        began = time.perf_counter()
        if self.url:
            psql = ["psql", "--no-psqlrc", "--tuples-only", "--no-align", "--dbname", self.url, "--command", sql]
            rows = subprocess.run(psql, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
        else:
            with contextlib.closing(sqlite3.connect(self.directory / "hookgate.db")) as connection:
                rows = connection.execute(sql).fetchall()
        return rows, 1000 * (time.perf_counter() - began)

    def execute(self, sql):
        """Runs statements."""
        if self.url:
            psql = ["psql", "--no-psqlrc", "--quiet", "--set", "ON_ERROR_STOP=1", "--dbname", self.url, "--file", "-"]
            subprocess.run(psql, check=True, input=sql, text=True)
        else:
            with contextlib.closing(sqlite3.connect(self.directory / "hookgate.db", timeout=60)) as connection:
                connection.executescript(sql)

    def bytes(self, value):
        return f"'\\x{value.hex()}'" if self.url else f"x'{value.hex()}'"

    def id(self, text):
        return f"'{text}'" if self.url else f"x'{text.replace('-', '')}'"

    def time(self, at):
        return f"'{at.isoformat()}'" if self.url else str(int(at.timestamp() * 1e6))


class Client:
    def __init__(self, port, key):
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self.headers = {"X-API-Key": key}

    def get(self, path):
        self.connection.request("GET", path, headers=self.headers)
        response = self.connection.getresponse()
        body = response.read()
        if response.status != 200:
            raise SystemExit(f"{path}: {response.status} {body[:300]}")
        return json.loads(body)

    def post(self, path, body):
        headers = {**self.headers, "Content-Type": "application/json"}
        self.connection.request("POST", path, body=json.dumps(body), headers=headers)
        response = self.connection.getresponse()
        text = response.read()
        if response.status >= 300:
            raise SystemExit(f"{path}: {response.status} {text[:300]}")
        return json.loads(text)

    def timed(self, path):
        began = time.perf_counter()
        self.get(path)
        return 1000 * (time.perf_counter() - began)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def serving(store, key):
    port = free_port()
    env = {**store.env, "PORT": str(port), "READ_RATE_LIMIT_PER_MINUTE": "1000000"}
    server = subprocess.Popen([store.hookgate, "serve"], env=env)
    try:
        client = Client(port, key)
        for _ in range(200):
            try:
                client.connection.request("GET", "/health/ready")
                client.connection.getresponse().read()
                break
            except OSError:
                client = Client(port, key)
                time.sleep(0.1)
        yield client, port
    finally:
        server.terminate()
        server.wait()


def wait_until_counted(port):
    """Until what was seeded is in the rollups."""
    for _ in range(COUNTED_WAIT_SECONDS):
        scrape = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        scrape.request("GET", "/metrics")
        text = scrape.getresponse().read().decode()
        waiting = [line for line in text.splitlines() if line.startswith("hookgate_rollup_deltas ")]
        if waiting and waiting[0].split()[1] == "0":
            return
        time.sleep(1)
    raise SystemExit("the rollups do not catch up")


def row(name, times, computed=None):
    times = sorted(times)
    p99 = times[min(len(times) - 1, int(len(times) * 0.99))]
    from_events = "–" if computed is None else f"{computed:,.0f}"
    print(f"| {name} | {statistics.median(times):,.1f} | {p99:,.1f} | {times[-1]:,.1f} | {from_events} |", flush=True)


def repeated(client, path):
    times, began = [], time.perf_counter()
    while len(times) < REQUESTS and time.perf_counter() - began < QUERY_SECONDS_MAX:
        times.append(client.timed(path))
    return times


@contextlib.contextmanager
def seeded(options):
    """The store, filled, and what `hookgate seed` has told."""
    with tempfile.TemporaryDirectory() as temporary:
        directory = options.data_dir or Path(temporary)
        store = Store(options, directory)
        marker = directory / "seeded.json"
        if marker.exists():
            told = json.loads(marker.read_text())
        else:
            told = store.command("seed", "--events", str(options.events), "--days", str(DAYS))
            marker.write_text(json.dumps(told))
        print(f"{told['events']:,} events, {told['events_per_second']:,.0f} per second\n", flush=True)
        yield store, told


def main():
    with seeded(arguments(__doc__)) as (store, told):
        org = told["org_id"]
        key = store.command("key", "create", "--org", org, "--name", "reads")["key"]
        with serving(store, key) as (client, port):
            began = time.perf_counter()
            wait_until_counted(port)
            print(f"counted within {time.perf_counter() - began:.0f} s\n")
            # A connection that nobody used meanwhile may be closed.
            client = Client(port, key)
            until = datetime.fromisoformat(told["until"])
            endpoint = add_outcomes(store, client, org, until)
            measure(store, client, org, endpoint, until)


def outcome_counts(delivered):
    """Counts of outcomes as src/store/rollups/delivery_hour.rs writes them: so many were delivered, one was given up,
    two attempts failed; and how long deliveries took, in two buckets."""
    return bytes([delivered, 1, 2, 2, 5, delivered - 1, 9, 1, 1, 3, delivered])


def by_minute(delivered):
    return bytes([60]) + b"".join(bytes([minute]) + outcome_counts(delivered) for minute in range(60))


def add_outcomes(store, client, org, until):
    """Endpoints, with outcomes in every hour, and outcomes by type of the organisation and its largest accounts. Returns
    the id of an endpoint."""
    known = client.get("/api/endpoints?limit=100")["data"]
    if len(known) >= ENDPOINTS:
        return known[0]["id"]
    body = {"url": "https://receiver.example/hooks", "event_types": ["never.sent"]}
    ids = [client.post("/api/endpoints", body)["id"] for _ in range(ENDPOINTS)]
    last = int(until.timestamp()) // 3600
    hours = range(last - 24 * DAYS, last + 1)
    minutes, totals = store.bytes(by_minute(3)), store.bytes(outcome_counts(120))
    statements = ["BEGIN;"]
    for endpoint in [*ids, "00000000-0000-0000-0000-000000000000"]:
        values = ",".join(f"({store.id(org)}, {store.id(endpoint)}, {hour}, {totals}, {minutes})" for hour in hours)
        statements.append(
            "INSERT INTO rollup_delivery_hours (org_id, endpoint_id, hour, totals, minutes)"
            f" VALUES {values} ON CONFLICT DO NOTHING;"
        )
    types = sorted(row["type"].encode() for row in client.get("/api/event-types?limit=100")["data"])
    by_type = bytes([len(types)]) + b"".join(bytes([len(name)]) + name + outcome_counts(120) for name in types)
    type_minutes = bytes([len(types)]) + by_minute(3) * len(types)
    of_org = f"org_id = {store.id(org)}"
    statements.append(
        f"UPDATE rollup_hours SET outcome_totals = {store.bytes(by_type)}, outcome_minutes = {store.bytes(type_minutes)}"
        f" WHERE {of_org} AND (account_id = '' OR account_id IN (SELECT account_id FROM accounts WHERE {of_org}"
        f" ORDER BY events DESC LIMIT {ACCOUNTS_WITH_OUTCOMES}));"
    )
    store.execute("\n".join([*statements, "COMMIT;", "ANALYZE;"]))
    return ids[0]


def measure(store, client, org, endpoint, until):
    print("| query | p50 | p99 | maximum | from the table of events |\n|---|---|---|---|---|")
    week, month = until - timedelta(days=7), until - timedelta(days=DAYS)
    span = f"from={week:%Y-%m-%dT%H:%M:%SZ}&to={until:%Y-%m-%dT%H:%M:%SZ}"
    whole = f"from={month:%Y-%m-%dT%H:%M:%SZ}&to={until:%Y-%m-%dT%H:%M:%SZ}"
    largest = "acct_0000001"
    happened = "coalesce(occurred_at, received_at)"
    of_org = f"org_id = {store.id(org)}"
    _, computed = store.rows(
        f"SELECT event_type, count(*) FROM events WHERE {of_org} AND account_id = '{largest}'"
        f" AND {happened} >= {store.time(week)} GROUP BY event_type"
    )
    # Windows that differ by a minute are different entries of the cache.
    cold = []
    for minute in range(60):
        begin = week + timedelta(minutes=minute)
        window = f"from={begin:%Y-%m-%dT%H:%M:%SZ}&to={until:%Y-%m-%dT%H:%M:%SZ}"
        cold.append(client.timed(f"/api/accounts/{largest}/summary?{window}"))
    row("summary of the largest account, 7 days, cold", cold, computed)
    row("the same, cached", repeated(client, f"/api/accounts/{largest}/summary?{span}"))
    accounts = [f"acct_{number:07}" for number in range(2, 2 + COLD_ACCOUNTS)]
    row("summaries of 200 other accounts, cold", [client.timed(f"/api/accounts/{name}/summary?{span}") for name in accounts])
    row("a day of the largest account, cold", [
        client.timed(f"/api/accounts/{largest}/summary?from={until - timedelta(hours=24, minutes=m):%Y-%m-%dT%H:%M:%SZ}&to={until - timedelta(minutes=m):%Y-%m-%dT%H:%M:%SZ}")
        for m in range(60)
    ])
    def part(unit, micros):
        return f"date_trunc('{unit}', received_at)" if store.url else f"received_at / {micros}"

    groups = [
        ("minute", part("minute", 60_000_000)),
        ("hour", part("hour", 3_600_000_000)),
        ("day", part("day", 86_400_000_000)),
        ("type", "event_type"),
        ("account", "account_id"),
        ("endpoint", None),
    ]
    for group, column in groups:
        computed = None
        if column:
            _, computed = store.rows(f"SELECT {column}, count(*), sum(length(payload)) FROM events WHERE {of_org} GROUP BY 1")
        row(f"metrics over {DAYS} days by {group}", repeated(client, f"/api/analytics/events?group_by={group}&{whole}"), computed)
    _, computed = store.rows(f"SELECT user_id, count(*) FROM events WHERE {of_org} AND account_id = '{largest}' GROUP BY 1")
    by_user = f"/api/analytics/events?group_by=user&account_id={largest}&{whole}"
    row("the same by user of the largest account", repeated(client, by_user), computed)
    row("statistics of an endpoint", repeated(client, f"/api/endpoints/{endpoint}/stats"))
    _, computed = store.rows(f"SELECT event_type, count(*) FROM events WHERE {of_org} GROUP BY event_type")
    row("event types", repeated(client, "/api/event-types"), computed)
    _, computed = store.rows(
        f"SELECT account_id, count(*), sum(length(payload)), min({happened}), max({happened})"
        f" FROM events WHERE {of_org} GROUP BY 1"
    )
    row("accounts", repeated(client, "/api/accounts?limit=100"), computed)
    row("sample of accounts", repeated(client, "/api/accounts/sample"))


if __name__ == "__main__":
    main()
