//! A blocking HTTP/1.1 client, small and strict, over TCP or TLS, with server-sent events and WebSocket.
//!
//! It is not the program's own parser: a fault there must not hide here.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, StreamOwned};

/// No answer within this is a failure of the server.
const PATIENCE: Duration = Duration::from_secs(60);

trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

pub struct Client {
    stream: BufReader<Box<dyn Stream>>,
    host: String,
    /// The server said that this connection ends here.
    pub closed: bool,
}

#[derive(Debug)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {:?}", self.text()))
    }
}

impl Client {
    pub fn plain(addr: SocketAddr, host: &str) -> io::Result<Client> {
        Ok(Client { stream: BufReader::new(Box::new(dial(addr)?)), host: host.into(), closed: false })
    }

    pub fn tls(addr: SocketAddr, host: &str) -> io::Result<Client> {
        let name = ServerName::try_from(host.to_string()).map_err(io::Error::other)?;
        let session = ClientConnection::new(tls_config(), name).map_err(io::Error::other)?;
        let stream = StreamOwned::new(session, dial(addr)?);
        Ok(Client { stream: BufReader::new(Box::new(stream)), host: host.into(), closed: false })
    }

    pub fn get(&mut self, path: &str) -> io::Result<Response> {
        self.request("GET", path, None)
    }

    pub fn request(&mut self, method: &str, path: &str, body: Option<&[u8]>) -> io::Result<Response> {
        self.ask(method, path, "", body)
    }

    #[allow(dead_code)] // For the tests of real projects.
    pub fn post_json(&mut self, path: &str, body: &str) -> io::Result<Response> {
        self.ask("POST", path, "Content-Type: application/json\r\n", Some(body.as_bytes()))
    }

    /// `fields` are whole lines.
    fn ask(&mut self, method: &str, path: &str, fields: &str, body: Option<&[u8]>) -> io::Result<Response> {
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\n{fields}", self.host);
        if let Some(body) = body {
            head += &format!("Content-Length: {}\r\n", body.len());
        }
        let mut bytes = (head + "\r\n").into_bytes();
        bytes.extend_from_slice(body.unwrap_or_default());
        self.send(&bytes)?;
        self.receive()
    }

    /// Sends a body in chunks of `piece` bytes.
    pub fn post_chunked(&mut self, path: &str, body: &[u8], piece: usize) -> io::Result<Response> {
        let mut bytes =
            format!("POST {path} HTTP/1.1\r\nHost: {}\r\nTransfer-Encoding: chunked\r\n\r\n", self.host).into_bytes();
        for chunk in body.chunks(piece) {
            bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
            bytes.extend_from_slice(chunk);
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(b"0\r\n\r\n");
        self.send(&bytes)?;
        self.receive()
    }

    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes)?;
        self.stream.get_mut().flush()
    }

    pub fn receive(&mut self) -> io::Result<Response> {
        let (status, headers) = self.head()?;
        let mut response = Response { status, headers, body: Vec::new() };
        self.closed = response.header("connection").is_some_and(|v| v.eq_ignore_ascii_case("close"));
        if response.header("transfer-encoding").is_some() {
            while let Some(chunk) = self.chunk()? {
                response.body.extend_from_slice(&chunk);
            }
        } else if let Some(length) = response.header("content-length") {
            response.body = vec![0; length.parse().map_err(io::Error::other)?];
            self.stream.read_exact(&mut response.body)?;
        } else if status != 204 && status != 304 {
            return Err(io::Error::other(format!("a {status} answer without a length")));
        }
        Ok(response)
    }

    fn head(&mut self) -> io::Result<(u16, Vec<(String, String)>)> {
        let first = self.line()?;
        let status = first.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)).and_then(|s| s.parse().ok());
        let status = status.ok_or_else(|| io::Error::other(format!("not a status line: {first:?}")))?;
        let mut headers = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Ok((status, headers));
            }
            let (name, value) =
                line.split_once(": ").ok_or_else(|| io::Error::other(format!("not a field: {line:?}")))?;
            headers.push((name.into(), value.into()));
        }
    }

    /// The next chunk; `None` at the end of the body.
    pub fn chunk(&mut self) -> io::Result<Option<Vec<u8>>> {
        let line = self.line()?;
        let size =
            usize::from_str_radix(&line, 16).map_err(|_| io::Error::other(format!("not a chunk size: {line:?}")))?;
        let mut chunk = vec![0; size];
        self.stream.read_exact(&mut chunk)?;
        match self.line()?.as_str() {
            "" => Ok((size > 0).then_some(chunk)),
            other => Err(io::Error::other(format!("a chunk ends with {other:?}"))),
        }
    }

    /// Asks for an event stream and leaves it open; read it by [`Client::event`].
    pub fn open_events(&mut self, path: &str) -> io::Result<()> {
        let head = format!("GET {path} HTTP/1.1\r\nHost: {}\r\nAccept: text/event-stream\r\n\r\n", self.host);
        self.send(head.as_bytes())?;
        match self.head()? {
            (200, headers) if headers.iter().any(|(_, v)| v.starts_with("text/event-stream")) => Ok(()),
            other => Err(io::Error::other(format!("no event stream: {other:?}"))),
        }
    }

    pub fn event(&mut self) -> io::Result<Option<String>> {
        Ok(self.chunk()?.map(|c| String::from_utf8_lossy(&c).into_owned()))
    }

    /// Upgrades this connection to a WebSocket (RFC 6455 §4).
    pub fn upgrade(mut self, path: &str) -> io::Result<WebSocket> {
        let head = format!(
            "GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
            self.host
        );
        self.send(head.as_bytes())?;
        let (status, headers) = self.head()?;
        // The key and the answer are those of RFC 6455 §1.3.
        let accepted = headers
            .iter()
            .any(|(n, v)| n.eq_ignore_ascii_case("sec-websocket-accept") && v == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        match status == 101 && accepted {
            true => Ok(WebSocket { client: self }),
            false => Err(io::Error::other(format!("not upgraded: {status} {headers:?}"))),
        }
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = Vec::new();
        self.stream.read_until(b'\n', &mut line)?;
        match line.strip_suffix(b"\r\n") {
            Some(line) => String::from_utf8(line.to_vec()).map_err(io::Error::other),
            None => Err(io::Error::new(
                ErrorKind::UnexpectedEof,
                format!("cut short after {:?}", String::from_utf8_lossy(&line)),
            )),
        }
    }
}

