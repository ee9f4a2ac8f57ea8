//! The command line: what each command prints, and its exit code.

use http::StatusCode;
use rstest::rstest;
use tempfile::TempDir;

use crate::support::{Binary, Finished, Upstream, command, command_with, empty, fetch, get, plain, request};

const GOOD: &str = "server: {host: localhost, port: 0}\nadmin: off\nroutes: {a.example: \"http://127.0.0.1:9\"}\n";
const EXAMPLE: &str = include_str!("../../../../config.yaml.example");

fn folder(config: &str) -> TempDir {
    let folder = TempDir::new().expect("a folder");
    std::fs::write(folder.path().join("config.yaml"), config).expect("the file is written");
    folder
}

fn code(finished: &Finished) -> Option<i32> {
    finished.status.code()
}

#[rstest]
#[case(&["check"])]
#[case(&["check", "config.yaml"])]
#[case(&["check", "--config", "config.yaml"])]
#[case(&["check", "-c", "config.yaml"])]
#[case(&["check", "-config", "config.yaml"])]
#[case(&["check", "-config=config.yaml"])]
fn check_accepts_a_good_file_and_tells_how_it_is_paced(#[case] arguments: &[&str]) {
    let folder = folder(&format!("{GOOD}default_rate_limit: {{requests_per_second: 10}}\n"));
    let finished = command(&folder, arguments);
    assert_eq!(code(&finished), Some(0), "{finished:?}");
    assert!(finished.stdout.contains("10 requests a second: 10 at once, then one every 100 ms"), "{finished:?}");
}

#[rstest]
#[case::no_host("server: {port: 80}\nroutes: {a: \"http://b\"}\n", "server host is required")]
#[case::no_port("server: {host: localhost}\nroutes: {a: \"http://b\"}\n", "server port is required")]
#[case::no_routes("server: {host: localhost, port: 80}\n", "at least one route must be configured")]
#[case::no_key(
    "server: {host: localhost, port: 80}\nproviders: {cerebras: {}}\n",
    "provider cerebras: API key is required"
)]
#[case::no_endpoint(
    "server: {host: localhost, port: 80}\nproviders: {mine: {api_key: k, models: [m]}}\n",
    "provider mine: endpoint is required"
)]
#[case::no_models(
    "server: {host: localhost, port: 80}\nproviders: {mine: {api_key: k, endpoint: \"http://b\"}}\n",
    "provider mine: at least one model is required"
)]
#[case::no_http_url("server: {host: localhost, port: 80}\nroutes: {a: \"ftp://b\"}\n", "ftp://b")]
#[case::no_positive_rate(
    "server: {host: localhost, port: 80}\nroutes: {a: \"http://b\"}\ndefault_rate_limit: {requests_per_second: 0}\n",
    "requests_per_second"
)]
#[case::no_variable(
    "server: {host: \"${NOT_SET_ANYWHERE}\", port: 80}\nroutes: {a: \"http://b\"}\n",
    "NOT_SET_ANYWHERE"
)]
fn a_rejected_file_is_told_with_its_place_and_the_exit_code_2(#[case] config: &str, #[case] message: &str) {
    let folder = folder(config);
    let checked = command(&folder, &["check"]);
    assert_eq!(code(&checked), Some(2), "{checked:?}");
    assert!(checked.stderr.contains(message), "{checked:?}");
    assert!(checked.stderr.contains("config.yaml"), "{checked:?}");
    let served = command(&folder, &[]);
    assert_eq!(code(&served), Some(2), "the program does not start: {served:?}");
    assert!(served.stderr.contains(message), "{served:?}");
}

#[test]
fn all_faults_are_told_at_once() {
    let folder = folder("server: {hots: localhost, port: 99999}\nroutes: {a: \"ftp://b\"}\nqueue: {max_wait: 5}\n");
    let finished = command(&folder, &["check"]);
    assert_eq!(code(&finished), Some(2));
    for part in ["hots", "99999", "ftp://b", "max_wait", "config.yaml:1:", "config.yaml:2:", "config.yaml:3:"] {
        assert!(finished.stderr.contains(part), "no `{part}` in:\n{}", finished.stderr);
    }
}

#[test]
fn a_missing_file_is_told_with_a_way_out() {
    let folder = TempDir::new().expect("a folder");
    let finished = command(&folder, &[]);
    assert_eq!(code(&finished), Some(2), "{finished:?}");
    assert!(finished.stderr.contains("config.yaml") && finished.stderr.contains("init"), "{finished:?}");
}

