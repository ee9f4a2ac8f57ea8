//! One client's connection of HTTP/1.1: its requests, one after the other.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::{Method, StatusCode};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::connection::{Client, HeadTimeout};
use crate::http1::{
    Asked, ClientBody, Coding, Filled, MessageError, Question, Side, WriteError, Writer, write_answer, write_refusal,
};
use crate::proxy::body::ResponseBody;
use crate::proxy::{self, Arriving, ClientEnd, Delivery, Reply};
use crate::stream::Stream;

/// For how long what is left of a request is read after its answer; nginx's `lingering_time`.
const LONGEST_REST: Duration = Duration::from_secs(30);
/// For how long what comes after the last answer is read, so that it is not lost with the connection.
const LINGERING: Duration = Duration::from_secs(2);
/// How much of it, in bytes.
const MOST_LINGERING: usize = 256 * 1024;

/// A client's connection.
pub(super) struct Http1 {
    client: Client,
    timeout: HeadTimeout,
    side: Rc<RefCell<Side>>,
    writer: Writer<ResponseBody>,
}

/// What comes next on a connection.
enum Next {
    Request(Asked),
    /// What is no request, and is answered so.
    Malformed(StatusCode),
    /// Nothing.
    Over,
}

/// What comes after an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sequel {
    /// Another request may.
    Keeps,
    /// Nothing.
    Last,
    /// Another protocol.
    Switch,
}

/// What becomes of a connection after an answer.
enum After {
    Another,
    /// It ends in order.
    End,
    /// It is over.
    Closed,
    /// Another protocol is spoken on it, by whoever waits here for the stream.
    Switch(Option<Switch>),
}

impl Http1 {
    pub(super) fn new(client: Client, stream: Stream, timeout: HeadTimeout) -> Box<Self> {
        Box::new(Self { client, timeout, side: Side::new(stream), writer: Writer::default() })
    }

    /// Answers one request after the other until one side closes the connection.
    pub(super) async fn serve(mut self: Box<Self>) {
        let connections = Rc::clone(&self.client.connections);
        let mut closing = pin!(connections.closing());
        // Once it listens, the task is woken when connections shall close.
        poll_fn(|cx| Poll::Ready(_ = closing.as_mut().poll(cx))).await;
        loop {
            match self.next().await {
                After::Another => {}
                After::End => return self.end().await,
                After::Closed => return,
                After::Switch(switch) => return self.switch(switch),
            }
        }
    }

