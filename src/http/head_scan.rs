//! Notices a `Content-Length` in the head of a request that also has a `Transfer-Encoding`.
//!
//! Such a request may be a smuggled one: a proxy that goes by the length and this server by the coding see different
//! requests. RFC 9112, section 6.3, has it refused, or read by its coding and the connection closed. hyper does the
//! latter, and drops the length before anybody sees it; so the bytes of a head are looked at as they come.
//!
//! A head that came together with the end of an earlier request, or behind the unread body of a refused one, may escape:
//! then hyper reads it by its coding and closes the connection, so nothing can hide behind it.

use std::sync::{Mutex, PoisonError};

/// The name, in lower case, with what follows it.
const LENGTH: &[u8] = b"content-length:";

/// The scan of one connection.
#[derive(Debug, Default)]
pub(super) struct HeadScan(Mutex<Received>);

#[derive(Debug, Default)]
struct Received {
    /// The start of the line that is being received.
    line: Vec<u8>,
    has_lines: bool,
    is_over: bool,
    has_length: bool,
}

impl HeadScan {
    /// Takes bytes that were received. Those behind the head are ignored.
    pub(super) fn received(&self, bytes: &[u8]) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            if state.is_over {
                return;
            }
            state.part(part);
        }
    }

    /// Whether the head that was received last has a length.
    pub(super) fn has_length(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).has_length
    }

    /// The request is answered; what comes now is the head of the next one.
    pub(super) fn next_head(&self) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.line.clear();
        *state = Received { line: std::mem::take(&mut state.line), ..Received::default() };
    }
}

impl Received {
    /// Takes a line, or a part of one.
    fn part(&mut self, part: &[u8]) {
        let left = LENGTH.len() - self.line.len();
        self.line.extend_from_slice(&part[..part.len().min(left)]);
        if !part.ends_with(b"\n") {
            return;
        }
        let is_blank = self.line.trim_ascii().is_empty();
        // Blank lines before the first one are ignored, RFC 9112, section 2.2.
        self.is_over = is_blank && self.has_lines;
        self.has_lines |= !is_blank;
        self.has_length |= self.line.eq_ignore_ascii_case(LENGTH);
        self.line.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn has_length(parts: &[&str]) -> bool {
        let scan = HeadScan::default();
        for part in parts {
            scan.received(part.as_bytes());
        }
        scan.has_length()
    }

    #[test]
    fn length_is_noticed_in_the_head_alone_however_it_comes() {
        let head = "\r\nPOST / HTTP/1.1\r\nhost: x\r\nCONTENT-Length: 5\r\nx: y\r\n\r\n";
        assert!(has_length(&[head]));
        for middle in 0..head.len() {
            let (start, end) = head.split_at(middle);
            assert!(has_length(&[start, end]), "{middle}");
        }
        assert!(has_length(&["GET / HTTP/1.1\ncontent-length: 1\n\n"]));
        for other in [
            "POST / HTTP/1.1\r\nhost: x\r\n\r\ncontent-length: 5\r\n",
            "POST / HTTP/1.1\r\nx-content-length: 5\r\n\r\n",
            "POST /content-length: HTTP/1.1\r\nx: content-length: 5\r\n\r\n",
            "POST / HTTP/1.1\r\ncontent-lengths: 5\r\n\r\n",
            "",
        ] {
            assert!(!has_length(&[other]), "{other}");
        }
    }

    #[test]
    fn each_request_has_its_own_head() {
        let scan = HeadScan::default();
        scan.received(b"POST / HTTP/1.1\r\ncontent-length: 1\r\n\r\n1");
        assert!(scan.has_length());
        scan.next_head();
        scan.received(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n");
        assert!(!scan.has_length());
    }
}
