//! The planner's stories: each file beside this one is a cluster, what is wanted of it, and what
//! must come of it. The runner refuses words and names it does not know, and stories that assert
//! nothing.
//!
//! Every plan of every story is audited, is the same when it is made again, and has only steps that
//! are allowed in their turn. How a story is written is in `docs/planner.md`.

mod schema;

mod story;

mod world;

use std::path::PathBuf;

use story::Story;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/stories")
}

fn stories() -> Vec<(String, String)> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder()).expect("the folder of stories") {
        let path = entry.expect("an entry of the folder").path();
        if path.extension().is_some_and(|ending| ending == "story") {
            let name = path.file_name().expect("a file has a name").to_string_lossy().into_owned();
            all.push((name, std::fs::read_to_string(&path).expect("a readable story")));
        }
    }
    all.sort();
    all
}

#[test]
fn every_story_ends_as_it_is_told() {
    let mut told = 0;
    let mut wrong = Vec::new();
    for (file, text) in stories() {
        for story in Story::all_of(&file, &text) {
            told += 1;
            let name = story.as_ref().map_or(file.clone(), |story| story.name.clone());
            if let Err(error) = story.and_then(|story| story.run()) {
                wrong.push(format!("{file}: {name}: {error}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {told} stories:\n{}", wrong.len(), wrong.join("\n"));
    assert!(told >= 48, "only {told} stories are left");
}

#[test]
fn a_story_that_asserts_nothing_or_says_unknown_words_is_refused() {
    let told = |text: &str| {
        let all: Vec<_> = Story::all_of("x", text).into_iter().collect();
        assert_eq!(all.len(), 1, "{text}");
        all.into_iter().next().expect("one").and_then(|story| story.run())
    };
    let ok = "story a\nhost h1 4GiB\nexpect runs web 1GiB\nthen web on h1\n";
    assert_eq!(told(ok), Ok(()));
    for (bad, says) in [
        ("story a\nhost h1 4GiB\n", "asserts nothing"),
        ("story a\nhost h1 4GiB\nvm web on h1 1GiB\nthen web on h2\n", "no host h2"),
        ("story a\nhost h1 4GiB\nthen web on h1\n", "no vm web"),
        ("story a\nhost h1 4GiB\nhots h2 4GiB\nthen steps 0\n", "unknown word hots"),
        ("story a\nhost h1 4GiB\nthen stpes 0\n", "unknown"),
        ("story a\nvm web on h9 1GiB\nthen steps 0\n", "no host h9"),
        ("story a\nhost h1 4GiB\nexpect runs web 1GiB\nthen steps 0\n", "steps"),
        ("story a\nhost h1 4GiB\nexpect runs web 1GiB\nnever start web\n", "start web on h1"),
    ] {
        let error = told(bad).expect_err(bad);
        assert!(error.contains(says), "{bad}: {error}");
    }
}