    /// The next request and its answer.
    async fn next(&mut self) -> After {
        let asked = match poll_fn(|cx| self.poll_next(cx)).await {
            Next::Over => return After::Closed,
            Next::Request(asked) => asked,
            Next::Malformed(status) => {
                self.writer.begin(write_refusal(status), None, Coding::Length(0));
                return After::End;
            }
        };
        let question = question(&asked);
        let (answering, switch) = self.begin(asked);
        let Some(answered) = self.answered(question, answering).await else { return After::Closed };
        if !self.written().await {
            return After::Closed;
        }
        match answered {
            Sequel::Last => After::End,
            Sequel::Switch => After::Switch(switch),
            Sequel::Keeps if self.side.borrow().is_body_over() || self.left_out().await => After::Another,
            Sequel::Keeps => After::Closed,
        }
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Next> {
        match self.side.borrow_mut().poll_request(cx) {
            Poll::Ready(Ok(Some(asked))) => return Poll::Ready(Next::Request(asked)),
            Poll::Ready(Ok(None)) => return Poll::Ready(Next::Over),
            Poll::Ready(Err(error)) => return Poll::Ready(self.refused(&error)),
            Poll::Pending if self.client.connections.is_closing() => return Poll::Ready(Next::Over),
            Poll::Pending => {}
        }
        self.timeout.poll(&self.client.peer, cx).map(|()| Next::Over)
    }

    fn refused(&self, error: &MessageError) -> Next {
        tracing::debug!(%error, client = self.client.peer.ip(), "a client's connection broke off");
        match error {
            MessageError::Malformed(_) => Next::Malformed(StatusCode::BAD_REQUEST),
            MessageError::TooLong => Next::Malformed(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE),
            MessageError::Connection(_) | MessageError::Ended | MessageError::Http2(_) => Next::Over,
        }
    }

    /// Hands a request on. With what answers it comes a place for the stream, if the client wants another protocol on it.
    fn begin(&self, asked: Asked) -> (Pin<Box<impl Future<Output = Reply> + use<>>>, Option<Switch>) {
        let Asked { head, body, wants_continue, wants_upgrade, is_ambiguous, .. } = asked;
        let body = Arriving::Http1(ClientBody::begin(&self.side, body, wants_continue));
        let (switch, end) = wants_upgrade.then(oneshot::channel).unzip();
        let delivery = Delivery { end: end.map(ClientEnd::Http1), is_ambiguous };
        let Client { current, peer, .. } = &self.client;
        let answering = current.with(|worker| proxy::serve(worker, peer, (head, body), delivery));
        (answering, switch)
    }

    /// Makes the answer to the present request ready to be written; `None` if the client has gone.
    async fn answered(
        &mut self,
        question: Question,
        mut answering: Pin<Box<impl Future<Output = Reply>>>,
    ) -> Option<Sequel> {
        poll_fn(|cx| match answering.as_mut().poll(cx) {
            Poll::Ready(reply) => Poll::Ready(Some(self.answer(question, reply))),
            Poll::Pending => self.poll_gone(cx).map(|()| None),
        })
        .await
    }

    /// Ready when the client has gone, or has taken nothing of long answers for too long.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.side.borrow_mut().poll_gone(cx).is_ready() {
            return Poll::Ready(());
        }
        self.timeout.poll(&self.client.peer, cx)
    }

    fn answer(&mut self, mut question: Question, reply: Reply) -> Sequel {
        let mut side = self.side.borrow_mut();
        side.answers();
        question.keeps &= !side.has_failed() && !self.client.connections.is_closing();
        drop(side);
        let Reply { head, body, told } = reply;
        let switches = head.status == StatusCode::SWITCHING_PROTOCOLS;
        let tell = |lines: &mut Vec<u8>| told.iter().for_each(|told| told.write(lines));
        let written = write_answer(question, &head, tell, body);
        self.writer.begin(written.head, written.body, written.coding);
        match written.keeps {
            _ if switches => Sequel::Switch,
            true => Sequel::Keeps,
            false => Sequel::Last,
        }
    }

    /// Writes the answer to its end; false if that cannot be.
    async fn written(&mut self) -> bool {
        poll_fn(|cx| match self.poll_write(cx) {
            Poll::Ready(written) => Poll::Ready(written.is_ok()),
            Poll::Pending => self.poll_gone(cx).map(|()| false),
        })
        .await
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), WriteError>> {
        loop {
            // The body of an answer may take the request's body on.
            let filled = self.writer.fill(cx)?;
            ready!(self.writer.poll_out(self.side.borrow_mut().stream(), cx)).map_err(WriteError::Connection)?;
            match filled {
                Filled::Enough => {}
                Filled::Pending => return Poll::Pending,
                Filled::Over => return Poll::Ready(Ok(())),
            }
        }
    }

    /// Leaves what is left of the request out; false if that does not end.
    async fn left_out(&mut self) -> bool {
        let rest = poll_fn(|cx| self.side.borrow_mut().poll_rest(cx));
        Box::pin(timeout(LONGEST_REST, rest)).await.unwrap_or(false)
    }

    /// Gives the stream to whoever carries the other protocol.
    fn switch(self: Box<Self>, switch: Option<Switch>) {
        let side = Rc::into_inner(self.side).map(RefCell::into_inner);
        if let (Some(switch), Some(side)) = (switch, side) {
            drop(switch.send(side.into_stream()));
        }
    }

    /// Ends the connection behind the last answer.
    async fn end(mut self: Box<Self>) {
        if !self.written().await {
            return;
        }
        let side = Rc::clone(&self.side);
        // A connection that is closed on unread bytes takes the last answer with it.
        let lingers = !side.borrow().is_drained() && !self.client.connections.is_closing();
        let ended = async move {
            let _ = poll_fn(|cx| side.borrow_mut().poll_shutdown(cx)).await;
            if lingers {
                let mut most = MOST_LINGERING;
                poll_fn(|cx| side.borrow_mut().poll_linger(&mut most, cx)).await;
            }
        };
        let _ = Box::pin(timeout(LINGERING, ended)).await;
    }
}

/// Where the stream goes when the protocol is switched, with what was read of it.
type Switch = oneshot::Sender<(Stream, bytes::Bytes)>;

/// What the answer to a request must fit.
fn question(asked: &Asked) -> Question {
    Question {
        version: asked.head.version,
        is_head: asked.head.method == Method::HEAD,
        takes_trailers: asked.takes_trailers,
        keeps: asked.keeps,
    }
}
