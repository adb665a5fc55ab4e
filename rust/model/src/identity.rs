//! Tells which snapshot a directory holds, even after it was copied or moved.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The Btrfs subvolume that first held a snapshot, in the terms of `btrfs send`: a received subvolume passes
/// on the UUID and transaction that it was received with, any other passes on its own. So a snapshot keeps
/// its origin over any number of hops.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Origin {
    pub uuid: Uuid,
    /// The transaction of its last change; 0 if unknown.
    pub transid: u64,
    /// It was changed since it was made, but only in ways that keep the content, like deduplication or
    /// relocation. Every transaction it was known by stands for the same content.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub constant: bool,
}

/// A snapshot as other machines know it: its id, and its origin if it was ever a subvolume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Identity {
    pub id: Uuid,
    pub origin: Option<Origin>,
}

impl Identity {
    /// The identity of a subvolume of which only the origin is known.
    pub fn of_origin(origin: Origin) -> Identity {
        Identity { id: origin.uuid, origin: Some(origin) }
    }

    /// Whether both are the same snapshot, or states of the same subvolume.
    pub fn matches(&self, other: &Identity) -> bool {
        let named = |a: &Identity, b: &Identity| b.origin.is_some_and(|origin| a.id == origin.uuid);
        let same_origin = match (self.origin, other.origin) {
            (Some(a), Some(b)) => a.uuid == b.uuid,
            _ => false,
        };
        self.id == other.id || same_origin || named(self, other) || named(other, self)
    }

    /// For two identities that match: whether the subvolume was changed between them.
    pub fn is_another_state_of(&self, other: &Identity) -> bool {
        match (self.origin, other.origin) {
            (Some(a), Some(b)) => {
                let is_known = a.transid != 0 && b.transid != 0 && !a.constant && !b.constant;
                a.uuid == b.uuid && a.transid != b.transid && is_known
            }
            _ => false,
        }
    }

    /// The mark that a received subvolume gets, by which `btrfs send` and `btrfs receive` know it.
    pub fn mark(&self) -> Origin {
        self.origin.unwrap_or(Origin { uuid: self.id, transid: 0, constant: false })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(id: u128, origin: Option<(u128, u64)>) -> Identity {
        let origin =
            origin.map(|(uuid, transid)| Origin { uuid: Uuid::from_u128(uuid), transid, constant: false });
        Identity { id: Uuid::from_u128(id), origin }
    }

    #[test]
    fn identities_match_by_id_by_origin_or_by_one_being_the_other() {
        let matches = |a: Identity, b: Identity| {
            assert_eq!(a.matches(&b), b.matches(&a));
            a.matches(&b)
        };
        assert!(matches(identity(1, None), identity(1, Some((2, 7)))));
        assert!(matches(identity(1, Some((3, 7))), identity(2, Some((3, 9)))));
        assert!(matches(identity(3, None), identity(2, Some((3, 9)))));
        assert!(!matches(identity(1, None), identity(2, None)));
        assert!(!matches(identity(1, Some((3, 7))), identity(2, Some((4, 7)))));
    }

    #[test]
    fn a_subvolume_that_was_changed_is_another_state() {
        let state = |transid| identity(3, Some((3, transid)));
        assert!(state(7).is_another_state_of(&state(9)));
        assert!(!state(7).is_another_state_of(&state(7)));
        assert!(!state(0).is_another_state_of(&state(9)), "a transaction that is not known proves nothing");
        assert!(!identity(3, None).is_another_state_of(&state(9)));
        let origin = state(9).origin.map(|origin| Origin { constant: true, ..origin });
        let constant = Identity { origin, ..state(9) };
        assert!(!state(7).is_another_state_of(&constant) && !constant.is_another_state_of(&state(7)));
    }

    #[test]
    fn an_identity_in_json_has_its_origin_or_null() {
        let text = serde_json::to_string(&identity(1, Some((2, 7)))).unwrap();
        let uuid = |n| Uuid::from_u128(n);
        assert_eq!(text, format!(r#"{{"id":"{}","origin":{{"uuid":"{}","transid":7}}}}"#, uuid(1), uuid(2)));
        assert_eq!(serde_json::from_str::<Identity>(&text).unwrap(), identity(1, Some((2, 7))));
        let bare = format!(r#"{{"id":"{}","origin":null}}"#, uuid(1));
        assert_eq!(serde_json::from_str::<Identity>(&bare).unwrap(), identity(1, None));
    }
}
