"""Verifies webhooks, by the Standard Webhooks library."""

from __future__ import annotations

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
    #: When the event happened, RFC 3339.
    timestamp: str
    #: The payload.
    data: Any


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

        Raises :class:`WebhookVerificationError` when no signature holds, or its timestamp is five minutes off.
        """
        plain = {name.lower(): value for name, value in headers.items()}
        failure = WebhookVerificationError("")
        for verifier in self._verifiers:
            try:
                verifier.verify(body, plain, json_parse=False)
                content = json.loads(body)
                return Webhook(plain["webhook-id"], content["type"], content["timestamp"], content["data"])
            except WebhookVerificationError as error:
                failure = error
            except ValueError as error:
                # The library does not expect malformed signatures, nor bytes that are no text.
                failure = WebhookVerificationError(f"malformed: {error}")
        raise failure
