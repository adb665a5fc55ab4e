//! Which paths of a snapshot are asked for: by globs, kind, size and time.

use crate::error::{Error, Result};
use crate::inode::{Attributes, Kind};
use crate::path::RelPath;
use globset::{Candidate, Glob, GlobBuilder, GlobSet, GlobSetBuilder};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

/// The largest number of patterns, and of their bytes: each takes kilobytes of memory.
const MOST: usize = 4096;
const LARGEST: usize = 128 << 10;

/// What a path must be to be selected. The default selects everything.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// One of them must match; without any, every path does.
    pub patterns: Vec<Pattern>,
    pub kind: Option<Kind>,
    /// Only files of more bytes.
    pub larger: Option<u64>,
    /// Only what was modified then or later, in ns since 1970.
    pub newer: Option<i64>,
    /// The patterns compiled: by the last name only, and for the whole path.
    names: GlobSet,
    paths: GlobSet,
}

/// A glob as it was written, such as `*.odt`, `docs/**/*.odt`, `/notes.txt` or `photos/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    pub text: String,
    /// It ends in a slash, so it matches directories only.
    directories_only: bool,
}

impl Selection {
    /// A selection by patterns. One without a slash matches a name in any directory; one with a slash matches
    /// the whole path from the root of the volume, and `**` in it stands for any directories.
    pub fn new<T: AsRef<str>>(patterns: &[T]) -> Result<Selection> {
        let bytes: usize = patterns.iter().map(|pattern| pattern.as_ref().len()).sum();
        if bytes > LARGEST || patterns.len() > MOST {
            let what = format!("more than {MOST} patterns, or {LARGEST} bytes of them, are too many");
            return Err(Error::usage(what, "name directories instead of what is in them"));
        }
        let (mut names, mut paths) = (GlobSetBuilder::new(), GlobSetBuilder::new());
        let mut found = Vec::new();
        for text in patterns.iter().map(AsRef::as_ref) {
            let (name, path) = globs(text)?;
            names.add(name);
            paths.add(path);
            found.push(Pattern { text: text.to_owned(), directories_only: text.ends_with('/') });
        }
        let build = |set: &GlobSetBuilder| {
            set.build().map_err(|e| bad_pattern(&found[0].text, &e.kind().to_string()))
        };
        let (names, paths) = (build(&names)?, build(&paths)?);
        Ok(Selection { patterns: found, names, paths, ..Selection::default() })
    }

    /// Whether it leaves nothing out.
    pub fn is_everything(&self) -> bool {
        self.patterns.is_empty() && self.kind.is_none() && self.larger.is_none() && self.newer.is_none()
    }

    /// Whether a path that ends in this name can match a pattern; cheaper than the whole path.
    pub fn may_match_name(&self, name: &[u8]) -> bool {
        self.patterns.is_empty() || self.names.is_match_candidate(&candidate(name))
    }

    /// Whether the path matches a pattern, whatever is there.
    pub fn matches_path(&self, path: &RelPath) -> bool {
        self.patterns.is_empty() || self.paths.is_match_candidate(&candidate(path.as_bytes()))
    }

    /// Whether what is at the path is selected. Only files have a size.
    pub fn matches(&self, path: &RelPath, kind: Kind, attributes: &Attributes) -> bool {
        self.kind.is_none_or(|wanted| wanted == kind)
            && self.larger.is_none_or(|bytes| kind == Kind::File && attributes.size > bytes)
            && self.newer.is_none_or(|time| attributes.time() >= time.into())
            && self.matches_as(path, kind)
    }

    fn matches_as(&self, path: &RelPath, kind: Kind) -> bool {
        if kind == Kind::Directory || self.patterns.iter().all(|pattern| !pattern.directories_only) {
            return self.matches_path(path);
        }
        let matching = self.paths.matches_candidate(&candidate(path.as_bytes()));
        matching.into_iter().any(|at| !self.patterns[at].directories_only)
    }
}

