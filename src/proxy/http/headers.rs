//! Field lines: their grammar, the names we know, and the lists in their values (RFC 9110 §5).

use super::{Bad, TCHAR, all, bad, scan};

/// A piece of a head, by place.
#[derive(Debug, Clone, Copy)]
pub(in crate::proxy) struct Span {
    at: u32,
    len: u32,
}

impl Span {
    pub fn new(at: usize, len: usize) -> Self {
        Span { at: at as u32, len: len as u32 }
    }

    pub fn of(self, bytes: &[u8]) -> &[u8] {
        &bytes[self.at as usize..(self.at + self.len) as usize]
    }
}

#[derive(Debug, Clone, Copy)]
pub(in crate::proxy) struct Field {
    pub id: Name,
    name: Span,
    value: Span,
}

impl Field {
    /// Name as written, and value without the whitespace around it.
    pub fn parts<'a>(&self, bytes: &'a [u8]) -> (&'a [u8], &'a [u8]) {
        (self.name.of(bytes), self.value.of(bytes))
    }

    /// Where its line lies, CRLF included, if it is written as we would write it.
    pub fn canonical(&self, bytes: &[u8]) -> Option<std::ops::Range<usize>> {
        let (colon, end) = ((self.name.at + self.name.len) as usize, (self.value.at + self.value.len) as usize);
        let tidy = self.value.at as usize == colon + 2 && bytes[colon + 1] == b' ' && bytes[end] == b'\r';
        tidy.then(|| self.name.at as usize..end + 2)
    }
}

/// The names that mean something to a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::proxy) enum Name {
    Accept,
    /// Reserved: `Connection: close` would name it (RFC 9112 §9.6).
    Close,
    Connection,
    ContentLength,
    ContentType,
    Date,
    Expect,
    Forwarded,
    Host,
    Http2Settings,
    InternalToken,
    KeepAlive,
    Proxy,
    ProxyAuthenticate,
    ProxyAuthorization,
    ProxyConnection,
    Referer,
    Te,
    Trailer,
    TransferEncoding,
    Upgrade,
    UserAgent,
    XForwardedFor,
    XForwardedHost,
    XForwardedPort,
    XForwardedProto,
    /// Any other `X-Forwarded-…`, and `X-Real-IP`: claims about the client that only a trusted peer may make.
    XForwarded,
    XRequestId,
    Other,
}

impl Name {
    pub fn of(name: &[u8]) -> Self {
        let candidates: &[(&str, Name)] = match name.len() {
            2 => &[("te", Name::Te)],
            4 => &[("host", Name::Host), ("date", Name::Date)],
            5 => &[("proxy", Name::Proxy), ("close", Name::Close)],
            6 => &[("accept", Name::Accept), ("expect", Name::Expect)],
            7 => &[("upgrade", Name::Upgrade), ("trailer", Name::Trailer), ("referer", Name::Referer)],
            9 => &[("forwarded", Name::Forwarded), ("x-real-ip", Name::XForwarded)],
            10 => &[("connection", Name::Connection), ("keep-alive", Name::KeepAlive), ("user-agent", Name::UserAgent)],
            12 => &[("content-type", Name::ContentType), ("x-request-id", Name::XRequestId)],
            14 => &[("content-length", Name::ContentLength), ("http2-settings", Name::Http2Settings)],
            15 => &[("x-forwarded-for", Name::XForwardedFor)],
            16 => &[
                ("x-forwarded-host", Name::XForwardedHost),
                ("x-forwarded-port", Name::XForwardedPort),
                ("proxy-connection", Name::ProxyConnection),
            ],
            17 => &[("x-forwarded-proto", Name::XForwardedProto), ("transfer-encoding", Name::TransferEncoding)],
            18 => &[("proxy-authenticate", Name::ProxyAuthenticate)],
            19 => &[("proxy-authorization", Name::ProxyAuthorization)],
            21 => &[("x-tako-internal-token", Name::InternalToken)],
            _ => &[],
        };
        // The first letter tells most of them apart without a comparison.
        let first = name.first().map_or(0, u8::to_ascii_lowercase);
        let is =
            |known: &&(&str, Name)| known.0.as_bytes()[0] == first && name.eq_ignore_ascii_case(known.0.as_bytes());
        match candidates.iter().find(is) {
            Some((_, id)) => *id,
            None if first == b'x' && starts_with_ignore_case(name, b"x-forwarded-") => Name::XForwarded,
            None => Name::Other,
        }
    }

    /// Whether `name` would be taken for one of ours by a server that reads `_` as `-`, as CGI and its heirs do.
    pub fn is_lookalike(name: &[u8]) -> bool {
        name.contains(&b'_') && {
            let dashed: Vec<u8> = name.iter().map(|b| if *b == b'_' { b'-' } else { *b }).collect();
            let id = Name::of(&dashed);
            !matches!(id, Name::Other | Name::Accept | Name::ContentType | Name::Date | Name::UserAgent)
        }
    }

