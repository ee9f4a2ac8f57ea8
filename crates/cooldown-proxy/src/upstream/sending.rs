//! A request on its way to an upstream.

use std::rc::Rc;

use crate::head::RequestHead;
use crate::proxy::Forwarded;
use crate::proxy::request_body::RequestBody;

/// A request as an upstream gets it.
#[derive(Debug)]
pub struct Sending {
    /// Its head, which other attempts may share.
    pub head: Rc<RequestHead>,
    /// Its body.
    pub body: RequestBody,
    /// What the upstream is told beside its fields; `None` once they say it.
    pub forwarded: Option<Forwarded>,
}
