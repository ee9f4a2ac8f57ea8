//! A provider of language models that is as strict as real ones, speaks their APIs, and fails as it is told to.
//!
//! It decides by the instant at which the kernel received a request, and writes down every attempt.

mod answer;
mod ask;
mod behaviour;
mod body;
mod failure;
mod fields;
mod limiter;
mod meter;
mod record;
mod refusal;
mod serve;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::thread::JoinHandle;

use cooldown_proxy::demo::stamped::{BEGINS_WITHIN, stamp_arrivals};
use tokio::sync::oneshot;
use tokio::task::LocalSet;

pub(crate) use behaviour::{Allowance, Behaviour, Charging, Dialect, Hint, When};
pub(crate) use failure::{Failure, StreamError};
pub(crate) use record::{Attempt, End, Outcome, Tokens};

use limiter::Limiter;
use record::Book;
use serve::{Provider, serve};

/// A running provider on a port of its own. It runs on one thread, so that nothing delays its clock, and stops when it is
/// dropped.
pub(crate) struct LlmProvider {
    address: SocketAddr,
    book: Arc<Book>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl LlmProvider {
    /// Starts one.
    pub(crate) fn start(behaviour: Behaviour) -> Self {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        listener.set_nonblocking(true).expect("a listener can be non-blocking");
        stamp_arrivals(&listener).expect("the kernel stamps arrivals");
        let address = listener.local_addr().expect("an address");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let book = Arc::new(Book::new(Limiter::new(&behaviour)));
        let provider = Provider { behaviour: Arc::new(behaviour), book: Arc::clone(&book) };
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            LocalSet::new().block_on(&runtime, async move {
                tokio::select! {
                    _ = stopped => {}
                    served = serve(listener, provider) => served.expect("connections are accepted"),
                }
            });
        });
        std::thread::sleep(BEGINS_WITHIN);
        Self { address, book, stop: Some(stop), thread: Some(thread) }
    }

    /// Its base URL.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Every attempt so far, in the order in which they were decided.
    pub(crate) fn attempts(&self) -> Vec<Attempt> {
        self.book.attempts()
    }

    /// How many attempts had this outcome.
    pub(crate) fn count(&self, outcome: Outcome) -> usize {
        self.book.attempts().iter().filter(|attempt| attempt.outcome == outcome).count()
    }

    /// How many requests were within the limits and answered.
    pub(crate) fn accepted(&self) -> usize {
        self.count(Outcome::Accepted)
    }

    /// How many requests were over a limit.
    pub(crate) fn breaches(&self) -> usize {
        self.count(Outcome::Breach)
    }

    /// What all accepted requests took.
    pub(crate) fn tokens(&self) -> Tokens {
        let taken = self.book.attempts().into_iter().map(|attempt| attempt.tokens);
        taken.fold(Tokens::default(), |sum, one| Tokens {
            input: sum.input + one.input,
            output: sum.output + one.output,
        })
    }

    /// Requests in flight now.
    pub(crate) fn in_flight(&self) -> usize {
        self.book.limiter.lock().in_flight().0
    }

    /// The most requests that were in flight at once.
    pub(crate) fn most_in_flight(&self) -> usize {
        self.book.limiter.lock().in_flight().1
    }
}

impl Drop for LlmProvider {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic of that thread was already shown where it happened.
            let _ = thread.join();
        }
    }
}
