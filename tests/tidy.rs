//! The rules of this repository that no compiler checks: which crate may know which, that every `core/` is free of
//! IO, that nothing unfinished is left behind, that links and names in documents are right.
//!
//! Each rule is a function from files to findings; the module `offenders` shows for each that it finds one.
//! An exception is a row of a table in this file, with its reason; a row that excuses nothing is a finding itself.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Which of our packages a package may use, and which its tests may use as well. Nobody may use the root package, and
/// so nobody sees `tests/`.
const ARROWS: &[Arrows] = &[
    Arrows {
        package: "waypost-proto",
        uses: &[],
        tests_use: &[],
    },
    Arrows {
        package: "waypost-field-client",
        uses: &["waypost-proto"],
        tests_use: &["waypost-bridge"],
    },
    Arrows {
        package: "waypost-broker",
        uses: &[],
        tests_use: &[],
    },
    Arrows {
        package: "waypost-bridge",
        uses: &["waypost-proto"],
        tests_use: &[],
    },
    Arrows {
        package: "waypost-dispatch-api",
        uses: &["waypost-bridge", "waypost-proto"],
        tests_use: &[],
    },
    Arrows {
        package: "waypost-fuzz",
        uses: &["waypost-broker", "waypost-dispatch-api", "waypost-proto"],
        tests_use: &[],
    },
    Arrows {
        package: "waypost",
        uses: &[
            "waypost-broker",
            "waypost-bridge",
            "waypost-dispatch-api",
            "waypost-field-client",
            "waypost-proto",
        ],
        tests_use: &[],
    },
];

struct Arrows {
    package: &'static str,
    uses: &'static [&'static str],
    tests_use: &'static [&'static str],
}

/// What a core does not do, as it would stand in its code.
const IMPURE: &[(&str, &str)] = &[
    ("Instant::now", "reads a clock; take the time as an argument"),
    ("SystemTime", "reads a clock; take the time as an argument"),
    (".elapsed()", "reads a clock; take the time as an argument"),
    ("async", "waits; make it an output and its completion an input"),
    (".await", "waits; make it an output and its completion an input"),
    ("tokio", "knows the runtime; that is the rim's"),
    ("std::fs", "touches files; that is the rim's"),
    ("std::net", "touches sockets; that is the rim's"),
    ("std::io", "does IO; that is the rim's"),
    ("std::thread", "knows threads; that is the rim's"),
    ("std::process", "knows processes; that is the rim's"),
    ("std::env", "reads the environment; take a setting as an argument"),
    ("rand::", "draws randomness; take it as an argument"),
    ("getrandom", "draws randomness; take it as an argument"),
    ("print!", "prints"),
    ("println!", "prints"),
    ("eprint!", "prints"),
    ("eprintln!", "prints"),
    (
        "fault::",
        "asks for a deliberate fault, which the environment chooses",
    ),
];

/// Files of a core that may do one of these things nevertheless.
const IMPURE_NEVERTHELESS: &[Exception] = &[
    Exception {
        path: "bridge/src/core/up.rs",
        found: "fault::",
        reason: "the fault that takes an operation twice has to stand where operations are told apart",
    },
    Exception {
        path: "field-client/src/core/mod.rs",
        found: "fault::",
        reason: "the fault that takes a write for durable has to stand where effects wait for their write",
    },
    Exception {
        path: "field-client/src/core/receive.rs",
        found: "fault::",
        reason: "the fault that shows an entry twice has to stand where entries are told apart",
    },
];

struct Exception {
    path: &'static str,
    found: &'static str,
    reason: &'static str,
}

/// What marks something as unfinished.
const LEFT_OVER: &[&str] = &["todo!", "unimplemented!", "dbg!"];

/// Names that say nothing of what is in the file.
const NAMELESS: &[&str] = &["types.rs", "utils.rs", "common.rs", "prelude.rs"];

/// Folders that are made, not written.
const MADE: &[&str] = &["target", "node_modules", "dist", "waypost-data", ".git", "tmp"];

/// What a rule found, for a person to read.
type Findings = Vec<String>;

/// A file of the repository, or one that a test makes up.
struct File {
    /// From the root of the repository, with slashes.
    path: String,
    text: String,
}

