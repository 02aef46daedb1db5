"""Posts events in batches, and repeats what was not accepted.

An event without a ``dedup_id`` gets one before it is first sent. So a batch whose answer was lost can be sent again: the
server stores each event once.
"""

from __future__ import annotations

import asyncio
import datetime
import email.utils
import json
import random
import time
import uuid
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Union

import httpx

from .generated.client import AuthenticatedClient
from .generated.models import NewEvent

#: Most events in one batch that a server takes.
BATCH_EVENTS_MAX = 1000
#: Bytes of one batch; servers take 5 MiB unless set otherwise.
BATCH_BYTES_MAX = 4 * 1024 * 1024

_PATH = "/api/events/batch"
# What comes from a server that stops, or from a proxy in front of it. A 429 or 503 is judged by its `Retry-After`.
_PASSING = frozenset({408, 502, 504})
# A 503 with this code has no `Retry-After`, and the batch may have been accepted, which the dedup ids make harmless.
_TIMED_OUT = "request_timeout"
# Smaller batches pass where these were refused.
_TOO_LARGE = frozenset({"batch_over_rate_limit", "batch_over_delivery_limit"})

#: An event to post: by the fields of the API, or generated.
Event = Union[NewEvent, Mapping[str, Any]]


@dataclass(frozen=True)
class RetryPolicy:
    """When to send a batch again. Times are in seconds."""

    #: Times that a batch is sent at most.
    attempts_max: int = 8
    #: Wait before the second attempt; it doubles with each further one.
    first_wait: float = 0.25
    #: Longest wait. A server that asks for a longer one by `Retry-After` is not asked again.
    wait_max: float = 60.0

    def wait(self, attempt: int, retry_after: float | None) -> float | None:
        """The wait after this attempt, from 1; ``None`` to give up."""
        if attempt >= self.attempts_max or (retry_after or 0.0) > self.wait_max:
            return None
        backoff = min(self.wait_max, self.first_wait * 2 ** (attempt - 1))
        # Many clients that were refused together come back at different times.
        if retry_after is None:
            return random.uniform(backoff / 2, backoff)
        return retry_after + random.uniform(0, backoff / 2)


