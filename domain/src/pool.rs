//! A pool: how its players are matched.
//!
//! Invariants: settings make sense together; a pool that nobody configured has the defaults, so every key names a pool.

use std::time::Duration;

use event_schemas::ids::PoolKey;
use event_schemas::pool::{PoolConfigured, PoolEvent, PoolSettings, WindowPolicy};
use event_schemas::rating::RATING_MAX;
use event_schemas::time::Timestamp;

use crate::decider::{Decider, Occurred, RefusalKind, Refused};

/// The longest time that can be set: a day.
pub const SECONDS_MAX: u32 = 24 * 60 * 60;

/// How a pool matches that nobody configured.
pub const DEFAULTS: PoolSettings = PoolSettings {
    window: 100,
    widen_by: 25,
    widen_every_seconds: 10,
    window_max: 1000,
    window_policy: WindowPolicy::LongestWaiting,
    entry_expires_after_seconds: 10 * 60,
    rematch_after_seconds: 60,
    result_expires_after_seconds: 2 * 60 * 60,
    challenge_expires_after_seconds: 5 * 60,
};

/// What someone wants of a pool, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    pub pool_key: PoolKey,
    pub at: Timestamp,
    /// All of them, also those that stay.
    pub settings: PoolSettings,
}

/// A pool as its decisions need it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct State(Option<PoolSettings>);

impl State {
    /// What holds in the pool now.
    pub fn settings(&self) -> PoolSettings {
        self.0.unwrap_or(DEFAULTS)
    }
}

/// Why settings are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("windows lie between 0 and {RATING_MAX} points")]
    WindowTooWide,
    #[error(
        "the first window ({window}) is wider than the widest ({window_max}); raise window_max or lower window"
    )]
    WindowBeyondItsLimit { window: u16, window_max: u16 },
    #[error("{0} lies between 1 and {SECONDS_MAX} seconds")]
    Seconds(&'static str),
    #[error("rematch_after_seconds is at most {SECONDS_MAX}; 0 allows a rematch at once")]
    Rematch,
}

impl Refused for Refusal {
    fn kind(&self) -> RefusalKind {
        RefusalKind::Invalid
    }
}

/// Whether the settings make sense together.
///
/// # Errors
/// The first that does not.
pub fn check(settings: &PoolSettings) -> Result<(), Refusal> {
    if settings.window_max > RATING_MAX {
        return Err(Refusal::WindowTooWide);
    }
    if settings.window > settings.window_max {
        return Err(Refusal::WindowBeyondItsLimit {
            window: settings.window,
            window_max: settings.window_max,
        });
    }
    for (name, seconds) in [
        ("widen_every_seconds", settings.widen_every_seconds),
        ("entry_expires_after_seconds", settings.entry_expires_after_seconds),
        ("result_expires_after_seconds", settings.result_expires_after_seconds),
        ("challenge_expires_after_seconds", settings.challenge_expires_after_seconds),
    ] {
        if !(1..=SECONDS_MAX).contains(&seconds) {
            return Err(Refusal::Seconds(name));
        }
    }
    if settings.rematch_after_seconds > SECONDS_MAX {
        return Err(Refusal::Rematch);
    }
    Ok(())
}

/// How far the window of someone who has waited so long reaches, in points to either side.
pub fn window_after(settings: &PoolSettings, waited: Duration) -> u16 {
    let steps = waited.as_secs() / u64::from(settings.widen_every_seconds.max(1));
    let widened = u64::from(settings.widen_by).saturating_mul(steps).saturating_add(settings.window.into());
    u16::try_from(widened).unwrap_or(u16::MAX).min(settings.window_max)
}

/// How long someone must wait until their window reaches so far; none if it never does.
pub fn wait_for(settings: &PoolSettings, distance: u16) -> Option<Duration> {
    if distance > settings.window_max {
        return None;
    }
    let missing = distance.saturating_sub(settings.window);
    if missing == 0 {
        return Some(Duration::ZERO);
    }
    let steps = (settings.widen_by > 0).then(|| missing.div_ceil(settings.widen_by))?;
    Some(Duration::from_secs(u64::from(settings.widen_every_seconds.max(1)) * u64::from(steps)))
}

/// [`wait_for`] each distance from 0 on, as far as windows ever reach.
pub fn waits(settings: &PoolSettings) -> Vec<Duration> {
    (0..=settings.window_max).map_while(|distance| wait_for(settings, distance)).collect()
}

/// Decides for the streams `pool-<tenant>.<key>`.
#[derive(Debug)]
pub enum Pool {}

impl Decider for Pool {
    type State = State;
    type Command = Command;
    type Event = PoolEvent;
    type Refusal = Refusal;

    fn decide(command: &Command, state: &State) -> Result<Vec<Occurred<PoolEvent>>, Refusal> {
        check(&command.settings)?;
        if state.0 == Some(command.settings) {
            return Ok(Vec::new());
        }
        let configured = PoolConfigured { pool_key: command.pool_key.clone(), settings: command.settings };
        Ok(vec![Occurred { at: command.at, event: configured.into() }])
    }

