"""Client of Hookgate.

:func:`connect` makes a client for the functions in :mod:`hookgate.generated.api`, which are generated from the server's
OpenAPI document. :class:`EventPoster` posts events in batches, with retries. :class:`WebhookVerifier` verifies webhooks.
"""

from __future__ import annotations

from typing import Any

from .events import EventPoster, PostError, RetryPolicy
from .generated.client import AuthenticatedClient
from .webhooks import Webhook, WebhookVerificationError, WebhookVerifier

__all__ = [
    "AuthenticatedClient",
    "EventPoster",
    "PostError",
    "RetryPolicy",
    "Webhook",
    "WebhookVerificationError",
    "WebhookVerifier",
    "connect",
]


def connect(base_url: str, api_key: str, *, timeout: float = 30.0, **settings: Any) -> AuthenticatedClient:
    """A client of the server at this URL. ``settings`` are those of :class:`AuthenticatedClient`."""
    import httpx

    return AuthenticatedClient(
        base_url=base_url.rstrip("/"),
        token=api_key,
        prefix="",
        auth_header_name="X-API-Key",
        timeout=httpx.Timeout(timeout),
        **settings,
    )
