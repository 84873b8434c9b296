//! A user's interactions with products, and the lists that were served to the user. They are facts that commute, so all
//! of them are recorded, until the user is erased.

pub mod interactions;
pub mod profile;

use event_schemas::ids::{ListId, Position, SubjectId};
use event_schemas::sealed::Sealed;
use event_schemas::time::Timestamp;
use event_schemas::user::{
    InteractionRecorded, ListContext, ListExperiment, ListParameters, ListServed, ListSettings, ServedItem,
    SubjectKeyDestroyed, UserEvent,
};

use crate::decider::{Decider, Occurred, RefusalKind, Refused};

/// Facts about one user, each with its time.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    Interactions(Vec<(InteractionRecorded, Timestamp)>),
    Lists(Vec<(ListServed, Timestamp)>),
    /// Destroys the key and the user id of this subject, at this instant.
    Erase(SubjectId, Timestamp),
}

/// Whether the user was erased, after which nothing is recorded of the subject.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct State {
    is_erased: bool,
}

/// A list as it was computed, before it has an id and its query is sealed.
#[derive(Clone, Debug, PartialEq)]
pub struct ComputedList {
    pub context: ListContext,
    pub items: Vec<ServedItem>,
    /// The position of the last event that it reflects.
    pub computed_from: Position,
    /// The instant for which it was computed.
    pub at: Timestamp,
    pub query: Option<String>,
    pub parameters: ListParameters,
    pub experiment: Option<Box<ListExperiment>>,
    /// The settings that it was computed with, if they are not the built-in ones.
    pub settings: Option<Box<ListSettings>>,
}

impl ComputedList {
    /// The fact that the list is handed out.
    pub fn served(
        self,
        subject_id: SubjectId,
        list_id: ListId,
        query: Option<Sealed>,
    ) -> (ListServed, Timestamp) {
        let Self { context, items, computed_from, at, query: _, parameters, experiment, settings } = self;
        let parameters = Box::new(parameters);
        let served = ListServed {
            subject_id,
            list_id,
            context,
            items,
            computed_from,
            query,
            parameters,
            experiment,
            settings,
        };
        (served, at)
    }
}

/// The reason why nothing is recorded of a user. Otherwise a user may do anything with a product, any number of times, and
/// what was shown is a fact.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the user has just been erased; send it again, and it begins a new history")]
    Erased,
}

impl Refused for Refusal {
    fn kind(&self) -> RefusalKind {
        RefusalKind::Conflict
    }
}

/// Decides for the streams `user-<tenant>.<subject>`.
#[derive(Debug)]
pub enum UserDecider {}

impl Decider for UserDecider {
    type State = State;
    type Command = Command;
    type Event = UserEvent;
    type Refusal = Refusal;

    fn decide(command: &Command, state: &State) -> Result<Vec<Occurred<UserEvent>>, Refusal> {
        fn occurred<E: Clone + Into<UserEvent>>((event, at): &(E, Timestamp)) -> Occurred<UserEvent> {
            Occurred { at: *at, event: event.clone().into() }
        }
        match command {
            Command::Erase(..) if state.is_erased => Ok(Vec::new()),
            _ if state.is_erased => Err(Refusal::Erased),
            Command::Interactions(interactions) => Ok(interactions.iter().map(occurred).collect()),
            Command::Lists(lists) => Ok(lists.iter().map(occurred).collect()),
            Command::Erase(subject_id, at) => {
                Ok(vec![occurred(&(SubjectKeyDestroyed { subject_id: *subject_id }, *at))])
            }
        }
    }

    fn evolve(state: State, event: &UserEvent, _occurred_at: Timestamp) -> State {
        match event {
            UserEvent::InteractionRecorded(_) | UserEvent::ListServed(_) => state,
            UserEvent::SubjectKeyDestroyed(_) => State { is_erased: true },
        }
    }

    fn heap_bytes(_: &State, _event_bytes: usize) -> usize {
        0
    }
}

#[cfg(test)]
mod tests {
    use event_schemas::ids::SubjectId;
    use uuid::Uuid;

    use super::*;
    use crate::scenario::{at, decided, id};

    #[test]
    fn each_served_list_is_recorded_also_the_same_again() {
        let list = ComputedList {
            context: ListContext::Feed,
            items: vec![ServedItem::certain(id("1"))],
            computed_from: Position(7),
            at: at(1.0),
            query: Some("sealed elsewhere".to_owned()),
            parameters: ListParameters { limit: 1, ..ListParameters::default() },
            experiment: None,
            settings: None,
        };
        let (subject, first) = (SubjectId(Uuid::from_u128(1)), ListId(Uuid::from_u128(2)));
        let (served, served_at) = list.served(subject, first, None);
        assert_eq!((served.computed_from, &served.query, served_at), (Position(7), &None, at(1.0)));
        let command = Command::Lists(vec![(served.clone(), served_at)]);
        let event: UserEvent = served.into();
        for given in [Vec::new(), vec![event.clone()]] {
            assert_eq!(decided::<UserDecider>(&given, &command), Ok(vec![event.clone()]));
        }
    }

    #[test]
    fn erased_user_is_erased_once_and_nothing_follows() {
        let subject = SubjectId(Uuid::from_u128(1));
        let erased: UserEvent = SubjectKeyDestroyed { subject_id: subject }.into();
        let erase = Command::Erase(subject, at(2.0));
        assert_eq!(decided::<UserDecider>(&[], &erase), Ok(vec![erased.clone()]));
        assert_eq!(decided::<UserDecider>(std::slice::from_ref(&erased), &erase), Ok(Vec::new()));
        for late in [Command::Interactions(Vec::new()), Command::Lists(Vec::new())] {
            assert_eq!(decided::<UserDecider>(std::slice::from_ref(&erased), &late), Err(Refusal::Erased));
        }
    }
}
