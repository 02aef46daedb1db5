"""Verifies webhooks, by the Standard Webhooks library."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from standardwebhooks.webhooks import Webhook as _Verifier
from standardwebhooks.webhooks import WebhookVerificationError

__all__ = ["Webhook", "WebhookVerificationError", "WebhookVerifier"]


@dataclass(frozen=True)
class Webhook:
    """A webhook whose signature holds."""

    #: The event's id, the same on every attempt: ignore a webhook whose id was processed before.
    id: str
    #: The event's type.
    type: str
    #: When the event happened, RFC 3339. ``None`` for a CloudEvent that does not tell.
    timestamp: str | None
    #: The payload; of a CloudEvent its data, which is ``bytes`` where it is not JSON.
    data: Any
    #: The account of the event, the ``subject`` of a CloudEvent, if it has one.
    account_id: str | None = None
    #: The user of the event, the ``userid`` of a CloudEvent, if it has one.
    user_id: str | None = None


class WebhookVerifier:
    """Verifies webhooks of an endpoint.

    ``secrets`` are the endpoint's ``whsec_…``, several while one is rotated. The library knows no Ed25519 (``whpk_…``).
    """

    def __init__(self, *secrets: str) -> None:
        if not secrets:
            raise ValueError("a secret is missing")
        for secret in secrets:
            if not secret.startswith("whsec_"):
                raise ValueError("a secret begins with whsec_; endpoints with the signature ed25519 are not supported")
        self._verifiers = [_Verifier(secret) for secret in secrets]

    def verify(self, headers: Mapping[str, str], body: bytes) -> Webhook:
        """The webhook of a request with these headers and this raw body.

        The endpoint may have either format. Raises :class:`WebhookVerificationError` when no signature holds, its
        timestamp is five minutes off, or the body is that of neither format.
        """
        plain = {name.lower(): value for name, value in headers.items()}
        failure = WebhookVerificationError("")
        for verifier in self._verifiers:
            try:
                verifier.verify(body, plain, json_parse=False)
            except WebhookVerificationError as error:
                failure = error
            except ValueError as error:
                # The library does not expect malformed signatures, nor bytes that are no text.
                failure = WebhookVerificationError(f"malformed: {error}")
            else:
                return _webhook(plain["webhook-id"], body)
        raise failure


def _webhook(id: str, body: bytes) -> Webhook:
    """The webhook with this signed body, in either format of endpoints."""
    try:
        content = json.loads(body)
        if "specversion" in content:
            data, names = _cloud_event_data(content), ("time", "subject", "userid")
        else:
            data, names = content["data"], ("timestamp", "account_id", "user_id")
        timestamp, account_id, user_id = (content.get(name) for name in names)
        webhook = Webhook(id, content["type"], timestamp, data, account_id, user_id)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WebhookVerificationError(f"the signature holds, but this is no webhook of Hookgate: {error!r}") from error
    return webhook


def _cloud_event_data(event: Mapping[str, Any]) -> Any:
    """The data of a CloudEvent in the JSON format; ``None`` if it has none."""
    if "data_base64" in event:
        return base64.b64decode(event["data_base64"], validate=True)
    return event.get("data")
