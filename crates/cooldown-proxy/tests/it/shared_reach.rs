//! The ways to a store: over TLS, and by Sentinels that know where it is now.

use std::time::Duration;

use http::StatusCode;
use tokio::time::sleep;

use crate::reload::Load;
use crate::support::redis::Redis;
use crate::support::{Binary, Certificate, Proxy, Upstream, get, plain, timed, until};

const SECOND: Duration = Duration::from_secs(1);

/// What an instance is told that has one limit, which it shares.
fn sections(upstream: &Upstream, store: &str, name: &str) -> String {
    format!(
        "routes: {{\"*\": {{upstream: \"{}\", limits: {{requests: 40/s}}}}}}\n\
         shared: {{redis: \"{store}\", instance: {name}}}\n",
        upstream.url()
    )
}

#[tokio::test]
async fn a_store_that_speaks_tls_is_reached_if_somebody_trusted_vouches_for_it() {
    let certificate = Certificate::new();
    let redis = Redis::start_with_tls(&certificate);
    let upstream = Upstream::start(plain).await;
    let roots = redis.folder().join("cert.pem");
    let store = format!("rediss://localhost:{}", redis.address().port());
    let own = "server: {host: 127.0.0.1, port: 0}\nadmin: off\n";
    let config = |name| format!("{own}{}", sections(&upstream, &store, name));
    let trusted = Binary::serve_with(&config("one"), &[], &[("SSL_CERT_FILE", roots.to_str().expect("UTF-8"))]);
    trusted.line("that the store is reached", |line| line.contains("the store of shared limits is reached"));
    let stranger = Binary::serve(&config("two"));
    let told = stranger.line("that it is not", |line| line.contains("cannot be reached"));
    assert!(told.to_lowercase().contains("certificate"), "{told}");
    // What is certain goes nevertheless.
    sleep(4 * SECOND).await;
    assert_eq!(get(trusted.address(), "a.example", "/").await.status, StatusCode::OK);
}

#[tokio::test]
async fn sentinels_lead_to_the_store_and_to_the_one_that_takes_its_place() {
    let _timed = timed().await;
    let mut master = Redis::start();
    let replica = Redis::start_as("redis-server", &["--replicaof", "127.0.0.1", &master.address().port().to_string()]);
    until("the replica follows", || replica.ask("INFO replication").contains("master_link_status:up")).await;
    let sentinel = Redis::start_sentinel(&master);
    let knows = |sentinel: &Redis| sentinel.ask("SENTINEL replicas mine").contains("127.0.0.1");
    until("the Sentinel knows the replica", || knows(&sentinel)).await;
    let upstream = Upstream::start(plain).await;
    let store = format!("redis+sentinel://{}/mine", sentinel.address());
    let proxies = ["one", "two"].map(|name| Proxy::start(&sections(&upstream, &store, name)));
    let loads = proxies.each_ref().map(|proxy| {
        let name = proxy.address().to_string();
        Load::start_with(proxy.address(), 8, "a.example", move |client| format!("{name}-{client}"))
    });
    sleep(5 * SECOND).await;
    master.kill();
    let is_master = |redis: &Redis| redis.ask("ROLE").contains("master");
    until("the replica takes its place", || is_master(&replica)).await;
    // It may have forgotten something: a lease and a window, and what it took to reach it.
    sleep(6 * SECOND).await;
    let before = upstream.seen().len();
    sleep(3 * SECOND).await;
    let rate = (upstream.seen().len() - before) as f64 / 3.0;
    for load in loads {
        assert_eq!(load.end().await, 0, "errors at clients");
    }
    let arrivals = upstream.arrivals();
    // A hundredth less than a second, for the noise of a shared machine.
    let worst = (0..arrivals.len()).map(|nth| arrivals[nth..].partition_point(|at| *at - arrivals[nth] < 0.99)).max();
    println!("{rate:.1} a second afterwards, {worst:?} in the worst second");
    assert!(rate >= 34.0, "{rate} a second");
    assert!(worst.is_some_and(|worst| worst <= 40), "{worst:?} in a second");
    assert!(replica.calls() > 20, "it is asked now");
}
