//! The thread that tells the collector: in batches, never faster than it answers, and for no longer than the program runs.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, HOST, USER_AGENT};
use http::{HeaderMap, HeaderValue, Request, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use prost::Message as _;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};

use super::{Story, Tracer, wire};
use crate::config::model::Otlp;
use crate::upstream::{Endpoint, Tls};

/// A request is told at the latest this long after its end, where the collector keeps up.
const LATEST: Duration = Duration::from_secs(1);
/// How many requests are told at once at most.
const MOST_AT_ONCE: usize = 256;
/// How long the collector may take for a batch.
const PATIENCE: Duration = Duration::from_secs(10);
/// A batch that was not taken is offered once more after this time, and lost then.
const PAUSE: Duration = Duration::from_secs(1);
/// How long the end of the program waits for the collector.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// How much of a collector's answer is read.
const LONGEST_ANSWER: usize = 64 * 1024;

/// Keeps the thread; when it is dropped, every request that has ended has been told if the collector is quick.
#[must_use = "traces that wait are lost when this is not kept until the end"]
#[derive(Debug)]
pub struct Exporter {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// Where stories go.
struct Collector {
    endpoint: Endpoint,
    path: String,
    host: HeaderValue,
    /// What it wants to hear beside traces.
    headers: HeaderMap,
    service: String,
    lost: Arc<AtomicU64>,
    /// The last batch was not taken.
    is_away: bool,
}

impl Exporter {
    /// Starts the thread, and what requests tell it by.
    ///
    /// # Errors
    /// When the system gives no thread, or the TLS library refuses its own defaults.
    pub fn start(config: &Otlp) -> anyhow::Result<(Tracer, Self)> {
        let (tracer, stories, lost) = Tracer::new(config);
        let collector = Collector::new(config, lost)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new().name("traces".to_owned()).spawn(move || {
            runtime.block_on(tell(collector, stories, stopped));
            runtime.shutdown_background();
        })?;
        Ok((tracer, Self { stop: Some(stop), thread: Some(thread) }))
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic of that thread was already shown where it happened.
            let _ = thread.join();
        }
    }
}

/// Tells stories until the end of the program, and then those that are left.
async fn tell(mut collector: Collector, mut stories: mpsc::Receiver<Story>, mut stopped: oneshot::Receiver<()>) {
    let mut batch = Vec::new();
    let mut is_over = false;
    while !is_over {
        tokio::select! {
            () = gather(&mut stories, &mut batch) => {}
            _ = &mut stopped => break,
        }
        is_over = delivered(collector.deliver(&batch), &mut stopped).await;
        batch.clear();
    }
    // Late is lost.
    let _ = timeout(LAST_WORDS, tell_rest(&mut collector, &mut stories, batch)).await;
}

/// Goes on until a batch is delivered, or for a moment after the end of the program: offered anew, it might be told twice.
/// Whether that has come.
async fn delivered(delivery: impl Future<Output = ()>, stopped: &mut oneshot::Receiver<()>) -> bool {
    let mut delivery = pin!(delivery);
    tokio::select! {
        () = &mut delivery => false,
        _ = stopped => {
            let _ = timeout(LAST_WORDS, delivery).await;
            true
        }
    }
}

async fn tell_rest(collector: &mut Collector, stories: &mut mpsc::Receiver<Story>, mut batch: Vec<Story>) {
    loop {
        while batch.len() < MOST_AT_ONCE
            && let Ok(story) = stories.try_recv()
        {
            batch.push(story);
        }
        if batch.is_empty() {
            return;
        }
        collector.deliver(&batch).await;
        batch.clear();
    }
}

/// Waits for a story, and a moment for more: they are told together. Ends only when there is one.
async fn gather(stories: &mut mpsc::Receiver<Story>, batch: &mut Vec<Story>) {
    if stories.recv_many(batch, MOST_AT_ONCE).await == 0 {
        // Nobody is left who could tell of a request; the end comes by `stopped`.
        return std::future::pending().await;
    }
    let more = async {
        while batch.len() < MOST_AT_ONCE {
            let left = MOST_AT_ONCE - batch.len();
            if stories.recv_many(batch, left).await == 0 {
                return;
            }
        }
    };
    let _ = timeout(LATEST, more).await;
}

impl Collector {
    fn new(config: &Otlp, lost: Arc<AtomicU64>) -> anyhow::Result<Self> {
        let upstream = &config.collector;
        let tls = upstream.tls.then(Tls::with_system_roots).transpose().context("TLS cannot be set up")?;
        let endpoint = Endpoint::new(upstream, tls.as_ref()).context("the collector of traces")?.http1_only();
        let host = if upstream.host.contains(':') { format!("[{}]", upstream.host) } else { upstream.host.clone() };
        let host = HeaderValue::try_from(format!("{host}:{}", upstream.port))?;
        let path = format!("{}/v1/traces", upstream.base_path);
        let headers = config.header_values().collect();
        Ok(Self { endpoint, path, host, headers, service: config.service.clone(), lost, is_away: false })
    }

    /// Offers a batch twice; what is not taken then is lost. The log tells when that begins and when it is over.
    async fn deliver(&mut self, batch: &[Story]) {
        let number = || {
            let mut number = [0; 8];
            // Spans without a number are the collector's to refuse.
            let _ = aws_lc_rs::rand::fill(&mut number);
            number
        };
        let body = Bytes::from(wire::export(&self.service, batch, number).encode_to_vec());
        let mut sent = self.send(body.clone()).await;
        if sent.is_err() {
            sleep(PAUSE).await;
            sent = self.send(body).await;
        }
        match sent {
            Ok(()) => {
                let lost = self.lost.swap(0, Relaxed);
                if lost > 0 {
                    tracing::warn!(lost, "traces were lost: the collector was away or too slow");
                }
                self.is_away = false;
            }
            Err(error) => {
                self.lost.fetch_add(batch.len() as u64, Relaxed);
                if !std::mem::replace(&mut self.is_away, true) {
                    tracing::warn!("the collector of traces does not take them: {error:#}");
                }
            }
        }
    }

    async fn send(&self, body: Bytes) -> anyhow::Result<()> {
        match timeout(PATIENCE, self.exchange(body)).await {
            Ok(answered) => answered,
            Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut).into()),
        }
    }

    /// One batch, on a connection of its own: it comes once a second at most.
    async fn exchange(&self, body: Bytes) -> anyhow::Result<()> {
        let (mut sender, connection) = handshake(TokioIo::new(self.endpoint.connect().await?)).await?;
        let mut request = Request::post(&self.path)
            .header(HOST, &self.host)
            .header(CONTENT_TYPE, "application/x-protobuf")
            .header(USER_AGENT, concat!("cooldown-proxy/", env!("CARGO_PKG_VERSION")))
            .header(CONNECTION, "close")
            .body(Full::new(body))?;
        request.headers_mut().extend(self.headers.clone());
        let answered = async move {
            let response = sender.send_request(request).await?;
            let status = response.status();
            // Read, so that the collector has said all; what it says does not matter.
            let _ = Limited::new(response.into_body(), LONGEST_ANSWER).collect().await;
            anyhow::Ok(status)
        };
        // How the connection ends shows in the answer.
        let (status, _): (anyhow::Result<StatusCode>, _) = tokio::join!(answered, connection);
        let status = status?;
        if status.is_success() { Ok(()) } else { bail!("it answers {status}") }
    }
}
