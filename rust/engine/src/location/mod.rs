//! The places that users name, checked before anything is touched.

pub(crate) mod beneath;
pub(crate) mod directory;
pub(crate) mod inside;
pub(crate) mod logs;
pub(crate) mod place;
pub(crate) mod shown;
pub(crate) mod target;
pub(crate) mod text;
