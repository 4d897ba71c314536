//! JSON lines over any pair of streams: one object, one line feed, a limit that is kept while reading.
//!
//! **Invariant**: whatever a peer sends, at most [`MAX_LINE`] bytes of it are held.

use std::io::{BufRead, BufReader, Read, Write};

use serde::Serialize;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use crate::error::{Context, Error, Kind, Result};

/// Longest line, in bytes: a deploy with its secrets is the largest thing we say, and those are bounded at half.
pub(crate) const MAX_LINE: usize = 1 << 20;

/// Reads messages from a stream.
pub(crate) struct Reader<R> {
    stream: BufReader<R>,
    /// Wiped after each line, because a line may hold secrets.
    line: Zeroizing<Vec<u8>>,
    /// It was handed out, and the next one begins.
    is_whole: bool,
}

/// What there is of a stream that does not block.
pub(crate) enum Next<'a> {
    Line(&'a [u8]),
    /// Nothing, or a part of a line, which is kept.
    Part,
    End,
}

impl<R: Read> Reader<R> {
    pub fn new(stream: R) -> Self {
        Reader { stream: BufReader::new(stream), line: Zeroizing::new(Vec::new()), is_whole: false }
    }

    /// The next message; `None` when the peer closed the stream between two lines.
    ///
    /// # Errors
    /// Refused for a line that is too long, cut short or not the expected JSON; Io when the stream fails. After an
    /// error the stream is out of step and must be closed.
    pub fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>> {
        match self.next_line()? {
            None => Ok(None),
            Some(line) => serde_json::from_slice(line).context(|| "understand a control message".into()).map(Some),
        }
    }

    /// The next line without its end.
    pub fn next_line(&mut self) -> Result<Option<&[u8]>> {
        match self.try_line()? {
            Next::Line(line) => Ok(Some(line)),
            Next::Part => Err(Error::new(Kind::Io, "read a control message: nothing came")),
            Next::End => Ok(None),
        }
    }

    /// The same for a stream that says `WouldBlock`, after which it is read on.
    pub fn try_line(&mut self) -> Result<Next<'_>> {
        if std::mem::take(&mut self.is_whole) {
            zeroize::Zeroize::zeroize(&mut *self.line);
        }
        loop {
            let chunk = match self.stream.fill_buf() {
                Ok(chunk) => chunk,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => return Ok(Next::Part),
                Err(e) => return Err(e).context(|| "read a control message".into()),
            };
            if chunk.is_empty() {
                return match self.line.is_empty() {
                    true => Ok(Next::End),
                    false => Err(Error::new(Kind::Refused, "a control message was cut short")),
                };
            }
            let (part, end) = match memchr::memchr(b'\n', chunk) {
                Some(at) => (&chunk[..at], Some(at + 1)),
                None => (chunk, None),
            };
            if self.line.len() + part.len() > MAX_LINE {
                return Err(Error::new(Kind::Refused, format!("a control message is longer than {MAX_LINE} bytes")));
            }
            self.line.extend_from_slice(part);
            let used = end.unwrap_or(chunk.len());
            self.stream.consume(used);
            if end.is_some() {
                self.is_whole = true;
                return Ok(Next::Line(&self.line));
            }
        }
    }
}

/// Writes one message and flushes it.
pub(crate) fn send<T: Serialize>(stream: &mut impl Write, message: &T) -> Result<()> {
    let mut line = Zeroizing::new(serde_json::to_vec(message).context(|| "write a control message".into())?);
    line.push(b'\n');
    if line.len() > MAX_LINE {
        return Err(Error::new(Kind::Refused, format!("a control message would be longer than {MAX_LINE} bytes")));
    }
    stream.write_all(&line).and_then(|()| stream.flush()).context(|| "send a control message".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Hands out one byte at a time: every split point at once.
    struct Drip<'a>(&'a [u8]);

    impl Read for Drip<'_> {
        fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
            let n = self.0.len().min(1).min(buf.len());
            buf[..n].copy_from_slice(&self.0[..n]);
            self.0 = &self.0[n..];
            Ok(n)
        }
    }

    #[test]
    fn reads_lines_however_they_arrive() {
        let mut reader = Reader::new(Drip(b"1\n\"two\"\n"));
        assert_eq!(reader.next::<u32>().unwrap(), Some(1));
        assert_eq!(reader.next::<String>().unwrap(), Some("two".into()));
        assert_eq!(reader.next::<u32>().unwrap(), None);
    }

    #[test]
    fn a_line_that_comes_in_parts_is_kept_until_it_is_whole() {
        /// Says `WouldBlock` after every byte.
        struct Halting<'a>(&'a [u8], bool);

        impl Read for Halting<'_> {
            fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
                self.1 = !self.1;
                if self.1 {
                    Drip(self.0).read(buf).inspect(|n| self.0 = &self.0[*n..])
                } else {
                    Err(std::io::ErrorKind::WouldBlock.into())
                }
            }
        }

        let mut reader = Reader::new(Halting(b"1\n\"two\"\n", false));
        let mut lines = Vec::new();
        loop {
            match reader.try_line().unwrap() {
                Next::Line(line) => lines.push(String::from_utf8(line.to_vec()).unwrap()),
                Next::Part => {}
                Next::End => break,
            }
        }
        assert_eq!(lines, ["1", "\"two\""]);
    }

    #[test]
    fn refuses_a_line_cut_short() {
        assert_eq!(Reader::new(&b"12"[..]).next::<u32>().unwrap_err().kind(), Kind::Refused);
    }

    #[test]
    fn holds_no_more_than_the_limit() {
        let mut reader = Reader::new(std::io::repeat(b'x'));
        assert_eq!(reader.next::<u32>().unwrap_err().kind(), Kind::Refused);
        assert!(reader.line.capacity() <= 2 * MAX_LINE);
    }

    #[test]
    fn refuses_what_is_not_json() {
        for bad in [&b"{\n"[..], b"\n", b"\xff\xfe\n", b"[1,2\n", b"{\"id\":-1}\n"] {
            assert_eq!(Reader::new(bad).next::<super::super::control::Call>().unwrap_err().kind(), Kind::Refused);
        }
    }
}
