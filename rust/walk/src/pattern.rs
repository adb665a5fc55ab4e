//! Translates a gitignore pattern for the `ignore` crate, which reads some patterns differently from git: it
//! takes braces for alternatives, and its classes have no escapes and match a slash.

use std::collections::BTreeSet;
use std::iter::Peekable;
use std::str::Chars;

const UNCLOSED: &str = "a class is not closed: `]` is missing";

/// The line with which the crate does what git does with `pattern`, or the opposite if `include` is set.
pub(crate) fn line(pattern: &str, include: bool) -> Result<String, &'static str> {
    let (negated, body) = match pattern.strip_prefix('!') {
        Some(_) if include => return Err("what is to be included cannot begin with `!`"),
        Some(body) => (true, body),
        None => (include, pattern),
    };
    if pattern.starts_with('#') {
        return Err("it is a comment: write `\\#` for a name that begins with `#`");
    }
    let body = trimmed(body);
    if matches!(body, "" | "/") {
        return Err("it names nothing");
    }
    // A pattern without a slash, except at its end, matches at any depth. That must be decided here, because
    // translating a class may add a slash.
    let anywhere = !body.strip_suffix('/').unwrap_or(body).contains('/');
    let line = [if negated { "!" } else { "" }, if anywhere { "**/" } else { "" }, &translated(body)?];
    Ok(line.concat())
}

/// The pattern without trailing spaces, unless a backslash protects one.
fn trimmed(body: &str) -> &str {
    let bare = body.trim_end_matches(' ');
    let backslashes = bare.len() - bare.trim_end_matches('\\').len();
    let kept = usize::from(backslashes % 2 == 1 && bare.len() < body.len());
    &body[..bare.len() + kept]
}

fn translated(body: &str) -> Result<String, &'static str> {
    let (mut line, mut rest) = (String::new(), body.chars().peekable());
    while let Some(c) = rest.next() {
        match c {
            '\\' => {
                line.push(c);
                line.push(rest.next().ok_or("it ends in a backslash")?);
            }
            '{' | '}' => line.extend(['\\', c]),
            '[' => class(&mut rest, &mut line)?,
            // More than two stars in a row mean the same as two.
            '*' => {
                let more = rest.next_if_eq(&'*').is_some();
                line.push_str(if more { "**" } else { "*" });
                while rest.next_if_eq(&'*').is_some() {}
            }
            _ => line.push(c),
        }
    }
    Ok(line)
}

/// Translates a class, after its opening bracket was read.
fn class(rest: &mut Peekable<Chars<'_>>, line: &mut String) -> Result<(), &'static str> {
    let negated = rest.next_if(|c| matches!(c, '!' | '^')).is_some();
    let mut set = members(rest)?;
    if negated {
        // `]` is a literal member only at the start, `-` only at the end.
        let (bracket, dash) = (set.remove(&']'), set.remove(&'-'));
        set.insert('/');
        line.push_str(if bracket { "[!]" } else { "[!" });
        line.extend(set);
        line.push_str(if dash { "-]" } else { "]" });
        return Ok(());
    }
    set.remove(&'/');
    if set.is_empty() {
        return Err("no name has a slash in it");
    }
    let alternatives: Vec<String> = set.iter().map(|c| format!("\\{c}")).collect();
    line.push_str(&format!("{{{}}}", alternatives.join(",")));
    Ok(())
}

/// The characters of a class, up to and including its closing bracket.
fn members(rest: &mut Peekable<Chars<'_>>) -> Result<BTreeSet<char>, &'static str> {
    let mut set = BTreeSet::new();
    // The character that a following dash would make the start of a range.
    let mut last = None;
    for at in 0.. {
        let c = rest.next().ok_or(UNCLOSED)?;
        match (c, last) {
            (']', _) if at > 0 => break,
            ('[', _) if rest.peek() == Some(&':') => return Err("classes such as [:alpha:] are not known"),
            ('-', Some(from)) if rest.peek() != Some(&']') => {
                let next = rest.next().ok_or(UNCLOSED)?;
                set.extend(range(from, unescaped(next, rest)?)?);
                last = None;
            }
            _ => {
                let c = unescaped(c, rest)?;
                set.insert(c);
                last = Some(c);
            }
        }
    }
    Ok(set)
}

fn unescaped(c: char, rest: &mut Peekable<Chars<'_>>) -> Result<char, &'static str> {
    if c == '\\' { rest.next().ok_or(UNCLOSED) } else { Ok(c) }
}

fn range(from: char, to: char) -> Result<impl Iterator<Item = char>, &'static str> {
    if !from.is_ascii() || !to.is_ascii() {
        return Err("a range of characters that are not ASCII is not known");
    }
    if from > to { Err("a range is the wrong way round") } else { Ok(from..=to) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_git_reads_otherwise_is_said_otherwise() {
        let exclude = |pattern| line(pattern, false).unwrap();
        assert_eq!(exclude("*.{a,b}"), r"**/*.\{a,b\}");
        assert_eq!(exclude("/a[!b]c"), "/a[!/b]c");
        assert_eq!(exclude("[!b]"), "**/[!/b]");
        assert_eq!(exclude("[]!^-]"), r"**/{\!,\-,\],\^}");
        assert_eq!(exclude("[^]-]"), "**/[!]/-]");
        assert_eq!(exclude(r"/x[.-0\]]"), r"/x{\.,\0,\]}");
        assert_eq!((exclude("a-b/"), exclude(r"/****/\***")), ("**/a-b/".into(), r"/**/\***".into()));
        assert_eq!(
            (exclude("a  "), exclude(r"a\  "), exclude(r"a\\ ")),
            ("**/a".into(), r"**/a\ ".into(), r"**/a\\".into())
        );
        assert_eq!((exclude("!a/b"), line("a/b", true).unwrap()), ("!a/b".into(), "!a/b".into()));
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for bad in ["", "  ", "/", "!", "!/", "#a", "a[", "a[]", "[[:alpha:]]", "[z-a]", "[/]", "a\\", "[a\\"]
        {
            assert!(line(bad, false).is_err(), "{bad:?}");
        }
        assert!(line("!a", true).is_err());
    }
}
