//! Which subset a round is asked to replicate.

use crate::Options;
use snapsync_model::{Error, Result, Subset};
use snapsync_walk::Matcher;

/// None where nothing is asked for: the volume's own stays. Patterns that cannot be understood are found here,
/// before anything is touched.
pub(crate) fn asked(options: &Options) -> Result<Option<Subset>> {
    let subset = Subset { exclude: options.exclude.clone(), include: options.include.clone() };
    match (options.everything, subset.is_everything()) {
        (true, true) => return Ok(Some(subset)),
        (false, true) => return Ok(None),
        (true, false) => {
            return Err(Error::usage(
                "everything is to be replicated, and patterns say what is not",
                "give the patterns or --everything",
            ));
        }
        (false, false) => {}
    }
    if subset.exclude.is_empty() {
        return Err(Error::usage(
            "include patterns bring back what exclude patterns leave out, and there are none of these",
            "give --exclude too; --exclude '/*' leaves out everything that is not included",
        ));
    }
    Matcher::new(&subset)?;
    Ok(Some(subset))
}
