//! What the body of a call to a model says: which model, how much text, how much may come back.

use std::cell::Cell;
use std::ops::Range;

use bytes::Bytes;
use http::HeaderMap;

use super::body_memory::Held;
use super::error::ProxyError;
use super::request_body::{Read, RequestBody, WholeError};
use crate::fields::{Fields, Kind};
use crate::head::RequestHead;
use crate::provider::{Edit, Peek, PeekFault, PromptSize, Reserve, Tokenizer, model_of_path, peek};

/// A call to a model.
#[derive(Debug)]
pub(super) struct Call {
    /// The body, if it was read.
    pub body: Option<Bytes>,
    /// What came after it.
    pub trailers: Option<Box<HeaderMap>>,
    /// The model as the client named it.
    pub model: Option<Box<str>>,
    /// Where the body names it.
    pub named_at: Option<Range<usize>>,
    /// Whether the answer shall come in events.
    pub stream: bool,
    /// What makes the answer tell its usage, if it would not by itself.
    pub ask_usage: Option<Edit>,
    max_output: Option<u64>,
    answers: u64,
    prompt_bytes: u64,
    /// What a tokenizer has counted.
    counted: Cell<Option<(Tokenizer, u64)>>,
    /// The memory that the body holds.
    _held: Option<Held>,
}

impl Call {
    /// A call that is understood by its path alone.
    pub(super) fn of_path(head: &RequestHead) -> Self {
        Self {
            body: None,
            trailers: None,
            model: model_in_path(head).map(Box::from),
            named_at: None,
            stream: false,
            ask_usage: None,
            max_output: None,
            answers: 1,
            prompt_bytes: 0,
            counted: Cell::new(None),
            _held: None,
        }
    }

    /// Reads the body whole, and of it what matters. What makes no sense is passed on as it is: to judge it is the
    /// upstream's business.
    ///
    /// # Errors
    /// When it is longer than `max_body`, breaks off, or could be read in two ways.
    pub(super) async fn read(head: &RequestHead, body: &RequestBody, max_body: usize) -> Result<Self, ProxyError> {
        let Read { bytes, trailers, held } = body.whole(max_body).await.map_err(|error| failure(error, max_body))?;
        let mut call = Self { trailers, _held: held, ..Self::of_path(head) };
        match peek(&bytes) {
            Ok(peek) => call.understand(&peek, head),
            Err(PeekFault::Twice(_)) => {
                return Err(ProxyError::InvalidRequest("a field of its body that the proxy reads is given twice"));
            }
            Err(PeekFault::NotJson | PeekFault::NotAnObject | PeekFault::ModelNotText) => {}
        }
        call.body = Some(bytes);
        Ok(call)
    }

    fn understand(&mut self, peek: &Peek<'_>, head: &RequestHead) {
        if let Some(named) = &peek.model {
            self.model = Some(named.name.as_ref().into());
            self.named_at = Some(named.range.clone());
        }
        self.stream = peek.stream || head.uri.path().ends_with(":streamGenerateContent");
        // Only chat completions have the option; elsewhere it would be a fault, and usage comes anyway.
        let asks = peek.stream && head.uri.path().ends_with("/completions");
        self.ask_usage = peek.ask_usage.clone().filter(|_| asks);
        (self.max_output, self.answers, self.prompt_bytes) = (peek.max_output, peek.answers, peek.prompt_bytes());
    }

    /// What an estimate of its tokens goes by, if it may take any.
    pub(super) fn reserve<'a>(&self, model: &'a str, tokenizer: Option<Tokenizer>) -> Option<Reserve<'a>> {
        let (max_output, answers) = (self.max_output, self.answers);
        self.body.is_some().then(|| Reserve { model, prompt: self.prompt(tokenizer), max_output, answers })
    }

    /// How large its prompt is, its tokens counted if they shall be and the tokenizer is loaded. They are counted once for all
    /// ways and attempts.
    pub(super) fn prompt(&self, tokenizer: Option<Tokenizer>) -> PromptSize {
        PromptSize { bytes: self.prompt_bytes, tokens: tokenizer.and_then(|tokenizer| self.count(tokenizer)) }
    }

    fn count(&self, tokenizer: Tokenizer) -> Option<u64> {
        match self.counted.get() {
            Some((by, tokens)) if by == tokenizer => Some(tokens),
            _ => {
                let tokens = peek(self.body.as_deref()?).ok()?.prompt_tokens(tokenizer)?;
                self.counted.set(Some((tokenizer, tokens)));
                Some(tokens)
            }
        }
    }

    /// Equal for the calls of one conversation. Reads the body again: few need to know.
    pub(super) fn conversation(&self) -> Option<u64> {
        peek(self.body.as_deref()?).ok()?.conversation()
    }

    /// How many answers it asks for.
    pub(super) fn answers(&self) -> u64 {
        self.answers
    }
}

/// Whether a request carries JSON; `None` if it does not say what it carries.
pub(super) fn is_json(headers: &Fields) -> Option<bool> {
    let value = headers.first(Kind::ContentType)?;
    if value == "application/json" {
        return Some(true);
    }
    let essence = value.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    Some(essence.eq_ignore_ascii_case(b"application/json") || essence.to_ascii_lowercase().ends_with(b"+json"))
}

/// The model that the path names, as Gemini's and Azure's do.
pub(super) fn model_in_path(head: &RequestHead) -> Option<&str> {
    model_of_path(head.uri.path())
}

fn failure(error: WholeError, max_body: usize) -> ProxyError {
    match error {
        WholeError::TooLarge => ProxyError::BodyTooLarge(max_body),
        WholeError::NoMemory => ProxyError::TooManyBodies,
        WholeError::Broken => ProxyError::InvalidRequest("its body ended early"),
    }
}
