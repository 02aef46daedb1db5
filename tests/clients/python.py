"""Runs the Python client against a server, as its users would."""

import asyncio
import datetime
import http.server
import os
import pathlib
import queue
import threading
import time
import types

import httpx
from hookgate import EventPoster, PostError, RetryPolicy, Webhook, WebhookVerificationError, WebhookVerifier, connect
from hookgate.generated.api.endpoints import create_endpoint, delete_endpoint
from hookgate.generated.api.events import get_event, list_events
from hookgate.generated.api.organisation import create_key, get_org
from hookgate.generated.models import CreateEndpointRequest, CreateKeyRequest, NewEvent, Problem
from standardwebhooks.webhooks import Webhook as Signer

URL, API_KEY = os.environ["HOOKGATE_URL"], os.environ["HOOKGATE_API_KEY"]
# A machine that is busy with other tests is slow.
PATIENCE = 60
README = pathlib.Path(__file__).parents[2].joinpath("clients/python/README.md").read_text(encoding="utf-8")


class Receiver:
    """Receives webhooks, and keeps their headers and bodies."""

    def __init__(self):
        received = self.received = queue.Queue()

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                received.put((dict(self.headers), body))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


class BadConnection(httpx.BaseTransport):
    """Loses the answer to the first request, which the server has accepted; a proxy answers the second."""

    def __init__(self):
        self.transport, self.requests = httpx.HTTPTransport(), 0

    def handle_request(self, request):
        self.requests += 1
        if self.requests == 2:
            return httpx.Response(503, headers={"retry-after": "1"}, text="<h1>Unavailable</h1>")
        answer = self.transport.handle_request(request)
        if self.requests == 1:
            assert answer.status_code == 202, answer.status_code
            answer.close()
            raise httpx.ReadError("connection reset")
        return answer


def pages(client, **filters):
    """Every event of a list, page by page, and the number of pages."""
    events, cursor, count = [], {}, 0
    while True:
        page = list_events.sync(client=client, limit=100, **filters, **cursor)
        events, count = events + page.data, count + 1
        if page.next_cursor is None:
            return events, count
        cursor = {"cursor": page.next_cursor}


def stored(client, event_id):
    """Waits until an event can be read. Others that were accepted before it may be stored later."""
    until = time.monotonic() + PATIENCE
    while isinstance(answer := get_event.sync(event_id, client=client), Problem):
        assert time.monotonic() < until, answer
        time.sleep(0.01)
    return answer


def posts_each_event_once_over_a_bad_connection(client):
    connection, waits = BadConnection(), []
    client = connect(URL, API_KEY, httpx_args={"transport": connection})
    poster = EventPoster(client, batch_events_max=100, on_retry=lambda seconds, reason: waits.append((seconds, reason)))
    ids = poster.post({"type": "order.placed", "payload": {"n": n}} for n in range(250))
    assert len(set(ids)) == 250
    (_, lost), (seconds, refused) = waits
    assert lost.startswith("no answer") and refused.startswith("503") and 1 <= seconds <= 2, waits
    # The first batch three times, then the others.
    assert connection.requests == 5, connection.requests
    for event_id in ids:
        stored(client, event_id)
    events, count = pages(client, type_="order.*", order="asc")
    assert [str(event.id) for event in events] == ids, "events are missing, or are there twice"
    assert count == 3, count
    return ids


def examples_of_the_readme_work(secret, headers, body):
    _, client, receiver = README.split("```python\n")
    client = client.split("```")[0].replace("http://127.0.0.1:3000", URL).replace("hg_…", API_KEY)
    names = {"users": ["ada", "grace"]}
    exec(client, names)
    assert len(names["ids"]) == 2 and hasattr(names["page"], "data"), names
    names = {"request": types.SimpleNamespace(headers=headers, get_data=lambda: body)}
    exec(receiver.split("```")[0].replace("whsec_…", secret), names)
    assert names["webhook"].type == "order.placed", names


def posts_with_asyncio():
    async def post():
        async with connect(URL, API_KEY) as client:
            return await EventPoster(client).post_async([{"type": "user.login", "payload": None, "dedup_id": "one"}] * 2)

    first, second = asyncio.run(post())
    assert first == second, "one dedup id is one event"


def verifies_webhooks(receiver, secret, ids):
    verifier = WebhookVerifier("whsec_" + "Zm9v" * 8, secret)
    numbers = {}
    while len(numbers) < len(ids):
        headers, body = receiver.received.get(timeout=PATIENCE)
        webhook = verifier.verify(headers, body)
        assert webhook.type == "order.placed"
        numbers[webhook.id] = webhook.data["n"]
    assert [numbers[event] for event in ids] == list(range(len(ids)))
    plain = {name.lower(): value for name, value in headers.items()}
    forgeries = [
        (headers, body + b" "),
        (headers, b"\xff"),
        ({**plain, "webhook-signature": "v1"}, body),
        ({**plain, "webhook-timestamp": "1"}, body),
        ({}, body),
    ]
    for forgery in forgeries:
        try:
            verifier.verify(*forgery)
            raise AssertionError(f"a forgery is accepted: {forgery}")
        except WebhookVerificationError:
            pass
    return headers, body


