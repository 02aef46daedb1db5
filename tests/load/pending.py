#!/usr/bin/env python3
"""Measures what changes of an endpoint cost while deliveries wait for it, and prints a Markdown table.

One organisation has an endpoint with two million pending deliveries, filled by SQL. It is disabled, enabled, suspended and
resumed with its organisation, disabled because its receiver answers 410 and because it fails for too long, and removed.
Another organisation posts an event every 20 ms all the while; the last table says when its receiver had them.

  tests/load/pending.py path/to/hookgate                                SQLite, in a temporary directory
  tests/load/pending.py path/to/hookgate --database-url postgres://…    PostgreSQL, an empty database; needs psql

Two million deliveries take 0.7 GB. Only the Python standard library is needed.
"""

import argparse
import http.client
import http.server
import json
import statistics
import tempfile
import threading
import time
from pathlib import Path

import lists

PENDING = 2_000_000
CHANGES = 20
POST_SECONDS = 0.02
WAIT_SECONDS_MAX = 30
HOLD_SECONDS = 86_400

lists.TABLES["pending_deliveries"] = (
    "org_id:id created_at:time id:id event_id:id event_received_at:time endpoint_id:id payload_bytes:number due_at:time"
)


class Receiver(http.server.ThreadingHTTPServer):
    """Answers with a status that can be changed, and knows when each event arrived."""

    daemon_threads = True

    def __init__(self, status):
        super().__init__(("127.0.0.1", 0), Answer)
        self.status, self.arrivals = status, {}
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/"


