//! Message: HTTP/1.1 read a second time, by other code than the data plane's: simple, strict, and slow.
//!
//! **Invariant**: nothing is shared with `http`; what both misread they must misread independently.

/// One message as far as it has come.
#[derive(Debug)]
pub(super) struct Message {
    /// The first line, without its CRLF.
    pub line: String,
    /// Names in lower case.
    pub fields: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Where the message ends, once it has.
    pub end: Option<usize>,
    /// Only the end of the connection ends it.
    pub until_close: bool,
}

/// Which body the rules of RFC 9112 §6.3 leave room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Room {
    /// None, whatever the fields say.
    Never,
    /// Only if it is announced, as in a request.
    Announced,
    /// Until the close if it is not announced, as in a response.
    Any,
}

impl Message {
    /// Reads the message at the front of `bytes`. `None` while its head is not whole.
    ///
    /// `room` is asked once the first line is known.
    pub fn read(bytes: &[u8], room: impl FnOnce(&str) -> Room) -> Result<Option<Message>, String> {
        let Some(head) = find(bytes, b"\r\n\r\n") else { return Ok(None) };
        let text = std::str::from_utf8(&bytes[..head]).map_err(|_| "a head that is not text")?;
        let mut lines = text.split("\r\n");
        let line = lines.next().unwrap_or_default().to_string();
        let mut fields = Vec::new();
        for field in lines {
            if memchr::memchr3(b'\r', b'\n', 0, field.as_bytes()).is_some() {
                return Err(format!("a control character in {field:?}"));
            }
            let (name, value) = field.split_once(": ").ok_or_else(|| format!("no field: {field:?}"))?;
            fields.push((name.to_ascii_lowercase(), value.to_string()));
        }
        let mut message = Message { line, fields, body: Vec::new(), end: None, until_close: false };
        message.read_body(bytes, head + 4, room)?;
        Ok(Some(message))
    }

    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    fn read_body(&mut self, bytes: &[u8], at: usize, room: impl FnOnce(&str) -> Room) -> Result<(), String> {
        let room = room(&self.line);
        let codings = self.fields.iter().filter(|(n, _)| n == "transfer-encoding").count();
        let lengths = self.fields.iter().filter(|(n, _)| n == "content-length").count();
        if codings + lengths > 1 {
            return Err(format!("framed twice: {self:?}"));
        }
        match (room, self.field("transfer-encoding"), self.field("content-length")) {
            (Room::Never, _, _) | (Room::Announced, None, None) => self.end = Some(at),
            (_, Some("chunked"), _) => self.read_chunks(bytes, at)?,
            (_, Some(other), _) => return Err(format!("coding {other:?}")),
            (_, None, Some(length)) => {
                let length: usize = length.parse().map_err(|_| format!("length {length:?}"))?;
                self.body = bytes[at..bytes.len().min(at.saturating_add(length))].to_vec();
                self.end = (self.body.len() == length).then_some(at + length);
            }
            (Room::Any, None, None) => {
                self.body = bytes[at..].to_vec();
                self.until_close = true;
            }
        }
        Ok(())
    }

    fn read_chunks(&mut self, bytes: &[u8], mut at: usize) -> Result<(), String> {
        while let Some(len) = find(&bytes[at..], b"\r\n") {
            let line = std::str::from_utf8(&bytes[at..at + len]).map_err(|_| "chunk size is no text")?;
            let size = usize::from_str_radix(line, 16).map_err(|_| format!("chunk size {line:?}"))?;
            at += len + 2;
            if size == 0 {
                // Trailers, up to an empty line.
                let rest = &bytes[at..];
                let end = if rest.starts_with(b"\r\n") { Some(2) } else { find(rest, b"\r\n\r\n").map(|n| n + 4) };
                self.end = end.map(|n| at + n);
                return Ok(());
            }
            self.body.extend_from_slice(&bytes[at..bytes.len().min(at + size)]);
            let Some(after) = bytes.get(at + size..at + size + 2) else { return Ok(()) };
            if after != b"\r\n" {
                return Err("a chunk without its CRLF".into());
            }
            at += size + 2;
        }
        Ok(())
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    memchr::memmem::find(bytes, what)
}
