//! Another configuration while requests wait and are under way.

use std::fs;
use std::num::NonZeroU32;
use std::os::unix::fs::symlink;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use cooldown_proxy::demo::mock::MockProvider;
use cooldown_proxy::demo::strict::{Counting, Rule};
use http::StatusCode;
use hyper::Response;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::support::provider::{Allowance, Behaviour, Dialect, LlmProvider};
use crate::support::{Binary, Client, Proxy, Upstream, ask, chat, empty, get, plain, request, text, timed, until};

/// The most that the upstream of the load tests accepts in a second.
pub(crate) const MOST: u32 = 50;

/// Clients that ask without a pause until they are told to stop, and count whatever is no 200.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    errors: Arc<AtomicUsize>,
    clients: JoinSet<()>,
}

impl Load {
    fn start(address: std::net::SocketAddr, clients: usize) -> Self {
        Self::start_with(address, clients, "a.example", |client| format!("client-{client}"))
    }

    /// The same, asking for this host under these names.
    pub(crate) fn start_with(
        address: std::net::SocketAddr,
        clients: usize,
        host: &str,
        name: impl Fn(usize) -> String,
    ) -> Self {
        let (stop, errors) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let mut set = JoinSet::new();
        for client in 0..clients {
            let (stop, errors) = (Arc::clone(&stop), Arc::clone(&errors));
            let (host, name) = (host.to_owned(), name(client));
            set.spawn(async move {
                let mut connection = Client::connect(address).await;
                while !stop.load(Ordering::SeqCst) {
                    let call = request(&host, "/").header("x-cooldown-client", &name);
                    let call = call.header("authorization", "Bearer sk-all");
                    let answer = connection.fetch(call.body(empty()).expect("a valid request")).await;
                    if answer.status != StatusCode::OK {
                        eprintln!("{name}: {answer:?}");
                        errors.fetch_add(1, Ordering::SeqCst);
                    }
                }
            });
        }
        Self { stop, errors, clients: set }
    }

    /// How many errors they met, once each has its last answer.
    pub(crate) async fn end(self) -> usize {
        self.stop.store(true, Ordering::SeqCst);
        self.clients.join_all().await;
        self.errors.load(Ordering::SeqCst)
    }
}

pub(crate) fn strict() -> MockProvider {
    let amount = NonZeroU32::new(MOST).expect("not zero");
    // One per cent shorter than the second that the proxy paces for, for the noise of a shared machine.
    let rule = Rule { counting: Counting::SlidingWindow, amount, period: Duration::from_millis(990) };
    MockProvider::start(rule, Duration::from_millis(5)).expect("the upstream starts")
}

/// Requests a second that an upstream accepts within the next second.
pub(crate) async fn rate(upstream: &MockProvider) -> f64 {
    let (began, before) = (Instant::now(), upstream.strict().accepted());
    sleep(Duration::from_secs(1)).await;
    (upstream.strict().accepted() - before) as f64 / began.elapsed().as_secs_f64()
}

#[tokio::test]
async fn ten_reloads_under_load_meet_no_error_and_no_breach_and_hold_within_2_s() {
    let _timed = timed().await;
    let upstream = strict();
    let sections = |limit: u32| {
        format!("routes: {{\"*\": {{upstream: \"http://{}\", limits: {{requests: {limit}/s}}}}}}", upstream.address())
    };
    let proxy = Proxy::start(&sections(MOST));
    let load = Load::start(proxy.address(), 16);
    for limit in [20, 50, 10, 40, 30, 50, 15, 45, 25, 50] {
        let changes = proxy.reload(&sections(limit));
        assert_eq!(changes.in_force, ["routes"]);
        sleep(Duration::from_millis(1000)).await;
        let rate = rate(&upstream).await;
        println!("{limit}/s: {rate:.1}");
        assert!(rate <= f64::from(limit) * 1.02 + 1.0, "{rate} a second of {limit}");
        assert!(rate >= f64::from(limit) * 0.85 - 1.0, "{rate} a second of {limit}");
    }
    assert_eq!(load.end().await, 0);
    assert_eq!(upstream.strict().breaches(), 0);
}

/// Routes that were paced apart are paced together and apart again: a limit over both of them comes and goes.
#[tokio::test]
async fn limits_that_must_be_paced_together_from_now_on_hold_over_the_reload() {
    let _timed = timed().await;
    let upstream = strict();
    let routes = format!(
        "routes:\n  a.example: {{upstream: \"http://{0}\", limits: {{requests: 40/s}}}}\n  \
         b.example: {{upstream: \"http://{0}/b\", limits: {{requests: 1/min}}}}\n",
        upstream.address()
    );
    let apart = routes.clone();
    let together = format!("{routes}rate_limits: [{{domain: \"*.example\", requests_per_second: 45}}]\n");
    let proxy = Proxy::start(&apart);
    let load = Load::start(proxy.address(), 16);
    let other = proxy.address();
    get(other, "b.example", "/").await;
    let waits = tokio::spawn(async move { get(other, "b.example", "/").await });
    for _ in 0..3 {
        sleep(Duration::from_millis(700)).await;
        assert_eq!(proxy.reload(&together).in_force, ["rate_limits"]);
        sleep(Duration::from_millis(700)).await;
        assert_eq!(proxy.reload(&apart).in_force, ["rate_limits"]);
    }
    assert!(!waits.is_finished(), "it waits for its own limit, whatever line it is in");
    proxy.reload(&together.replace("1/min", "100/s"));
    assert_eq!(waits.await.expect("no panic").status, StatusCode::OK);
    assert_eq!(load.end().await, 0);
    assert_eq!(upstream.strict().breaches(), 0);
}