/// The globs of a pattern: for the last name of a path, and for the whole path.
fn globs(text: &str) -> Result<(Glob, Glob)> {
    let bad = |why: &str| bad_pattern(text, why);
    let pattern = text.strip_suffix('/').unwrap_or(text);
    if pattern.is_empty() || text.contains('\0') {
        return Err(bad("it names nothing"));
    }
    if !class_is_ascii(pattern) {
        return Err(bad("characters in brackets that are not ASCII; write them as {ä,ö}"));
    }
    let compiled = |glob: &str| compile(glob).map_err(|e| bad(&e.kind().to_string()));
    if !pattern.contains('/') {
        return Ok((compiled(pattern)?, compiled(&format!("**/{pattern}"))?));
    }
    let anchored = pattern.strip_prefix('/').unwrap_or(pattern);
    if anchored.split('/').any(|name| matches!(name, "" | "." | "..")) {
        return Err(bad("paths here have no empty names, `.` or `..`"));
    }
    let path = compiled(anchored)?;
    let name = match anchored.rsplit_once('/') {
        None => compiled(anchored)?,
        // A slash within brackets or braces parts no names: either side alone is no glob, and any name may
        // match.
        Some((above, last)) => match (compile(above), compile(last)) {
            (Ok(_), Ok(last)) => last,
            _ => compiled("**")?,
        },
    };
    Ok((name, path))
}

fn compile(glob: &str) -> Result<Glob, globset::Error> {
    GlobBuilder::new(glob).literal_separator(true).backslash_escape(true).build()
}

/// Whether no class of characters holds any that take several bytes: they would match by single bytes.
fn class_is_ascii(pattern: &str) -> bool {
    let (mut class_since, mut escaped) = (None, false);
    for (at, character) in pattern.char_indices() {
        match class_since {
            _ if escaped => escaped = false,
            None if character == '\\' => escaped = true,
            None if character == '[' => class_since = Some(at),
            Some(_) if !character.is_ascii() => return false,
            Some(since) if character == ']' && !matches!(&pattern[since..at], "[" | "[!" | "[^") => {
                class_since = None;
            }
            _ => {}
        }
    }
    true
}

fn candidate(path: &[u8]) -> Candidate<'_> {
    Candidate::new(OsStr::from_bytes(path))
}

fn bad_pattern(pattern: &str, why: &str) -> Error {
    Error::usage(
        format!("cannot understand the pattern {pattern:?}: {why}"),
        "write a glob: *.odt for a name anywhere, docs/**/*.odt for a path from the root of the volume",
    )
}

impl Kind {
    /// The kind as people name it: by find(1)'s letter, or in full.
    pub fn from_type(text: &str) -> Result<Kind> {
        let kind = match text {
            "f" => Some(Kind::File),
            "d" => Some(Kind::Directory),
            "l" => Some(Kind::Symlink),
            "p" => Some(Kind::Fifo),
            "s" => Some(Kind::Socket),
            "b" => Some(Kind::BlockDevice),
            "c" => Some(Kind::CharDevice),
            word => Kind::from_name(word),
        };
        let advice = "write f (file), d (directory), l (symlink), p (fifo), s (socket), b (block_device) \
                      or c (char_device)";
        kind.ok_or_else(|| Error::usage(format!("{text:?} is no type of file"), advice))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, path: &[u8]) -> bool {
        let selection = Selection::new(&[pattern]).unwrap();
        let path = RelPath::new(path).unwrap();
        let found = selection.matches_path(&path);
        let (_, name) = path.split().unwrap();
        assert!(!found || selection.may_match_name(name), "{pattern} by the name of {path:?}");
        assert_eq!(found, selection.matches(&path, Kind::Directory, &Attributes::default()));
        found
    }

    #[test]
    fn a_pattern_without_a_slash_matches_a_name_anywhere() {
        for good in ["a.odt", "x/a.odt", "x/y/.odt"] {
            assert!(matches("*.odt", good.as_bytes()), "{good}");
        }
        for bad in ["a.ods", "a.odt/x", "x.odt.bak"] {
            assert!(!matches("*.odt", bad.as_bytes()), "{bad}");
        }
        assert!(matches("notes", b"x/notes") && !matches("notes", b"x/notes2"));
        assert!(matches("**", b"a/b") && matches("{a,b}*", b"x/bc") && matches("[!a]?", b"x/bc"));
    }