#[test]
fn init_writes_a_file_that_passes_and_overwrites_none_unasked() {
    let folder = TempDir::new().expect("a folder");
    let first = command(&folder, &["init"]);
    assert_eq!(code(&first), Some(0), "{first:?}");
    let path = folder.path().join("config.yaml");
    assert_eq!(std::fs::read_to_string(&path).expect("it was written"), EXAMPLE);
    assert_eq!(code(&command(&folder, &["check"])), Some(0));

    std::fs::write(&path, "mine").expect("the file is written");
    let second = command(&folder, &["init"]);
    assert_ne!(code(&second), Some(0), "{second:?}");
    assert_eq!(std::fs::read_to_string(&path).expect("it is there"), "mine", "a file of the user's is kept");
    assert_eq!(code(&command(&folder, &["init", "--force"])), Some(0));
    assert_eq!(std::fs::read_to_string(&path).expect("it is there"), EXAMPLE);
    assert_eq!(code(&command(&folder, &["init", "other.yaml"])), Some(0));
    assert!(folder.path().join("other.yaml").exists());
}

#[test]
fn version_and_help_tell_what_there_is() {
    let folder = TempDir::new().expect("a folder");
    for arguments in [&["version"], &["--version"]] {
        let finished = command(&folder, arguments);
        assert_eq!(code(&finished), Some(0));
        assert!(finished.stdout.contains(env!("CARGO_PKG_VERSION")), "{finished:?}");
    }
    let help = command(&folder, &["--help"]);
    assert_eq!(code(&help), Some(0));
    for part in ["check", "init", "demo", "version", "--config", "--upstream", "--limit", "60k tokens/min", "xit code"]
    {
        assert!(help.stdout.contains(part), "no `{part}` in:\n{}", help.stdout);
    }
}

#[rstest]
#[case(&["--no-such-flag"])]
#[case(&["no-such-command"])]
#[case(&["--upstream", "ftp://a.example", "--limit", "10/s"])]
#[case(&["--upstream", "http://a.example", "--limit", "10"])]
#[case(&["--upstream", "http://a.example", "--limit", "0/s"])]
#[case(&["demo", "--seconds", "soon"])]
fn wrong_usage_has_the_exit_code_2(#[case] arguments: &[&str]) {
    let folder = folder(GOOD);
    let finished = command(&folder, arguments);
    assert_eq!(code(&finished), Some(2), "{finished:?}");
    assert!(!finished.stderr.is_empty());
}

#[rstest]
#[case(&["-config", "other.yaml"])]
#[case(&["-config=other.yaml"])]
#[case(&["--config", "other.yaml"])]
#[case(&["--config=other.yaml"])]
#[case(&["-c", "other.yaml"])]
#[tokio::test]
async fn every_spelling_of_config_names_the_file_to_serve_with(#[case] arguments: &[&str]) {
    let upstream = Upstream::start(plain).await;
    let folder = folder("this: is wrong");
    let config =
        format!("server: {{host: 127.0.0.1, port: 0}}\nadmin: off\nroutes: {{\"*\": \"{}\"}}\n", upstream.url());
    std::fs::write(folder.path().join("other.yaml"), config).expect("the file is written");
    let binary = Binary::start_in(folder, arguments, &[]);
    assert_eq!(get(binary.address(), "a.example", "/").await.status, StatusCode::OK);
}

#[tokio::test]
async fn one_upstream_is_paced_from_flags_alone() {
    let upstream = Upstream::start(plain).await;
    let folder = TempDir::new().expect("a folder");
    let url = upstream.url();
    let arguments = ["--port", "0", "--upstream", &url, "--limit", "1/min", "--limit", "8 concurrent"];
    let binary = Binary::start_in(folder, &arguments, &[]);
    let address = binary.address();
    assert_eq!(get(address, "localhost", "/v1/x?y").await.status, StatusCode::OK);
    let seen = upstream.only();
    assert_eq!((seen.uri.to_string(), seen.field("host")), ("/v1/x?y".to_owned(), upstream.address.to_string()));
    let asked = request("localhost", "/").header("prefer", "wait=1").body(empty()).expect("a valid request");
    assert_eq!(fetch(address, asked).await.code(), "wait_too_long");
    binary.line("that tells the pace", |line| line.contains("1 request a minute"));
}