#[test]
fn crates_use_only_what_they_may() {
    assert_none(&arrows(&repository(&["Cargo.toml"])));
}

#[test]
fn every_core_is_free_of_clocks_waiting_and_io() {
    let files = repository(&[".rs"]);
    let cores = files.iter().filter(|file| is_core(&file.path)).count();
    assert!(
        cores > 20,
        "there are three cores, but only {cores} files of them were found"
    );
    assert_none(&impure(&files, IMPURE_NEVERTHELESS));
}

#[test]
fn nothing_unfinished_is_left_behind() {
    assert_none(&left_over(&repository(&[
        ".rs", ".toml", ".md", ".ts", ".svelte", ".mjs", ".proto",
    ])));
}

#[test]
fn files_are_named_for_what_is_in_them() {
    assert_none(&nameless(&repository(&[".rs"])));
}

#[test]
fn links_in_documents_lead_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    assert_none(&dead_links(&repository(&[".md"]), |path| {
        root.join(path).exists()
    }));
}

#[test]
fn names_in_documents_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let exists = |path: &str| root.join(path).exists();
    assert_none(&stale_names(&repository(&[".md"]), &repository(&[".rs"]), exists));
}

fn assert_none(findings: &[String]) {
    assert!(findings.is_empty(), "\n{}\n", findings.join("\n"));
}

/// Our packages in the manifests that are not among those that a package may use.
fn arrows(manifests: &[File]) -> Findings {
    let mut findings = Findings::new();
    let parsed: Vec<(&str, toml::Table)> = manifests
        .iter()
        .filter_map(|file| match file.text.parse() {
            Ok(table) => Some((file.path.as_str(), table)),
            Err(error) => {
                findings.push(format!("{}: is no TOML: {error}", file.path));
                None
            }
        })
        .collect();
    // A dependency may have another name in a manifest than its package has; the workspace may rename it for all.
    let workspace = parsed
        .iter()
        .find_map(|(_, table)| table.get("workspace")?.get("dependencies")?.as_table());
    let package_of = |name: &str, dependency: &toml::Value| {
        let renamed = |value: &toml::Value| Some(value.get("package")?.as_str()?.to_owned());
        let inherited = || renamed(workspace?.get(name)?);
        renamed(dependency)
            .or_else(inherited)
            .unwrap_or_else(|| name.to_owned())
    };
    for (path, manifest) in &parsed {
        let Some(package) = manifest
            .get("package")
            .and_then(|package| package.get("name")?.as_str())
        else {
            continue;
        };
        let Some(row) = ARROWS.iter().find(|row| row.package == package) else {
            findings.push(format!("{path}: {package} has no row in ARROWS"));
            continue;
        };
        for (table, allowed) in [
            ("dependencies", row.uses.to_vec()),
            ("build-dependencies", row.uses.to_vec()),
            ("dev-dependencies", [row.uses, row.tests_use].concat()),
        ] {
            for (name, dependency) in dependencies(manifest, table) {
                let used = package_of(name, dependency);
                let ours = used == "waypost" || used.starts_with("waypost-");
                if ours && !allowed.contains(&used.as_str()) {
                    findings.push(format!(
                        "{path}: {package} must not have {used} among its {table}"
                    ));
                }
            }
        }
    }
    findings
}

/// The rows of a table of dependencies, those for some platforms included.
fn dependencies<'a>(
    manifest: &'a toml::Table,
    table: &'a str,
) -> impl Iterator<Item = (&'a String, &'a toml::Value)> {
    let platforms = manifest
        .get("target")
        .and_then(toml::Value::as_table)
        .into_iter()
        .flatten();
    let tables = platforms.filter_map(move |(_, platform)| platform.get(table));
    manifest
        .get(table)
        .into_iter()
        .chain(tables)
        .filter_map(toml::Value::as_table)
        .flatten()
}