def verifies_cloud_events(client, receiver):
    """Webhooks in the other format, and bodies that are in none."""
    body = CreateEndpointRequest.from_dict(
        {"url": receiver.url, "event_types": ["cloud.*"], "format": "cloudevents"}
    )
    endpoint = create_endpoint.sync(client=client, body=body)
    verifier = WebhookVerifier(endpoint.secret)
    aliased = {"type": "cloud.sent", "payload": {"n": 1}, "account_id": "acme", "user_id": "ada", "event_id": "an alias"}
    ids = EventPoster(client).post([aliased])
    assert EventPoster(client).post([aliased]) == ids, "the alias of the dedup id is respected"
    webhook = verifier.verify(*receiver.received.get(timeout=PATIENCE))
    assert webhook == Webhook(ids[0], "cloud.sent", webhook.timestamp, {"n": 1}, "acme", "ada"), webhook
    assert webhook.timestamp
    delete_endpoint.sync_detailed(endpoint.id, client=client)

    def signed(text):
        at = datetime.datetime.now(datetime.timezone.utc)
        signature = Signer(endpoint.secret).sign("one", at, text)
        stamp = str(int(at.timestamp()))
        headers = {"webhook-id": "one", "webhook-timestamp": stamp, "webhook-signature": signature}
        return verifier.verify(headers, text.encode())

    binary = signed('{"specversion":"1.0","id":"1","source":"/s","type":"a","data_base64":"AP8="}')
    assert binary == Webhook("one", "a", None, b"\x00\xff"), binary
    assert signed('{"type":"a","timestamp":"t","account_id":"acme","data":null}').account_id == "acme"
    for other in ["", "1", "null", "[]", "{}", '{"type":"a"}', '{"specversion":"1.0"}']:
        try:
            signed(other)
            raise AssertionError(f"this is no webhook: {other}")
        except WebhookVerificationError:
            pass


def does_not_trust_answers_without_ids():
    for answer in ['{"ids":["1"]}', '{"ids":[]}', "{}", "[]", ""]:
        transport = httpx.MockTransport(lambda _, answer=answer: httpx.Response(202, text=answer))
        try:
            EventPoster(connect(URL, API_KEY, httpx_args={"transport": transport})).post([{"type": "a", "payload": 1}] * 2)
            raise AssertionError(f"a proxy's answer is taken: {answer}")
        except PostError as error:
            assert (error.status, error.ids, len(error.rest)) == (202, [], 2), error


def tells_what_was_refused(client):
    answer = get_org.sync_detailed(client=connect(URL, "hg_wrong"))
    assert answer.status_code == 401 and isinstance(answer.parsed, Problem), answer
    try:
        EventPoster(client).post([NewEvent(type_="a", payload=1), {"type": "not a type", "payload": 2}])
        raise AssertionError("an invalid event is accepted")
    except PostError as error:
        assert (error.status, error.code, error.ids) == (422, "validation_failed", [])
        assert [(e["index"], e["field"]) for e in error.errors] == [(1, "type")], error.errors
        assert [event["payload"] for event in error.rest] == [1, 2]


def limited(client):
    """A client with a key of 600 events per minute, none of them used."""
    body = CreateKeyRequest(name="limited", rate_limit_per_minute=600)
    return connect(URL, create_key.sync(client=client, body=body).key)


def waits_for_rate_limits(client):
    slow = limited(client)
    waits = []
    poster = EventPoster(slow, batch_events_max=600, on_retry=lambda seconds, reason: waits.append((seconds, reason)))
    ids = poster.post({"type": "user.login", "payload": n} for n in range(650))
    assert len(set(ids)) == 650
    assert waits and waits[0][1].startswith("429 key_rate_limited") and waits[0][0] >= 1, waits
    try:
        EventPoster(slow, RetryPolicy(attempts_max=1)).post({"type": "user.login", "payload": n} for n in range(500))
        raise AssertionError("a limit is exceeded")
    except PostError as error:
        assert (error.status, error.code, len(error.rest)) == (429, "key_rate_limited", 500), error
        assert all(event["dedup_id"] for event in error.rest)


def makes_batches_smaller_that_would_never_pass(client):
    ids = EventPoster(limited(client)).post({"type": "user.login", "payload": n} for n in range(601))
    assert len(set(ids)) == 601


client, receiver = connect(URL, API_KEY), Receiver()
endpoint = create_endpoint.sync(
    client=client, body=CreateEndpointRequest(url=receiver.url, event_types=["order.*"], description="A trial")
)
order_ids = posts_each_event_once_over_a_bad_connection(client)
posts_with_asyncio()
last_webhook = verifies_webhooks(receiver, endpoint.secret, order_ids)
examples_of_the_readme_work(endpoint.secret, *last_webhook)
verifies_cloud_events(client, receiver)
does_not_trust_answers_without_ids()
tells_what_was_refused(client)
waits_for_rate_limits(client)
makes_batches_smaller_that_would_never_pass(client)
assert delete_endpoint.sync_detailed(endpoint.id, client=client).status_code == 204
print("python: the client works")
