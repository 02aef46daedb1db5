#!/usr/bin/env python3
"""Measures the pages of the console over a large store, and prints a Markdown table.

A store is filled by `hookgate seed`, as reads.py does it. Each page is read over one connection, with a session of the
organisation's key and one of the operator's: the time to the first byte, and the bytes that are sent, compressed.

  tests/load/pages.py path/to/hookgate                                SQLite, in a temporary directory
  tests/load/pages.py path/to/hookgate --data-dir DIR                 the same; the store is kept
  tests/load/pages.py path/to/hookgate --database-url postgres://…    PostgreSQL; needs psql, the rows stay there

A store that was filled before is measured as it is. Only the Python standard library is needed.
"""

import http.client
import statistics
import time
import urllib.parse

import reads

REQUESTS = 200
TENANT = [
    "/console",
    "/console/events",
    "/console/events?type=order.*",
    "/console/events?account_id=acct_0000001",
    "/console/events?user_id=nobody",
    "/console/endpoints",
    "/console/deliveries",
    "/console/dead-letters",
    "/console/accounts",
    "/console/accounts/summary?account_id=acct_0000001",
    "/console/keys",
    "/console/audit",
    "/console/samples",
]
OPERATOR = ["/console", "/console/orgs", "/console/failing-endpoints", "/console/operator-audit", "/console/server"]


class Browser:
    """Somebody who has signed in with a key."""

    def __init__(self, port, key):
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        origin = f"http://127.0.0.1:{port}"
        form = urllib.parse.urlencode({"key": key})
        headers = {"Content-Type": "application/x-www-form-urlencoded", "Origin": origin}
        self.connection.request("POST", "/console/sign-in", form, headers)
        answer = self.connection.getresponse()
        answer.read()
        if answer.status != 303:
            raise SystemExit(f"signing in: {answer.status}")
        cookie = answer.headers["Set-Cookie"].split(";")[0]
        self.headers = {"Cookie": cookie, "Accept-Encoding": "gzip"}

    def page(self, path):
        """The time to its first byte in ms, and its bytes."""
        began = time.perf_counter()
        self.connection.request("GET", path, headers=self.headers)
        answer = self.connection.getresponse()
        first = answer.read(1)
        took = 1000 * (time.perf_counter() - began)
        body = first + answer.read()
        if answer.status != 200:
            raise SystemExit(f"{path}: {answer.status} {body[:300]}")
        return took, len(body)


def measure(browser, path):
    times, began = [], time.perf_counter()
    while len(times) < REQUESTS and time.perf_counter() - began < reads.QUERY_SECONDS_MAX:
        took, size = browser.page(path)
        times.append(took)
    times.sort()
    p99 = times[min(len(times) - 1, int(len(times) * 0.99))]
    print(f"| `{path}` | {statistics.median(times):,.1f} | {p99:,.1f} | {times[-1]:,.1f} | {size / 1000:.1f} |", flush=True)


def main():
    with reads.seeded(reads.arguments(__doc__)) as (store, seeded):
        key = store.command("key", "create", "--org", seeded["org_id"], "--name", "pages")["key"]
        operator = store.command("key", "create", "--operator", "--name", "pages")["key"]
        with reads.serving(store, key) as (_, port):
            print("| page | p50, ms | p99 | maximum | kB |\n|---|---|---|---|---|")
            for who, paths in [(key, TENANT), (operator, OPERATOR)]:
                browser = Browser(port, who)
                for path in paths:
                    measure(browser, path)


if __name__ == "__main__":
    main()