    #[test]
    fn a_pattern_with_a_slash_matches_the_whole_path() {
        assert!(matches("/notes", b"notes") && !matches("/notes", b"x/notes"));
        assert!(matches("docs/*.odt", b"docs/a.odt"));
        assert!(!matches("docs/*.odt", b"x/docs/a.odt") && !matches("docs/*.odt", b"docs/x/a.odt"));
        for good in ["docs/a.odt", "docs/x/a.odt", "docs/x/y/a.odt"] {
            assert!(matches("docs/**/*.odt", good.as_bytes()), "{good}");
        }
        assert!(matches("docs/**", b"docs/x/y") && !matches("docs/**", b"docs"));
        assert!(matches("**/docs/*", b"docs/a") && matches("**/docs/*", b"x/y/docs/a"));
        assert!(
            matches("{a/b,c}/d", b"a/b/d") && matches("x/{a/b,c}", b"x/a/b") && matches("x/{a/b,c}", b"x/c")
        );
    }

    #[test]
    fn a_pattern_that_ends_in_a_slash_matches_directories_only() {
        let selection = Selection::new(&["docs/", "a"]).unwrap();
        let selects =
            |path: &[u8], kind| selection.matches(&RelPath::new(path).unwrap(), kind, &Attributes::default());
        assert!(selects(b"x/docs", Kind::Directory) && !selects(b"x/docs", Kind::File));
        assert!(selects(b"x/a", Kind::Directory) && selects(b"x/a", Kind::File));
    }

    #[test]
    fn names_that_are_no_text_match_too() {
        assert!(matches("*.odt", b"x/\xff\xfe.odt") && matches("x/**/b?.odt", b"x/\x80/b\xff.odt"));
        assert!(matches("Gr*\u{df}e", "Größe".as_bytes()) && matches("{ä,ö}", "ö".as_bytes()));
        assert!(!matches("*.odt", b"x/\xff\xfe.ods"));
    }

    #[test]
    fn a_name_alone_rules_out_most_paths() {
        let selection = Selection::new(&["docs/**/*.odt", "notes"]).unwrap();
        assert!(selection.may_match_name(b"a.odt") && selection.may_match_name(b"notes"));
        assert!(!selection.may_match_name(b"a.ods") && !selection.may_match_name(b"docs"));
    }

    #[test]
    fn a_bad_pattern_is_named() {
        for bad in ["", "/", "a[", "{a", "a\\", "a//b", "../a", "./a", "[ä]", "[]ä]", "[z-a]", "a\0"] {
            let error = Selection::new(&["fine", bad]).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{bad}");
            assert!(error.to_string().contains(&format!("pattern {bad:?}")) || bad.contains('\\'), "{error}");
        }
        assert!(Selection::new(&["x"; MOST + 1]).is_err());
    }

    #[test]
    fn what_is_there_counts_too() {
        let mut selection = Selection::default();
        let path = RelPath::new(b"a").unwrap();
        let of = |size, mtime| Attributes { size, mtime, ..Attributes::default() };
        assert!(selection.is_everything() && selection.matches(&path, Kind::Socket, &of(0, 0)));
        selection.larger = Some(10);
        assert!(selection.matches(&path, Kind::File, &of(11, 0)));
        assert!(!selection.matches(&path, Kind::File, &of(10, 0)));
        assert!(!selection.matches(&path, Kind::Directory, &of(11, 0)));
        selection.newer = Some(5);
        assert!(selection.matches(&path, Kind::File, &of(11, 5)));
        assert!(!selection.matches(&path, Kind::File, &of(11, 4)) && !selection.is_everything());
        selection.kind = Some(Kind::Symlink);
        assert!(!selection.matches(&path, Kind::File, &of(11, 5)));
    }

    #[test]
    fn kinds_have_the_letters_of_find() {
        let kinds =
            ["f", "d", "l", "p", "s", "b", "c", "block_device"].map(|text| Kind::from_type(text).unwrap());
        assert_eq!(kinds.map(Kind::name)[4..], ["socket", "block_device", "char_device", "block_device"]);
        assert_eq!(Kind::from_type("x").unwrap_err().exit_code(), 2);
    }
}
