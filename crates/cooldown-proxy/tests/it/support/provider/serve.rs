//! The provider at its port: accepts, reads, decides, answers.

use std::future::pending;
use std::io;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cooldown_proxy::demo::stamped::{Arrival, Stamped};
use http::header::CONTENT_TYPE;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use socket2::Socket;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;

use super::answer::{self, Transcript};
use super::ask::{Api, Ask, Invalid};
use super::behaviour::Behaviour;
use super::body::{Broken, Ending, Paced};
use super::failure::{self, Failure};
use super::fields::limit_fields;
use super::limiter::Verdict;
use super::record::{Book, Flight, Outcome};
use super::refusal::{self, Reply};

/// What all connections share.
#[derive(Clone)]
pub(super) struct Provider {
    pub(super) behaviour: Arc<Behaviour>,
    pub(super) book: Arc<Book>,
}

/// Serves until it is dropped.
pub(super) async fn serve(listener: std::net::TcpListener, provider: Provider) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::task::spawn_local(connection(stream, provider.clone()));
    }
}

async fn connection(stream: TcpStream, provider: Provider) {
    let Ok(handle) = stream.as_fd().try_clone_to_owned() else { return };
    // The last handle to be closed, so that a reset is one.
    let socket = Rc::new(Socket::from(handle));
    let (io, arrival) = Stamped::new(stream);
    let service = service_fn(|request| {
        let (provider, arrival, socket) = (provider.clone(), arrival.clone(), Rc::clone(&socket));
        async move {
            let answered = provider.answer(request, &arrival, &socket).await;
            // Reads of this request end here; the next read begins the next request.
            arrival.forget();
            answered
        }
    });
    // A proxy that leaves in the middle is what some tests are about, and so are connections that break.
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(io), service).await;
}

impl Provider {
    async fn answer(
        &self,
        request: Request<Incoming>,
        arrival: &Arrival,
        socket: &Socket,
    ) -> Result<Response<Paced>, Broken> {
        let arrived = arrival.get();
        let (head, body) = request.into_parts();
        let body = body.collect().await.map_err(|_| Broken)?.to_bytes();
        let index = self.book.arrived(&head, &body, arrived);
        let ask = match Ask::read(&self.behaviour, &head, &body) {
            Ok(ask) => ask,
            Err(invalid) => {
                let api = Api::of(self.behaviour.dialect, head.uri.path()).unwrap_or(Api::Chat);
                return Ok(self.tell(index, malformed(api, invalid)));
            }
        };
        self.book.understood(index, &ask);
        if !self.behaviour.knows(&ask.key) {
            return Ok(self.tell(index, failure::unauthorized(ask.api)));
        }
        let verdict = self.book.limiter.lock().judge(&ask, arrived);
        match verdict {
            Verdict::Over(breach) => {
                self.book.decided(index, Outcome::Breach);
                Ok(self.refuse(index, &ask, refusal::over(&self.behaviour, &ask, breach)))
            }
            Verdict::Impossible(breach) => {
                self.book.decided(index, Outcome::Impossible);
                Ok(self.refuse(index, &ask, refusal::impossible(&self.behaviour, &ask, breach)))
            }
            Verdict::Within(admission) => {
                let flight = Flight::new(Arc::clone(&self.book), index, admission);
                match self.behaviour.failure(index + 1, &ask.key, &ask.model) {
                    Some(failure) => {
                        self.book.decided(index, Outcome::Failed);
                        self.fail(index, &ask, failure, flight, socket).await
                    }
                    None => {
                        self.book.decided(index, Outcome::Accepted);
                        self.book.took(index, &ask);
                        sleep_unless_zero(self.behaviour.latency).await;
                        Ok(self.complete(index, &ask, flight, None))
                    }
                }
            }
        }
    }

