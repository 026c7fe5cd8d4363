//! Rust text without what is no code: comments and the insides of strings become blanks, so that a
//! word in a sentence is not taken for a word in a program. Lines keep their numbers.
//!
//! It knows as much of the language as that needs: nested comments, raw strings, and characters
//! as opposed to lifetimes.

/// Code with strings and comments blanked.
pub(crate) fn code(text: &str) -> String {
    blank(text, true)
}

/// Code with its strings, comments blanked.
pub(crate) fn code_and_strings(text: &str) -> String {
    blank(text, false)
}

fn blank(text: &str, blanks_strings: bool) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let (end, is_comment, is_string) = token(&chars, at);
        for &c in &chars[at..end] {
            let is_blanked = is_comment || (is_string && blanks_strings);
            out.push(if is_blanked && c != '\n' { ' ' } else { c });
        }
        at = end;
    }
    out
}

/// Where the token ends that begins here, and whether it is a comment or a string.
fn token(chars: &[char], at: usize) -> (usize, bool, bool) {
    let is_word_before = at > 0 && is_word(chars[at - 1]);
    match (chars[at], chars.get(at + 1)) {
        ('/', Some('/')) => (find(chars, at, '\n'), true, false),
        ('/', Some('*')) => (end_of_block(chars, at), true, false),
        ('"', _) => (end_of_string(chars, at), false, true),
        ('r', Some('"' | '#')) if !is_word_before => match raw_hashes(chars, at + 1) {
            Some(hashes) => (end_of_raw(chars, at + 2 + hashes, hashes), false, true),
            None => (at + 1, false, false),
        },
        ('b' | 'c', Some('r')) if !is_word_before => match raw_hashes(chars, at + 2) {
            Some(hashes) => (end_of_raw(chars, at + 3 + hashes, hashes), false, true),
            None => (at + 1, false, false),
        },
        ('\'', _) => match end_of_char(chars, at) {
            Some(end) => (end, false, true),
            None => (at + 1, false, false),
        },
        _ => (at + 1, false, false),
    }
}

fn find(chars: &[char], from: usize, wanted: char) -> usize {
    (from..chars.len()).find(|&i| chars[i] == wanted).unwrap_or(chars.len())
}

fn end_of_block(chars: &[char], at: usize) -> usize {
    let (mut depth, mut i) = (0, at);
    while i < chars.len() {
        match (chars[i], chars.get(i + 1)) {
            ('/', Some('*')) => (depth, i) = (depth + 1, i + 2),
            ('*', Some('/')) => (depth, i) = (depth - 1, i + 2),
            _ => i += 1,
        }
        if depth == 0 {
            return i;
        }
    }
    chars.len()
}

fn end_of_string(chars: &[char], at: usize) -> usize {
    let mut i = at + 1;
    while i < chars.len() {
        match chars[i] {
            '\\' => i += 2,
            '"' => return i + 1,
            _ => i += 1,
        }
    }
    chars.len()
}

/// The number of `#` before the quote of a raw string, if this is one.
fn raw_hashes(chars: &[char], at: usize) -> Option<usize> {
    let hashes = chars[at..].iter().take_while(|c| **c == '#').count();
    (chars.get(at + hashes) == Some(&'"')).then_some(hashes)
}

fn end_of_raw(chars: &[char], from: usize, hashes: usize) -> usize {
    let closes = |i: usize| {
        chars[i] == '"' && chars[i + 1..].iter().take_while(|c| **c == '#').count() >= hashes
    };
    (from..chars.len()).find(|&i| closes(i)).map_or(chars.len(), |i| i + 1 + hashes)
}

/// `'x'` and `'\n'` are characters, `'a` is a lifetime.
fn end_of_char(chars: &[char], at: usize) -> Option<usize> {
    match (chars.get(at + 1)?, chars.get(at + 2)) {
        ('\\', _) => Some(find(chars, at + 3, '\'') + 1),
        (_, Some('\'')) => Some(at + 3),
        _ => None,
    }
}

/// Line numbers (from 1) at which `pattern` stands as a whole: where it begins or ends with a letter
/// no letter is beside it.
pub(crate) fn lines_with(code: &str, pattern: &str) -> Vec<usize> {
    let hits = code.match_indices(pattern).filter(|(at, _)| is_whole(code, *at, pattern));
    hits.map(|(at, _)| line_of(code, at)).collect()
}

/// The line (from 1) of a position.
pub(crate) fn line_of(text: &str, at: usize) -> usize {
    text[..at].matches('\n').count() + 1
}

fn is_whole(code: &str, at: usize, pattern: &str) -> bool {
    let before = code[..at].chars().next_back();
    let after = code[at + pattern.len()..].chars().next();
    let touches = |inside: Option<char>, outside: Option<char>| {
        inside.is_some_and(is_word) && outside.is_some_and(is_word)
    };
    !touches(pattern.chars().next(), before) && !touches(pattern.chars().next_back(), after)
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

#[test]
fn strings_and_comments_are_no_code() {
    let text = "let a = \"tokio\"; // tokio\n/* tokio /* tokio */ */ r#\"tokio \" tokio\"# 'a 'x' b\"tokio\"\ntokio::run()";
    assert_eq!(lines_with(&code(text), "tokio"), [3]);
    assert_eq!(lines_with(&code_and_strings(text), "tokio").len(), 5, "four strings and one use");
    assert_eq!(code(text).matches('\n').count(), text.matches('\n').count());
}

#[test]
fn a_pattern_stands_as_a_whole_word() {
    assert!(lines_with("my_rand::x operand", "rand::").is_empty());
    assert_eq!(lines_with("\nrand::x", "rand::"), [2]);
    assert!(lines_with("unsafe_code", "unsafe").is_empty());
}
