//! A proxy that runs in this process, for targets that are the peers of one.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use cooldown_proxy::config;
use cooldown_proxy::demo::in_process::InProcess;

/// A key of the proxy's, which no client can guess.
pub const KEY: &str = "sk-6b1f9c02d7e84a35b0c1-ours";

/// Longer than anything takes that does not hang.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Starts one with these sections, which are everything but `server`, `admin` and `log`.
pub fn start(sections: &str) -> InProcess {
    let text = format!(
        "server: {{host: 127.0.0.1, port: 0, workers: 1, drain_timeout: 10ms, header_timeout: 2s, idle_timeout: 2s}}\n\
         admin: off\n{sections}"
    );
    let config = config::parse("fuzz.yaml", &text, &|_: &str| None).unwrap_or_else(|faults| panic!("{faults}"));
    InProcess::start_with(&config).expect("the proxy starts")
}

/// All that a proxy answers to a request that closes its connection.
pub fn answer_of(proxy: &InProcess, request: &str) -> Vec<u8> {
    let mut stream = TcpStream::connect(proxy.address()).expect("the proxy listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time");
    stream.write_all(request.as_bytes()).expect("sent");
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
        Err(error) => panic!("no end of the answer after \"{}\": {error}", answer.escape_ascii()),
    }
    answer
}
