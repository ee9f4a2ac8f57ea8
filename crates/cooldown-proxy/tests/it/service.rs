//! The service manager: what it hears of a running program, and the sockets that it opens for one.

use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::{Duration, Instant};

use http::StatusCode;
use tempfile::TempDir;

use crate::support::{Binary, PATIENCE, Upstream, get, plain};

/// What systemd listens on.
struct Manager {
    socket: UnixDatagram,
    folder: TempDir,
}

impl Manager {
    fn new() -> Self {
        let folder = TempDir::new().expect("a folder");
        let socket = UnixDatagram::bind(folder.path().join("notify")).expect("a socket");
        socket.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        Self { socket, folder }
    }

    fn path(&self) -> String {
        self.folder.path().join("notify").to_str().expect("a path in UTF-8").to_owned()
    }

    /// What it is told next.
    fn hears(&self) -> String {
        let mut message = [0; 4096];
        let length = self.socket.recv(&mut message).expect("a message");
        String::from_utf8(message[..length].to_vec()).expect("UTF-8")
    }

    /// What it is told next, signs of life aside.
    fn hears_news(&self) -> String {
        std::iter::repeat_with(|| self.hears()).find(|told| told != "WATCHDOG=1\n").expect("a message")
    }
}

fn config(upstream: &Upstream, more: &str) -> String {
    format!(
        "server: {{host: 127.0.0.1, port: 0, workers: 2}}\n{more}\nroutes: {{\"*\": {{upstream: \"{}\"}}}}\n",
        upstream.url()
    )
}

/// Opens sockets on these addresses and becomes the program, as a service manager would.
const LAUNCHER: &str = "
import os, socket, sys
program, names = sys.argv[1], sys.argv[2]
for number, address in enumerate(sys.argv[3:]):
    host, port = address.rsplit(':', 1)
    opened = socket.create_server((host, int(port)))
    os.dup2(opened.fileno(), 30 + number)
    opened.close()
for number in range(len(sys.argv[3:])):
    os.dup2(30 + number, 3 + number, inheritable=True)
    os.close(30 + number)
listen = {'LISTEN_FDS': str(len(sys.argv[3:])), 'LISTEN_PID': str(os.getpid()), 'LISTEN_FDNAMES': names}
os.execve(program, [program], {**os.environ, **listen})
";

/// The program, started on sockets of these names and addresses.
fn launched(config: &str, names: &str, addresses: &[&str]) -> Binary {
    let folder = TempDir::new().expect("a folder");
    std::fs::write(folder.path().join("config.yaml"), config).expect("the file is written");
    let mut command = Command::new("python3");
    command.args(["-c", LAUNCHER, env!("CARGO_BIN_EXE_cooldown-proxy"), names]).args(addresses);
    Binary::launched(folder, command)
}

#[tokio::test]
async fn the_service_manager_hears_of_the_start_of_reloads_and_of_the_end() {
    let (manager, upstream) = (Manager::new(), Upstream::start(plain).await);
    let environment = [("NOTIFY_SOCKET", manager.path())];
    let environment: Vec<(&str, &str)> = environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let mut binary = Binary::serve_with(&config(&upstream, "admin: off"), &[], &environment);
    let address = binary.address();
    assert_eq!(manager.hears(), format!("READY=1\nSTATUS=listening on {address}\n"));
    assert_eq!(get(address, "a.example", "/").await.status, StatusCode::OK, "ready is ready");

    binary.signal("HUP");
    let reloading = manager.hears();
    let time = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").map(str::trim_end);
    assert!(time.is_some_and(|time| time.parse::<u64>().is_ok()), "{reloading}");
    assert_eq!(manager.hears(), "READY=1\nSTATUS=configuration read again: nothing changed\n");

    std::fs::write(binary.folder().join("config.yaml"), "routes: 7\n").expect("written");
    assert!(manager.hears().starts_with("RELOADING=1\n"));
    let told = manager.hears();
    assert!(told.starts_with("READY=1\nSTATUS=configuration not changed, "), "{told}");

    binary.signal("TERM");
    let told = std::iter::repeat_with(|| manager.hears()).find(|told| told.contains("STOPPING")).expect("a message");
    assert_eq!(told, "STOPPING=1\nSTATUS=finishing what is under way\n");
    let (status, _) = tokio::task::spawn_blocking(move || binary.end()).await.expect("no panic");
    assert_eq!(status.code(), Some(0));
}

#[tokio::test]
async fn the_watchdog_hears_of_workers_that_live() {
    let (manager, upstream) = (Manager::new(), Upstream::start(plain).await);
    let path = manager.path();
    let environment = [("NOTIFY_SOCKET", path.as_str()), ("WATCHDOG_USEC", "200000")];
    let binary = Binary::serve_with(&config(&upstream, "admin: off"), &[], &environment);
    assert!(manager.hears_news().starts_with("READY=1\n"));
    let began = Instant::now();
    for _ in 0..5 {
        assert_eq!(manager.hears(), "WATCHDOG=1\n");
    }
    assert!(
        began.elapsed() >= Duration::from_millis(300),
        "it comes twice in the time, not more: {:?}",
        began.elapsed()
    );
    binary.signal("TERM");
    assert!(manager.hears_news().starts_with("STOPPING=1\n"));
}

#[tokio::test]
async fn requests_are_served_on_the_sockets_that_were_passed() {
    let upstream = Upstream::start(plain).await;
    // Where the file says that it listens, it does not: that port is privileged and no address of this machine.
    let text = config(&upstream, "").replace("127.0.0.1, port: 0", "192.0.2.1, port: 1");
    let text = text + "admin: {host: 192.0.2.1, port: 2, token: t0ken}\n";
    let binary = launched(&text, "web:admin:cooldown-proxy.socket", &["127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"]);
    let (address, admin) = (binary.address(), binary.admin_address());
    for _ in 0..20 {
        assert_eq!(get(address, "a.example", "/").await.status, StatusCode::OK);
    }
    assert_eq!(upstream.seen().len(), 20);
    assert_eq!(get(admin, "127.0.0.1", "/healthz").await.status, StatusCode::OK);
    let line = binary.line("about both", |line| line.contains("listening on"));
    assert!(line.contains(" and "), "two sockets are for clients: {line}");
}

#[tokio::test]
async fn an_admin_socket_that_others_reach_needs_a_token() {
    let upstream = Upstream::start(plain).await;
    let mut binary = launched(&config(&upstream, ""), "admin", &["0.0.0.0:0"]);
    binary.line("about the token", |line| line.contains("the admin listener needs a token"));
    let (status, _) = tokio::task::spawn_blocking(move || binary.end()).await.expect("no panic");
    assert_eq!(status.code(), Some(1));
}
