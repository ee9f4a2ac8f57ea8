//! Limits that move about in the configuration while requests wait: what the upstream allows holds all the time.

use std::time::Duration;

use http::StatusCode;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::reload::{Load, MOST, rate, strict};
use crate::support::{Answer, Proxy, Upstream, get, plain, timed, until};

/// Where all that the upstream allows is stated. Everybody is called `alice` and asks for the upstream's own host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stated {
    Route,
    Renamed,
    Domain,
    Wildcard,
    Default,
    Provider,
    Client,
    /// For the route, over two seconds.
    Longer,
    /// For the route and for the domain.
    Twice,
}

impl Stated {
    fn sections(self, upstream: &str) -> String {
        let limit = format!("limits: {{requests: \"{MOST}/s, burst {MOST}\"}}");
        let plain = format!("routes: {{\"*\": \"http://{upstream}\"}}\n");
        let domain = |domain: &str| {
            format!("rate_limits: [{{domain: \"{domain}\", requests_per_second: {MOST}, burst: {MOST}}}]\n")
        };
        match self {
            Self::Route => format!("routes: {{\"*\": {{upstream: \"http://{upstream}\", {limit}}}}}"),
            Self::Renamed => format!("routes: {{\"127.0.0.1\": {{upstream: \"http://{upstream}\", {limit}}}}}"),
            Self::Domain => format!("{plain}{}", domain("127.0.0.1")),
            Self::Wildcard => format!("{plain}{}", domain("*")),
            Self::Default => format!("{plain}default_rate_limit: {{requests_per_second: {MOST}, burst: {MOST}}}"),
            Self::Provider => {
                format!("providers: {{p: {{endpoint: \"http://{upstream}\", api_key: client, models: [m], {limit}}}}}")
            }
            Self::Client => format!("{plain}clients: {{alice: {{{limit}}}}}"),
            Self::Longer => Self::Route.sections(upstream).replace("/s, burst", "/2s, burst"),
            Self::Twice => format!("{}\n{}", Self::Route.sections(upstream), domain("127.0.0.1")),
        }
    }
}

/// Goes from one place to the next under load. At the upstream, a window of any kind holds no more than it allows.
async fn wander(places: &[Stated]) {
    let _timed = timed().await;
    let upstream = strict();
    let address = upstream.address().to_string();
    let proxy = Proxy::start(&places[0].sections(&address));
    let load = Load::start_with(proxy.address(), 16, &address, |_| "alice".to_owned());
    sleep(Duration::from_millis(700)).await;
    for pair in places.windows(2) {
        let changes = proxy.reload(&pair[1].sections(&address));
        assert!(!changes.in_force.is_empty());
        sleep(Duration::from_millis(900)).await;
        println!("{pair:?}: {} accepted, {} breaches", upstream.strict().accepted(), upstream.strict().breaches());
        assert_eq!(upstream.strict().breaches(), 0, "from {:?} to {:?}", pair[0], pair[1]);
    }
    sleep(Duration::from_secs(1)).await;
    let rate = rate(&upstream).await;
    assert!(rate >= f64::from(MOST) * 0.85, "{rate} a second of {MOST}");
    assert_eq!((load.end().await, upstream.strict().breaches()), (0, 0));
}

#[tokio::test]
async fn a_limit_that_moves_between_a_route_and_domains_holds_over_the_moves() {
    use Stated::{Default, Domain, Route, Twice, Wildcard};
    wander(&[Route, Domain, Route, Default, Route, Wildcard, Domain, Default, Domain, Twice, Route, Twice, Domain])
        .await;
}

#[tokio::test]
async fn a_limit_that_moves_between_a_route_a_provider_and_a_client_holds_over_the_moves() {
    use Stated::{Client, Default, Domain, Provider, Route};
    wander(&[Client, Route, Provider, Domain, Provider, Route, Default, Provider]).await;
}

/// Who waits belongs to no client, and the limit to a client from now on.
#[tokio::test]
async fn a_limit_that_moves_to_a_client_holds_for_those_who_waited_before_there_were_clients() {
    use Stated::{Client, Domain, Route};
    wander(&[Route, Client, Domain, Client, Route, Client]).await;
}

#[tokio::test]
async fn a_limit_of_a_renamed_route_or_of_another_period_holds_over_the_change() {
    use Stated::{Domain, Longer, Renamed, Route};
    wander(&[Route, Longer, Route, Renamed, Route, Renamed, Longer, Domain, Renamed]).await;
}

/// Who waits has left the old limit's line and stands in the new one's, in its place.
#[tokio::test]
async fn who_waits_for_a_limit_that_moves_waits_for_it_where_it_is_now() {
    let _timed = timed().await;
    let upstream = Upstream::start(plain).await;
    let route = |limit: &str| {
        format!("routes: {{\"*\": {{upstream: \"{}\", limits: {{requests: \"{limit}\"}}}}}}", upstream.url())
    };
    let domain = format!(
        "routes: {{\"*\": \"{}\"}}\nrate_limits: [{{domain: a.example, requests_per_second: 2, burst: 1}}]",
        upstream.url()
    );
    let proxy = Proxy::start(&route("1/min"));
    let address = proxy.address();
    let mut calls: Vec<JoinHandle<Answer>> = Vec::new();
    for nth in 0..4 {
        calls.push(tokio::spawn(async move { get(address, "a.example", &format!("/{nth}")).await }));
        sleep(Duration::from_millis(50)).await;
    }
    until("one has left", || upstream.seen().len() == 1).await;
    let began = Instant::now();
    proxy.reload(&domain);
    calls.push(tokio::spawn(async move { get(address, "a.example", "/4").await }));
    for call in calls {
        let answer = call.await.expect("no panic");
        assert_eq!(answer.status, StatusCode::OK);
    }
    assert!(began.elapsed() >= Duration::from_millis(1700), "four at two a second: {:?}", began.elapsed());
    let paths: Vec<String> = upstream.seen().iter().map(|seen| seen.uri.path().to_owned()).collect();
    assert_eq!(paths, ["/0", "/1", "/2", "/3", "/4"]);
}
