"""CloudEvents by the public SDK for Python: posts some to a server, or reads those that it has sent."""

import json
import sys
import urllib.request

from cloudevents.conversion import to_binary, to_json, to_structured
from cloudevents.http import CloudEvent, from_http


def event(number, data, **more):
    attributes = {"id": f"sdk-{number}", "source": "/tests/python", "type": "invoice.paid", **more}
    return CloudEvent(attributes, data)


def send(url, key, headers, body):
    request = urllib.request.Request(url, data=body, headers={**headers, "x-api-key": key})
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


def post(url, key):
    single, batch = f"{url}/api/events", f"{url}/api/events/batch"
    full = {"subject": "Grüße & Co", "time": "2026-01-31T12:00:00.5Z", "comexampleext": "ä 🪝"}
    # The SDK writes attributes into headers as they are, and urllib sends ASCII alone.
    ascii = {**full, "subject": "Gruss", "comexampleext": "a b", "datacontenttype": "application/json"}
    answers = {
        "structured": send(single, key, *to_structured(event(1, {"n": 1.5}, **full))),
        "binary": send(single, key, *to_binary(event(2, {"n": [2]}, **ascii))),
        "text": send(single, key, *to_binary(event(3, b"<a/>", datacontenttype="text/xml"))),
    }
    body = b"[" + b",".join(to_json(event(number, {"n": number})) for number in (4, 5)) + b"]"
    headers = {"content-type": "application/cloudevents-batch+json; charset=utf-8"}
    answers["batch"] = send(batch, key, headers, body)
    answers["again"] = send(single, key, *to_structured(event(2, {"n": [2]}, **ascii)))
    return answers


def read(file):
    def one(webhook):
        found = from_http(webhook["headers"], webhook["body"].encode())
        data = found.data.decode() if isinstance(found.data, bytes) else found.data
        return {"attributes": dict(found.get_attributes()), "data": data}

    with open(file, encoding="utf-8") as text:
        return [one(webhook) for webhook in json.load(text)]


command, *arguments = sys.argv[1:]
print(json.dumps({"post": post, "read": read}[command](*arguments)))
