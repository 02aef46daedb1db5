//! Server-sent events as a server streams them: the part of the HTML Standard, section 9.2, that Hookgate writes.

use reqwest::Response;

use super::CliError;

/// Bytes of one event at most: more than any server sends.
const EVENT_BYTES_MAX: usize = 64 * 1024 * 1024;

/// An event of a stream.
#[derive(PartialEq, Eq, Debug, Default)]
pub(super) struct SentEvent {
    /// Its name; empty for one that only says where to resume.
    pub(super) kind: String,
    /// Where to resume behind it.
    pub(super) id: Option<String>,
    pub(super) data: String,
}

/// A stream that is read.
pub(super) struct ServerEvents {
    answer: Response,
    parser: Parser,
}

#[derive(Default)]
struct Parser {
    unread: Vec<u8>,
    /// The last id, which holds until there is another one.
    id: Option<String>,
    event: SentEvent,
}

impl ServerEvents {
    pub(super) fn new(answer: Response) -> Self {
        Self { answer, parser: Parser::default() }
    }

    /// The next event; `None` when the stream has ended, or was cut off.
    pub(super) async fn next(&mut self) -> Result<Option<SentEvent>, CliError> {
        loop {
            if let Some(event) = self.parser.next() {
                return Ok(Some(event));
            }
            match self.answer.chunk().await {
                Ok(Some(bytes)) => self.parser.unread.extend_from_slice(&bytes),
                Ok(None) | Err(_) => return Ok(None),
            }
            if self.parser.bytes() > EVENT_BYTES_MAX {
                return Err("the server sends an event without an end".into());
            }
        }
    }
}

impl Parser {
    fn bytes(&self) -> usize {
        self.unread.len() + self.event.data.len()
    }

    /// The next whole event of what was received.
    fn next(&mut self) -> Option<SentEvent> {
        let mut read = 0;
        let mut whole = None;
        while let Some(length) = self.unread[read..].iter().position(|byte| *byte == b'\n') {
            let line = String::from_utf8_lossy(&self.unread[read..read + length]).into_owned();
            read += length + 1;
            if line.is_empty() {
                let event = std::mem::take(&mut self.event);
                whole = Some(SentEvent { id: self.id.clone(), ..event });
                break;
            }
            self.take(&line);
        }
        self.unread.drain(..read);
        whole
    }

    fn take(&mut self, line: &str) {
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.event.kind),
            "id" => self.id = Some(value.to_owned()),
            "data" => {
                if !self.event.data.is_empty() {
                    self.event.data.push('\n');
                }
                self.event.data.push_str(value);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_however_they_are_cut() {
        let text = "id: 1\n\nevent: event\nid: 2\ndata: {\"a\":\ndata: \"\u{e4}\"}\n\n: idle\nevent: b\ndata:c\n\n";
        let sent = |kind: &str, id: &str, data: &str| SentEvent {
            kind: kind.to_owned(),
            id: Some(id.to_owned()),
            data: data.to_owned(),
        };
        let expected =
            [sent("", "1", ""), sent("event", "2", "{\"a\":\n\"\u{e4}\"}"), sent("b", "2", "c")];
        for bytes in [1, 3, text.len()] {
            let (mut parser, mut seen) = (Parser::default(), Vec::new());
            for part in text.as_bytes().chunks(bytes) {
                parser.unread.extend_from_slice(part);
                seen.extend(std::iter::from_fn(|| parser.next()));
            }
            assert_eq!(seen, expected);
            assert_eq!(parser.bytes(), 0);
        }
    }
}
