//! Which of a thousand routes a request takes.

use std::hint::black_box;

use cooldown_proxy::config::model::Match;
use cooldown_proxy::proxy::route::Router;

const ROUTES: usize = 1000;

/// What a request asks for.
struct Asked {
    host: String,
    path: String,
}

/// Each route has a host.
pub(crate) fn by_host(times: u64) {
    let host = |nth| format!("api-{nth}.example.com");
    look_up(|nth| Match::Host(host(nth)), |nth| asked(host(nth), "/v1/chat/completions".to_owned()), times);
}

/// Each route has the subdomains of a host, and a request asks for one two labels below it.
pub(crate) fn by_wildcard(times: u64) {
    let rule = |nth| Match::Subdomains(format!(".zone-{nth}.example.com"));
    let request = |nth| asked(format!("api.eu.zone-{nth}.example.com"), "/v1/chat/completions".to_owned());
    look_up(rule, request, times);
}

/// Each route has a path, and a request asks for one three segments below it.
pub(crate) fn by_path(times: u64) {
    let rule = |nth| Match::Path(format!("/team-{nth}"));
    let request = |nth| asked("localhost".to_owned(), format!("/team-{nth}/v1/chat/completions"));
    look_up(rule, request, times);
}

fn asked(host: String, path: String) -> Asked {
    Asked { host, path }
}

/// Asks for each route in turn.
fn look_up(rule: impl Fn(usize) -> Match, request: impl Fn(usize) -> Asked, times: u64) {
    let mut router = Router::default();
    for nth in 0..ROUTES {
        router.insert(&rule(nth), nth);
    }
    let requests: Vec<Asked> = (0..ROUTES).map(request).collect();
    for (nth, Asked { host, path }) in requests.iter().enumerate().cycle().take(times as usize) {
        let found = router.find_named(black_box(host), None, black_box(path));
        assert_eq!(found.map(|found| found.route), Some(nth), "a route of its own");
    }
}
