//! The registry of read models. Its table is in `lib.rs`; [`read_models!`] makes everything from it that names a read
//! model.

use std::fmt;
use std::str::FromStr;

use crate::Name;

/// Defines [`Name`], the queries of [`ReadModels`](crate::ReadModels), and the start of all runners from one table: a line
/// for each read model with rows, with its name, its projection and its queries, and then the one in memory. The parts of the queries are fields of
/// [`Served`](crate::starter::Served); after a semicolon, a read model of an earlier line.
macro_rules! read_models {
    ($($variant:ident = $name:literal:
        $module:ident::$projection:ident => $field:ident: $queries:ident { $($part:ident),* $(; $other:ident)? },
    )*; in memory: $memory:ident = $memory_name:literal) => {
        /// The name of a read model.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Name {
            $($variant,)*
            $memory,
        }

        impl Name {
            pub const ALL: [Self; Self::NAMES.len()] = [$(Self::$variant,)* Self::$memory];

            /// Those that have rows.
            #[cfg(test)]
            pub(crate) const STORED: [Self; [$($name),*].len()] = [$(Self::$variant),*];

            /// Their texts, in the same order.
            pub const NAMES: [&'static str; [$($name,)* $memory_name].len()] = [$($name,)* $memory_name];

            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                    Self::$memory => $memory_name,
                }
            }

            /// The statements that create its tables.
            #[cfg(test)]
            pub(crate) fn ddl(self) -> crate::sql::Ddl {
                match self {
                    $(Self::$variant => <$module::$projection as crate::projection::Projection>::DDL,)*
                    Self::$memory => crate::sql::Ddl { sqlite: "", postgres: "" },
                }
            }

            /// All other statements, of its projection and its queries.
            #[cfg(test)]
            pub(crate) fn sql_texts(self) -> Vec<String> {
                match self {
                    $(Self::$variant => $module::sql_texts(),)*
                    Self::$memory => Vec::new(),
                }
            }
        }

        /// The queries of each read model.
        #[derive(Debug)]
        struct Queries {
            $($field: $module::$queries),*
        }

        impl ReadModels {
            $(
                #[doc = concat!("The queries of `", $name, "`.")]
                pub fn $field(&self) -> &$module::$queries {
                    &self.0.queries.$field
                }
            )*
        }

        impl RunnerStarter {
            /// Starts the runners of all read models.
            async fn start_all(&self) -> Result<(Queries, BTreeMap<Name, RunnerHandle>), OpenError> {
                let mut runners = BTreeMap::new();
                // All at once, because each waits for a database that does not respond.
                let ($($field),*) = tokio::try_join!($(self.start::<$module::$projection>().boxed()),*)?;
                $(
                    let (served, runner) = $field;
                    runners.insert(Name::$variant, runner);
                    let $field = $module::$queries { $($part: served.$part,)* $($other: $other.clone(),)? };
                )*
                Ok((Queries { $($field),* }, runners))
            }
        }
    };
}

pub(crate) use read_models;

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The text is not the name of a read model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no read model is called {0:?}; there are {all}", all = Name::NAMES.join(", "))]
pub struct NoSuchProjection(pub String);

impl FromStr for Name {
    type Err = NoSuchProjection;

    fn from_str(text: &str) -> Result<Self, NoSuchProjection> {
        let named = Self::ALL.into_iter().find(|name| name.as_str() == text);
        named.ok_or_else(|| NoSuchProjection(text.to_owned()))
    }
}
