//! Where the objects of a pool lie.

/// An object's number is its round and its place in it.
pub const ROUND_SHIFT: u32 = 40;
pub const OBJECTS_PER_DIRECTORY: u64 = 4096;
/// Set in the numbers of objects that were put into packs.
const IN_PACK: u64 = 1 << (ROUND_SHIFT - 1);
/// The low bits of such a number are the place in the pack.
const PLACE_BITS: u32 = 12;
pub const OBJECTS_PER_PACK: u64 = 1 << PLACE_BITS;

/// The path of an object's own file beneath its pool.
pub fn object_path(object: u64) -> String {
    let (round, number) = (object >> ROUND_SHIFT, object & ((1 << ROUND_SHIFT) - 1));
    format!("{round}/{}/{number}", number / OBJECTS_PER_DIRECTORY)
}

/// The path of the before-image of an object.
pub fn before_path(object: u64) -> String {
    format!("{}.before", object_path(object))
}

/// Another name of the before-image that an object lies under.
pub fn under_path(object: u64) -> String {
    format!("{}.under", object_path(object))
}

/// The same where no snapshot names the object any more.
pub fn left_path(object: u64) -> String {
    format!("{}.left", object_path(object))
}

/// A pack file, which holds many objects of one round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pack {
    round: u64,
    number: u64,
}

impl Pack {
    pub fn new(round: u64, number: u64) -> Pack {
        Pack { round, number }
    }

    /// The pack that an object was put into, and its place there; None if it got a file of its own.
    pub fn of(object: u64) -> Option<(Pack, u64)> {
        let number = (object & (IN_PACK - 1)) >> PLACE_BITS;
        let pack = Pack { round: object >> ROUND_SHIFT, number };
        (object & IN_PACK != 0).then_some((pack, object & (OBJECTS_PER_PACK - 1)))
    }

    /// The number of the object at a place.
    pub fn object(self, place: u64) -> u64 {
        (self.round << ROUND_SHIFT) | IN_PACK | (self.number << PLACE_BITS) | place
    }

    /// Beneath its pool.
    pub fn path(self) -> String {
        format!("{}/pack-{}", self.round, self.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_found_in_its_pack_and_others_in_none() {
        for (round, number, place) in [(0, 0, 0), (7, 0, 4095), (3, 1 << 20, 17), ((1 << 24) - 1, 1, 1)] {
            let pack = Pack::new(round, number);
            assert_eq!(Pack::of(pack.object(place)), Some((pack, place)));
            assert_eq!(pack.path(), format!("{round}/pack-{number}"));
        }
        assert_eq!(Pack::of((9 << ROUND_SHIFT) | 123_456), None);
        assert_eq!(object_path((9 << ROUND_SHIFT) | 8200), "9/2/8200");
    }
}
