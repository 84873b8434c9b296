//! The settings of recommendations that their folds depend on.

use event_schemas::user::{CoVisitSettings, ListSettings};

use super::co_visits;
use crate::user::interactions::Interactions;

/// How interactions and co-visits count.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Settings {
    pub interactions: Interactions,
    pub co_visits: co_visits::Settings,
}

impl Settings {
    /// The settings as a served list records them; none if they are the built-in ones.
    pub fn recorded(&self) -> Option<Box<ListSettings>> {
        if *self == Self::default() {
            return None;
        }
        let co_visits::Settings { window, half_life, backward, steps_max, visited_max, visited_half_life } =
            self.co_visits;
        let number = |number| u32::try_from(number).unwrap_or(u32::MAX);
        let co_visits = CoVisitSettings {
            window: number(window),
            half_life,
            backward,
            steps_max: number(steps_max),
            visited_max: number(visited_max),
            visited_half_life,
        };
        Some(Box::new(ListSettings { interactions: self.interactions.recorded(), co_visits }))
    }

    /// The settings with which a list was computed.
    pub fn of_recorded(recorded: Option<&ListSettings>) -> Self {
        let Some(ListSettings { interactions, co_visits }) = recorded else { return Self::default() };
        let co_visits = co_visits::Settings {
            window: co_visits.window as usize,
            half_life: co_visits.half_life,
            backward: co_visits.backward,
            steps_max: co_visits.steps_max as usize,
            visited_max: co_visits.visited_max as usize,
            visited_half_life: co_visits.visited_half_life,
        };
        Self { interactions: Interactions::of_recorded(interactions), co_visits }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use event_schemas::user::InteractionType;

    use super::*;
    use crate::user::interactions::Counted;

    #[test]
    fn recorded_settings_are_read_as_they_were() {
        assert_eq!(Settings::default().recorded(), None);
        let like = Counted { weight: 0.25, half_life: Duration::from_secs(90) };
        let other = Settings {
            interactions: Interactions::default().with(InteractionType::Like, like),
            co_visits: co_visits::Settings { window: 7, backward: 0.5, ..co_visits::Settings::default() },
        };
        for settings in [Settings::default(), other] {
            assert_eq!(Settings::of_recorded(settings.recorded().as_deref()), settings);
        }
    }
}
