//! Roles and sets of roles.

use std::fmt;
use std::ops::BitOr;

use strum::VariantArray;

/// A role of a caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[derive(strum::Display, strum::EnumString, strum::IntoStaticStr, strum::VariantArray)]
#[strum(serialize_all = "snake_case", const_into_str, parse_err_ty = UnknownRole, parse_err_fn = unknown)]
pub enum Role {
    /// A person, or an application that acts for one.
    User,
    /// A process that claims work and reports its results.
    Worker,
    /// A trusted program.
    Service,
    /// May read the complete history of its tenant.
    Auditor,
    /// May administer the server.
    Admin,
}

/// The role does not exist.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no such role: {0}; the roles are {all}", all = Role::ALL.iter().map(Role::into_str).collect::<Vec<_>>().join(", "))]
pub struct UnknownRole(pub String);

impl Role {
    pub const ALL: &[Self] = Self::VARIANTS;

    fn bit(self) -> u8 {
        match self {
            Self::User => 1,
            Self::Worker => 2,
            Self::Service => 4,
            Self::Auditor => 8,
            Self::Admin => 16,
        }
    }
}

fn unknown(text: &str) -> UnknownRole {
    UnknownRole(text.to_owned())
}

/// A set of roles.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Roles(u8);

impl Roles {
    pub const NONE: Self = Self(0);

    pub fn all() -> Self {
        Role::ALL.iter().copied().collect()
    }

    pub fn contains(self, role: Role) -> bool {
        self.0 & role.bit() != 0
    }

    /// Whether the two sets share a role.
    pub fn any_of(self, others: Self) -> bool {
        self.0 & others.0 != 0
    }

    pub fn iter(self) -> impl Iterator<Item = Role> {
        Role::ALL.iter().copied().filter(move |role| self.contains(*role))
    }
}

impl From<Role> for Roles {
    fn from(role: Role) -> Self {
        Self(role.bit())
    }
}

impl FromIterator<Role> for Roles {
    fn from_iter<I: IntoIterator<Item = Role>>(roles: I) -> Self {
        roles.into_iter().fold(Self::NONE, |set, role| set | role)
    }
}

impl BitOr for Role {
    type Output = Roles;

    fn bitor(self, other: Self) -> Roles {
        Roles::from(self) | other
    }
}

impl BitOr<Role> for Roles {
    type Output = Self;

    fn bitor(self, other: Role) -> Self {
        Self(self.0 | other.bit())
    }
}

impl fmt::Display for Roles {
    /// `worker or service`; `none` for the empty set.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.iter().map(|role| role.into_str()).collect();
        match names.split_last() {
            None => f.write_str("none"),
            Some((last, [])) => f.write_str(last),
            Some((last, others)) => write!(f, "{} or {last}", others.join(", ")),
        }
    }
}

impl fmt::Debug for Roles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn set_of_roles_is_displayed_as_a_list() {
        assert_eq!((Role::Worker | Role::Service).to_string(), "worker or service");
        assert_eq!((Role::User | Role::Admin | Role::Service).to_string(), "user, service or admin");
        assert_eq!(Roles::NONE.to_string(), "none");
    }

    #[test]
    fn roles_are_parsed_from_their_names() {
        let names = ["user", "worker", "service", "auditor", "admin"];
        assert_eq!(names.map(|name| name.parse::<Role>().unwrap()), Role::ALL);
        assert!("root".parse::<Role>().is_err());
    }
}
