//! What the program keeps on its heap for each client, as its allocator counts it. A binary of its own, so that nothing
//! else allocates meanwhile.

use std::alloc::System;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use cooldown_proxy::app::App;
use cooldown_proxy::config;
use cooldown_proxy::telemetry::{AccessLog, Metrics};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use tokio::sync::oneshot;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// After these, tables have grown to their size and caches are filled.
const FIRST: usize = 100;
/// So many more are counted. All of them stay below the 1,024 files that a process may have open by default.
const CLIENTS: usize = 200;
/// What a connection may hold between two requests, in bytes of heap.
const IDLE: usize = 1_650;
/// What it may hold while its request waits.
const WAITING: usize = 5_300;

/// Longer than anything takes that works.
const PATIENCE: Duration = Duration::from_secs(30);
const UNKNOWN: &[u8] = b"HEAD / HTTP/1.1\r\nHost: unknown.example\r\n\r\n";
const WAITS: &[u8] = b"POST /v1/chat/completions HTTP/1.1\r\nHost: a.example\r\nUser-Agent: test/1.0\r\n\
    Content-Type: application/json\r\nContent-Length: 60\r\n\r\n\
    {\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"Hello\"}]}";

#[test]
fn what_a_client_that_waits_holds_is_small() {
    // It takes connections and never answers.
    let upstream = TcpListener::bind("127.0.0.1:0").expect("a port");
    let proxy = Proxy::start(upstream.local_addr().expect("an address"));
    let mut clients = Vec::with_capacity(FIRST + CLIENTS);

    clients.extend((0..FIRST).map(|_| connected(proxy.address)));
    let before = live();
    clients.extend((FIRST..FIRST + CLIENTS).map(|_| connected(proxy.address)));
    let idle = (live() - before) / CLIENTS;

    // One leaves, and is never answered.
    clients[..FIRST].iter_mut().for_each(|client| client.write_all(WAITS).expect("the proxy reads"));
    proxy.wait_until_waiting(FIRST - 1);
    let before = live();
    clients[FIRST..].iter_mut().for_each(|client| client.write_all(WAITS).expect("the proxy reads"));
    proxy.wait_until_waiting(FIRST + CLIENTS - 1);
    let waiting = idle + live().saturating_sub(before) / CLIENTS;

    println!("{idle} bytes between requests, {waiting} while one waits");
    assert!(idle <= IDLE, "a connection holds {idle} bytes between requests");
    assert!(waiting <= WAITING, "a connection holds {waiting} bytes while its request waits");
}

/// The bytes that are in use now.
fn live() -> usize {
    let stats = ALLOCATOR.stats();
    stats.bytes_allocated - stats.bytes_deallocated
}

/// A connection on which a request has been answered, which no upstream concerned.
fn connected(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).expect("the proxy accepts");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    stream.write_all(UNKNOWN).expect("the proxy reads");
    let mut answer = [0; 2048];
    let mut length = 0;
    // It has no body.
    while !answer[..length].ends_with(b"\r\n\r\n") {
        let read = stream.read(&mut answer[length..]).expect("the proxy answers");
        assert_ne!(read, 0, "the proxy keeps the connection");
        length += read;
    }
    stream
}

/// A proxy of one worker that has one request in flight at a time.
struct Proxy {
    address: SocketAddr,
    metrics: Arc<Metrics>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Proxy {
    fn start(upstream: SocketAddr) -> Self {
        let text = format!(
            "server: {{host: 127.0.0.1, port: 0, workers: 1, drain_timeout: 0s, header_timeout: 1h}}\n\
             admin: off\n\
             queue: {{max_wait: 1h}}\n\
             routes: {{a.example: {{upstream: \"http://{upstream}\", limits: {{concurrency: 1}}}}}}\n"
        );
        let config = config::parse("test.yaml", &text, &|_: &str| None).unwrap_or_else(|faults| panic!("{faults}"));
        let app = App::bind(&config, AccessLog::off()).expect("the proxy binds");
        let (address, metrics) = (app.addresses()[0], Arc::clone(app.metrics()));
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(app.run(async { drop(stopped.await) })).expect("the proxy runs");
        });
        Self { address, metrics, stop: Some(stop), thread: Some(thread) }
    }

    /// Waits until as many requests are in line. What asking takes is given back.
    fn wait_until_waiting(&self, wanted: usize) {
        let line = format!("cooldown_upstream_waiting_requests{{upstream=\"a.example\"}} {wanted}");
        let deadline = Instant::now() + PATIENCE;
        loop {
            let figures = self.metrics.encode().expect("figures");
            if figures.lines().any(|told| told == line) {
                return;
            }
            assert!(Instant::now() < deadline, "{wanted} requests never waited:\n{figures}");
            drop(figures);
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        drop(self.stop.take());
        // A panic of that thread was already shown where it happened.
        self.thread.take().map(JoinHandle::join);
    }
}