#[test]
fn what_editors_shells_and_man_need_is_printed() {
    let folder = TempDir::new().expect("a folder");
    let schema = command(&folder, &["schema"]);
    assert_eq!(code(&schema), Some(0));
    let parsed: serde_json::Value = serde_json::from_str(&schema.stdout).expect("JSON");
    assert_eq!(parsed["$schema"], "https://json-schema.org/draft/2020-12/schema");
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = command(&folder, &["completions", shell]);
        assert_eq!(code(&script), Some(0));
        assert!(script.stdout.contains("simulate"), "{shell}");
    }
    assert_eq!(code(&command(&folder, &["man", "pages"])), Some(0));
    for page in ["cooldown-proxy.1", "cooldown-proxy-check.1", "cooldown-proxy-load.1", "cooldown-proxy-simulate.1"] {
        let text = std::fs::read_to_string(folder.path().join("pages").join(page)).expect(page);
        assert!(text.contains(".TH"), "{page}");
    }
}

#[tokio::test]
async fn the_example_starts_as_it_stands() {
    // Its ports may be taken on the machine that runs this test, so the system chooses others.
    let config = EXAMPLE.replace("port: 8080", "port: 0").replace("port: 9900", "port: 0");
    let binary = Binary::serve(&config);
    let answer = get(binary.address(), "nobody.test", "/").await;
    assert_eq!(answer.field("x-cooldown-source"), "proxy");
}

#[tokio::test]
async fn a_taken_port_is_a_failure_with_the_exit_code_1() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = taken.local_addr().expect("an address").port();
    let folder = folder(&format!(
        "server: {{host: 127.0.0.1, port: {port}}}\nadmin: off\nroutes: {{\"*\": \"http://127.0.0.1:9\"}}\n"
    ));
    let finished = tokio::task::spawn_blocking(move || command(&folder, &[])).await.expect("no panic");
    assert_eq!(code(&finished), Some(1), "{finished:?}");
    assert!(finished.stderr.contains(&port.to_string()), "{finished:?}");
}

#[tokio::test]
async fn two_proxies_never_share_a_port_silently() {
    let first =
        Binary::serve("server: {host: 127.0.0.1, port: 0}\nadmin: off\nroutes: {\"*\": \"http://127.0.0.1:9\"}\n");
    let port = first.address().port();
    let folder = folder(&format!(
        "server: {{host: 127.0.0.1, port: {port}}}\nadmin: off\nroutes: {{\"*\": \"http://127.0.0.1:9\"}}\n"
    ));
    let second = tokio::task::spawn_blocking(move || command(&folder, &[])).await.expect("no panic");
    assert_eq!(code(&second), Some(1), "{second:?}");
}

#[tokio::test]
async fn status_shows_the_token_of_its_environment_and_says_when_it_is_wrong() {
    let upstream = Upstream::start(plain).await;
    let routes = format!("routes: {{a.example: \"{}\"}}\n", upstream.url());
    let admin = "admin: {host: 127.0.0.1, port: 0, token: admin-secret}\n";
    let binary = Binary::serve(&format!("server: {{host: 127.0.0.1, port: 0}}\n{admin}{routes}"));
    assert_eq!(get(binary.address(), "a.example", "/").await.status, StatusCode::OK);
    let url = format!("http://{}", binary.admin_address());
    let status = |token: Option<&'static str>| {
        let url = url.clone();
        tokio::task::spawn_blocking(move || {
            let environment: Vec<_> = token.map(|token| ("COOLDOWN_ADMIN_TOKEN", token)).into_iter().collect();
            command_with(&TempDir::new().expect("a folder"), &["status", "--url", &url], &environment)
        })
    };
    let shown = status(Some("admin-secret")).await.expect("no panic");
    assert_eq!(code(&shown), Some(0), "{shown:?}");
    assert!(shown.stdout.contains("a.example"), "{shown:?}");
    for token in [None, Some("another")] {
        let refused = status(token).await.expect("no panic");
        assert_eq!(code(&refused), Some(1), "{refused:?}");
        assert!(refused.stderr.contains("COOLDOWN_ADMIN_TOKEN"), "{refused:?}");
        assert!(!refused.stderr.contains("another"), "no token is shown: {refused:?}");
    }
}
