# For ENDPOINT. pip install standardwebhooks
import os
from standardwebhooks.webhooks import Webhook

def verified(body: bytes, headers: dict[str, str]):
    """Returns the payload, or raises WebhookVerificationError."""
    return Webhook(os.environ["WEBHOOK_SECRET"]).verify(body, headers)
