//! Numbers of single precision as they are answered.

use serde::Serializer;

/// The decimal number with the fewest digits that stands for this one: 0.95, and not 0.949999988079071, which has the same value.
pub fn shortest(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::from(value))
}

/// Serialises a number as [`shortest`].
///
/// # Errors
/// Those of the serialiser.
#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
pub fn serialize<S: Serializer>(value: &f32, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(shortest(*value))
}

/// Serialises a number that may be missing as [`shortest`].
///
/// # Errors
/// Those of the serialiser.
#[allow(clippy::ref_option, reason = "serde passes a reference")]
pub fn serialize_optional<S: Serializer>(value: &Option<f32>, serializer: S) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => serialize(value, serializer),
        None => serializer.serialize_none(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn number_is_shown_as_it_was_given() {
        for text in ["0.95", "0.1", "0.000001", "3", "16777216", "-0.3"] {
            let single: f32 = text.parse().unwrap();
            assert_eq!(shortest(single), text.parse::<f64>().unwrap());
        }
        assert_eq!(shortest(f32::MAX) as f32, f32::MAX);
        assert!(shortest(f32::NAN).is_nan());
    }

    #[test]
    fn weights_of_a_served_list_are_shown_as_given() {
        let weights = crate::user::ListWeights { collaborative: 0.95, ..Default::default() };
        assert_eq!(serde_json::to_value(weights).unwrap(), serde_json::json!({"collaborative": 0.95}));
    }
}