    /// Answers, and breaks off after so many tokens if it is `cut`.
    fn complete(&self, index: usize, ask: &Ask, flight: Flight, cut: Option<(usize, Ending)>) -> Response<Paced> {
        let readings = self.book.limiter.lock().readings(ask);
        let fields = limit_fields(self.behaviour.dialect, &readings, ask, false);
        let (media, body) = if ask.stream {
            let transcript = answer::stream(ask, self.behaviour.dialect, index);
            ("text/event-stream; charset=utf-8", Paced::stream(transcript, self.behaviour.per_token, cut, flight))
        } else {
            let bytes = Bytes::from(answer::whole(ask, index).to_string());
            ("application/json", in_one_piece(bytes, cut, flight))
        };
        self.book.answered(index, StatusCode::OK);
        respond(StatusCode::OK, media, fields, body)
    }

    async fn fail(
        &self,
        index: usize,
        ask: &Ask,
        failure: Failure,
        flight: Flight,
        socket: &Socket,
    ) -> Result<Response<Paced>, Broken> {
        // Without a stream, an error in it is one in the body.
        let failure = match failure {
            Failure::StreamError { .. } if !ask.stream => Failure::ErrorInBody,
            failure => failure,
        };
        if let Some(reply) = failure::reply(failure, ask, self.behaviour.hint) {
            flight.land();
            return Ok(self.refuse(index, ask, reply));
        }
        let cut = match failure {
            Failure::StreamError { after, error } => (after, Ending::Error(answer::stream_error(ask, error, index))),
            Failure::CloseAfter(tokens) => (tokens, Ending::Break),
            Failure::StallAfter(tokens) => (tokens, Ending::Stall),
            Failure::Reset => {
                socket.set_linger(Some(Duration::ZERO)).map_err(|_| Broken)?;
                return Err(Broken);
            }
            _ => {
                // No answer at all. Whoever waits for it leaves, which drops this.
                let _held = flight;
                return pending().await;
            }
        };
        Ok(self.complete(index, ask, flight, Some(cut)))
    }

    /// Says no, and how the limits stand.
    fn refuse(&self, index: usize, ask: &Ask, reply: Reply) -> Response<Paced> {
        let readings = self.book.limiter.lock().readings(ask);
        let stated = limit_fields(self.behaviour.dialect, &readings, ask, true);
        let mut response = self.tell(index, reply);
        for (name, value) in stated {
            let name = HeaderName::try_from(name).expect("fields have valid names");
            // What a failure states is what the test asked for.
            response.headers_mut().entry(name).or_insert(HeaderValue::try_from(value).expect("and valid values"));
        }
        response
    }

    fn tell(&self, index: usize, reply: Reply) -> Response<Paced> {
        let status = StatusCode::from_u16(reply.status).expect("a status");
        self.book.answered(index, status);
        let fields = reply.fields.into_iter().map(|(name, value)| (name.to_owned(), value));
        let body = Paced::whole(Bytes::from(reply.body.to_string()), None);
        respond(status, "application/json", fields.collect(), body)
    }
}

/// A body that is no stream; cut short, it comes by halves.
fn in_one_piece(mut bytes: Bytes, cut: Option<(usize, Ending)>, flight: Flight) -> Paced {
    let Some((_, ending)) = cut else { return Paced::whole(bytes, Some(flight)) };
    let transcript = Transcript { opening: vec![bytes.split_to(bytes.len() / 2)], ..Transcript::default() };
    Paced::stream(transcript, Duration::ZERO, Some((0, ending)), flight)
}

fn respond(status: StatusCode, media: &'static str, fields: Vec<(String, String)>, body: Paced) -> Response<Paced> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media));
    for (name, value) in fields {
        let name = HeaderName::try_from(name).expect("fields have valid names");
        headers.insert(name, HeaderValue::try_from(value).expect("and valid values"));
    }
    response
}

fn malformed(api: Api, invalid: Invalid) -> Reply {
    match invalid {
        Invalid::UnknownPath => failure::error(api, 404, "Invalid URL"),
        Invalid::BrokenJson => failure::error(api, 400, "We could not parse the JSON body of your request."),
        Invalid::MissingModel => failure::error(api, 400, "you must provide a model parameter"),
    }
}

async fn sleep_unless_zero(span: Duration) {
    if !span.is_zero() {
        sleep(span).await;
    }
}
