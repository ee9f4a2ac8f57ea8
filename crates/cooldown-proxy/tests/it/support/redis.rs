//! A real store: a server of our own on a free port, and what can happen to it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::Certificate;

/// A running `redis-server`, or what is called so; killed when dropped.
pub(crate) struct Redis {
    program: &'static str,
    options: Vec<String>,
    /// Whether it speaks in the clear.
    plain: bool,
    is_sentinel: bool,
    process: Option<Child>,
    port: u16,
    folder: TempDir,
}

impl Redis {
    /// Starts one.
    pub(crate) fn start() -> Self {
        Self::start_as("redis-server", &[])
    }

    /// Starts `program` with these options.
    pub(crate) fn start_as(program: &'static str, options: &[&str]) -> Self {
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        let folder = TempDir::new().expect("a folder");
        let mut redis =
            Self { program, options, plain: true, is_sentinel: false, process: None, port: free_port(), folder };
        redis.come_back();
        redis
    }

    /// A port at which nothing answers until [`come_back`](Redis::come_back).
    pub(crate) fn not_started() -> Self {
        let folder = TempDir::new().expect("a folder");
        Self {
            program: "redis-server",
            options: Vec::new(),
            plain: true,
            is_sentinel: false,
            process: None,
            port: free_port(),
            folder,
        }
    }

    /// Where its files are.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// One that speaks TLS only, with this certificate.
    pub(crate) fn start_with_tls(certificate: &Certificate) -> Self {
        let mut redis = Self::not_started();
        certificate.write_to(redis.folder());
        let of_tls = ["--tls-cert-file", "cert.pem", "--tls-key-file", "key.pem", "--tls-auth-clients", "no"];
        redis.options.extend(of_tls.map(str::to_owned));
        redis.options.extend(["--tls-port".to_owned(), redis.port.to_string()]);
        redis.plain = false;
        redis.come_back();
        redis
    }

    /// A Sentinel that watches over `master` by the name `mine`, and asks no other one before it acts.
    pub(crate) fn start_sentinel(master: &Self) -> Self {
        let mut redis = Self::not_started();
        let watched = format!(
            "sentinel monitor mine 127.0.0.1 {} 1\nsentinel down-after-milliseconds mine 1000\n\
             sentinel failover-timeout mine 5000\n",
            master.port
        );
        std::fs::write(redis.folder().join("sentinel.conf"), watched).expect("the file is written");
        redis.is_sentinel = true;
        redis.come_back();
        redis
    }

    /// Kills it.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().expect("it can be killed");
            process.wait().expect("it ends");
        }
    }

    /// Starts it again, empty, at the same port.
    pub(crate) fn come_back(&mut self) {
        let mut command = Command::new(self.program);
        let port = if self.plain { self.port.to_string() } else { "0".to_owned() };
        match self.is_sentinel {
            true => command.args(["sentinel.conf", "--sentinel"]),
            false => command.args(["--save", "", "--appendonly", "no"]),
        };
        command.args(["--bind", "127.0.0.1", "--protected-mode", "no", "--port"]).arg(port);
        command.args(&self.options).current_dir(self.folder.path());
        let mut process = command.stdout(Stdio::piped()).spawn().expect("redis-server is installed: see .ci/setup");
        let mut said = BufReader::new(process.stdout.take().expect("it is piped"));
        let mut lines = said.by_ref().lines().map_while(Result::ok);
        let ready = lines.any(|line| line.contains("Ready to accept connections") || line.contains("Sentinel ID is"));
        assert!(ready, "{} did not start", self.program);
        // Nobody reads what it says later, and it must not stand still because of that.
        std::thread::spawn(move || std::io::copy(&mut said, &mut std::io::sink()));
        self.process = Some(process);
    }

    /// Sends a signal: `STOP`, `CONT`.
    pub(crate) fn signal(&self, name: &str) {
        let id = self.process.as_ref().expect("it runs").id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &id]).status().expect("kill runs").success());
    }

    /// Asks it something, and returns whatever it says first.
    pub(crate) fn ask(&self, command: &str) -> String {
        let mut stream = std::net::TcpStream::connect(self.address()).expect("it listens");
        stream.set_read_timeout(Some(Duration::from_millis(200))).expect("a time-out");
        stream.write_all(format!("{command}\r\n").as_bytes()).expect("it reads");
        let (mut said, mut chunk) = (Vec::new(), [0; 65_536]);
        while let Ok(n @ 1..) = stream.read(&mut chunk) {
            said.extend_from_slice(&chunk[..n]);
            if !said.starts_with(b"$") {
                break;
            }
        }
        String::from_utf8_lossy(&said).into_owned()
    }

    /// How often the script of shared limits was called.
    pub(crate) fn calls(&self) -> u64 {
        let stats = self.ask("INFO commandstats");
        let calls = stats.lines().find_map(|line| line.strip_prefix("cmdstat_evalsha:calls="));
        calls.and_then(|rest| rest.split(',').next()?.parse().ok()).unwrap_or(0)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}

fn free_port() -> u16 {
    // A node of a Cluster takes the port 10,000 above its own as well.
    loop {
        let socket = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let port = socket.local_addr().expect("an address").port();
        if port < 50_000 {
            return port;
        }
    }
}

/// Passes on what is sent to `to`, and what comes back, each so much later. Where that is.
pub(crate) async fn slow_way(to: SocketAddr, delay: Duration) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let Ok(server) = TcpStream::connect(to).await else { continue };
            let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
            tokio::spawn(pass_on(from_client, to_server, delay));
            tokio::spawn(pass_on(from_server, to_client, delay));
        }
    });
    address
}

async fn pass_on(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, delay: Duration) {
    let (late, mut due) = mpsc::unbounded_channel::<(Instant, Vec<u8>)>();
    tokio::spawn(async move {
        while let Some((at, bytes)) = due.recv().await {
            sleep_until(at).await;
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
    });
    let mut chunk = [0; 65_536];
    while let Ok(n @ 1..) = from.read(&mut chunk).await {
        let _ = late.send((Instant::now() + delay, chunk[..n].to_vec()));
    }
}
