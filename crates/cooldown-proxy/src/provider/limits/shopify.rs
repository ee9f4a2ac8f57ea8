//! Shopify's REST limit (`X-Shopify-Shop-Api-Call-Limit: 32/40`): a meter that leaks empty in 20 seconds, whatever its size.

use std::time::Duration;

use cooldown_pacer::Unit;
use smallvec::SmallVec;

use super::{Reset, Scope, Statement, text};
use crate::fields::Fields;
use crate::provider::value::read_used_of;

/// Two of forty leak in a second, twenty of four hundred, and so on.
const EMPTY_AFTER: Duration = Duration::from_secs(20);

/// Reads the field.
pub(super) fn read(headers: &Fields, statements: &mut SmallVec<[Statement; 4]>) {
    let field = text(headers, "x-shopify-shop-api-call-limit");
    let Some((used, size)) = field.and_then(read_used_of).filter(|(_, size)| *size > 0) else { return };
    let used = used.min(size);
    statements.push(Statement {
        limit: Some(size),
        window: Some(EMPTY_AFTER),
        remaining: Some(size - used),
        reset: Some(Reset::ToFull(EMPTY_AFTER.mul_f64(used as f64 / size as f64))),
        ..Statement::new(Unit::Requests, Scope::Key)
    });
}
