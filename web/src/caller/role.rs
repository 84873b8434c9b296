//! Roles and sets of roles.

use std::fmt;
use std::ops::BitOr;
use std::str::FromStr;

/// A role of a caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
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
#[error("no such role: {0}; the roles are user, worker, service, auditor, admin")]
pub struct UnknownRole(pub String);

impl Role {
    pub const ALL: [Self; 5] = [Self::User, Self::Worker, Self::Service, Self::Auditor, Self::Admin];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Worker => "worker",
            Self::Service => "service",
            Self::Auditor => "auditor",
            Self::Admin => "admin",
        }
    }

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

impl FromStr for Role {
    type Err = UnknownRole;

    fn from_str(text: &str) -> Result<Self, UnknownRole> {
        Self::ALL.into_iter().find(|role| role.as_str() == text).ok_or_else(|| UnknownRole(text.to_owned()))
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A set of roles.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Roles(u8);

impl Roles {
    pub const NONE: Self = Self(0);

    pub fn all() -> Self {
        Role::ALL.into_iter().collect()
    }

    pub fn contains(self, role: Role) -> bool {
        self.0 & role.bit() != 0
    }

    /// Whether the two sets share a role.
    pub fn any_of(self, others: Self) -> bool {
        self.0 & others.0 != 0
    }

    pub fn iter(self) -> impl Iterator<Item = Role> {
        Role::ALL.into_iter().filter(move |role| self.contains(*role))
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
        let names: Vec<_> = self.iter().map(Role::as_str).collect();
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
        for role in Role::ALL {
            assert_eq!(role.as_str().parse(), Ok(role));
        }
        assert!("root".parse::<Role>().is_err());
    }
}
