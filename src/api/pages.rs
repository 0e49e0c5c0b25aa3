//! Pages of lists: `limit`, `order` and an opaque `cursor` in, `next_cursor` out.
//!
//! Invariant: a cursor carries its own order, so that following `next_cursor` never turns round.

use serde_json::{Value, json};

use super::params::Params;
use crate::daemon::Listing;
use crate::store::PageRequest;

/// How many entries a page has at most, and unless the caller wants fewer.
pub(super) const LARGEST_PAGE: u64 = 1000;

/// The page that a query asks for.
pub(super) fn page(params: &mut Params) -> PageRequest {
    let limit = limit(params);
    let order = params.of("order", "asc or desc", |text| match text {
        "asc" => Some(false),
        "desc" => Some(true),
        _ => None,
    });
    let cursor = params.of("cursor", "a next_cursor that the daemon gave", parse);
    let newest_first = order.or(cursor.map(|(newest_first, _)| newest_first)).unwrap_or(false);
    if cursor.is_some_and(|(of_cursor, _)| of_cursor != newest_first) {
        params.fault("order", "is not the order of the list that the cursor is from; leave it out or start again without the cursor");
    }
    PageRequest { after: cursor.map(|(_, after)| after), limit, newest_first }
}

/// How many entries a query asks for.
pub(super) fn limit(params: &mut Params) -> usize {
    let limit = params.number("limit", 1..=LARGEST_PAGE).unwrap_or(LARGEST_PAGE);
    usize::try_from(limit).unwrap_or(usize::MAX)
}

/// A page as the API shows it, its entries under `name`.
pub(super) fn shown<T: serde::Serialize>(name: &str, listing: &Listing<T>, newest_first: bool) -> Value {
    let next = listing.next.map(|order| format!("{}{order:x}", if newest_first { 'd' } else { 'a' }));
    json!({ name: listing.items, "total": listing.total, "next_cursor": next })
}

fn parse(cursor: &str) -> Option<(bool, i64)> {
    let (newest_first, digits) = match cursor.split_at_checked(1)? {
        ("a", digits) => (false, digits),
        ("d", digits) => (true, digits),
        _ => return None,
    };
    // Negative orders are written as their two's complement, and a sign would be a second spelling.
    let bits = u64::from_str_radix(digits, 16).ok().filter(|_| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))?;
    Some((newest_first, bits.cast_signed()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_comes_back_as_it_went() {
        for order in [0, 1, 255, i64::MAX, -1, i64::MIN] {
            for newest_first in [false, true] {
                let shown = shown("runs", &Listing { items: vec![1], total: 9, next: Some(order) }, newest_first);
                assert_eq!(parse(shown["next_cursor"].as_str().unwrap()), Some((newest_first, order)));
            }
        }
        for bad in ["", "a", "7", "x7", "a+7", "a-7", "azz", "a11112222333344445", "é"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
