//! A simulated upstream.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use event_schemas::ids::Tenant;
use serde_json::{Value, json};

use crate::cutout_sync::upstream::{CallError, Page, PageSource, Place};

/// What happens before the `n`th call, counted from 0, and its response; none for the page itself.
pub(super) type Script = Box<dyn FnMut(u32, &Place, &mut State) -> Option<CallError> + Send>;

#[derive(Default)]
pub(super) struct State {
    pub(super) items: BTreeMap<u64, Value>,
    /// The tokens of pages, if it has any: each is the id after which the page begins.
    pub(super) has_cursors: bool,
    pub(super) has_total: bool,
    calls: u32,
    places: Vec<Place>,
}

/// An upstream with pages of ten.
#[derive(Clone)]
pub(super) struct Upstream(pub(super) Arc<Mutex<(State, Script)>>);

const PAGE: usize = 10;

pub(super) fn item(id: u64) -> Value {
    json!({"id": id, "image_url": format!("/cutouts/{id}.jpg")})
}

impl Upstream {
    pub(super) fn new(
        ids: impl IntoIterator<Item = u64>,
        script: impl FnMut(u32, &Place, &mut State) -> Option<CallError> + Send + 'static,
    ) -> Self {
        let items = ids.into_iter().map(|id| (id, item(id))).collect();
        let state = State { items, has_total: true, ..State::default() };
        Self(Arc::new(Mutex::new((state, Box::new(script)))))
    }

    pub(super) fn state<T>(&self, read: impl FnOnce(&mut State) -> T) -> T {
        read(&mut self.0.lock().unwrap().0)
    }

    pub(super) fn pages(&self) -> Vec<u64> {
        self.state(|state| state.places.iter().map(|place| place.page).collect())
    }
}

impl PageSource for Upstream {
    async fn page(&self, _tenant: &Tenant, place: &Place) -> Result<Page, CallError> {
        let mut locked = self.0.lock().unwrap();
        let (state, script) = &mut *locked;
        let call = state.calls;
        state.calls += 1;
        state.places.push(place.clone());
        if let Some(error) = script(call, place, state) {
            return Err(error);
        }
        let skipped = match &place.cursor {
            Some(cursor) => {
                let after: u64 = cursor.parse().unwrap();
                state.items.range(..=after).count()
            }
            None => (place.page as usize - 1) * PAGE,
        };
        let items: Vec<(&u64, &Value)> = state.items.iter().skip(skipped).take(PAGE).collect();
        let has_more = skipped + items.len() < state.items.len();
        let last = items.last().map(|(id, _)| id.to_string());
        let mut body = json!({
            "items": items.iter().map(|(_, item)| item).collect::<Vec<_>>(),
            "has_more": has_more,
        });
        if state.has_total {
            body["total"] = state.items.len().into();
        }
        if state.has_cursors && has_more {
            body["next_cursor"] = last.into();
        }
        Page::parse(body.to_string().as_bytes())
    }
}