pub struct WebSocket {
    client: Client,
}

impl WebSocket {
    /// Sends a text message, masked as a client must (RFC 6455 §5.3); less than 64 KiB.
    pub fn send(&mut self, text: &str) -> io::Result<()> {
        let length = u16::try_from(text.len()).map_err(io::Error::other)?;
        let mask = [1, 2, 3, 4];
        let mut frame = match length {
            0..126 => vec![0x81, 0x80 | length as u8],
            126.. => [&[0x81, 0x80 | 126][..], &length.to_be_bytes()].concat(),
        };
        frame.extend_from_slice(&mask);
        frame.extend(text.bytes().enumerate().map(|(i, b)| b ^ mask[i % 4]));
        self.client.send(&frame)
    }

    /// The next text message; `None` when the peer closed properly.
    pub fn receive(&mut self) -> io::Result<Option<String>> {
        let mut head = [0; 2];
        self.client.stream.read_exact(&mut head)?;
        let mut length = usize::from(head[1] & 0x7f);
        if length == 126 {
            let mut long = [0; 2];
            self.client.stream.read_exact(&mut long)?;
            length = usize::from(u16::from_be_bytes(long));
        }
        let mut payload = vec![0; length];
        self.client.stream.read_exact(&mut payload)?;
        match head[0] {
            0x81 => Ok(Some(String::from_utf8_lossy(&payload).into_owned())),
            0x88 => Ok(None),
            other => Err(io::Error::other(format!("an unexpected frame: {other:#x}"))),
        }
    }

    /// Whether a message comes back as it was sent.
    pub fn echoes(&mut self, text: &str) -> io::Result<bool> {
        self.send(text)?;
        Ok(self.receive()?.as_deref() == Some(text))
    }
}

fn dial(addr: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&addr, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn tls_config() -> Arc<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    Arc::new(config.dangerous().with_custom_certificate_verifier(Arc::new(AnyCert)).with_no_client_auth())
}

/// The servers under test are self-signed; what is checked here is not the chain.
#[derive(Debug)]
struct AnyCert;

impl ServerCertVerifier for AnyCert {
    fn verify_server_cert(
        &self,
        cert: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        // The certificate must at least be for the name that was asked for.
        let cert = rustls::server::ParsedCertificate::try_from(cert)?;
        rustls::client::verify_server_name(&cert, name)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        m: &[u8],
        c: &CertificateDer<'_>,
        d: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(
            m,
            c,
            d,
            &rustls::crypto::ring::default_provider().signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        m: &[u8],
        c: &CertificateDer<'_>,
        d: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(
            m,
            c,
            d,
            &rustls::crypto::ring::default_provider().signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
