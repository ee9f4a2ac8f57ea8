//! Whole requests through the program: it runs under callgrind, its client and its upstream in this process.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, bail, ensure};

use crate::callgrind::Counted;

/// Before each answer and each further request. The program is asleep by then, so that it always finds nothing when it
/// looks too early, and takes the same way every time.
const PAUSE: Duration = Duration::from_millis(2);
/// For an answer; nothing takes this long that works.
const PATIENCE: Duration = Duration::from_secs(30);

/// Requests of one kind, one after the other on one connection.
#[derive(Debug)]
pub(crate) struct Traffic {
    pub name: &'static str,
    /// The configuration but for `server`, `admin` and `log`; `@UPSTREAM@` stands for an address.
    sections: &'static str,
    request: String,
    answer: String,
}

const ROUTE: &str = r#"routes: {"*": {upstream: "http://@UPSTREAM@", limits: {requests: 1000000/s}}}"#;
const PROVIDER: &str = r#"
providers:
  guard:
    endpoint: "http://@UPSTREAM@"
    api_key: sk-guard
    models: ["m-*"]
    limits: {requests: 1000000/s, tokens: 1000M/s}
"#;

/// Every kind of traffic that is counted.
pub(crate) fn all() -> impl Iterator<Item = Traffic> {
    let plain = Traffic {
        name: "one proxied request",
        sections: ROUTE,
        request: message(
            "GET /v1/models HTTP/1.1",
            &["Host: api.example.com", "User-Agent: guard/1.0", "Accept: */*"],
            None,
        ),
        answer: answer(r#"{"object":"list","data":[]}"#),
    };
    let routed = Traffic {
        name: "one proxied request, 2 kB of JSON routed by model",
        sections: PROVIDER,
        request: message(
            "POST /v1/chat/completions HTTP/1.1",
            &[
                "Host: api.example.com",
                "User-Agent: guard/1.0",
                "Accept: application/json",
                "Authorization: Bearer sk-of-a-client",
                "Content-Type: application/json",
            ],
            Some(&chat(2000)),
        ),
        answer: answer(
            r#"{"object":"chat.completion","model":"m-1","choices":[{"index":0,"message":{"role":"assistant","content":"Hello."},"finish_reason":"stop"}],"usage":{"prompt_tokens":480,"completion_tokens":3,"total_tokens":483}}"#,
        ),
    };
    [plain, routed].into_iter()
}

impl Traffic {
    /// So many requests once, and twice as many once more.
    pub(crate) const REQUESTS: u64 = 500;

    /// The instructions of the program from its start to its end, with this many requests in between.
    pub(crate) fn count(&self, program: &Path, requests: u64) -> anyhow::Result<u64> {
        let upstream = serve(self.answer.clone())?;
        let counted = Counted::prepare()?;
        let config = format!(
            "server: {{host: 127.0.0.1, port: 0, workers: 1, drain_timeout: 1s}}\n\
             admin: off\n\
             log: {{access: false}}\n\
             {}\n",
            self.sections.replace("@UPSTREAM@", &upstream.to_string())
        );
        let file = counted.folder().join("config.yaml");
        std::fs::write(&file, config).context("a configuration")?;
        let mut command = counted.command(program);
        command.arg("--config").arg(&file);
        let mut proxy = Running::start(command)?;
        ask(proxy.address()?, &self.request, requests)?;
        proxy.stop()?;
        counted.total()
    }
}

/// The program, as a process. Killed when dropped.
struct Running(Child);

impl Running {
    fn start(mut command: Command) -> anyhow::Result<Self> {
        Ok(Self(command.stdout(Stdio::piped()).spawn().context("valgrind does not run")?))
    }

    /// Where it listens, as it tells at its start.
    fn address(&mut self) -> anyhow::Result<SocketAddr> {
        let output = BufReader::new(self.0.stdout.take().context("its output was taken before")?);
        let mut lines = output.lines();
        while let Some(line) = lines.next().transpose()? {
            if let Some((_, told)) = line.split_once("listening on ") {
                // What it says further must not stop it.
                thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
                let told = told.trim_start_matches("http://");
                let end = told.find(|c: char| !(c.is_ascii_digit() || ".:".contains(c))).unwrap_or(told.len());
                return told[..end].parse().with_context(|| format!("no address in `{line}`"));
            }
        }
        bail!("it ended before it listened")
    }

    fn stop(mut self) -> anyhow::Result<()> {
        let told = Command::new("kill").args(["-s", "TERM", &self.0.id().to_string()]).status();
        ensure!(told.context("kill does not run")?.success(), "the program cannot be stopped");
        ensure!(self.0.wait()?.success(), "the program failed");
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Sends requests, each once the one before is answered.
fn ask(address: SocketAddr, request: &str, times: u64) -> anyhow::Result<()> {
    let mut stream = connected(TcpStream::connect(address)?)?;
    let mut answers = BufReader::new(stream.try_clone()?);
    for _ in 0..times {
        stream.write_all(request.as_bytes())?;
        let head = read_message(&mut answers)?.context("the proxy closed the connection")?;
        ensure!(head.starts_with("HTTP/1.1 200 "), "not the upstream's answer: {head}");
        thread::sleep(PAUSE);
    }
    Ok(())
}

/// Gives the same answer to every request, in threads that end with their connections.
fn serve(answer: String) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let answer = answer.clone();
            thread::spawn(move || answer_each(stream, &answer));
        }
    });
    Ok(address)
}

fn answer_each(stream: TcpStream, answer: &str) -> anyhow::Result<()> {
    let mut stream = connected(stream)?;
    let mut requests = BufReader::new(stream.try_clone()?);
    while read_message(&mut requests)?.is_some() {
        thread::sleep(PAUSE);
        stream.write_all(answer.as_bytes())?;
    }
    Ok(())
}

fn connected(stream: TcpStream) -> anyhow::Result<TcpStream> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Reads a message to the end of its body and returns its head; `None` when there is no other.
fn read_message(stream: &mut BufReader<TcpStream>) -> anyhow::Result<Option<String>> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head)? == 0 {
            ensure!(head.is_empty(), "a message was cut: {head}");
            return Ok(None);
        }
    }
    let length = head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
    stream.read_exact(&mut vec![0; length.unwrap_or(0)])?;
    Ok(Some(head))
}

fn answer(body: &str) -> String {
    let fields = [
        "Server: guard",
        "Date: Mon, 01 Jan 2024 00:00:00 GMT",
        "Content-Type: application/json",
        "X-Request-Id: 0123456789abcdef",
        "X-RateLimit-Limit-Requests: 100000",
        "X-RateLimit-Remaining-Requests: 99999",
        "X-RateLimit-Reset-Requests: 1ms",
    ];
    message("HTTP/1.1 200 OK", &fields, Some(body))
}

fn message(start: &str, fields: &[&str], body: Option<&str>) -> String {
    let mut message = format!("{start}\r\n{}\r\n", fields.join("\r\n"));
    match body {
        Some(body) => message += &format!("Content-Length: {}\r\n\r\n{body}", body.len()),
        None => message += "\r\n",
    }
    message
}

/// A chat of so many bytes. The model is named last, so that all of it must be read.
fn chat(bytes: usize) -> String {
    let (head, tail) = (r#"{"messages":[{"role":"user","content":""#, r#""}],"model":"m-1"}"#);
    let words: String =
        "Good things come to those who wait. ".chars().cycle().take(bytes - head.len() - tail.len()).collect();
    format!("{head}{words}{tail}")
}
