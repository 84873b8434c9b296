//! The list of a category's events: each type's name and version is written once, through [`events!`].

/// Defines the enum of a category's events, and the conversion between an event and its stored form.
///
/// `events!(/// doc JobEvent { JobCreated = 1 })` defines `enum JobEvent { JobCreated(JobCreated) }`. The
/// variant name is the stored type, and the number is the schema version that is written today.
macro_rules! events {
    ($(#[$doc:meta])* $category:ident { $($name:ident = $version:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq)]
        pub enum $category {
            $($name($name)),*
        }

        impl $category {
            /// All event types of the category, with the version that is written today.
            pub(crate) const TYPES: &'static [$crate::catalogue::EventKind] = &[
                $($crate::catalogue::EventKind {
                    name: stringify!($name),
                    version: $version,
                    schema: || schemars::schema_for!($name),
                    rewrite: |data| {
                        let event: $name = serde_json::from_slice(data)?;
                        serde_json::to_vec(&event)
                    },
                }),*
            ];

            /// The stored name of the event's type.
            pub fn event_type(&self) -> $crate::envelope::EventType {
                match self {
                    $(Self::$name(_) => $crate::envelope::EventType::known(stringify!($name))),*
                }
            }

            /// The version of the type's schema that [`Self::encode`] writes.
            pub fn schema_version(&self) -> u16 {
                match self {
                    $(Self::$name(_) => $version),*
                }
            }

            /// The stored form of the event's data: JSON.
            pub fn encode(&self) -> bytes::Bytes {
                let written = match self {
                    $(Self::$name(event) => serde_json::to_vec(event)),*
                };
                written.expect("an event has text keys only, so it can be written as JSON").into()
            }

            /// Reads data of this type, written with today's version; none if the type does not belong to
            /// this category.
            pub(crate) fn decode(name: &str, data: &[u8]) -> Option<serde_json::Result<Self>> {
                match name {
                    $(stringify!($name) => Some(serde_json::from_slice(data).map(Self::$name)),)*
                    _ => None,
                }
            }
        }

        $(impl From<$name> for $category {
            fn from(event: $name) -> Self {
                Self::$name(event)
            }
        })*
    };
}

pub(crate) use events;