    fn evolve(_state: State, event: &PoolEvent, _occurred_at: Timestamp) -> State {
        match event {
            PoolEvent::PoolConfigured(configured) => State(Some(configured.settings)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::scenario::{at, decided, id};

    fn configure(settings: PoolSettings) -> Command {
        Command { pool_key: id("blitz"), at: at(0.0), settings }
    }

    fn configured(settings: PoolSettings) -> PoolEvent {
        PoolConfigured { pool_key: id("blitz"), settings }.into()
    }

    #[test]
    fn the_defaults_are_those_that_are_promised_and_make_sense() {
        assert_eq!(check(&DEFAULTS), Ok(()));
        assert_eq!((DEFAULTS.window, DEFAULTS.widen_by, DEFAULTS.widen_every_seconds), (100, 25, 10));
        assert_eq!((DEFAULTS.window_max, DEFAULTS.window_policy), (1000, WindowPolicy::LongestWaiting));
        assert_eq!((DEFAULTS.entry_expires_after_seconds, DEFAULTS.rematch_after_seconds), (600, 60));
        assert_eq!(
            (DEFAULTS.result_expires_after_seconds, DEFAULTS.challenge_expires_after_seconds),
            (7200, 300)
        );
        assert_eq!(State::default().settings(), DEFAULTS);
    }

    #[test]
    fn configuring_the_same_again_records_nothing() {
        let wide = PoolSettings { window: 200, ..DEFAULTS };
        assert_eq!(decided::<Pool>(&[], &configure(wide)), Ok(vec![configured(wide)]));
        assert_eq!(decided::<Pool>(&[configured(wide)], &configure(wide)), Ok(vec![]));
        assert_eq!(
            decided::<Pool>(&[configured(wide)], &configure(DEFAULTS)),
            Ok(vec![configured(DEFAULTS)])
        );
    }

    #[test]
    fn settings_that_make_no_sense_are_refused() {
        for settings in [
            PoolSettings { window: 200, window_max: 100, ..DEFAULTS },
            PoolSettings { window_max: 10_001, ..DEFAULTS },
            PoolSettings { widen_every_seconds: 0, ..DEFAULTS },
            PoolSettings { entry_expires_after_seconds: 0, ..DEFAULTS },
            PoolSettings { result_expires_after_seconds: SECONDS_MAX + 1, ..DEFAULTS },
            PoolSettings { challenge_expires_after_seconds: 0, ..DEFAULTS },
            PoolSettings { rematch_after_seconds: SECONDS_MAX + 1, ..DEFAULTS },
        ] {
            let refused = decided::<Pool>(&[], &configure(settings)).unwrap_err();
            assert_eq!(refused.kind(), RefusalKind::Invalid, "{refused}");
        }
    }

    #[test]
    fn settings_may_go_to_their_limits() {
        for settings in [
            PoolSettings { window: RATING_MAX, window_max: RATING_MAX, ..DEFAULTS },
            PoolSettings { rematch_after_seconds: SECONDS_MAX, result_expires_after_seconds: 1, ..DEFAULTS },
            PoolSettings { entry_expires_after_seconds: SECONDS_MAX, ..DEFAULTS },
        ] {
            assert_eq!(check(&settings), Ok(()));
        }
        assert_eq!(wait_for(&DEFAULTS, 1000), Some(Duration::from_secs(360)));
        assert_eq!(wait_for(&DEFAULTS, 1001), None);
    }

    #[test]
    fn a_window_widens_by_25_for_every_full_10_seconds_up_to_1000() {
        for (waited_ms, window) in [
            (0, 100),
            (9_999, 100),
            (10_000, 125),
            (19_999, 125),
            (20_000, 150),
            (360_000, 1000),
            (600_000, 1000),
        ] {
            assert_eq!(window_after(&DEFAULTS, Duration::from_millis(waited_ms)), window, "{waited_ms} ms");
        }
    }

    proptest! {
        #[test]
        fn the_wait_for_a_distance_is_the_first_at_which_the_window_reaches_it(
            distance in 0_u16..1200, window in 0_u16..300, widen_by in 0_u16..60, every in 1_u32..40, more in 0_u16..900,
        ) {
            let settings = PoolSettings {
                window, widen_by, widen_every_seconds: every, window_max: window + more, ..DEFAULTS
            };
            match wait_for(&settings, distance) {
                Some(wait) => {
                    prop_assert!(window_after(&settings, wait) >= distance);
                    if let Some(before) = wait.checked_sub(Duration::from_micros(1)) {
                        prop_assert!(window_after(&settings, before) < distance);
                    }
                }
                None => prop_assert!(window_after(&settings, Duration::from_secs(1 << 30)) < distance),
            }
        }
    }
}
