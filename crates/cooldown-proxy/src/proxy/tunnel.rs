//! After `101 Switching Protocols`: bytes in both directions until both sides have closed.

use bytes::Bytes;
use http::HeaderValue;
use http::header::{CONNECTION, UPGRADE};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, copy_bidirectional};
use tokio::sync::oneshot;

use super::body::ResponseBody;
use super::error::ProxyError;
use super::forward::Answer;
use super::record::Record;
use super::serve::Reply;
use super::worker::InFlight;
use crate::pacing::Permit;
use crate::stream::Stream;

/// A client's end of a connection on which another protocol may be spoken.
#[derive(Debug)]
pub enum ClientEnd {
    /// The whole connection, once the switch has been told, and what was read of it already.
    Http1(oneshot::Receiver<(Stream, Bytes)>),
    /// A stream of HTTP/2.
    Http2(OnUpgrade),
}

/// Passes the switch on to the client and starts the tunnel, which holds the request's permit until its end.
///
/// # Errors
/// When the upstream switched although nobody asked for it.
pub(super) fn switch(answer: Box<Answer>, record: Record, in_flight: InFlight) -> Result<Reply, (ProxyError, Record)> {
    let Answer { mut head, told, lease, permit, upgrade, protocol, .. } = *answer;
    let (Some(upgrade), Some(connection)) = (upgrade, lease.keep()) else {
        return Err((ProxyError::UpstreamProtocol, record));
    };
    let (upstream, early) = connection.into_stream();
    tokio::task::spawn_local(tunnel(upgrade, upstream, early, permit, record, in_flight));
    head.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    if let Some(protocol) = protocol {
        head.headers.insert(UPGRADE, protocol);
    }
    Ok(Reply { head, body: ResponseBody::Whole(None), told })
}

async fn tunnel(
    client: ClientEnd,
    mut upstream: Stream,
    early: Bytes,
    _permit: Permit,
    record: Record,
    _in_flight: InFlight,
) {
    // A client that left before it had the response has nothing to say.
    match client {
        ClientEnd::Http1(client) => {
            let Ok((client, said)) = client.await else { return };
            if upstream.write_all(&said).await.is_ok() {
                carry(client, upstream, early, record).await;
            }
        }
        ClientEnd::Http2(client) => {
            let Ok(client) = client.await else { return };
            carry(TokioIo::new(client), upstream, early, record).await;
        }
    }
}

async fn carry(
    mut client: impl AsyncRead + AsyncWrite + Unpin,
    mut upstream: Stream,
    early: Bytes,
    mut record: Record,
) {
    if client.write_all(&early).await.is_err() {
        return;
    }
    record.bytes(early.len());
    match copy_bidirectional(&mut client, &mut upstream).await {
        Ok((_, down)) => {
            record.bytes(usize::try_from(down).unwrap_or(usize::MAX));
            record.complete();
        }
        Err(error) => tracing::debug!(%error, "a tunnel broke off"),
    }
}
