//! Hello: the first line of a server, found behind whatever its login shell printed before.

use std::io::Read;

use crate::error::{Error, Kind};
use crate::proto::PROTOCOL;
use crate::proto::control::{Hello, MAGIC};

/// What a login shell may print before our program starts; beyond this nobody will find the hello.
pub(super) const MAX_NOISE: usize = 64 << 10;
/// A hello is a few hundred bytes.
const MAX_HELLO: usize = 8 << 10;

/// The hello, and the bytes before it.
pub(crate) type Greeted = (Hello, usize);

/// Looks for the hello behind whatever a login shell printed; with it come the count of bytes before it and the bytes
/// after it. `None` when the stream ends or goes on for too long without one.
pub(crate) fn find_hello(stream: &mut impl Read) -> Option<(Greeted, Vec<u8>)> {
    let start = format!("{{\"tako\":\"{MAGIC}\"").into_bytes();
    let mut seen = Vec::new();
    let mut chunk = [0; 4 << 10];
    while seen.len() < MAX_NOISE + MAX_HELLO {
        // A noise without a line feed at its end has the hello on its last line.
        if let Some(at) = memchr::memmem::find(&seen, &start)
            && let Some(end) = memchr::memchr(b'\n', &seen[at..]).map(|n| at + n)
        {
            let hello = serde_json::from_slice(&seen[at..end]).ok()?;
            return Some(((hello, at), seen.split_off(end + 1)));
        }
        match stream.read(&mut chunk) {
            Ok(0) => return None,
            Ok(n) => seen.extend_from_slice(&chunk[..n]),
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
    None
}

pub(crate) fn incompatible(name: &str, hello: &Hello) -> Error {
    let message = format!(
        "{name}: tako-server {} speaks protocol {}–{}, this tako speaks {}–{}",
        hello.server, hello.protocol.min, hello.protocol.max, PROTOCOL.min, PROTOCOL.max
    );
    let hint = match hello.protocol.max < PROTOCOL.min {
        true => format!("install this tako's version of tako-server on {name}, and restart it there"),
        false => "upgrade tako on this machine".into(),
    };
    Error::new(Kind::Incompatible, message).hint(hint)
}
