//! Decides which entries a subset leaves out.

use crate::names::STORE;
use crate::pattern;
use ignore::gitignore::{Gitignore, GitignoreBuilder};
use snapsync_model::{Error, RelPath, Result, Subset};

/// The largest number of patterns of a subset, and of their bytes: each takes kilobytes of memory, and they
/// may come from others.
const MOST: usize = 4096;
const LARGEST: usize = 128 << 10;

/// The compiled patterns of a subset. They are applied from the root down: nothing below an excluded
/// directory is ever asked for.
#[derive(Debug)]
pub struct Matcher(Option<Gitignore>);

impl Matcher {
    pub fn new(subset: &Subset) -> Result<Matcher> {
        if subset.is_everything() {
            return Ok(Matcher(None));
        }
        let patterns = subset.exclude.iter().chain(&subset.include);
        let bytes: usize = patterns.clone().map(String::len).sum();
        if bytes > LARGEST || patterns.count() > MOST {
            let what = format!("more than {MOST} patterns, or {LARGEST} bytes of them, are too many");
            return Err(Error::usage(what, "name directories instead of what is in them"));
        }
        let mut builder = GitignoreBuilder::new("");
        let excludes = subset.exclude.iter().map(|pattern| (pattern, false));
        let includes = subset.include.iter().map(|pattern| (pattern, true));
        for (pattern, include) in excludes.chain(includes) {
            let line = pattern::line(pattern, include).map_err(|why| bad_pattern(pattern, why))?;
            builder.add_line(None, &line).map_err(|e| bad_pattern(pattern, &reason(&e)))?;
        }
        let built = builder.build().map_err(|e| bad_pattern(&subset.exclude.join(" "), &reason(&e)))?;
        Ok(Matcher(Some(built)))
    }

    /// Whether the entry `name` of a directory within the subset is left out.
    pub(crate) fn leaves_out(&self, directory: &RelPath, name: &[u8], is_dir: bool) -> Result<bool> {
        let Some(patterns) = &self.0 else { return Ok(false) };
        Ok(patterns.matched(directory.join(name)?.as_path(), is_dir).is_ignore())
    }

    /// The first of the directories on the way to `path`, and `path` itself, that is left out.
    pub fn left_out_on(&self, path: &RelPath, is_dir: bool) -> Result<Option<RelPath>> {
        for at in ancestors(path) {
            if let Some((above, name)) = at.split()
                && (*name == *STORE.as_bytes() || self.leaves_out(&above, name, is_dir || at != *path)?)
            {
                return Ok(Some(at));
            }
        }
        Ok(None)
    }
}

/// The ancestors of a path and the path itself, outermost first.
fn ancestors(path: &RelPath) -> Vec<RelPath> {
    let up = |path: &RelPath| path.split().map(|(above, _)| above);
    let mut found: Vec<_> = std::iter::successors(Some(path.clone()), up).collect();
    found.reverse();
    found
}

fn reason(error: &ignore::Error) -> String {
    match error {
        ignore::Error::Glob { err, .. } => err.clone(),
        other => other.to_string(),
    }
}

fn bad_pattern(pattern: &str, why: &str) -> Error {
    Error::usage(
        format!("cannot understand the pattern {pattern:?}: {why}"),
        "write patterns as for .gitignore, see gitignore(5)",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subset(exclude: &[&str], include: &[&str]) -> Matcher {
        let list = |patterns: &[&str]| patterns.iter().map(|p| (*p).to_owned()).collect();
        Matcher::new(&Subset { exclude: list(exclude), include: list(include) }).unwrap()
    }

    fn leaves_out(matcher: &Matcher, path: &[u8]) -> bool {
        let is_dir = path.ends_with(b"/");
        let path = RelPath::new(path.strip_suffix(b"/").unwrap_or(path)).unwrap();
        let (directory, name) = path.split().unwrap();
        matcher.leaves_out(&directory, name, is_dir).unwrap()
    }

    #[test]
    fn the_last_pattern_that_matches_decides_and_includes_come_last() {
        let matcher = subset(&["*.log", "!keep.log", "/top", "cache/"], &["a/*.log"]);
        for out in [&b"x.log"[..], b"b/x.log", b"top", b"top/", b"cache/", b"a/cache/", b"\xff.log"] {
            assert!(leaves_out(&matcher, out), "{}", String::from_utf8_lossy(out));
        }
        for part in [&b"keep.log"[..], b"a/x.log", b"a/top", b"cache", b"x.log.gz"] {
            assert!(!leaves_out(&matcher, part), "{}", String::from_utf8_lossy(part));
        }
    }

    #[test]
    fn braces_are_characters_and_a_class_does_not_match_a_slash() {
        let matcher = subset(&["*.{a,b}", "/d[!x]f", "/d[.-0]g"], &[]);
        assert!(
            leaves_out(&matcher, b"1.{a,b}") && leaves_out(&matcher, b"dyf") && leaves_out(&matcher, b"d.g")
        );
        assert!(
            !leaves_out(&matcher, b"1.a") && !leaves_out(&matcher, b"d/f") && !leaves_out(&matcher, b"d/g")
        );
    }

    #[test]
    fn a_bad_pattern_is_named() {
        let error = Matcher::new(&Subset { exclude: vec!["ok".into(), "a[".into()], include: vec![] });
        assert!(error.unwrap_err().to_string().contains("\"a[\""));
    }
}
