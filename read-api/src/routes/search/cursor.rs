//! The cursors of a search, which are of no use for another one.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use domain::search::page::Continuation;
use domain::search::question::Search;
use uuid::Uuid;

/// What a cursor belongs to: another page of the same search.
fn cursor_check(search: &Search, continuation: &[u8]) -> [u8; 6] {
    let of = format!("{:?} {:?} {:?} {:?}", search.question, search.model, search.filter, search.min_score);
    let hash = Uuid::new_v5(&Uuid::new_v5(&Uuid::NAMESPACE_OID, of.as_bytes()), continuation);
    let mut check = [0; 6];
    check.copy_from_slice(&hash.as_bytes()[..6]);
    check
}

pub(super) fn write_cursor(search: &Search, continuation: &Continuation) -> String {
    let continuation = continuation.to_bytes();
    let check = cursor_check(search, &continuation);
    URL_SAFE_NO_PAD.encode([&check[..], &continuation[..]].concat())
}

pub(super) fn read_cursor(search: &Search, cursor: &str) -> Option<Continuation> {
    let bytes = URL_SAFE_NO_PAD.decode(cursor).ok()?;
    let (check, continuation) = bytes.split_at_checked(6)?;
    (check == cursor_check(search, continuation)).then(|| Continuation::from_bytes(continuation))?
}
