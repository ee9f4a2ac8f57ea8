//! Calls to models, as clients make them.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Request, header};
use http_body_util::BodyExt;
use serde_json::{Value, json};

use super::{Answer, Body, Client, fetch, request, text};

/// A POST of this body to a path of the proxy.
pub(crate) fn post(path: &str, body: impl Into<Bytes>) -> Request<Body> {
    let asked = request("localhost:8080", path).method(Method::POST).header(header::CONTENT_TYPE, "application/json");
    asked.body(text(body)).expect("a valid request")
}

/// The same by a caller with this name, who is a flow of its own.
pub(crate) fn post_as(client: &str, path: &str, body: &Value) -> Request<Body> {
    let mut asked = post(path, body.to_string());
    asked.headers_mut().insert("x-cooldown-client", client.parse().expect("a name"));
    asked.headers_mut().insert(header::AUTHORIZATION, "Bearer sk-callers".parse().expect("a value"));
    asked
}

/// A chat that says this to a model.
pub(crate) fn chat(model: &str, prompt: &str) -> Value {
    json!({"model": model, "messages": [{"role": "user", "content": prompt}]})
}

/// The same, answered in events.
pub(crate) fn streamed_chat(model: &str, prompt: &str) -> Value {
    json!({"model": model, "stream": true, "messages": [{"role": "user", "content": prompt}]})
}

/// Posts a body and reads the whole answer.
pub(crate) async fn ask(address: SocketAddr, path: &str, body: &Value) -> Answer {
    fetch(address, post(path, body.to_string())).await
}

/// Clients that call one after the other for a while, each over a connection of its own.
pub(crate) struct Crowd {
    pub(crate) address: SocketAddr,
    pub(crate) path: &'static str,
    pub(crate) clients: usize,
    pub(crate) lasting: Duration,
}

impl Crowd {
    /// Lets everybody call, with the body that `body` makes of the numbers of the client and of the call. Returns all
    /// answers, and how long each took.
    pub(crate) async fn call(
        &self,
        body: impl Fn(usize, usize) -> Value + Clone + Send + 'static,
    ) -> Vec<(Answer, Duration)> {
        let end = Instant::now() + self.lasting;
        let clients = (0..self.clients).map(|client| {
            let (address, path, body) = (self.address, self.path, body.clone());
            tokio::spawn(async move {
                let mut connection = Client::connect(address).await;
                let mut answers = Vec::new();
                while Instant::now() < end {
                    let began = Instant::now();
                    let asked = post_as(&format!("client-{client}"), path, &body(client, answers.len()));
                    answers.push((connection.fetch(asked).await, began.elapsed()));
                }
                answers
            })
        });
        let clients: Vec<_> = clients.collect();
        let mut all = Vec::new();
        for client in clients {
            all.extend(client.await.expect("the client ends"));
        }
        all
    }
}

/// The events of a stream as they come, each with the instant at which its last byte came.
pub(crate) async fn events(address: SocketAddr, asked: Request<Body>) -> Vec<(String, Instant)> {
    let mut client = Client::connect(address).await;
    let mut body = client.send(asked).await.expect("an answer").into_body();
    let (mut events, mut held) = (Vec::new(), String::new());
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.expect("a whole body").into_data() else { continue };
        held.push_str(std::str::from_utf8(&data).expect("text"));
        while let Some(end) = held.find("\n\n") {
            events.push((held.drain(..end + 2).collect(), Instant::now()));
        }
    }
    events
}