#[tokio::test]
async fn who_waits_goes_on_at_the_new_rate() {
    let _timed = timed().await;
    let upstream = Upstream::start(plain).await;
    let sections = |limit: &str| {
        format!("routes: {{\"*\": {{upstream: \"{}\", limits: {{requests: \"{limit}\"}}}}}}", upstream.url())
    };
    let proxy = Proxy::start(&sections("1/min"));
    let address = proxy.address();
    let calls: Vec<_> = (0..4).map(|_| tokio::spawn(async move { get(address, "a.example", "/").await })).collect();
    until("one has left", || upstream.seen().len() == 1).await;
    sleep(Duration::from_millis(200)).await;
    let began = Instant::now();
    proxy.reload(&sections("600/min"));
    for call in calls {
        assert_eq!(call.await.expect("no panic").status, StatusCode::OK);
    }
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_route_that_is_gone_is_unknown_to_new_requests_while_its_old_ones_finish() {
    let upstream = Upstream::start(|_| async {
        sleep(Duration::from_millis(800)).await;
        Response::new(text("finished"))
    })
    .await;
    let old = format!("routes: {{a.example: {{upstream: \"{}\", limits: {{concurrency: 1}}}}}}", upstream.url());
    let proxy = Proxy::start(&old);
    let address = proxy.address();
    let calls: Vec<_> = (0..2).map(|_| tokio::spawn(async move { get(address, "a.example", "/").await })).collect();
    until("one is under way", || upstream.under_way() == 1).await;
    sleep(Duration::from_millis(100)).await;
    let other = Upstream::start(plain).await;
    proxy.reload(&format!("routes: {{b.example: \"{}\"}}", other.url()));
    sleep(Duration::from_millis(100)).await;
    let answer = get(address, "a.example", "/").await;
    assert_eq!((answer.status, answer.code().as_str()), (StatusCode::NOT_FOUND, "no_route"));
    for call in calls {
        let answer = call.await.expect("no panic");
        assert_eq!((answer.status, answer.text()), (StatusCode::OK, "finished"));
    }
    assert_eq!(upstream.most_under_way(), 1, "the limit of what waits holds to the end");
    assert_eq!(get(address, "b.example", "/").await.status, StatusCode::OK);
}

#[tokio::test]
async fn connections_on_both_sides_survive() {
    let upstream = Upstream::start(plain).await;
    let sections = |more: &str| format!("routes: {{\"*\": \"{}\"{more}}}", upstream.url());
    let proxy = Proxy::start(&sections(""));
    let mut client = Client::connect(proxy.address()).await;
    for nth in 0..5 {
        let answer = client.fetch(request("a.example", "/").body(empty()).expect("a valid request")).await;
        assert_eq!(answer.status, StatusCode::OK);
        proxy.reload(&sections(&format!(", \"/{nth}\": \"{}\"", upstream.url())));
        sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(upstream.connections_made(), 1);
}

#[tokio::test]
async fn a_cooldown_survives() {
    let _timed = timed().await;
    let refused = Arc::new(AtomicBool::new(false));
    let upstream = Upstream::start(move |_| {
        let first = !refused.swap(true, Ordering::SeqCst);
        async move {
            let mut response = Response::new(text("answer"));
            if first {
                *response.status_mut() = StatusCode::TOO_MANY_REQUESTS;
                response.headers_mut().insert("retry-after", http::HeaderValue::from_static("2"));
            }
            response
        }
    })
    .await;
    let sections = |more: &str| format!("routes: {{\"*\": \"{}\"{more}}}", upstream.url());
    let proxy = Proxy::start(&sections(""));
    let address = proxy.address();
    let first = tokio::spawn(async move { get(address, "a.example", "/").await });
    until("it was refused", || upstream.seen().len() == 1).await;
    sleep(Duration::from_millis(200)).await;
    proxy.reload(&sections(&format!(", b.example: \"{}\"", upstream.url())));
    sleep(Duration::from_millis(100)).await;
    let second = get(address, "a.example", "/").await;
    assert_eq!((second.status, first.await.expect("no panic").status), (StatusCode::OK, StatusCode::OK));
    let arrivals = upstream.arrivals();
    assert!(arrivals[1..].iter().all(|at| *at >= 1.9), "{arrivals:?}");
}

#[tokio::test]
async fn a_key_keeps_what_it_has_used_wherever_it_stands_in_the_list() {
    let _timed = timed().await;
    let minute = Duration::from_secs(60);
    let upstream = LlmProvider::start(Behaviour::new(Dialect::OpenAi).limit(Allowance::new(
        cooldown_pacer::Unit::Requests,
        2,
        minute,
    )));
    let sections = |keys: &str| {
        format!(
            "providers:\n  openai: {{endpoint: \"{}\", api_keys: [{keys}], limits: {{requests: \"2/min, burst 2\"}}}}\n\
             queue: {{max_wait: 300ms}}",
            upstream.url()
        )
    };
    let proxy = Proxy::start(&sections("sk-1"));
    let call = |proxy: &Proxy| {
        let address = proxy.address();
        async move { ask(address, "/openai/v1/chat/completions", &chat("gpt-4o", "hello")).await.status }
    };
    for _ in 0..2 {
        assert_eq!(call(&proxy).await, StatusCode::OK);
    }
    proxy.reload(&sections("sk-2, sk-1"));
    sleep(Duration::from_millis(100)).await;
    for _ in 0..2 {
        assert_eq!(call(&proxy).await, StatusCode::OK, "by the new key");
    }
    assert_eq!(call(&proxy).await, StatusCode::TOO_MANY_REQUESTS, "both are used up");
    proxy.reload(&sections("sk-1"));
    sleep(Duration::from_millis(100)).await;
    assert_eq!(call(&proxy).await, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(upstream.breaches(), 0);
}

fn file(upstream: &str, limit: &str, more: &str) -> String {
    format!(
        "server: {{host: 127.0.0.1, port: 0}}\nadmin: off\n\
         routes: {{\"*\": {{upstream: \"{upstream}\", limits: {{requests: \"{limit}\"}}}}}}\n{more}"
    )
}

#[tokio::test]
async fn a_bad_file_under_load_changes_nothing_and_says_why() {
    let _timed = timed().await;
    let upstream = strict();
    let url = format!("http://{}", upstream.address());
    let binary = Binary::serve(&file(&url, "20/s", ""));
    let load = Load::start(binary.address(), 8);
    sleep(Duration::from_millis(500)).await;
    fs::write(binary.folder().join("config.yaml"), file(&url, "0/s", "nonsense: 1\n")).expect("written");
    binary.line("about the rate", |line| {
        line.contains("ERROR") && line.contains("must be positive") && line.contains("line=3")
    });
    binary
        .line("about the field", |line| line.contains("ERROR") && line.contains("nonsense") && line.contains("line=4"));
    binary.line("about both", |line| line.contains("configuration not changed") && line.contains("faults=2"));
    let rate = rate(&upstream).await;
    assert!((15.0..=21.5).contains(&rate), "{rate} a second of 20");
    assert_eq!((load.end().await, upstream.strict().breaches()), (0, 0));
}

#[tokio::test]
async fn a_file_that_is_written_renamed_or_signalled_is_in_force_within_2_s() {
    let _timed = timed().await;
    let upstream = Upstream::start(plain).await;
    let binary = Binary::serve(&file(&upstream.url(), "1/min", ""));
    let (address, path) = (binary.address(), binary.folder().join("config.yaml"));
    assert_eq!(get(address, "a.example", "/").await.status, StatusCode::OK);
    let waits = tokio::spawn(async move { get(address, "a.example", "/").await });
    sleep(Duration::from_millis(200)).await;
    let began = Instant::now();
    let new = binary.folder().join("new.yaml");
    fs::write(&new, file(&upstream.url(), "100/s", "")).expect("written");
    fs::rename(&new, &path).expect("renamed");
    assert_eq!(waits.await.expect("no panic").status, StatusCode::OK);
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    binary.signal("HUP");
    binary.line("about nothing", |line| line.contains("nothing changed"));
    fs::write(&path, file(&upstream.url(), "100/s", "log: {format: json}\nqueue: {max_wait: 1m}\n")).expect("written");
    binary.line("about a restart", |line| line.contains("queue changed; log will change with a restart"));
}

#[tokio::test]
async fn a_swapped_link_is_in_force() {
    let upstream = Upstream::start(plain).await;
    let folder = tempfile::TempDir::new().expect("a folder");
    let root = folder.path().to_owned();
    let publish = |name: &str, text: &str| {
        fs::create_dir(root.join(name)).expect("a folder");
        fs::write(root.join(name).join("config.yaml"), text).expect("written");
        symlink(name, root.join("..data_tmp")).expect("a link");
        fs::rename(root.join("..data_tmp"), root.join("..data")).expect("renamed");
    };
    publish("..1", &file(&upstream.url(), "10/s", ""));
    symlink("..data/config.yaml", root.join("config.yaml")).expect("a link");
    let binary = Binary::start_in(folder, &[], &[]);
    binary.address();
    publish("..2", &file(&upstream.url(), "10/s", "retry: {attempts: 2}\n"));
    binary.line("about the first", |line| line.contains("retry changed"));
    publish("..3", &file(&upstream.url(), "10/s", "queue: {max_wait: 1m}\n"));
    binary.line("about the second", |line| line.contains("queue, retry changed"));
    assert_eq!(get(binary.address(), "a.example", "/").await.status, StatusCode::OK);
}
