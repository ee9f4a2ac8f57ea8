//! A crowd of clients that behave as the OpenAI SDK does: they know nothing of a proxy, come back when they were told to,
//! and back off blindly when they were told nothing. One of them is greedy; one more asks how long it would have to wait.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use cooldown_proxy::demo::{Dice, FIRST_BACKOFF};
use http::{HeaderName, HeaderValue, Method, Request, StatusCode, header};
use http_body_util::Full;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::caller::{Answer, Caller};
use crate::tally::Tally;

/// How many clients there are; the first one is greedy.
pub(crate) const CLIENTS: usize = 32;
/// How many more requests the greedy client has under way than the others.
const GREEDY: usize = 32;

/// How often the SDK tries again.
const RETRIES: u32 = 2;
/// A longer wait than this the SDK does not believe.
const LONGEST_HINT: Duration = Duration::from_secs(60);
/// So that a server that is gone is not asked in a tight loop.
const PAUSE_AFTER_GIVING_UP: Duration = Duration::from_millis(50);
/// Between two questions about the wait.
const PAUSE_BEFORE_ASKING: Duration = Duration::from_millis(100);

/// As the upstream counts.
const BYTES_PER_TOKEN: u64 = 4;

const CLIENT: HeaderName = HeaderName::from_static("x-cooldown-client");
const PREFER: HeaderName = HeaderName::from_static("prefer");

/// How large the chats are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sizes {
    /// All alike.
    Same,
    /// Between 11 and 250 tokens of prompt, and between 8 and 64 of answer.
    Varied,
}

struct Client {
    name: HeaderValue,
    caller: Caller,
    sizes: Sizes,
    dice: Dice,
}

/// Starts the crowd, of which everybody has `each` requests under way; it stops when the set is dropped.
pub(crate) fn start(target: SocketAddr, sizes: Sizes, each: usize, tally: &Rc<RefCell<Tally>>) -> JoinSet<()> {
    let mut crowd = JoinSet::new();
    let everybody = (0..CLIENTS).cycle().take(CLIENTS * each);
    for (number, place) in std::iter::repeat_n(0, GREEDY).chain(everybody).enumerate() {
        crowd.spawn_local(Client::new(target, sizes, place, number).call_for_ever(place, Rc::clone(tally)));
    }
    crowd.spawn_local(Client::new(target, sizes, CLIENTS, GREEDY + CLIENTS * each).ask_for_ever(Rc::clone(tally)));
    crowd
}

impl Client {
    fn new(target: SocketAddr, sizes: Sizes, place: usize, number: usize) -> Self {
        let name = HeaderValue::from_str(&format!("client-{place}")).expect("letters and digits");
        Self { name, caller: Caller::new(target, None), sizes, dice: Dice::new(number as u64) }
    }

    async fn call_for_ever(mut self, place: usize, tally: Rc<RefCell<Tally>>) {
        loop {
            let began = Instant::now();
            match self.call(&tally).await {
                Some(cost) => tally.borrow_mut().answered(place, began.elapsed(), cost),
                None => {
                    tally.borrow_mut().gave_up();
                    sleep(PAUSE_AFTER_GIVING_UP).await;
                }
            }
        }
    }

    /// Asks how long it would have to wait, by not wanting to, and compares with how long it then takes.
    async fn ask_for_ever(mut self, tally: Rc<RefCell<Tally>>) {
        loop {
            sleep(PAUSE_BEFORE_ASKING).await;
            let (mut question, _) = self.request();
            question.headers_mut().insert(PREFER, HeaderValue::from_static("wait=0"));
            // Answered at once, or told nothing: there is nothing to compare.
            let Ok(Answer { retry_after: Some(told), .. }) = self.caller.send(question).await else { continue };
            let began = Instant::now();
            while !self.obeyed().await {}
            tally.borrow_mut().predicted(told, began.elapsed());
        }
    }

    /// One try, and the wait that its refusal asks for. Returns whether it was answered.
    async fn obeyed(&mut self) -> bool {
        let (request, _) = self.request();
        match self.caller.send(request).await {
            Ok(Answer { status: StatusCode::OK, .. }) => return true,
            Ok(answer) => sleep(answer.retry_after.unwrap_or(FIRST_BACKOFF)).await,
            Err(_) => sleep(FIRST_BACKOFF).await,
        }
        false
    }

    /// One call of the SDK: up to three tries. Returns what it cost, if it was answered.
    async fn call(&mut self, tally: &RefCell<Tally>) -> Option<u64> {
        let (request, cost) = self.request();
        for retry in 0..=RETRIES {
            tally.borrow_mut().sent();
            let hint = match self.caller.send(request.clone()).await {
                Ok(Answer { status: StatusCode::OK, .. }) => return Some(cost),
                Ok(Answer { status, retry_after }) => {
                    tally.borrow_mut().refused(status);
                    retry_after.filter(|hint| *hint <= LONGEST_HINT)
                }
                Err(error) => {
                    tally.borrow_mut().failed(&format!("{error:#}"));
                    None
                }
            };
            if retry < RETRIES {
                sleep(hint.unwrap_or_else(|| self.dice.backoff(retry))).await;
            }
        }
        None
    }

    /// The next request, and what it costs of that which is limited: one, or the tokens of the chat.
    fn request(&mut self) -> (Request<Full<Bytes>>, u64) {
        let (words, most) = match self.sizes {
            Sizes::Same => (4, 8),
            Sizes::Varied => (self.dice.between(4, 120), self.dice.between(8, 64)),
        };
        let content = format!("{}say {most}", "patience ".repeat(words));
        let cost = match self.sizes {
            Sizes::Same => 1,
            Sizes::Varied => content.len() as u64 / BYTES_PER_TOKEN + most as u64,
        };
        let body = serde_json::json!({
            "model": "m-1",
            "max_tokens": most,
            "messages": [{"role": "user", "content": content}],
        });
        let request = Request::builder()
            .method(Method::POST)
            .uri("/v1/chat/completions")
            .header(header::HOST, "a.example")
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::AUTHORIZATION, "Bearer sk-bench")
            .header(CLIENT, &self.name)
            .body(Full::new(Bytes::from(body.to_string())))
            .expect("a valid request");
        (request, cost)
    }
}