    /// Concerns this connection only and is never passed on as it is (RFC 9110 §7.6.1).
    pub fn is_hop_by_hop(self) -> bool {
        matches!(
            self,
            Name::Close
                | Name::Connection
                | Name::KeepAlive
                | Name::ProxyConnection
                | Name::ProxyAuthenticate
                | Name::ProxyAuthorization
                | Name::Te
                | Name::Trailer
                | Name::TransferEncoding
                | Name::Upgrade
                | Name::Http2Settings
        )
    }
}

/// The field lines of one head.
#[derive(Debug, Clone, Copy)]
pub(in crate::proxy) struct Fields<'a> {
    pub bytes: &'a [u8],
    pub list: &'a [Field],
    /// One bit for each name that occurs: most questions are about fields that are not there.
    present: u32,
}

impl<'a> Fields<'a> {
    pub fn new(bytes: &'a [u8], list: &'a [Field]) -> Self {
        const { assert!((Name::Other as u32) < u32::BITS) };
        Fields { bytes, list, present: list.iter().fold(0, |seen, f| seen | 1 << f.id as u32) }
    }

    pub fn has(self, id: Name) -> bool {
        self.present & (1 << id as u32) != 0
    }

    /// Id, name as written, value without the whitespace around it.
    pub fn iter(self) -> impl Iterator<Item = (Name, &'a [u8], &'a [u8])> {
        self.list.iter().map(move |f| {
            let (name, value) = f.parts(self.bytes);
            (f.id, name, value)
        })
    }

    pub fn all(self, id: Name) -> impl Iterator<Item = &'a [u8]> {
        let list = if self.has(id) { self.list } else { &[] };
        list.iter().filter(move |f| f.id == id).map(move |f| f.value.of(self.bytes))
    }

    pub fn first(self, id: Name) -> Option<&'a [u8]> {
        self.all(id).next()
    }

    /// Every non-empty member of the lists under `id` (RFC 9110 §5.6.1: empty ones are ignored by a recipient).
    pub fn members(self, id: Name) -> impl Iterator<Item = &'a [u8]> {
        self.all(id).flat_map(|v| v.split(|b| *b == b',')).map(trim).filter(|m| !m.is_empty())
    }
}

/// Parses the field lines in `bytes[from..to]`, each ended by CRLF, and appends them to `list`.
pub(in crate::proxy) fn parse(bytes: &[u8], from: usize, to: usize, list: &mut Vec<Field>) -> Result<(), Bad> {
    let (bytes, mut at) = (&bytes[..to], from);
    while at < to {
        let (field, next) = line(bytes, at)?;
        list.push(field);
        at = next;
    }
    Ok(())
}

/// The field line at `from`, and where the next one begins. Every byte is looked at once.
fn line(bytes: &[u8], from: usize) -> Result<(Field, usize), Bad> {
    let colon = from + scan::run(&bytes[from..], TCHAR);
    match bytes.get(colon) {
        Some(b':') if colon > from => {}
        // RFC 9112 §5.2: obs-fold; §2.2: whitespace before the first field.
        Some(b' ' | b'\t') if colon == from => return bad(400, "folded field line"),
        Some(b'\r') => return bad(400, "field line without colon"),
        Some(b'\n') => return bad(400, "bare LF"),
        None => return bad(400, "field line without end"),
        // RFC 9112 §5.1: no whitespace between name and colon; a space is no tchar either.
        Some(_) => return bad(400, "bad field name"),
    }
    let mut start = colon + 1;
    while let Some(b' ' | b'\t') = bytes.get(start) {
        start += 1;
    }
    let end = start + scan::value_run(&bytes[start..]);
    match bytes[end..] {
        [b'\r', b'\n', ..] => {}
        // RFC 9112 §2.2: a bare LF could be a line end to one reader and not to the next.
        [b'\n', ..] => return bad(400, "bare LF"),
        [] => return bad(400, "field line without end"),
        // RFC 9110 §5.5: CR, LF and NUL are dangerous, other controls invalid.
        _ => return bad(400, "control character in a field value"),
    }
    let value = Span::new(start, trim(&bytes[start..end]).len());
    let name = Span::new(from, colon - from);
    Ok((Field { id: Name::of(name.of(bytes)), name, value }, end + 2))
}

/// Without OWS at both ends (RFC 9110 §5.6.3).
pub(in crate::proxy) fn trim(mut bytes: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = bytes {
        bytes = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = bytes {
        bytes = rest;
    }
    bytes
}

/// What the Connection field says (RFC 9110 §7.6.1).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::proxy) struct Connection {
    pub close: bool,
    pub keep_alive: bool,
    pub upgrade: bool,
    /// It names fields, which then go no further.
    pub names_fields: bool,
}

