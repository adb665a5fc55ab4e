//! Rounds that go on though something cannot be read.

use crate::options::Options;
use snapsync_model::Error;

/// Whether what cannot be read is passed over.
pub(crate) fn may_be(options: &Options) -> bool {
    options.keep_going && !options.strict
}

/// The error of a round that is both to go on and to bring everything.
pub(crate) fn refused_if_strict(options: &Options, error: Error) -> Error {
    match error {
        Error::Unread { what, .. } if options.keep_going && options.strict => Error::refused(
            format!("{what}; with --strict nothing is passed over, also with --keep-going"),
            "make this readable, leave it out with --exclude, or sync without --strict",
        ),
        other => other,
    }
}
