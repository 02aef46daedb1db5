#!/usr/bin/env python3
"""Measures the lists of the HTTP API over a large store, and prints Markdown tables.

A store is filled with events, deliveries, dead letters and audit entries by SQL, not over HTTP. One organisation
has four fifths of the events, spread over nine days; its lists are read with each filter, over one connection. A
query is repeated 50 times, or for ten seconds.

  tests/load/lists.py path/to/hookgate                                SQLite, in a temporary directory
  tests/load/lists.py path/to/hookgate --data-dir DIR                 the same; the store is kept
  tests/load/lists.py path/to/hookgate --database-url postgres://…    PostgreSQL; needs psql, the rows stay there

A store that was filled before is measured as it is. Five million events take 3.3 GB on SQLite and 4.2 GB on
PostgreSQL, and some minutes to fill. Only the Python standard library is needed.
"""

import argparse
import contextlib
import hashlib
import http.client
import itertools
import json
import os
import random
import socket
import sqlite3
import statistics
import subprocess
import tempfile
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

ORG = "lists"
DAYS = 9
REQUESTS = 50
QUERY_SECONDS_MAX = 10
REQUEST_TIMEOUT_SECONDS = 30
DELIVERIES_MAX = 200_000
AUDIT_ENTRIES_MAX = 200_000
# A p50 above this is printed bold.
SLOW_MS = 50

VERBS = ["created", "updated", "shipped", "paid", "closed"]
FAMILIES = ["order", "user", "invoice", "cart", "stock", "ticket", "device", "report", "team", "plan"]
# The most frequent first: type number k has a share of 1/k.
TYPES = [f"{family}.{verb}" for family in FAMILIES for verb in VERBS]
ACCOUNTS = [f"acct-{number}" for number in range(200)]
USERS = [f"user-{number}" for number in range(5_000)]
# More types with one prefix than a list merges, with ten events each, the oldest of all.
RARE_TYPES = [f"rare.{number}" for number in range(100)]
# Both frequent, but no event has both.
DISJOINT = ("acct-1", "order.updated")
UNKNOWN = "00000000-0000-8000-8000-000000000000"

PARTITIONED = ["events", "deliveries", "delivery_attempts"]
# The columns of the tables that are filled, each with the kind of its values. Times are microseconds.
TABLES = {
    "events": "id:id org_id:id event_type:text payload:bytes dedup_id:text account_id:text user_id:text"
    " received_at:time trace_id:id",
    "dedup_keys": "org_id:id event_id:id received_at:time",
    "deliveries": "org_id:id created_at:time id:id event_id:id event_received_at:time endpoint_id:id"
    " status:text attempts:number finished_at:time started_at:time duration_ms:number status_code:number"
    " error_class:text type_key:number",
    "dead_letters": "id:id org_id:id event_id:id delivery_id:id endpoint_id:id reason:text created_at:time"
    " replayed_at:time event_type:text error_class:text status_code:number attempts:number",
    "audit_log": "id:id org_id:id at:time actor:text action:text object:id changes:text",
}


def columns(table):
    return [column.split(":") for column in TABLES[table].split()]