/// What cores do that they must not, and exceptions that excuse nothing.
fn impure(files: &[File], exceptions: &[Exception]) -> Findings {
    let test_modules: Vec<String> = files.iter().flat_map(test_modules).collect();
    let is_test = |path: &str| {
        test_modules
            .iter()
            .any(|module| path == format!("{module}.rs") || path.starts_with(&format!("{module}/")))
    };
    let mut unused: BTreeMap<(&str, &str), &str> = exceptions
        .iter()
        .map(|exception| ((exception.path, exception.found), exception.reason))
        .collect();
    let mut findings = Findings::new();
    for file in files
        .iter()
        .filter(|file| is_core(&file.path) && !is_test(&file.path))
    {
        let code = without_tests(&blanked(&file.text, Blank::CommentsAndTexts));
        for (number, line) in (1..).zip(spelled_out(&code).lines()) {
            for (found, complaint) in IMPURE {
                if !has_token(line, found) {
                    continue;
                }
                let excused = exceptions
                    .iter()
                    .find(|row| row.path == file.path && row.found == *found);
                match excused {
                    Some(row) => drop(unused.remove(&(row.path, row.found))),
                    None => findings.push(format!("{}:{number}: `{found}` {complaint}", file.path)),
                }
            }
        }
    }
    let stale = unused.into_iter().map(|((path, found), reason)| {
        format!("{path}: has no `{found}` any more, take its exception away ({reason})")
    });
    findings.extend(stale);
    findings
}

fn is_core(path: &str) -> bool {
    path.ends_with(".rs") && path.contains("/src/core/")
}

/// Modules of a file that are compiled for tests alone, as paths without their extension.
fn test_modules(file: &File) -> Vec<String> {
    let code = blanked(&file.text, Blank::CommentsAndTexts);
    let folder = file.path.rsplit_once('/').map_or("", |(folder, _)| folder);
    code.match_indices(TEST_ONLY)
        .filter_map(|(at, _)| {
            let item = code[at + TEST_ONLY.len()..].trim_start();
            let name = item.strip_prefix("mod ")?.split_once(';')?.0.trim();
            name.chars()
                .all(|c| c.is_alphanumeric() || c == '_')
                .then(|| format!("{folder}/{name}"))
        })
        .collect()
}

const TEST_ONLY: &str = "#[cfg(test)]";

/// The code with every item blanked that is compiled for tests alone.
fn without_tests(code: &str) -> String {
    let mut kept = String::with_capacity(code.len());
    let mut rest = code;
    while let Some(at) = rest.find(TEST_ONLY) {
        kept.push_str(&rest[..at]);
        let item = &rest[at..];
        let end = end_of_item(item);
        kept.extend(item[..end].chars().filter(|c| *c == '\n'));
        rest = &item[end..];
    }
    kept.push_str(rest);
    kept
}

/// Where an item that begins the code ends: behind its braces, or behind its semicolon.
fn end_of_item(code: &str) -> usize {
    let mut depth = 0usize;
    for (at, c) in code.char_indices() {
        match c {
            '{' | '(' | '[' => depth += 1,
            '}' | ')' | ']' => {
                depth = depth.saturating_sub(1);
                if depth == 0 && c == '}' {
                    return at + 1;
                }
            }
            ';' if depth == 0 => return at + 1,
            _ => {}
        }
    }
    code.len()
}

/// `use std::{fs, time::Instant}` with the first segments spelled out, so that a token can be found on its line.
fn spelled_out(code: &str) -> String {
    let mut spelled = String::with_capacity(code.len());
    let mut rest = code;
    while let Some(at) = rest.find("std::{") {
        let (before, group) = rest.split_at(at + "std::{".len());
        spelled.push_str(before);
        let end = group.len() - group.trim_start_matches(|c| c != ';').len();
        let mut depth = 0usize;
        let mut at_start = true;
        for c in group[..end].chars() {
            if at_start && depth == 0 && (c.is_alphabetic() || c == '_') {
                spelled.push_str("std::");
                at_start = false;
            }
            match c {
                '{' => depth += 1,
                '}' => depth = depth.saturating_sub(1),
                ',' => at_start = true,
                _ => {}
            }
            spelled.push(c);
        }
        rest = &group[end..];
    }
    spelled.push_str(rest);
    spelled
}

/// Whether `token` stands in the line, and not as a part of a longer word.
fn has_token(line: &str, token: &str) -> bool {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(token).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + token.len()..].chars().next();
        let starts = !token.starts_with(is_word) || !before.is_some_and(is_word);
        let ends = !token.ends_with(is_word) || !after.is_some_and(is_word);
        starts && ends
    })
}

