"""What schemathesis does not know by itself: how bodies of newline-delimited JSON are written, and that it has little time."""

import schemathesis


@schemathesis.serializer("application/x-ndjson", "application/ndjson", "application/jsonl")
def ndjson(ctx, value):
    """The document declares such a body as text, one JSON value per line."""
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        value = "" if value is None else str(value)
    return value.encode("utf-8", errors="replace")


@schemathesis.hook
def map_query(ctx, query):
    """A long poll waits for a second at most."""
    try:
        if query and float(query.get("wait", 0)) > 1:
            query["wait"] = 1
    except (TypeError, ValueError):
        pass
    return query
