//! How settings are written: durations as `1500ms`, `30s`, `5m`, `2h`, `7d`.

use std::time::Duration;

/// Parses a duration such as `30s` or `1h 30m`; a bare number has no unit and is refused.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|error| format!("{error}; write a duration such as 500ms, 30s, 5m, 2h or 7d"))
}