/// Marks of unfinished work; in Rust also in comments, never in texts.
fn left_over(files: &[File]) -> Findings {
    let mut findings = Findings::new();
    for file in files {
        let text = if file.path.ends_with(".rs") {
            blanked(&file.text, Blank::Texts)
        } else {
            file.text.clone()
        };
        for (number, line) in (1..).zip(text.lines()) {
            let marks = LEFT_OVER.iter().filter(|mark| has_token(line, mark));
            findings.extend(marks.map(|mark| format!("{}:{number}: `{mark}` is left over", file.path)));
        }
    }
    findings
}

/// Files whose name says nothing.
fn nameless(files: &[File]) -> Findings {
    let name = |file: &File| file.path.rsplit('/').next().unwrap_or_default().to_owned();
    files
        .iter()
        .filter(|file| NAMELESS.contains(&name(file).as_str()))
        .map(|file| format!("{}: name it for the noun of the domain that is in it", file.path))
        .collect()
}

/// Links and pictures of documents that name a file of the repository which is not there.
fn dead_links(documents: &[File], exists: impl Fn(&str) -> bool) -> Findings {
    let mut findings = Findings::new();
    for document in documents {
        let folder = document.path.rsplit_once('/').map_or("", |(folder, _)| folder);
        for (number, line) in (1..).zip(without_code(&document.text).lines()) {
            for target in link_targets(line) {
                let file = target.split('#').next().unwrap_or_default();
                if file.is_empty() || file.contains("://") || file.starts_with("mailto:") {
                    continue;
                }
                match resolved(folder, file) {
                    Some(path) if exists(&path) => {}
                    _ => findings.push(format!("{}:{number}: there is no {file}", document.path)),
                }
            }
        }
    }
    findings
}

/// Files and tests that documents name between backticks and that are not there. A name of four or more lower-case
/// words is taken for that of a test: no other name here is so long.
fn stale_names(documents: &[File], sources: &[File], exists: impl Fn(&str) -> bool) -> Findings {
    let is_path = |name: &str| {
        // What begins with a slash is a path of HTTP.
        name.contains('/')
            && !name.starts_with('/')
            && SOURCES.iter().any(|ending| name.ends_with(ending))
            && !name.contains(['*', ' ', '<'])
    };
    let is_long_name = |name: &str| {
        name.split('_').count() >= 4
            && name
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    };
    // Of a test, or of a metric.
    let is_defined = |name: &str| {
        let definition = if name.starts_with("waypost_") {
            format!("\"{name}\"")
        } else {
            format!("fn {name}(")
        };
        sources.iter().any(|source| source.text.contains(&definition))
    };
    let mut findings = Findings::new();
    for document in documents {
        let folder = document.path.rsplit_once('/').map_or("", |(folder, _)| folder);
        for (number, line) in (1..).zip(document.text.lines()) {
            for name in line.split('`').skip(1).step_by(2) {
                let is_there =
                    |name| exists(name) || resolved(folder, name).is_some_and(|path| exists(&path));
                if (is_path(name) && !is_there(name)) || (is_long_name(name) && !is_defined(name)) {
                    findings.push(format!("{}:{number}: there is no {name}", document.path));
                }
            }
        }
    }
    findings
}

/// What a path has to end in to be taken for one of ours.
const SOURCES: &[&str] = &[".rs", ".proto", ".json", ".toml", ".md"];

/// What a line of Markdown links to: `[text](target)`, `![text](target "title")`, `[name]: target`, `src="target"`.
fn link_targets(line: &str) -> Vec<&str> {
    let until =
        |rest: &'static str| move |from: &str| from.find(|c: char| rest.contains(c)).unwrap_or(from.len());
    let mut targets = Vec::new();
    for (opening, closing) in [("](", " )"), ("]: ", " "), ("src=\"", "\""), ("href=\"", "\"")] {
        for (at, _) in line.match_indices(opening) {
            let rest = &line[at + opening.len()..];
            targets.push(&rest[..until(closing)(rest)]);
        }
    }
    targets
}

