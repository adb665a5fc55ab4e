//! Which part of a volume is replicated.

use serde::{Deserialize, Serialize};

/// Patterns in gitignore syntax, rooted at the volume's root: what is left out, and what is then brought
/// back. Each name of a file is judged separately.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Subset {
    pub exclude: Vec<String>,
    pub include: Vec<String>,
}

impl Subset {
    pub fn is_everything(&self) -> bool {
        self.exclude.is_empty() && self.include.is_empty()
    }
}
