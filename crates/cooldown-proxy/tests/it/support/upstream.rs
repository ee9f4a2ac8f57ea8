//! Upstreams that answer as a test wants and record what reached them.

use std::convert::Infallible;
use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use super::client::{Body, text};

/// A running upstream; gone when dropped.
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    record: Arc<Record>,
    accepting: JoinHandle<()>,
}

/// What an upstream speaks.
#[derive(Clone)]
pub(crate) enum Speaks {
    Http1,
    /// In the clear, and takes so many requests of one connection at once.
    Http2 {
        streams: u32,
    },
    /// Whatever both agree on.
    Tls(Arc<ServerConfig>),
}

/// One request as it arrived.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    pub(crate) version: Version,
    pub(crate) headers: HeaderMap,
    pub(crate) at: Instant,
}

#[derive(Default)]
struct Record {
    seen: Mutex<Vec<Seen>>,
    /// Connections that were made, that are open, and requests that are being answered.
    made: AtomicUsize,
    open: AtomicUsize,
    under_way: AtomicUsize,
    most_under_way: AtomicUsize,
}

/// Counts up for as long as it lives.
struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Upstream {
    /// One that answers each request with `answer`.
    pub(crate) async fn start<A, F>(answer: A) -> Self
    where
        A: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        Self::speaking(Speaks::Http1, answer).await
    }

    /// One that speaks something else than HTTP/1.1 in the clear.
    pub(crate) async fn speaking<A, F>(speaks: Speaks, answer: A) -> Self
    where
        A: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        Self::raw(move |stream, record| {
            let (answer, speaks) = (answer.clone(), speaks.clone());
            async move {
                let service = service_fn(move |request: Request<Incoming>| {
                    let seen = Seen {
                        method: request.method().clone(),
                        uri: request.uri().clone(),
                        version: request.version(),
                        headers: request.headers().clone(),
                        at: Instant::now(),
                    };
                    record.seen.lock().push(seen);
                    let answered = answer(request);
                    let record = Arc::clone(&record);
                    async move {
                        let _counted = Counted::new(&record.under_way);
                        record.most_under_way.fetch_max(record.under_way.load(Ordering::SeqCst), Ordering::SeqCst);
                        Ok::<_, Infallible>(answered.await)
                    }
                });
                let mut http2 = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                // A proxy that leaves in the middle is what some tests are about.
                match speaks {
                    Speaks::Http1 => {
                        let http1 = hyper::server::conn::http1::Builder::new();
                        drop(http1.serve_connection(TokioIo::new(stream), service).with_upgrades().await);
                    }
                    Speaks::Http2 { streams } => {
                        http2.max_concurrent_streams(streams);
                        drop(http2.serve_connection(TokioIo::new(stream), service).await);
                    }
                    Speaks::Tls(config) => {
                        let Ok(stream) = TlsAcceptor::from(config).accept(stream).await else { return };
                        if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
                            drop(http2.serve_connection(TokioIo::new(stream), service).await);
                        } else {
                            let http1 = hyper::server::conn::http1::Builder::new();
                            drop(http1.serve_connection(TokioIo::new(stream), service).with_upgrades().await);
                        }
                    }
                }
            }
        })
        .await
    }

    /// One that does with each connection whatever `serve` says.
    pub(crate) async fn bytes<S, F>(serve: S) -> Self
    where
        S: Fn(TcpStream) -> F + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        Self::raw(move |stream, _| serve(stream)).await
    }

    async fn raw<S, F>(serve: S) -> Self
    where
        S: Fn(TcpStream, Arc<Record>) -> F + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let record = Arc::new(Record::default());
        let recording = Arc::clone(&record);
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                stream.set_nodelay(true).expect("nodelay");
                let record = Arc::clone(&recording);
                let serving = serve(stream, Arc::clone(&record));
                tokio::spawn(async move {
                    record.made.fetch_add(1, Ordering::SeqCst);
                    let _counted = Counted::new(&record.open);
                    serving.await;
                });
            }
        });
        Self { address, record, accepting }
    }

    /// Its base URL.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The requests that reached it, in order.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.record.seen.lock().clone()
    }

    /// The only request that reached it.
    pub(crate) fn only(&self) -> Seen {
        let seen = self.seen();
        assert_eq!(seen.len(), 1, "{seen:?}");
        seen.into_iter().next().expect("there is one")
    }

    /// When each request arrived, in seconds since the first.
    pub(crate) fn arrivals(&self) -> Vec<f64> {
        let seen = self.seen();
        seen.iter().map(|one| one.at.duration_since(seen[0].at).as_secs_f64()).collect()
    }

    /// Connections that were made so far.
    pub(crate) fn connections_made(&self) -> usize {
        self.record.made.load(Ordering::SeqCst)
    }

    /// Connections that are open now.
    pub(crate) fn connections_open(&self) -> usize {
        self.record.open.load(Ordering::SeqCst)
    }

    /// Requests that wait for the head of their response now.
    pub(crate) fn under_way(&self) -> usize {
        self.record.under_way.load(Ordering::SeqCst)
    }

    /// The most requests that were under way at once.
    pub(crate) fn most_under_way(&self) -> usize {
        self.record.most_under_way.load(Ordering::SeqCst)
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Seen {
    /// One field as text; empty when it is absent, joined by `, ` when it is there several times.
    pub(crate) fn field(&self, name: &str) -> String {
        let values = self.headers.get_all(name).iter();
        values.map(|value| value.to_str().expect("a field in ASCII")).collect::<Vec<_>>().join(", ")
    }
}

/// 200 and a short body.
pub(crate) async fn plain(_: Request<Incoming>) -> Response<Body> {
    Response::new(text("hello"))
}

/// 200 and the request's own body, read to its end first.
pub(crate) async fn echo(request: Request<Incoming>) -> Response<Body> {
    match request.into_body().collect().await {
        Ok(whole) => Response::new(text(whole.to_bytes())),
        Err(_) => {
            let mut response = Response::new(text(Bytes::new()));
            *response.status_mut() = StatusCode::BAD_REQUEST;
            response
        }
    }
}

/// 200, with fields that end at the next hop and one that goes on.
pub(crate) async fn with_hops(_: Request<Incoming>) -> Response<Body> {
    let mut response = Response::new(text("hello"));
    let fields = [("connection", "x-hop"), ("x-hop", "1"), ("keep-alive", "timeout=5"), ("x-end", "2")];
    for (name, value) in fields {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}
