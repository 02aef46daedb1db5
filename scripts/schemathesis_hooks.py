"""What schemathesis does not know by itself: how bodies of newline-delimited JSON are written."""

import schemathesis


@schemathesis.serializer("application/x-ndjson", "application/ndjson", "application/jsonl")
def ndjson(ctx, value):
    """The document declares such a body as text, one JSON value per line."""
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        value = "" if value is None else str(value)
    return value.encode("utf-8", errors="replace")
