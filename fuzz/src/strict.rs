//! An upstream that reads requests in the one way in which they can be read, and remembers whatever is wrong with them.

use std::io::{self, BufRead, BufReader, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// No head that a proxy lets through is longer, in bytes.
const LONGEST_HEAD: usize = 256 * 1024;
/// Fields in which credentials travel.
const CREDENTIALS: [&str; 4] = ["authorization", "x-api-key", "api-key", "x-goog-api-key"];
/// Fields that are between a client and the proxy.
const BETWEEN: [&str; 6] =
    ["keep-alive", "proxy-connection", "proxy-authorization", "proxy-authenticate", "expect", "trailers"];

/// Whose key an upstream may see.
#[derive(Debug, Clone, Copy)]
pub enum Keys {
    /// Whatever callers send, and never this one of the proxy's.
    NotOurs(&'static str),
    /// This one of the proxy's in `authorization`, and none of a caller's.
    Ours(&'static str),
}

/// A listening upstream. Its threads end with the process.
#[derive(Debug)]
pub struct Strict {
    /// Where it listens.
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    keys: Keys,
    wrong: Mutex<Vec<String>>,
    /// What it answers; 200 where that is nothing.
    answer: Mutex<Vec<u8>>,
}

impl Strict {
    /// Starts to listen.
    pub fn start(keys: Keys) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared { keys, wrong: Mutex::default(), answer: Mutex::default() });
        let served = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&served);
                std::thread::spawn(move || serve(&shared, stream));
            }
        });
        Self { address, shared }
    }

    /// Answers every request with these bytes from now on, and closes the connection behind them.
    pub fn answer_with(&self, bytes: &[u8]) {
        *self.shared.answer.lock().expect("no panic") = bytes.to_vec();
    }

    /// What was wrong with what it got.
    pub fn wrong(&self) -> Vec<String> {
        std::mem::take(&mut *self.shared.wrong.lock().expect("no panic"))
    }
}

fn serve(shared: &Shared, stream: TcpStream) {
    let mut reader = BufReader::new(&stream);
    loop {
        match exchange(shared, &stream, &mut reader) {
            Ok(true) => {}
            // Nothing may be sent behind a request that was broken off; reading on would take it for another one.
            Ok(false) | Err(_) => return,
        }
    }
}

/// Reads and answers one request; whether another one may follow.
fn exchange(shared: &Shared, mut stream: &TcpStream, reader: &mut BufReader<&TcpStream>) -> io::Result<bool> {
    let head = head(reader)?;
    let read = Request::read(&head, shared.keys).and_then(|request| match request.body(reader) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::InvalidData => Err(format!("its body: {error}")),
        // Broken off: the client has gone.
        Err(_) => Ok(()),
    });
    if let Err(why) = read {
        let wrong = format!("{why}: \"{}\"", head.escape_ascii());
        shared.wrong.lock().expect("no panic").push(wrong);
        return Ok(false);
    }
    let answer = shared.answer.lock().expect("no panic").clone();
    if answer.is_empty() {
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")?;
        return Ok(true);
    }
    stream.write_all(&answer)?;
    stream.shutdown(std::net::Shutdown::Both)?;
    Ok(false)
}

/// The bytes up to the first empty line.
fn head(reader: &mut BufReader<&TcpStream>) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") && head.len() < LONGEST_HEAD {
        if reader.read_until(b'\n', &mut head)? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(head)
}

/// What frames a request's body.
#[derive(Debug, Default)]
struct Request {
    length: Option<u64>,
    chunked: bool,
}

impl Request {
    fn read(head: &[u8], keys: Keys) -> Result<Self, String> {
        let head = head.strip_suffix(b"\r\n\r\n").ok_or("its head has no end")?;
        let mut lines = head.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
        if head.iter().filter(|byte| **byte == b'\n').count() != head.windows(2).filter(|two| two == b"\r\n").count() {
            return Err("a bare line feed".to_owned());
        }
        check_first(lines.next().unwrap_or_default())?;
        let mut fields: Vec<(String, Vec<u8>)> = Vec::new();
        for line in lines {
            fields.push(field(line)?);
        }
        check_between(&fields)?;
        check_keys(&fields, keys)?;
        let all = |name: &str| fields.iter().filter(|(other, _)| other == name).map(|(_, value)| &**value).collect();
        let hosts: Vec<&[u8]> = all("host");
        let [host] = hosts[..] else { return Err("not one host".to_owned()) };
        if host.iter().any(|byte| matches!(byte, b'@' | b'/' | b',' | b' ')) {
            return Err("a host that is none".to_owned());
        }
        let (lengths, codings): (Vec<&[u8]>, Vec<&[u8]>) = (all("content-length"), all("transfer-encoding"));
        match (&lengths[..], &codings[..]) {
            ([], []) => Ok(Self::default()),
            ([length], []) if !length.is_empty() && length.iter().all(u8::is_ascii_digit) => {
                let length = std::str::from_utf8(length).ok().and_then(|length| length.parse().ok());
                Ok(Self { length: Some(length.ok_or("a length beyond all bounds")?), chunked: false })
            }
            ([], [b"chunked"]) => Ok(Self { length: None, chunked: true }),
            _ => Err("its length can be read in two ways".to_owned()),
        }
    }

