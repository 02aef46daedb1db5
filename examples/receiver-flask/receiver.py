"""A webhook receiver in Python, with Flask and the Standard Webhooks library.

    python3 -m venv .venv && .venv/bin/pip install -r requirements.txt
    WEBHOOK_SECRET=whsec_… .venv/bin/python receiver.py

It verifies the signature, handles each webhook-id once, and answers 204.
"""

import json
import os
import threading

from flask import Flask, request
from standardwebhooks.webhooks import Webhook, WebhookVerificationError
from werkzeug.serving import make_server

webhook = Webhook(os.environ["WEBHOOK_SECRET"])

# Ids of handled webhooks. A real receiver keeps them in its database for a week or longer: it inserts the id, under a
# unique index, in the transaction that does the work.
handled = set()
lock = threading.Lock()

app = Flask(__name__)


@app.post("/")
def receive():
    # The signature covers the body byte for byte, so it is verified before anything parses the body.
    try:
        event = webhook.verify(request.get_data(), dict(request.headers))
    except (WebhookVerificationError, ValueError):
        return "", 401
    id = request.headers["webhook-id"]
    with lock:
        if id in handled:
            print(f"duplicate {id}", flush=True)
        else:
            # The work comes here. If it fails, answer 500 and keep no id: Hookgate sends the webhook again.
            print(f"received {id} {json.dumps(event['type'])} {json.dumps(event['data'])}", flush=True)
            handled.add(id)
    return "", 204


if __name__ == "__main__":
    # In production, a WSGI server such as gunicorn runs the app.
    server = make_server("127.0.0.1", int(os.environ.get("PORT", "9000")), app, threaded=True)
    print(f"listening on http://127.0.0.1:{server.port}", flush=True)
    server.serve_forever()
