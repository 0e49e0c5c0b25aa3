//! What a caller may ask for.

use std::fmt;

/// One right of a caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Look at everything that there is.
    Read,
    /// Make, cancel and resume runs; change tasks.
    Operate,
    /// Answer the questions of runs.
    Approve,
    /// Change agents and the plugins behind them.
    Deploy,
}

impl Role {
    /// Every role.
    pub const ALL: [Role; 4] = [Role::Read, Role::Operate, Role::Approve, Role::Deploy];

    /// The role as configurations spell it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Role::Read => "read",
            Role::Operate => "operate",
            Role::Approve => "approve",
            Role::Deploy => "deploy",
        }
    }

    /// The role of that spelling.
    pub fn parse(text: &str) -> Option<Role> {
        Role::ALL.into_iter().find(|role| role.as_str() == text)
    }

    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

impl fmt::Display for Role {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.as_str())
    }
}

/// The rights of a caller. Whoever has one may read as well; none of the others brings another with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Roles(u8);

impl Roles {
    /// Every right.
    pub const ALL: Roles = Roles(0b1111);

    /// These rights, and reading.
    pub fn of(roles: impl IntoIterator<Item = Role>) -> Roles {
        Roles(roles.into_iter().fold(Role::Read.bit(), |bits, role| bits | role.bit()))
    }

    /// Whether that is among them.
    pub const fn may(self, role: Role) -> bool {
        self.0 & role.bit() != 0
    }

    /// The rights one by one.
    pub fn iter(self) -> impl Iterator<Item = Role> {
        Role::ALL.into_iter().filter(move |role| self.may(*role))
    }
}

impl fmt::Display for Roles {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.iter().map(Role::as_str).collect();
        out.write_str(&names.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_role_brings_reading_and_no_other() {
        for role in Role::ALL {
            let roles = Roles::of([role]);
            assert_eq!(Role::parse(role.as_str()), Some(role));
            for other in Role::ALL {
                assert_eq!(roles.may(other), other == role || other == Role::Read, "{role} and {other}");
            }
        }
        assert!(Role::ALL.into_iter().all(|role| Roles::ALL.may(role)));
        assert_eq!(Roles::of([Role::Deploy, Role::Operate]).to_string(), "read, operate, deploy");
        assert_eq!(Roles::of([]).to_string(), "read");
    }
}
