//! A pool: how its players are paired.
//!
//! Invariants: the settings are consistent; a pool that was never configured has the defaults, so every key
//! names a pool.

use std::time::Duration;

use event_schemas::ids::PoolKey;
use event_schemas::pool::{PoolConfigured, PoolEvent, PoolSettings, WindowPolicy};
use event_schemas::rating::RATING_MAX;
use event_schemas::time::Timestamp;

use crate::decider::{Decider, Occurred, RefusalKind, Refused};

/// The maximum of all times in the settings: a day.
pub const SECONDS_MAX: u32 = 24 * 60 * 60;

/// The settings of a pool that was never configured.
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

/// A command to a pool, and its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    pub pool_key: PoolKey,
    pub at: Timestamp,
    /// All settings, including unchanged ones.
    pub settings: PoolSettings,
}

/// The state of a pool; empty before it is configured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct State(Option<PoolSettings>);

impl State {
    /// The current settings.
    pub fn settings(&self) -> PoolSettings {
        self.0.unwrap_or(DEFAULTS)
    }
}

/// The reason why settings are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("windows must be between 0 and {RATING_MAX} points")]
    WindowTooWide,
    #[error(
        "the first window ({window}) is wider than the widest ({window_max}); raise window_max or lower window"
    )]
    WindowBeyondItsLimit { window: u16, window_max: u16 },
    #[error("{0} lies between 1 and {SECONDS_MAX} seconds")]
    Seconds(&'static str),
    #[error("rematch_after_seconds must be at most {SECONDS_MAX}; 0 allows a rematch at once")]
    Rematch,
}

impl Refused for Refusal {
    fn kind(&self) -> RefusalKind {
        RefusalKind::Invalid
    }
}

/// Checks that the settings are consistent.
///
/// # Errors
/// The first inconsistency.
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

/// The rating window after a waiting time, in points to either side.
pub fn window_after(settings: &PoolSettings, waited: Duration) -> u16 {
    let steps = waited.as_secs() / u64::from(settings.widen_every_seconds.max(1));
    let widened = u64::from(settings.widen_by).saturating_mul(steps).saturating_add(settings.window.into());
    u16::try_from(widened).unwrap_or(u16::MAX).min(settings.window_max)
}

/// The waiting time after which the rating window covers a distance; none if it never does.
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

/// The [`wait_for`] each distance from 0 up to the maximum of the window.
pub fn waits(settings: &PoolSettings) -> Vec<Duration> {
    (0..=settings.window_max).map_while(|distance| wait_for(settings, distance)).collect()
}

/// Decides for the streams `pool-<tenant>.<key>`.
#[derive(Debug)]
pub enum PoolDecider {}

impl Decider for PoolDecider {
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
    fn defaults_are_the_documented_ones_and_valid() {
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
    fn configuring_the_same_settings_again_records_nothing() {
        let wide = PoolSettings { window: 200, ..DEFAULTS };
        assert_eq!(decided::<PoolDecider>(&[], &configure(wide)), Ok(vec![configured(wide)]));
        assert_eq!(decided::<PoolDecider>(&[configured(wide)], &configure(wide)), Ok(vec![]));
        assert_eq!(
            decided::<PoolDecider>(&[configured(wide)], &configure(DEFAULTS)),
            Ok(vec![configured(DEFAULTS)])
        );
    }

    #[test]
    fn inconsistent_settings_are_refused() {
        for settings in [
            PoolSettings { window: 200, window_max: 100, ..DEFAULTS },
            PoolSettings { window_max: 10_001, ..DEFAULTS },
            PoolSettings { widen_every_seconds: 0, ..DEFAULTS },
            PoolSettings { entry_expires_after_seconds: 0, ..DEFAULTS },
            PoolSettings { result_expires_after_seconds: SECONDS_MAX + 1, ..DEFAULTS },
            PoolSettings { challenge_expires_after_seconds: 0, ..DEFAULTS },
            PoolSettings { rematch_after_seconds: SECONDS_MAX + 1, ..DEFAULTS },
        ] {
            let refused = decided::<PoolDecider>(&[], &configure(settings)).unwrap_err();
            assert_eq!(refused.kind(), RefusalKind::Invalid, "{refused}");
        }
    }

    #[test]
    fn settings_at_their_limits_are_accepted() {
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
    fn window_widens_by_25_every_10_seconds_up_to_1000() {
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
        fn wait_for_is_the_first_time_the_window_covers_the_distance(
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
