//! The catalogue of categories and event types. Its table is in `lib.rs`; [`categories!`] makes everything from it
//! that names a category.

use std::fmt;
use std::str::FromStr;
use std::sync::LazyLock;

use schemars::Schema;

use crate::Category;

/// Defines [`Category`](crate::Category) and [`Event`](crate::Event) from one table: a line for each category, with its
/// stored name and the events of its streams, and the names that are reserved for planned categories.
macro_rules! categories {
    (
        reserved: $($reserved:literal),*;
        $($category:ident = $name:literal: $module:ident::$events:ident,)*
    ) => {
        /// The category of a stream: the part of its name before the first dash.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Category {
            $($category),*
        }

        impl Category {
            pub const ALL: [Self; Self::NAMES.len()] = [$(Self::$category),*];

            /// Their stored names, in the same order.
            pub const NAMES: [&'static str; [$($name),*].len()] = [$($name),*];

            /// The names of this program's categories, including planned ones: names last for ever.
            pub(crate) const RESERVED: &[&str] = &[$($name,)* $($reserved),*];

            /// The event types of each category.
            pub(crate) const TYPES: &[&[$crate::catalogue::EventKind]] = &[$($module::$events::TYPES),*];

            /// The stored name.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$category => $name),*
                }
            }

            /// The category with this stored name, if there is one.
            pub fn find(name: &str) -> Option<Self> {
                match name {
                    $($name => Some(Self::$category),)*
                    _ => None,
                }
            }

            /// The beginning of the names of its streams, which no other stream has.
            pub const fn stream_prefix(self) -> &'static str {
                match self {
                    $(Self::$category => concat!($name, "-")),*
                }
            }
        }

        /// An event of any category.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Event {
            $($category($module::$events)),*
        }

        impl Event {
            pub fn category(&self) -> Category {
                match self {
                    $(Self::$category(_) => Category::$category),*
                }
            }

            pub fn event_type(&self) -> $crate::envelope::EventType {
                match self {
                    $(Self::$category(event) => event.event_type()),*
                }
            }

            pub fn schema_version(&self) -> u16 {
                match self {
                    $(Self::$category(event) => event.schema_version()),*
                }
            }

            /// The stored form of the data: JSON.
            pub fn encode(&self) -> bytes::Bytes {
                match self {
                    $(Self::$category(event) => event.encode()),*
                }
            }

            pub(crate) fn decode(name: &str, data: &[u8]) -> Option<serde_json::Result<Self>> {
                None$(.or_else(|| $module::$events::decode(name, data).map(|read| read.map(Self::$category))))*
            }
        }

        $(
            impl From<$module::$events> for Event {
                fn from(event: $module::$events) -> Self {
                    Self::$category(event)
                }
            }

            impl TryFrom<Event> for $module::$events {
                type Error = $crate::catalogue::OtherCategory;

                fn try_from(event: Event) -> Result<Self, Self::Error> {
                    if let Event::$category(event) = event {
                        Ok(event)
                    } else {
                        Err($crate::catalogue::OtherCategory(event.category()))
                    }
                }
            }
        )*
    };
}

pub(crate) use categories;

/// The text is not the name of a category.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be one of {all}, not {0:?}", all = Category::NAMES.join(", "))]
pub struct NoSuchCategory(pub String);

impl FromStr for Category {
    type Err = NoSuchCategory;

    fn from_str(text: &str) -> Result<Self, NoSuchCategory> {
        Self::find(text).ok_or_else(|| NoSuchCategory(text.to_owned()))
    }
}

impl fmt::Display for Category {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The event is not of the requested category, but of this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an event of the category {0}")]
pub struct OtherCategory(pub Category);

/// An event type.
#[derive(Debug, Clone, Copy)]
pub struct EventKind {
    /// The stored name.
    pub name: &'static str,
    /// The schema version that is written today; older versions stay readable.
    pub version: u16,
    /// The JSON Schema (2020-12) of the data at that version.
    pub schema: fn() -> Schema,
    /// Reads data of that version and writes it again. The bytes are the same if this type wrote the data.
    pub rewrite: fn(&[u8]) -> serde_json::Result<Vec<u8>>,
}

/// All event types, sorted by name.
pub fn all() -> &'static [EventKind] {
    static ALL: LazyLock<Vec<EventKind>> = LazyLock::new(|| {
        let mut all = Category::TYPES.concat();
        all.sort_by_key(|kind| kind.name);
        all
    });
    &ALL
}

/// The event type with this name, if there is one.
pub fn find(name: &str) -> Option<&'static EventKind> {
    let all = all();
    all.binary_search_by_key(&name, |kind| kind.name).ok().and_then(|index| all.get(index))
}

#[cfg(test)]
mod tests;