def type_key(org, event_type):
    """The key by which the program finds deliveries of a type."""
    digest = hashlib.sha256(bytes.fromhex(org) + event_type.encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


class Sqlite:
    name = "SQLite"

    def __init__(self, data_dir):
        self.env = {"DATA_DIR": str(data_dir)}
        self.file = data_dir / "hookgate.db"

    def query(self, sql):
        with contextlib.closing(sqlite3.connect(self.file, timeout=60)) as connection, connection:
            return connection.execute(sql).fetchall()

    def copy(self, table, rows):
        kinds = [{"id": bytes.fromhex, "bytes": str.encode}.get(kind) for _, kind in columns(table)]
        names = ", ".join(name for name, _ in columns(table))
        values = ", ".join("?" for _ in kinds)
        with contextlib.closing(sqlite3.connect(self.file)) as connection:
            # Whoever interrupts this deletes the file. The server turns the write-ahead log on again.
            for pragma in ["journal_mode = OFF", "synchronous = OFF", "cache_size = -500000"]:
                connection.execute(f"PRAGMA {pragma}")
            connection.executemany(
                f"INSERT INTO {table} ({names}) VALUES ({values})",
                ([kind(value) if kind else value for kind, value in zip(kinds, row)] for row in rows),
            )
            connection.commit()

    def id(self, value):
        return f"x'{value}'"

    def time(self, micros):
        return str(micros)

    def prepare(self, start):
        pass

    def finish(self):
        pass

    def index_sizes(self):
        return self.query(
            "SELECT s.name, s.pgsize, s.ncell FROM (SELECT * FROM dbstat WHERE aggregate = 1) s"
            " JOIN sqlite_schema i ON i.name = s.name"
            " WHERE i.tbl_name IN ('events', 'deliveries', 'dead_letters') ORDER BY i.tbl_name, s.name"
        )


class Postgres:
    name = "PostgreSQL"

    def __init__(self, url, data_dir):
        self.env = {"DATABASE_URL": url, "DATA_DIR": str(data_dir)}
        self.psql = ["psql", "--no-psqlrc", "--quiet", "-v", "ON_ERROR_STOP=1", "--dbname", url]

    def query(self, sql):
        command = [*self.psql, "--tuples-only", "--no-align", "--field-separator=\t", "--command", sql]
        answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        return [line.split("\t") for line in answer.splitlines()]

    def copy(self, table, rows):
        kinds = [{"time": self.text_time, "bytes": self.text_bytes}.get(kind, str) for _, kind in columns(table)]
        names = ", ".join(name for name, _ in columns(table))
        command = [*self.psql, "--command", f"COPY {table} ({names}) FROM STDIN"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, text=True) as psql:
            for row in rows:
                fields = ("\\N" if value is None else kind(value) for kind, value in zip(kinds, row))
                psql.stdin.write("\t".join(fields) + "\n")
        if psql.returncode:
            raise SystemExit(f"psql could not fill {table}")

    @staticmethod
    def text_time(micros):
        at = datetime.fromtimestamp(micros // 1_000_000, timezone.utc)
        return f"{at:%Y-%m-%d %H:%M:%S}.{micros % 1_000_000:06}+00"

    @staticmethod
    def text_bytes(value):
        return "\\\\x" + value.encode().hex()

    def id(self, value):
        return f"'{value}'"

    def time(self, micros):
        return f"'{self.text_time(micros)}'"

    def prepare(self, start):
        """Creates the partitions of the days from `start` to yesterday; the server has created those from today on."""
        first = datetime.fromtimestamp(start / 1e6, timezone.utc).date()
        days = (datetime.now(timezone.utc).date() - first).days
        for table in PARTITIONED:
            partitions = (
                f"CREATE TABLE IF NOT EXISTS {table}_p{day:%Y%m%d} PARTITION OF {table}"
                f" FOR VALUES FROM ('{day} 00:00+00') TO ('{day + timedelta(days=1)} 00:00+00')"
                for day in (first + timedelta(days=number) for number in range(days))
            )
            self.query(f"SET client_min_messages = warning; {'; '.join(partitions)}")

    def finish(self):
        self.query("VACUUM ANALYZE")

    def index_sizes(self):
        rows = self.query(
            "SELECT coalesce(p.relname, c.relname), sum(pg_relation_size(c.oid)), sum(greatest(c.reltuples, 0))"
            " FROM pg_index x JOIN pg_class c ON c.oid = x.indexrelid AND c.relkind = 'i'"
            " LEFT JOIN pg_inherits h ON h.inhrelid = c.oid LEFT JOIN pg_class p ON p.oid = h.inhparent"
            " WHERE split_part(x.indrelid::regclass::text, '_p2', 1)"
            " IN ('events', 'deliveries', 'dead_letters') GROUP BY 1 ORDER BY 1"
        )
        return [(name, float(size), float(entries)) for name, size, entries in rows]


class Rows:
    """The rows of all tables. Those of the smaller tables are collected while the events are read."""

    def __init__(self, events, org, endpoints, start, end):
        self.count, self.org, self.endpoints, self.start, self.end = events, org, endpoints, start, end
        self.random = random.Random(1)
        self.deliveries_max = min(DELIVERIES_MAX, events // 25)
        self.dedup_keys, self.deliveries, self.dead_letters = [], [], []

    def id(self, micros=None):
        """A UUIDv7 of this time, or an id without a time."""
        bits = self.random.getrandbits(128)
        if micros is None:
            return f"{bits:032x}"
        return f"{micros // 1000:012x}7{bits & 0xFFF:03x}8{bits >> 68:015x}"

    def events(self):
        others = [self.id(self.start) for _ in range(19)]
        # Drawn beforehand, which is faster than a draw per event; the lengths have no common divisor.
        types, accounts, users = (
            itertools.cycle(self.random.choices(values, [1 / (1 + k) for k in range(len(values))], k=length))
            for values, length in [(TYPES, 100_003), (ACCOUNTS, 100_019), (USERS, 300_007)]
        )
        big = 0
        for number in range(self.count):
            at = self.start + (self.end - self.start) * number // self.count
            org = self.org if number % 5 else others[number // 5 % len(others)]
            dedup_id = f"order-{number}" if number % 10 == 1 else None
            event = self.id(None if dedup_id else at)
            event_type, account = next(types), next(accounts)
            if (account, event_type) == DISJOINT:
                event_type = TYPES[0]
            if number < 10 * len(RARE_TYPES) * 5 // 4 and org == self.org:
                event_type = RARE_TYPES[number % len(RARE_TYPES)]
            payload = f'{{"number":{number},"trace":"{self.random.getrandbits(512):0128x}","note":"{"-" * 40}"}}'
            if dedup_id:
                self.dedup_keys.append((org, event, at))
            if org == self.org:
                big += 1
                if big % 20 == 0 and len(self.deliveries) < self.deliveries_max:
                    self.deliver(event, event_type, at)
            yield event, org, event_type, payload, dedup_id, account, next(users), at, self.id()

    def deliver(self, event, event_type, at):
        """A delivery of an event. The first tenth is dead and of the first endpoint, which has no others."""
        number = len(self.deliveries)
        dead = number < self.deliveries_max // 10
        delivery, created, finished = self.id(at), at // 1000 * 1000, at + 1_000_000
        endpoint = self.endpoints[0] if dead else self.endpoints[1 + number % (len(self.endpoints) - 1)]
        status, attempts, code, error = ("dead", 10, 500, "status") if dead else ("delivered", 1, 200, None)
        key = type_key(self.org, event_type)
        self.deliveries.append(
            (self.org, created, delivery, event, at, endpoint, status, attempts, finished, at, 12, code, error, key)
        )
        if dead:
            replayed = finished + 1_000_000 if number % 10 == 0 else None
            self.dead_letters.append(
                (delivery, self.org, event, delivery, endpoint, "exhausted", finished, replayed, event_type)
                + (error, code, attempts)
            )

    def audit_log(self):
        count = min(AUDIT_ENTRIES_MAX, self.count // 25)
        for number in range(count):
            at = self.start + (self.end - self.start) * number // count
            yield self.id(at), self.org, at, "cli:load", "endpoint.updated", self.endpoints[0], "{}"


class Hookgate:
    """The program, on a store."""

    def __init__(self, program, store):
        settings = {
            "RUST_LOG": "warn",
            "ALLOW_PRIVATE_ENDPOINTS": "true",
            "READ_RATE_LIMIT_PER_MINUTE": "1000000",
        }
        clean = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"}
        self.program, self.env = program, {**clean, **settings, **store.env}

    def run(self, *arguments):
        command = [self.program, *arguments]
        return subprocess.run(command, check=True, env=self.env, stdout=subprocess.PIPE, text=True).stdout

    def create(self, *arguments):
        return json.loads(self.run(*arguments, "--output", "json"))

    @contextlib.contextmanager
    def serve(self):
        """A running server: a connection to it."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command = [self.program, "serve", "--port", str(port)]
        with subprocess.Popen(command, env=self.env, stdout=subprocess.DEVNULL) as server:
            try:
                yield connect(port)
            finally:
                server.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    server.wait(timeout=60)
                server.kill()


def connect(port):
    deadline = time.monotonic() + 60
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=REQUEST_TIMEOUT_SECONDS)
        with contextlib.suppress(OSError):
            connection.request("GET", "/health/ready")
            answer = connection.getresponse()
            answer.read()
            if answer.status == 200:
                return connection
        if time.monotonic() > deadline:
            raise SystemExit("the server is not ready after a minute")
        time.sleep(0.1)


def fill(hookgate, store, events):
    begun = time.monotonic()
    org = hookgate.create("org", "create", "--name", ORG)["id"]
    add = ["endpoint", "add", "--org", org, "--url"]
    endpoints = [hookgate.create(*add, f"http://127.0.0.1:9/{number}")["id"] for number in range(5)]
    org, endpoints = org.replace("-", ""), [endpoint.replace("-", "") for endpoint in endpoints]
    end = time.time_ns() // 1000 - 60_000_000
    start = end - timedelta(days=DAYS - 1) // timedelta(microseconds=1)
    store.prepare(start)
    # Deliveries from before their organisation are not listed.
    store.query(f"UPDATE orgs SET created_at = {store.time(start)} WHERE id = {store.id(org)}")
    rows = Rows(events, org, endpoints, start, end)
    store.copy("events", rows.events())
    for table in ["dedup_keys", "deliveries", "dead_letters"]:
        store.copy(table, getattr(rows, table))
    store.copy("audit_log", rows.audit_log())
    store.finish()
    print(f"Filled in {time.monotonic() - begun:.0f} s.\n", flush=True)


def hexadecimal(value):
    return value.hex() if isinstance(value, bytes) else value.replace("-", "")


def facts(store):
    """What the queries need: the organisation, two endpoints, a delivered event and the middle of the time."""
    [[org]] = store.query(f"SELECT id FROM orgs WHERE name = '{ORG}'")
    org = hexadecimal(org)
    of_org = f"WHERE org_id = {store.id(org)}"
    endpoints = store.query(f"SELECT id FROM endpoints {of_org} ORDER BY created_at, id LIMIT 2")
    # One of the first, since lists are read from their end.
    [[event]] = store.query(f"SELECT event_id FROM deliveries {of_org} ORDER BY created_at LIMIT 1")
    half = timedelta(days=DAYS - 1) / 2
    return {
        "org": org,
        "event": hexadecimal(event),
        "failing": hexadecimal(endpoints[0][0]),
        "working": hexadecimal(endpoints[1][0]),
        "middle": f"{datetime.now(timezone.utc) - half:%Y-%m-%dT%H:%M:%SZ}",
    }


def queries(of):
    account, event_type = DISJOINT
    events, deliveries, letters = "/api/events?", "/api/deliveries?", "/api/dead-letters?"
    return [
        ("events newest 50", events),
        ("events newest 500", events + "limit=500"),
        ("events newest 50 with payload", events + "include=payload"),
        ("type exact frequent", events + f"type={TYPES[0]}"),
        ("type 0.4 %", events + f"type={TYPES[-1]}"),
        ("type, no match", events + "type=never.seen"),
        ("prefix order.*", events + "type=order.*"),
        ("prefix, no match", events + "type=never.*"),
        ("prefix of 100 types with 10 events each", events + "type=rare.*"),
        ("account frequent", events + f"account_id={ACCOUNTS[0]}"),
        ("account 0.25 %", events + f"account_id={ACCOUNTS[67]}"),
        ("account, no match", events + "account_id=nobody"),
        ("user 0.01–0.1 %", events + f"user_id={USERS[199]}"),
        ("user, no match", events + "user_id=nobody"),
        ("account + type, few", events + f"account_id={ACCOUNTS[67]}&type={TYPES[-1]}"),
        ("account + type, both frequent, none has both", events + f"account_id={account}&type={event_type}"),
        ("account frequent + prefix order.*", events + f"account_id={ACCOUNTS[0]}&type=order.*"),
        ("account 0.25 % + prefix of these types", events + f"account_id={ACCOUNTS[67]}&type=rare.*"),
        ("since mid", events + f"since={of['middle']}"),
        ("until mid", events + f"until={of['middle']}"),
        ("until mid + user", events + f"until={of['middle']}&user_id={USERS[199]}"),
        ("event by id, an old one", f"/api/events/{of['event']}"),
        ("event by id, none", f"/api/events/{UNKNOWN}"),
        ("deliveries newest 50", deliveries),
        ("status=delivered", deliveries + "status=delivered"),
        ("status=dead (the oldest tenth)", deliveries + "status=dead"),
        ("status=pending, none", deliveries + "status=pending"),
        ("status=cancelled, none", deliveries + "status=cancelled"),
        ("until mid", deliveries + f"until={of['middle']}"),
        ("endpoint", deliveries + f"endpoint_id={of['working']}"),
        ("endpoint + pending, none", deliveries + f"endpoint_id={of['working']}&status=pending"),
        ("endpoint + dead, none", deliveries + f"endpoint_id={of['working']}&status=dead"),
        ("endpoint + delivered, none of 20,000", deliveries + f"endpoint_id={of['failing']}&status=delivered"),
        ("type 0.4 %", deliveries + f"type={TYPES[-1]}"),
        ("type, no match", deliveries + "type=never.seen"),
        ("prefix order.*", deliveries + "type=order.*"),
        ("type frequent + endpoint, old ones", deliveries + f"type={TYPES[0]}&endpoint_id={of['failing']}"),
        ("error_class", deliveries + "error_class=status"),
        ("error_class, none", deliveries + "error_class=dns"),
        ("status_code", deliveries + "status_code=500"),
        ("status_code + endpoint, none has both", deliveries + f"status_code=500&endpoint_id={of['working']}"),
        ("attempts of an endpoint", f"/api/endpoints/{of['working']}/attempts?"),
        ("attempts of an endpoint that failed", f"/api/endpoints/{of['failing']}/attempts?error_class=status"),
        ("event_id, an old one", deliveries + f"event_id={of['event']}"),
        ("event_id, none", deliveries + f"event_id={UNKNOWN}"),
        ("dead letters newest", letters),
        ("dead letters endpoint", letters + f"endpoint_id={of['failing']}"),
        ("dead letters event", letters + f"event_id={of['event']}"),
        ("dead letters error_class + reason, none", letters + "error_class=status&reason=gone"),
        ("dead letters type, no match", letters + "type=never.seen"),
        ("dead letters replayed", letters + "replayed=true"),
        ("dead letters reason + not replayed", letters + "reason=exhausted&replayed=false"),
        ("audit 50", "/api/audit?"),
    ]


class Client:
    def __init__(self, connection, key):
        self.connection, self.headers = connection, {"X-API-Key": key}

    def get(self, path):
        """The time of one request in milliseconds, its status and its answer."""
        begun = time.perf_counter()
        self.connection.request("GET", path, headers=self.headers)
        answer = self.connection.getresponse()
        body = answer.read()
        return (time.perf_counter() - begun) * 1000, answer.status, body

    def measure(self, name, path):
        begun, times, statuses, body = time.monotonic(), [], set(), b"{}"
        while len(times) < REQUESTS and time.monotonic() - begun < QUERY_SECONDS_MAX:
            took, status, body = self.get(path)
            times.append(took)
            statuses.add(status)
        found = json.loads(body).get("data")
        print_row(name, "–" if found is None else len(found), times, statuses)

    def walk(self):
        """Reads 400 pages, and then the last one's successor again and again."""
        times, statuses, cursor = [], set(), ""
        while len(times) < 400:
            took, status, body = self.get(f"/api/events?limit=500{cursor}")
            times.append(took)
            statuses.add(status)
            following = json.loads(body).get("next_cursor")
            if following is None:
                break
            cursor = f"&cursor={following}"
        print_row(f"{len(times)} cursor pages × 500", 500, times, statuses)
        self.measure("cursor behind them, 50", f"/api/events?limit=50{cursor}")


def print_row(name, rows, times, statuses):
    p50 = statistics.median(times)
    shown = f"**{p50:.1f}**" if p50 > SLOW_MS else f"{p50:.1f}"
    failed = ", ".join(str(status) for status in sorted(statuses - {200}))
    print(f"| {name} | {rows} | {shown} | {max(times):.1f} | {failed} |", flush=True)


def main():
    description, _, details = __doc__.partition("\n\n")
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=description, epilog=details, formatter_class=formatter)
    parser.add_argument("hookgate", help="the program to measure")
    parser.add_argument("--database-url", help="PostgreSQL database; unset: SQLite")
    parser.add_argument("--data-dir", type=Path, help="directory of the SQLite store; it is kept")
    parser.add_argument("--events", type=int, default=5_000_000, help="events to fill the store with")
    empty_days = "on PostgreSQL: days before the events that have partitions"
    parser.add_argument("--empty-days", type=int, default=0, help=empty_days)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        data_dir = arguments.data_dir or Path(temporary)
        data_dir.mkdir(parents=True, exist_ok=True)
        url = arguments.database_url
        store = Postgres(url, data_dir) if url else Sqlite(data_dir)
        hookgate = Hookgate(arguments.hookgate, store)
        hookgate.run("migrate", "up")
        if not store.query(f"SELECT 1 FROM orgs WHERE name = '{ORG}'"):
            with hookgate.serve():
                # It creates the partitions of the coming days.
                pass
            fill(hookgate, store, arguments.events)
        of = facts(store)
        if arguments.empty_days:
            age_org(store, of["org"], arguments.empty_days)
        report(hookgate, store, of)


def age_org(store, org, days):
    """Adds empty days before the events, in which the organisation existed."""
    start = time.time_ns() // 1000 - timedelta(days=DAYS - 1 + days) // timedelta(microseconds=1)
    store.prepare(start)
    store.query(f"UPDATE orgs SET created_at = {store.time(start)} WHERE id = {store.id(org)}")


def report(hookgate, store, of):
    key = hookgate.create("key", "create", "--org", of["org"], "--name", ORG)["key"]
    load = os.getloadavg()[0]
    print(f"{store.name}, load {load:.1f}\n\n| query | rows | p50 ms | max | errors |\n|---|---|---|---|---|")
    with hookgate.serve() as connection:
        client = Client(connection, key)
        for name, path in queries(of):
            client.measure(name, path)
        client.walk()
    print("\n| table or index | MB | bytes per entry |\n|---|---|---|")
    for name, size, entries in store.index_sizes():
        print(f"| `{name}` | {size / 1e6:.0f} | {size / entries if entries else 0:.0f} |")


if __name__ == "__main__":
    main()
