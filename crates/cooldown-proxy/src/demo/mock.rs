//! A mock provider that is as strict as real ones: a short completion for each request, 429 on any breach.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use super::stamped::{BEGINS_WITHIN, Stamped, stamp_arrivals};
use super::strict::{Rule, Strict, Verdict};

/// When connections cannot be accepted, for lack of descriptors say, trying again at once does not help.
const PAUSE_AFTER_AN_ERROR: Duration = Duration::from_millis(50);

/// A running provider on a port of its own. It runs on one thread, so that nothing delays its clock, and stops when it
/// is dropped.
#[derive(Debug)]
pub struct MockProvider {
    address: SocketAddr,
    strict: Arc<Strict>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl MockProvider {
    /// Starts one that enforces `rule` for each `authorization` by itself and takes `latency` for every answer but a
    /// refusal.
    ///
    /// # Errors
    /// When no port can be listened on or no thread can be started.
    pub fn start(rule: Rule, latency: Duration) -> io::Result<Self> {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        stamp_arrivals(&listener)?;
        let address = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let strict = Arc::new(Strict::new(rule));
        let (stop, stopped) = oneshot::channel();
        let serving = Arc::clone(&strict);
        let thread = std::thread::Builder::new().name("mock-provider".to_owned()).spawn(move || {
            tokio::task::LocalSet::new().block_on(&runtime, async move {
                tokio::select! {
                    _ = stopped => {}
                    _ = serve(listener, serving, latency) => {}
                }
            });
        })?;
        std::thread::sleep(BEGINS_WITHIN);
        Ok(Self { address, strict, stop: Some(stop), thread: Some(thread) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its limiter, for the figures.
    pub fn strict(&self) -> &Strict {
        &self.strict
    }
}

impl Drop for MockProvider {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic of that thread was already shown where it happened.
            let _ = thread.join();
        }
    }
}

async fn serve(listener: std::net::TcpListener, strict: Arc<Strict>, latency: Duration) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(PAUSE_AFTER_AN_ERROR).await;
            continue;
        };
        // It fails only for a client that has left already.
        let _ = stream.set_nodelay(true);
        let (io, arrival) = Stamped::new(stream);
        let strict = Arc::clone(&strict);
        tokio::task::spawn_local(async move {
            let answer = service_fn(|request| {
                let (arrival, strict) = (arrival.clone(), Arc::clone(&strict));
                async move {
                    let response = answer(&strict, request, arrival.get(), latency).await;
                    // Reads of this request's body end here; the next read begins the next request.
                    arrival.forget();
                    Ok::<_, Infallible>(response)
                }
            });
            // A client that leaves in the middle is no fault of the provider's.
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(io), answer).await;
        });
    }
}

async fn answer(
    strict: &Strict,
    request: Request<Incoming>,
    arrival: Instant,
    latency: Duration,
) -> Response<Full<Bytes>> {
    let verdict = strict.judge(key(request.headers()), arrival);
    let mut body = request.into_body();
    while let Some(Ok(_)) = body.frame().await {}
    match verdict {
        Verdict::Within { left } => {
            tokio::time::sleep(latency).await;
            completion(strict.rule(), left)
        }
        Verdict::Over { retry_after } => refusal(strict.rule(), retry_after),
    }
}

fn key(headers: &HeaderMap) -> &str {
    headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

fn completion(rule: Rule, left: u32) -> Response<Full<Bytes>> {
    let body = serde_json::json!({
        "id": "chatcmpl-mock",
        "object": "chat.completion",
        "model": "mock-1",
        "choices": [{
            "index": 0,
            "message": {"role": "assistant", "content": "Good things come to those who wait."},
            "finish_reason": "stop",
        }],
        "usage": {"prompt_tokens": 9, "completion_tokens": 8, "total_tokens": 17},
    });
    json(StatusCode::OK, rule, left, &body)
}

/// As OpenAI words it. It sends no `retry-after` for a rate, so clients back off blindly.
fn refusal(rule: Rule, retry_after: Duration) -> Response<Full<Bytes>> {
    let (limit, ms) = (rule.amount, retry_after.as_millis().max(1));
    let body = serde_json::json!({
        "error": {
            "message": format!(
                "Rate limit reached for mock-1 in organization org-demo on requests per {:?}: \
                 Limit {limit}, Used {limit}, Requested 1. Please try again in {ms}ms.",
                rule.period
            ),
            "type": "requests",
            "param": null,
            "code": "rate_limit_exceeded",
        },
    });
    json(StatusCode::TOO_MANY_REQUESTS, rule, 0, &body)
}

fn json(status: StatusCode, rule: Rule, left: u32, body: &serde_json::Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    headers.insert("x-ratelimit-limit-requests", rule.amount.get().into());
    headers.insert("x-ratelimit-remaining-requests", left.into());
    response
}