    /// Reads the body to its end.
    fn body(&self, reader: &mut BufReader<&TcpStream>) -> io::Result<()> {
        if let Some(length) = self.length {
            return skip(reader, length);
        }
        if self.chunked { chunks(reader) } else { Ok(()) }
    }
}

/// Reads chunks and trailers to their end.
fn chunks(reader: &mut BufReader<&TcpStream>) -> io::Result<()> {
    loop {
        let line = line(reader)?;
        let digits = line.split(|byte| *byte == b';').next().unwrap_or_default();
        let digits = Some(digits).filter(|digits| digits.iter().all(u8::is_ascii_hexdigit));
        let digits = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        let size = digits.and_then(|digits| u64::from_str_radix(digits, 16).ok());
        match size.ok_or_else(|| wrong("a chunk without a size"))? {
            0 => break,
            size => skip(reader, size)?,
        }
        if !self::line(reader)?.is_empty() {
            return Err(wrong("a chunk longer than its size"));
        }
    }
    loop {
        let trailer = line(reader)?;
        if trailer.is_empty() {
            return Ok(());
        }
        field(&trailer).map_err(|_| wrong("a trailer that is no field"))?;
    }
}

fn wrong(why: &'static str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, why)
}

fn skip(reader: &mut BufReader<&TcpStream>, length: u64) -> io::Result<()> {
    let read = io::copy(&mut reader.take(length), &mut io::sink())?;
    if read == length { Ok(()) } else { Err(ErrorKind::UnexpectedEof.into()) }
}

fn line(reader: &mut BufReader<&TcpStream>) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    reader.read_until(b'\n', &mut line)?;
    match line.strip_suffix(b"\r\n") {
        Some(line) => Ok(line.to_vec()),
        None if line.ends_with(b"\n") => Err(wrong("a bare line feed")),
        None => Err(ErrorKind::UnexpectedEof.into()),
    }
}

/// The line before the fields.
fn check_first(line: &[u8]) -> Result<(), String> {
    let words: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
    let [method, target, b"HTTP/1.1"] = words[..] else { return Err("a first line that is none".to_owned()) };
    if method.is_empty() || !method.iter().all(|byte| is_token(*byte)) || method == b"CONNECT" {
        return Err("a method that is none".to_owned());
    }
    let is_target = target.starts_with(b"/") || target == b"*";
    if !is_target || target.iter().any(|byte| *byte <= b' ' || *byte == 0x7f || *byte == b'#') {
        return Err("a target that is none".to_owned());
    }
    Ok(())
}

/// A field's name, in lower case, and value.
fn field(line: &[u8]) -> Result<(String, Vec<u8>), String> {
    let colon = line.iter().position(|byte| *byte == b':').ok_or("a field without a colon")?;
    let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
    if name.is_empty() || !name.iter().all(|byte| is_token(*byte)) {
        return Err("a field without a name".to_owned());
    }
    if value.iter().any(|byte| (*byte < b' ' && *byte != b'\t') || *byte == 0x7f) {
        return Err("a field with a control character".to_owned());
    }
    Ok((String::from_utf8_lossy(name).to_ascii_lowercase(), value.to_vec()))
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn check_between(fields: &[(String, Vec<u8>)]) -> Result<(), String> {
    for (name, value) in fields {
        let agreed = match name.as_str() {
            "connection" => matches!(&value[..], b"te" | b"upgrade"),
            "te" => value == b"trailers",
            name => !BETWEEN.contains(&name) && !name.starts_with("x-cooldown-"),
        };
        if !agreed {
            return Err(format!("`{name}` is between the client and the proxy"));
        }
    }
    let told = fields.iter().any(|(name, value)| name == "via" && value.ends_with(b"cooldown"));
    if told { Ok(()) } else { Err("it does not tell its way".to_owned()) }
}

fn check_keys(fields: &[(String, Vec<u8>)], keys: Keys) -> Result<(), String> {
    let sent: Vec<_> = fields.iter().filter(|(name, _)| CREDENTIALS.contains(&name.as_str())).collect();
    let holds = |value: &[u8], key: &str| value.windows(key.len()).any(|part| part == key.as_bytes());
    let right = match keys {
        Keys::NotOurs(ours) => !fields.iter().any(|(_, value)| holds(value, ours)),
        Keys::Ours(ours) => {
            matches!(sent[..], [(name, value)] if name == "authorization" && *value == format!("Bearer {ours}").as_bytes())
        }
    };
    if right { Ok(()) } else { Err(format!("credentials that were meant for others: {sent:?}")) }
}
