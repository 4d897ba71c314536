//! The two bodies of an exchange on their way: cut out of one stream by its framing, written anew into the other.

use std::io;

use super::forward::{self, Shape};
use super::http::chunked::write_chunk;
use super::http::framing::{Decoder, Framing};
use super::http::{Bad, bad};
use super::tools::Tools;
use super::transport::Socket;

/// The request's body.
pub(super) struct Intake {
    decoder: Decoder,
    chunked: bool,
    seen: u64,
    /// The most bytes it may have.
    pub limit: u64,
}

impl Intake {
    pub fn new(framing: Framing) -> Self {
        Intake { decoder: Decoder::new(framing), chunked: framing == Framing::Chunked, seen: 0, limit: u64::MAX }
    }

    /// All of it has come.
    pub fn is_done(&self) -> bool {
        self.decoder.is_done()
    }

    /// How much of it has come, without its framing.
    pub fn seen(&self) -> u64 {
        self.seen
    }

    /// It says itself that it is beyond the limit.
    pub fn is_too_long(&self) -> bool {
        matches!(self.decoder, Decoder::Length(length) if length > self.limit)
    }

    /// Appends to `out` what `input` holds of it; returns how much of `input` is used up.
    pub fn take(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<usize, Bad> {
        let mut used = 0;
        loop {
            let piece = self.decoder.next(&input[used..])?;
            let data = &input[used..][piece.data];
            used += piece.used;
            self.seen += data.len() as u64;
            if self.seen > self.limit {
                return bad(413, "body too large");
            }
            if self.chunked {
                write_chunk(out, data);
            } else {
                out.extend_from_slice(data);
            }
            if self.decoder.is_done() {
                if self.chunked {
                    out.extend_from_slice(b"0\r\n\r\n"); // request trailers are not passed on
                }
                return Ok(used);
            }
            if piece.used == 0 {
                return Ok(used);
            }
        }
    }
}

/// The response's body.
pub(super) struct Body {
    pub decoder: Decoder,
    pub shape: Shape,
    /// The link can carry another exchange, as far as head and framing say.
    pub reusable: bool,
    /// An event stream may be silent for as long as it likes.
    pub silent: bool,
}

impl Body {
    /// Sends what `input` holds of it, or appends it to `out` if that has something already. Returns how much of
    /// `input` is used up, and whether that was all.
    ///
    /// # Errors
    /// The endpoint breaks its framing, or the client is gone: either way it cannot be completed.
    pub fn relay(
        &mut self,
        input: &[u8],
        out: &mut Vec<u8>,
        client: &mut Socket,
        tools: &mut Tools,
    ) -> io::Result<(usize, bool)> {
        let mut used = 0;
        loop {
            let piece = self.decoder.next(&input[used..]).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
            let data = &input[used..][piece.data];
            used += piece.used;
            match self.shape.framing {
                Framing::Chunked => write_chunk(out, data),
                _ if out.is_empty() => client.send(data, &mut tools.io)?,
                _ => out.extend_from_slice(data),
            }
            if self.decoder.is_done() {
                self.write_end(out, tools);
                return Ok((used, true));
            }
            if piece.used == 0 {
                return Ok((used, false));
            }
        }
    }

    /// Writes what tells the client that this was all.
    pub fn write_end(&self, out: &mut Vec<u8>, tools: &mut Tools) {
        match (self.shape.framing, &self.decoder) {
            (Framing::Chunked, Decoder::Chunked(chunks)) if self.shape.trailers => {
                forward::trailers(out, chunks.trailers(&mut tools.fields));
            }
            (Framing::Chunked, _) => out.extend_from_slice(b"0\r\n\r\n"),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc9112_7_1_extensions_and_request_trailers_end_here() {
        let came = b"3;a=b\r\nabc\r\n01;x=\"y\"\r\nd\r\n000;z\r\nServer-Timing: t\r\n\r\nGET";
        for cut in 0..came.len() - 3 {
            let mut intake = Intake::new(Framing::Chunked);
            let mut out = Vec::new();
            let used = intake.take(&came[..cut], &mut out).unwrap();
            assert_eq!((used, intake.is_done()), (cut, false));
            assert_eq!(intake.take(&came[cut..], &mut out).unwrap(), came.len() - 3 - cut, "the next request is left");
            let text = String::from_utf8(out).unwrap();
            assert!(!text.contains([';', ':']) && text.ends_with("\r\n0\r\n\r\n"), "{text}");
        }
    }
}