/// Markdown with its code blanked, where brackets mean something else.
fn without_code(text: &str) -> String {
    let mut fenced = false;
    let lines = text.lines().map(|line| {
        let is_fence = line.trim_start().starts_with("```");
        fenced ^= is_fence;
        if fenced || is_fence || line.starts_with("    ") {
            return String::new();
        }
        // Every second piece between backticks is code.
        line.split('`').step_by(2).collect::<Vec<_>>().join("`")
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// A relative path from a folder; `None` where it leaves the repository.
fn resolved(folder: &str, relative: &str) -> Option<String> {
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in relative.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

/// What [`blanked`] takes away.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Blank {
    Texts,
    CommentsAndTexts,
}

/// Rust with the content of texts, and of comments where asked for, replaced by spaces; lines stay where they are.
fn blanked(text: &str, what: Blank) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let comment = comment_length(rest);
        let length = if comment > 0 {
            comment
        } else {
            text_length(rest, code.chars().next_back())
        };
        if length == 0 {
            code.push(c);
            rest = &rest[c.len_utf8()..];
            continue;
        }
        let (piece, after) = rest.split_at(length);
        if comment > 0 && what == Blank::Texts {
            code.push_str(piece);
        } else {
            code.extend(piece.chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        }
        rest = after;
    }
    code
}

/// The length of the comment that begins the code; 0 where none does.
fn comment_length(code: &str) -> usize {
    if code.starts_with("//") {
        return code.find('\n').unwrap_or(code.len());
    }
    if !code.starts_with("/*") {
        return 0;
    }
    // Comments of this kind nest.
    let (mut depth, mut at) = (0usize, 0);
    while at < code.len() {
        if code[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if code[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += code[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    code.len()
}

/// The length of the text or character that begins the code, its quotes included; 0 where none does.
fn text_length(code: &str, before: Option<char>) -> usize {
    let in_word = before.is_some_and(|c| c.is_alphanumeric() || c == '_');
    let raw = code
        .strip_prefix("br")
        .or_else(|| code.strip_prefix('r'))
        .filter(|_| !in_word);
    if let Some(rest) = raw {
        let hashes = rest.len() - rest.trim_start_matches('#').len();
        if rest[hashes..].starts_with('"') {
            let closing = format!("\"{}", "#".repeat(hashes));
            let opening = code.len() - rest.len() + hashes + 1;
            return code[opening..]
                .find(&closing)
                .map_or(code.len(), |at| opening + at + closing.len());
        }
    }
    let mut chars = code.char_indices();
    match chars.next() {
        Some((_, '"')) => {
            while let Some((at, c)) = chars.next() {
                match c {
                    '\\' => drop(chars.next()),
                    '"' => return at + 1,
                    _ => {}
                }
            }
            code.len()
        }
        // A lifetime has no closing quote after its first character.
        Some((_, '\'')) => match (chars.next(), chars.next()) {
            (Some((_, '\\')), _) => code[2..].find('\'').filter(|at| *at < 12).map_or(0, |at| {
                // `'\''` closes at the second quote.
                if at == 0 { 4 } else { at + 3 }
            }),
            (Some(_), Some((at, '\''))) => at + 1,
            _ => 0,
        },
        _ => 0,
    }
}

/// The files of the repository whose path ends in one of these ways.
fn repository(endings: &[&str]) -> Vec<File> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        for entry in entries {
            let path = entry.expect("a folder that was opened can be read").path();
            let name = path
                .file_name()
                .and_then(|name| name.to_str())
                .unwrap_or_default();
            if path.is_dir() {
                if !MADE.contains(&name) {
                    folders.push(path);
                }
            } else if endings.iter().any(|ending| name.ends_with(ending)) {
                let text =
                    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
                let relative = path.strip_prefix(root).expect("the walk began at the root");
                files.push(File {
                    path: relative.to_string_lossy().replace('\\', "/"),
                    text,
                });
            }
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(!files.is_empty(), "no file ends in any of {endings:?}");
    files
}

mod offenders {
    use super::*;

    fn file(path: &str, text: &str) -> File {
        File {
            path: path.to_owned(),
            text: text.to_owned(),
        }
    }

    #[test]
    fn rules_find_an_arrow_that_points_the_wrong_way() {
        let manifest = |package: &str, rest: &str| {
            file(
                "x/Cargo.toml",
                &format!("[package]\nname = \"{package}\"\n{rest}"),
            )
        };
        let offenders = [
            ("waypost-proto", "[dependencies]\nwaypost-broker.workspace = true"),
            (
                "waypost-broker",
                "[dependencies]\nwaypost-proto = { path = \"../proto\" }",
            ),
            (
                "waypost-field-client",
                "[build-dependencies]\nwaypost-bridge.workspace = true",
            ),
            (
                "waypost-bridge",
                "[dev-dependencies]\nwaypost-broker.workspace = true",
            ),
            (
                "waypost-bridge",
                "[target.'cfg(unix)'.dependencies]\nwaypost-field-client.workspace = true",
            ),
            (
                "waypost-dispatch-api",
                "[dependencies]\nmqtt = { package = \"waypost-broker\", path = \"../broker\" }",
            ),
            (
                "waypost-dispatch-api",
                "[dependencies]\nwaypost = { path = \"..\" }",
            ),
            (
                "waypost-bridge",
                "[dependencies]\nweb.workspace = true\n[workspace.dependencies]\nweb = { package = \"waypost-dispatch-api\", path = \"w\" }",
            ),
            ("waypost-newcomer", ""),
        ];
        for (package, rest) in offenders {
            assert_eq!(arrows(&[manifest(package, rest)]).len(), 1, "{package}: {rest}");
        }
        assert_eq!(arrows(&[file("Cargo.toml", "[package")]).len(), 1);
        let decent =
            "[dependencies]\nwaypost-proto.workspace = true\ntokio = \"1\"\n[dev-dependencies]\ntoml = \"1\"";
        assert_none(&arrows(&[manifest("waypost-bridge", decent)]));
    }

    #[test]
    fn rules_find_a_core_that_is_not_pure() {
        let offenders = [
            "let now = Instant::now();",
            "let now = std::time::SystemTime::now();",
            "if begun.elapsed() > wait {}",
            "async fn handle(&mut self) {}",
            "let later = async move { 1 };",
            "reply.await",
            "use tokio::sync::mpsc;",
            "std::fs::write(path, bytes)",
            "use std::{collections::{BTreeMap, BTreeSet}, fs::File, time::Instant};",
            "use std::{\n    fmt,\n    net::SocketAddr,\n};",
            "std::thread::sleep(pause);",
            "std::env::var(\"X\")",
            "let tag = rand::random();",
            "getrandom::fill(&mut epoch)",
            "println!(\"{tag}\");",
            "eprintln!(\"{tag}\");",
            "crate::fault::is(\"x\")",
            "let quote = '\"'; let now = Instant::now(); // \"",
            "let escaped = '\\''; let now = Instant::now(); // '",
            "let text = r#\"\"\"#; let now = Instant::now();",
            "fn f<'a>(x: &'a str) { Instant::now(); }",
            "#[cfg(test)]\nmod tests { fn f() { if a { b } } }\nfn g() { Instant::now(); }",
            "#[cfg(test)]\nuse x::y;\nfn g() { Instant::now(); }",
            "/* a /* nested */ comment */ fn g() { Instant::now(); }",
        ];
        for text in offenders {
            let found = impure(&[file("bridge/src/core/up.rs", text)], &[]);
            assert_eq!(found.len(), 1, "{text}: {found:?}");
        }
    }

    #[test]
    fn rules_leave_a_pure_core_and_its_tests_alone() {
        let decent = [
            "//! Never calls `Instant::now()`, never uses tokio.\nfn f(now: Instant) {}",
            "/* std::fs\n /* and std::net */ .await */ fn f() {}",
            "fn f() -> &'static str { \"std::fs and \\\" .await\" }",
            "fn f() -> &'static str { r#\"tokio \" getrandom\"# }",
            "use std::{\n    collections::BTreeMap,\n    time::{Duration, Instant},\n};",
            "let operand::X = strand::Y; // a part of a word",
            "#[cfg(test)]\nmod tests {\n    #[test]\n    fn f() { Instant::now(); }\n}",
            "#[cfg(test)]\n#[allow(dead_code)]\nfn now() -> Instant { Instant::now() }",
        ];
        for text in decent {
            assert_none(&impure(&[file("bridge/src/core/up.rs", text)], &[]));
        }
        assert_none(&impure(&[file("bridge/src/service.rs", "Instant::now()")], &[]));
        let with_test_module = [
            file(
                "broker/src/core/mod.rs",
                "#[cfg(test)]\nmod harness;\n#[cfg(test)]\nmod tests;",
            ),
            file("broker/src/core/harness.rs", "std::fs::read(x)"),
            file("broker/src/core/tests/wills.rs", "Instant::now()"),
        ];
        assert_none(&impure(&with_test_module, &[]));
    }

    #[test]
    fn an_exception_holds_for_its_row_and_has_to_excuse_something() {
        let row = Exception {
            path: "a/src/core/up.rs",
            found: "fault::",
            reason: "because",
        };
        let excused = file("a/src/core/up.rs", "crate::fault::is(x)");
        assert_none(&impure(&[excused], &[row]));
        let row = || Exception {
            path: "a/src/core/up.rs",
            found: "fault::",
            reason: "because",
        };
        let elsewhere = file("a/src/core/down.rs", "crate::fault::is(x)");
        assert_eq!(
            impure(&[elsewhere], &[row()]).len(),
            2,
            "a finding, and a row that excuses nothing"
        );
        let worse = file("a/src/core/up.rs", "crate::fault::is(x); Instant::now()");
        assert_eq!(impure(&[worse], &[row()]).len(), 1);
    }

    #[test]
    fn rules_find_what_is_left_over() {
        for (path, text) in [
            ("src/main.rs", "fn f() { todo!() }"),
            ("src/main.rs", "// unimplemented!() for now"),
            ("src/main.rs", "dbg!(x);"),
            ("README.md", "The store is todo!"),
        ] {
            assert_eq!(left_over(&[file(path, text)]).len(), 1, "{path}: {text}");
        }
        assert_none(&left_over(&[file(
            "src/main.rs",
            "let mark = \"todo!\"; not_dbg!(x);",
        )]));
    }

    #[test]
    fn rules_find_a_name_that_says_nothing() {
        for path in [
            "bridge/src/types.rs",
            "utils.rs",
            "broker/src/core/common.rs",
            "proto/src/prelude.rs",
        ] {
            assert_eq!(nameless(&[file(path, "")]).len(), 1, "{path}");
        }
        assert_none(&nameless(&[
            file("proto/src/wire_types.rs", ""),
            file("common/src/lib.rs", ""),
        ]));
    }

    #[test]
    fn rules_find_a_link_that_leads_nowhere() {
        let exists = |path: &str| ["README.md", "docs/a.md", "docs/images/x.png"].contains(&path);
        for (path, text) in [
            ("README.md", "see [a](docs/b.md)"),
            ("README.md", "![a](images/x.png)"),
            ("docs/a.md", "[up](README.md)"),
            ("docs/a.md", "[out](../../secret.md)"),
            ("README.md", "<img alt=\"a\" src=\"docs/y.png\">"),
            ("README.md", "[a]: docs/b.md"),
        ] {
            assert_eq!(dead_links(&[file(path, text)], exists).len(), 1, "{path}: {text}");
        }
        for (path, text) in [
            (
                "README.md",
                "[a](docs/a.md#part \"title\"), [b](#below), [c](https://example.com/x.md)",
            ),
            ("docs/a.md", "![x](images/x.png) and [up](../README.md)"),
            (
                "README.md",
                "```\n[a](nowhere.md)\n```\n`[b](nowhere.md)`\n\n    [c](nowhere.md)",
            ),
        ] {
            assert_none(&dead_links(&[file(path, text)], exists));
        }
    }

    #[test]
    fn rules_find_a_name_that_is_not_there_any_more() {
        let sources = [file(
            "a/src/lib.rs",
            "fn a_message_comes_once() {}\nfn dedupe() {}",
        )];
        let exists = |path: &str| path == "a/src/lib.rs";
        for text in [
            "see `a/src/gone.rs`",
            "`a_message_comes_twice`",
            "`dedupe` and `proto/a.proto`",
        ] {
            assert_eq!(
                stale_names(&[file("README.md", text)], &sources, exists).len(),
                1,
                "{text}"
            );
        }
        for text in [
            "see `a/src/lib.rs`: `a_message_comes_once`, `dedupe`",
            "`PUT /x/{y}`, `short_name_here`",
        ] {
            assert_none(&stale_names(&[file("README.md", text)], &sources, exists));
        }
    }
}