class Answer(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.arrivals[self.headers["webhook-id"]] = time.perf_counter()
        self.send_response(self.server.status)
        if self.server.status == 503:
            self.send_header("Retry-After", str(HOLD_SECONDS))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


class Api:
    def __init__(self, port, key):
        self.port, self.headers = port, {"X-API-Key": key, "Content-Type": "application/json"}
        self.connection = None

    def ask(self, method, path, body=None):
        self.connection = self.connection or http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        self.connection.request(method, path, body and json.dumps(body), self.headers)
        response = self.connection.getresponse()
        text = response.read()
        if response.status >= 300:
            raise SystemExit(f"{method} {path}: {response.status} {text[:300]}")
        return json.loads(text) if text else None

    def timed(self, *request):
        began = time.perf_counter()
        self.ask(*request)
        return 1000 * (time.perf_counter() - began)


class Neighbour(threading.Thread):
    """Posts events, and tells how long each took to its receiver."""

    def __init__(self, api, receiver):
        super().__init__(daemon=True)
        self.api, self.receiver, self.ended, self.accepted = api, receiver, False, {}

    def run(self):
        while not self.ended:
            self.accepted[self.api.ask("POST", "/api/events", {"type": "a.b", "payload": 1})["id"]] = time.perf_counter()
            time.sleep(POST_SECONDS)

    def finish(self):
        self.ended = True
        self.join()
        until("the last event has arrived", lambda: self.receiver.arrivals.keys() >= self.accepted.keys())
        return [1000 * max(0, self.receiver.arrivals[event] - at) for event, at in self.accepted.items()]


def until(what, holds):
    began = time.perf_counter()
    while not holds():
        if time.perf_counter() - began > WAIT_SECONDS_MAX:
            raise SystemExit(f"not within {WAIT_SECONDS_MAX} s: {what}")
        time.sleep(0.005)
    return 1000 * (time.perf_counter() - began)


def row(name, times):
    print(f"| {name} | {len(times)} | {statistics.median(times):,.1f} | {max(times):,.1f} |", flush=True)


def fill(store, org, endpoint, count):
    """Deliveries of one event of an hour ago, a thousand in each millisecond, which are due."""
    rows = lists.Rows(0, org, [endpoint], 0, 0)
    start = (time.time_ns() // 1_000_000 - 3_600_000) * 1000
    event = rows.id(start)
    store.copy("events", [(event, org, "a.b", "1", None, None, None, start, rows.id())])
    at = (start + number // 1000 * 1000 for number in range(count))
    store.copy("pending_deliveries", ((org, micros, rows.id(micros), event, start, endpoint, 1, micros) for micros in at))
    store.finish()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("hookgate")
    parser.add_argument("--database-url")
    parser.add_argument("--pending", type=int, default=PENDING)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        url = options.database_url
        store = lists.Postgres(url, directory) if url else lists.Sqlite(directory)
        hookgate = lists.Hookgate(options.hookgate, store)
        hookgate.env |= {"DISABLE_AFTER": "1s", "RATE_LIMIT_PER_MINUTE": "100000", "WRITE_RATE_LIMIT_PER_MINUTE": "100000"}
        measure(hookgate, store, options.pending)


def measure(hookgate, store, pending):
    busy, idle = Receiver(503), Receiver(200)
    org = hookgate.create("org", "create", "--name", "busy")["id"]
    other = hookgate.create("org", "create", "--name", "neighbour")["id"]
    endpoint = hookgate.create("endpoint", "add", "--org", org, "--url", busy.url())["id"]
    hookgate.create("endpoint", "add", "--org", other, "--url", idle.url())
    key, other_key = (hookgate.create("key", "create", "--org", name, "--name", "load")["key"] for name in (org, other))
    operator_key = hookgate.create("key", "create", "--operator", "--name", "load")["key"]
    # The first start creates the partitions.
    with hookgate.serve():
        pass
    fill(store, org.replace("-", ""), endpoint.replace("-", ""), pending)
    with hookgate.serve() as connection:
        port = connection.port
        tenant, operator = Api(port, key), Api(port, operator_key)
        path = f"/api/endpoints/{endpoint}"
        # Its receiver answers, and holds the endpoint for a day.
        until("the endpoint is held", lambda: tenant.ask("GET", path)["paused_until"])
        alone = Neighbour(Api(port, other_key), idle)
        alone.start()
        time.sleep(CHANGES * 0.2)
        alone = alone.finish()
        neighbour = Neighbour(Api(port, other_key), idle)
        neighbour.start()
        print(f"{pending:,} pending deliveries, in ms\n\n| change | times | p50 | maximum |\n|---|---|---|---|")
        for name, enabled in [("disabled", False), ("enabled", True)]:
            row_times = []
            for _ in range(CHANGES):
                tenant.ask("PATCH", path, {"enabled": not enabled})
                row_times.append(tenant.timed("PATCH", path, {"enabled": enabled}))
            row(f"{name} by its owner, until it is answered", row_times)
        suspensions = {"suspend": [], "resume": []}
        for _ in range(CHANGES):
            for action, times in suspensions.items():
                times.append(operator.timed("POST", f"/api/admin/orgs/{org}/{action}"))
        row("its organisation suspended", suspensions["suspend"])
        row("its organisation resumed", suspensions["resume"])
        is_off = lambda: not tenant.ask("GET", path)["enabled"]
        for name, status in [("disabled by a 410, from the test event on", 410), ("disabled because it fails", 500)]:
            times = []
            for _ in range(5):
                busy.status = 503
                tenant.ask("PATCH", path, {"enabled": False})
                tenant.ask("PATCH", path, {"enabled": True})
                time.sleep(1.5)
                busy.status = status
                tenant.ask("POST", f"{path}/test")
                times.append(until(name, is_off))
            row(name, times)
        busy.status = 503
        row("removed, until it is answered", [tenant.timed("DELETE", path)])
        time.sleep(2)
        beside = neighbour.finish()
        print("\n| a neighbour's events to its receiver | events | p50 | p99 | maximum |\n|---|---|---|---|---|")
        for name, times in [("alone", alone), ("beside these changes", beside)]:
            times.sort()
            p99 = times[int(len(times) * 0.99)]
            print(f"| {name} | {len(times)} | {statistics.median(times):,.1f} | {p99:,.1f} | {times[-1]:,.1f} |")


if __name__ == "__main__":
    main()