/// # Errors
/// Naming a field that frames or routes the message: no honest sender does, and removing it would change the message.
pub(in crate::proxy) fn connection(fields: Fields<'_>) -> Result<Connection, Bad> {
    let mut seen = Connection::default();
    for option in fields.members(Name::Connection) {
        if !all(option, TCHAR) {
            return bad(400, "bad Connection option");
        }
        if option.eq_ignore_ascii_case(b"close") {
            seen.close = true;
        } else if option.eq_ignore_ascii_case(b"keep-alive") {
            seen.keep_alive = true;
        } else {
            match Name::of(option) {
                Name::Upgrade => seen.upgrade = true,
                Name::Host | Name::ContentLength | Name::TransferEncoding => {
                    return bad(400, "Connection names a field that frames the message");
                }
                _ => seen.names_fields = true,
            }
        }
    }
    Ok(seen)
}

/// Whether Connection lists `name`.
pub(in crate::proxy) fn names(fields: Fields<'_>, name: &[u8]) -> bool {
    fields.members(Name::Connection).any(|option| option.eq_ignore_ascii_case(name))
}

pub(in crate::proxy) fn starts_with_ignore_case(bytes: &[u8], prefix: &[u8]) -> bool {
    bytes.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(head: &[u8]) -> Result<Vec<Field>, Bad> {
        let mut list = Vec::new();
        parse(head, 0, head.len(), &mut list)?;
        Ok(list)
    }

    #[test]
    fn rfc9112_5_refuses_malformed_field_lines() {
        for line in [
            "no colon\r\n",
            ": empty name\r\n",
            "Host : space before colon\r\n",
            "Ho st: x\r\n",
            "H\u{e9}: x\r\n",
            " first: folded\r\n",
            "a: b\r\n folded\r\n",
            "a: b\r\n\tfolded\r\n",
            "a: b\0c\r\n",
            "a: b\rc\r\n",
            "a: b\x0bc\r\n",
            "a: b\x7fc\r\n",
            "a: b\n",
            "a: b\r\n\n",
        ] {
            assert_eq!(parsed(line.as_bytes()).map(|_| ()).unwrap_err().status, 400, "{line:?}");
        }
    }

    #[test]
    fn rfc9110_5_each_byte_of_a_field_line_is_judged() {
        for b in 0..=255u8 {
            let name = parsed(&[b"N", &[b][..], b"N: v\r\n"].concat()).is_ok();
            assert_eq!(name, b == b':' || super::super::is_tchar(b), "{b:#x} in a name");
            // RFC 9110 §5.5: CR, LF and NUL are dangerous, other controls but HTAB invalid, obs-text passes.
            let value = parsed(&[b"N: v", &[b][..], b"v\r\n"].concat()).is_ok();
            assert_eq!(value, b == b'\t' || (b >= b' ' && b != 0x7f), "{b:#x} in a value");
        }
    }

    #[test]
    fn rfc9110_5_5_keeps_obs_text_and_trims_whitespace() {
        let head = b"A:\t x\tg\xff \t\r\nB:\r\n";
        let list = parsed(head).unwrap();
        let fields = Fields::new(head, &list);
        let got: Vec<_> = fields.iter().map(|(_, n, v)| (n, v)).collect();
        assert_eq!(got, [(&b"A"[..], &b"x\tg\xff"[..]), (b"B", b"")]);
    }

    #[test]
    fn knows_names_in_any_case_and_their_underscore_twins() {
        assert_eq!(Name::of(b"tRANSFER-eNCODING"), Name::TransferEncoding);
        assert_eq!(Name::of(b"X-Forwarded-Whatever"), Name::XForwarded);
        assert_eq!(Name::of(b"X-Forwarded"), Name::Other);
        for twin in ["Content_Length", "X_Forwarded_For", "transfer_encoding", "X_Tako-Internal_Token", "x_real_ip"] {
            assert!(Name::is_lookalike(twin.as_bytes()), "{twin}");
        }
        for fine in ["my_header", "content-length", "_", "content_type"] {
            assert!(!Name::is_lookalike(fine.as_bytes()), "{fine}");
        }
    }

    #[test]
    fn rfc9110_7_6_1_connection_lists_options_and_never_framing_fields() {
        let read = |value: &str| {
            let head = format!("Connection: {value}\r\n");
            let list = parsed(head.as_bytes()).unwrap();
            connection(Fields::new(head.as_bytes(), &list))
        };
        assert_eq!(
            read("close, , Keep-Alive").unwrap(),
            Connection { close: true, keep_alive: true, ..Default::default() }
        );
        assert!(read("Upgrade").unwrap().upgrade);
        assert!(read("X-Own").unwrap().names_fields);
        for bad in ["host", "x, Content-Length", "TRANSFER-ENCODING", "a b", "\"close\""] {
            assert_eq!(read(bad).unwrap_err().status, 400, "{bad}");
        }
    }
}
