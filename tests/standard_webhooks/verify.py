"""Verifies captured webhooks as a receiver in Python would.

The Standard Webhooks library knows HMAC (v1); for Ed25519 (v1a), which it lacks, `cryptography` checks
what the standard describes. The verifier that the README shows must agree with the library.
"""

import base64
import json
import pathlib
import sys

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from standardwebhooks.webhooks import Webhook, WebhookVerificationError


README = pathlib.Path(__file__).parents[2].joinpath("README.md").read_text(encoding="utf-8")
readme = {}
exec(README.split("```python\n")[1].split("```")[0], readme)


def holds_by_readme(key, body, headers):
    try:
        readme["verify"](key, headers, body.encode())
        return True
    except ValueError:
        return False


def holds(key, body, headers):
    if key.startswith("whsec_"):
        try:
            verified = Webhook(key).verify(body, headers) == json.loads(body)
        except WebhookVerificationError:
            verified = False
        assert holds_by_readme(key, body, headers) == verified, "python: the README disagrees"
        return verified
    public = Ed25519PublicKey.from_public_bytes(base64.b64decode(key.removeprefix("whpk_")))
    content = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.{body}".encode()
    for signature in headers["webhook-signature"].split(" "):
        version, encoded = signature.split(",")
        if version == "v1a":
            try:
                public.verify(base64.b64decode(encoded), content)
                return True
            except InvalidSignature:
                pass
    return False


with open(sys.argv[1], encoding="utf-8") as file:
    cases = json.load(file)
for case in cases:
    name, body, headers = case["name"], case["body"], case["headers"]
    for key in case["keys"]:
        assert holds(key, body, headers), f"python: {name}: the signature does not hold"
        assert not holds(key, body + " ", headers), f"python: {name}: another body holds"
        other = {**headers, "webhook-id": "other"}
        assert not holds(key, body, other), f"python: {name}: another id holds"
    for key in case["strangers"]:
        assert not holds(key, body, headers), f"python: {name}: a stranger's key holds"
print(f"python: {len(cases)} webhooks verified")