class PostError(Exception):
    """Events were not accepted.

    ``ids`` are those of the events that were, in order; ``rest`` are the other events, in order and with their dedup
    ids: it is safe to post them again. ``status`` and ``problem`` are the last answer, if there was one.
    """

    def __init__(
        self, detail: str, status: int | None, problem: Mapping[str, Any], ids: list[str], rest: list[dict[str, Any]]
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.problem = problem
        self.ids = ids
        self.rest = rest

    @property
    def code(self) -> str | None:
        """The code of the error, such as ``validation_failed``; docs/errors.md lists them."""
        return self.problem.get("code")

    @property
    def errors(self) -> list[Mapping[str, Any]]:
        """What is wrong with which event: ``index``, counted in the batch that was refused (it starts at the first event
        of ``rest``), ``field`` and ``message``."""
        return list(self.problem.get("errors", ()))


@dataclass(frozen=True)
class _Send:
    body: bytes


@dataclass(frozen=True)
class _Wait:
    seconds: float
    reason: str


_Steps = Generator[Union[_Send, _Wait], Union[httpx.Response, httpx.TransportError, None], list[str]]


@dataclass(frozen=True)
class EventPoster:
    """Posts events in batches, with retries.

    >>> poster = EventPoster(connect("http://127.0.0.1:3000", "hg_…"))
    >>> poster.post([{"type": "user.login", "payload": {"user": "ada"}}])
    ['01a21878-f061-7fdb-a25e-4a08df346c32']
    """

    client: AuthenticatedClient
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    batch_events_max: int = BATCH_EVENTS_MAX
    batch_bytes_max: int = BATCH_BYTES_MAX
    #: Called before each wait with its seconds and the reason.
    on_retry: Callable[[float, str], None] | None = None

    def post(self, events: Iterable[Event]) -> list[str]:
        """Posts the events, and returns their ids in order once all are on the server's disk.

        Raises :class:`PostError` when some were not accepted.
        """
        steps = self._steps(events)
        http = self.client.get_httpx_client()
        answer: httpx.Response | httpx.TransportError | None = None
        while True:
            try:
                step = steps.send(answer)
            except StopIteration as done:
                return done.value
            answer = None
            if isinstance(step, _Wait):
                self._tell(step)
                time.sleep(step.seconds)
                continue
            try:
                answer = http.post(_PATH, content=step.body, headers=_HEADERS)
            except httpx.TransportError as error:
                answer = error

    async def post_async(self, events: Iterable[Event]) -> list[str]:
        """The same with ``asyncio``."""
        steps = self._steps(events)
        http = self.client.get_async_httpx_client()
        answer: httpx.Response | httpx.TransportError | None = None
        while True:
            try:
                step = steps.send(answer)
            except StopIteration as done:
                return done.value
            answer = None
            if isinstance(step, _Wait):
                self._tell(step)
                await asyncio.sleep(step.seconds)
                continue
            try:
                answer = await http.post(_PATH, content=step.body, headers=_HEADERS)
            except httpx.TransportError as error:
                answer = error

    def _tell(self, step: _Wait) -> None:
        if self.on_retry:
            self.on_retry(step.seconds, step.reason)

    def _steps(self, events: Iterable[Event]) -> _Steps:
        """What to do next, and at the end the ids. It does no I/O."""
        waiting = [_with_dedup_id(event) for event in events]
        texts = [_json(event) for event in waiting]
        batch_events_max = self.batch_events_max
        ids: list[str] = []
        attempt = 0
        while len(ids) < len(waiting):
            size = _batch_size(texts, len(ids), batch_events_max, self.batch_bytes_max)
            attempt += 1
            answer = yield _Send(b"[" + b",".join(texts[len(ids) : len(ids) + size]) + b"]")
            if isinstance(answer, httpx.Response) and answer.status_code == httpx.codes.ACCEPTED:
                accepted = _object(answer).get("ids")
                if not isinstance(accepted, list) or len(accepted) != size:
                    reason = f"202 without the ids of {size} events, which is no answer of Hookgate"
                    raise PostError(reason, answer.status_code, {}, ids, waiting[len(ids) :])
                ids += accepted
                attempt = 0
                continue
            problem = _object(answer)
            if problem.get("code") in _TOO_LARGE and size > 1:
                batch_events_max, attempt = size // 2, 0
                continue
            wait = self.retry.wait(attempt, _retry_after(answer)) if _may_pass(answer, problem) else None
            reason = _reason(answer, problem)
            if wait is None:
                status = answer.status_code if isinstance(answer, httpx.Response) else None
                raise PostError(reason, status, problem, ids, waiting[len(ids) :])
            yield _Wait(wait, reason)
        return ids


_HEADERS = {"content-type": "application/json"}


def _with_dedup_id(event: Event) -> dict[str, Any]:
    copy = event.to_dict() if isinstance(event, NewEvent) else dict(event)
    # `event_id` is another name of it.
    if copy.get("dedup_id") is None and copy.get("event_id") is None:
        copy["dedup_id"] = str(uuid.uuid4())
    return copy


def _json(event: Mapping[str, Any]) -> bytes:
    def default(value: Any) -> Any:
        if isinstance(value, datetime.datetime):
            if value.tzinfo is None:
                raise ValueError(f"{value!r} has no time zone")
            return value.isoformat()
        if isinstance(value, uuid.UUID):
            return str(value)
        raise TypeError(f"{type(value).__name__} has no form in JSON")

    text = json.dumps(event, default=default, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode()


def _batch_size(texts: Sequence[bytes], start: int, events_max: int, bytes_max: int) -> int:
    """How many events go into the next batch; at least one."""
    size, length = 0, 2
    for text in texts[start : start + events_max]:
        length += len(text) + 1
        if size and length > bytes_max:
            break
        size += 1
    return size


def _object(answer: httpx.Response | httpx.TransportError | None) -> Mapping[str, Any]:
    """The JSON object that the answer is; empty when it is none."""
    if not isinstance(answer, httpx.Response):
        return {}
    try:
        body = answer.json()
    except ValueError:
        # Not from Hookgate, but from a proxy.
        return {}
    return body if isinstance(body, dict) else {}


def _retry_after(answer: httpx.Response | httpx.TransportError | None) -> float | None:
    """Seconds that the answer asks to wait: a number, or an HTTP date as proxies send it."""
    text = answer.headers.get("retry-after", "") if isinstance(answer, httpx.Response) else ""
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        at = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return None
    if at.tzinfo is None:
        at = at.replace(tzinfo=datetime.timezone.utc)
    return max(0.0, at.timestamp() - time.time())


def _may_pass(answer: httpx.Response | httpx.TransportError | None, problem: Mapping[str, Any]) -> bool:
    """Whether the same batch may be accepted later."""
    if not isinstance(answer, httpx.Response):
        return True
    if answer.status_code in (429, 503):
        # Without the header waiting does not help; a proxy knows nothing of that.
        return "retry-after" in answer.headers or problem.get("code") in (None, _TIMED_OUT)
    return answer.status_code in _PASSING


def _reason(answer: httpx.Response | httpx.TransportError | None, problem: Mapping[str, Any]) -> str:
    if not isinstance(answer, httpx.Response):
        return f"no answer: {answer!r}"
    return f"{answer.status_code} {problem.get('code', answer.reason_phrase)}: {problem.get('detail', '')}".rstrip(": ")
