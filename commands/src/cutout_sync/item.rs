//! Reads one item of the upstream. The reasons of wrong items contain nothing that the upstream has sent.

use domain::cutout::Facts;
use event_schemas::cutout::CutoutId;
use serde_json::Value;

/// The longest address of an image, in letters, as in a push.
const URL_MAX: usize = 2_048;

/// The longest product code, in letters, as in a push.
const UPC_MAX: usize = 64;

/// The id of an item, whatever else is wrong with it.
pub(super) fn id(item: &Value) -> Option<CutoutId> {
    CutoutId::new(item.get("id")?.as_u64()?)
}

/// # Errors
/// What is wrong with the item.
pub(super) fn read(item: &Value) -> Result<(CutoutId, Facts), &'static str> {
    if !item.is_object() {
        return Err("must be an object");
    }
    let id = id(item).ok_or("`id` must be a whole number from 0 that is below 2⁵³")?;
    let image_url = match item.get("image_url") {
        Some(Value::String(url)) if url.chars().count() > URL_MAX => return Err("`image_url` is too long"),
        Some(Value::String(url)) => url.clone(),
        _ => return Err("`image_url` must be a text"),
    };
    let predicted_upc = match item.get("predicted_upc") {
        None | Some(Value::Null) => None,
        Some(Value::String(upc)) if upc.is_empty() => None,
        Some(Value::String(upc)) if upc.chars().count() <= UPC_MAX => Some(upc.clone()),
        Some(Value::String(_)) => return Err("`predicted_upc` is too long"),
        Some(_) => return Err("`predicted_upc` must be a text"),
    };
    let facts = Facts { image_url, predicted_upc };
    facts.check().map_err(|_| {
        "`image_url` must be an address that starts with https:// or http://, or a path that starts with one /"
    })?;
    Ok((id, facts))
}
