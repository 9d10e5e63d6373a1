//! The tables of clauses, held to the standards and to the tests.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// A version's table, and how many clauses each section of its Appendix B has.
struct Standard {
    /// As the doc of a test says it.
    version: &'static str,
    table: &'static str,
    /// Section, first number, last number.
    sections: &'static [(&'static str, u32, u32)],
}

const STANDARDS: [Standard; 2] = [
    Standard {
        version: "5",
        table: include_str!("mqtt5.md"),
        sections: &[
            ("1.5.4", 1, 3),
            ("1.5.5", 1, 1),
            ("1.5.7", 1, 1),
            ("2.1.3", 1, 1),
            ("2.2.1", 2, 6),
            ("2.2.2", 1, 1),
            ("3.1.0", 1, 2),
            ("3.1.2", 1, 30),
            ("3.1.3", 1, 12),
            ("3.1.4", 1, 6),
            ("3.2.0", 1, 2),
            ("3.2.2", 1, 22),
            ("3.3.1", 1, 13),
            ("3.3.2", 1, 20),
            ("3.3.4", 1, 10),
            ("3.4.2", 1, 3),
            ("3.5.2", 1, 3),
            ("3.6.1", 1, 1),
            ("3.6.2", 1, 3),
            ("3.7.2", 1, 3),
            ("3.8.1", 1, 1),
            ("3.8.3", 1, 5),
            ("3.8.4", 1, 8),
            ("3.9.2", 1, 2),
            ("3.9.3", 1, 2),
            ("3.10.1", 1, 1),
            ("3.10.3", 1, 2),
            ("3.10.4", 1, 6),
            ("3.11.2", 1, 2),
            ("3.11.3", 1, 2),
            ("3.12.4", 1, 1),
            ("3.14.0", 1, 1),
            ("3.14.1", 1, 1),
            ("3.14.2", 1, 4),
            ("3.14.4", 1, 3),
            ("3.15.1", 1, 1),
            ("3.15.2", 1, 3),
            ("4.1.0", 1, 2),
            ("4.2", 1, 1),
            ("4.3.1", 1, 1),
            ("4.3.2", 1, 5),
            ("4.3.3", 1, 13),
            ("4.4.0", 1, 2),
            ("4.5.0", 1, 2),
            ("4.6.0", 1, 6),
            ("4.7.0", 1, 1),
            ("4.7.1", 1, 2),
            ("4.7.2", 1, 1),
            ("4.7.3", 1, 4),
            ("4.8.2", 1, 6),
            ("4.9.0", 1, 3),
            ("4.12.0", 1, 7),
            ("4.12.1", 1, 2),
            ("4.13.1", 1, 1),
            ("4.13.2", 1, 1),
            ("6.0.0", 1, 4),
        ],
    },
    Standard {
        version: "3.1.1",
        table: include_str!("mqtt311.md"),
        sections: &[
            ("1.5.3", 1, 3),
            ("2.2.2", 1, 2),
            ("2.3.1", 1, 7),
            ("3.1.0", 1, 2),
            ("3.1.2", 1, 24),
            ("3.1.3", 1, 11),
            ("3.1.4", 1, 5),
            ("3.2.0", 1, 1),
            ("3.2.2", 1, 6),
            ("3.3.1", 1, 12),
            ("3.3.2", 1, 3),
            ("3.3.4", 1, 1),
            ("3.3.5", 1, 2),
            ("3.6.1", 1, 1),
            ("3.8.1", 1, 1),
            ("3.8.3", 1, 4),
            ("3.8.4", 1, 6),
            ("3.9.3", 1, 2),
            ("3.10.1", 1, 1),
            ("3.10.3", 1, 2),
            ("3.10.4", 1, 6),
            ("3.12.4", 1, 1),
            ("3.14.1", 1, 1),
            ("3.14.4", 1, 3),
            ("4.1.0", 1, 2),
            ("4.3.1", 1, 1),
            ("4.3.2", 1, 2),
            ("4.3.3", 1, 2),
            ("4.4.0", 1, 1),
            ("4.5.0", 1, 2),
            ("4.6.0", 1, 6),
            ("4.7.1", 1, 3),
            ("4.7.2", 1, 1),
            ("4.7.3", 1, 4),
            ("4.8.0", 1, 2),
            ("6.0.0", 1, 4),
            ("7.0.0", 1, 2),
            ("7.1.1", 1, 1),
            ("7.1.2", 1, 1),
        ],
    },
];

/// One row of a table.
struct Row<'a> {
    /// Without `MQTT-`.
    clause: &'a str,
    summary: &'a str,
    binds: &'a str,
    tests: Vec<&'a str>,
    /// What stands in place of tests.
    why: &'a str,
}

fn rows(table: &str) -> Vec<Row<'_>> {
    table
        .lines()
        .filter_map(|line| line.strip_prefix("| MQTT-"))
        .map(|line| {
            let cells: Vec<&str> = line.trim_end_matches(" |").split(" | ").collect();
            let [clause, summary, binds, last] = cells[..] else {
                panic!("not four cells: {line}");
            };
            let tests: Vec<&str> = last.split('`').skip(1).step_by(2).collect();
            Row {
                clause,
                summary,
                binds,
                why: if tests.is_empty() { last } else { "" },
                tests,
            }
        })
        .collect()
}

#[test]
fn every_clause_stands_in_its_table_once_and_in_its_place() {
    for standard in STANDARDS {
        let expected: Vec<String> = standard
            .sections
            .iter()
            .flat_map(|(section, first, last)| {
                (*first..=*last).map(move |number| format!("{section}-{number}"))
            })
            .collect();
        let rows = rows(standard.table);
        let found: Vec<&str> = rows.iter().map(|row| row.clause).collect();
        assert_eq!(found, expected, "{}", standard.version);
        for row in rows {
            assert!(
                matches!(row.binds, "server" | "client" | "both"),
                "{}: {}",
                row.clause,
                row.binds
            );
            assert!(!row.summary.is_empty(), "{}", row.clause);
            // A server that it binds shows so, or has a reason that is one.
            assert!(
                !row.tests.is_empty() || row.why.split(' ').count() >= 3,
                "{}: {:?}",
                row.clause,
                row.why
            );
            if row.binds != "client" {
                assert!(!row.why.starts_with("binds the client"), "{}", row.clause);
            }
        }
    }
}

fn here() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance")
}

/// The tests of this folder by `file::name`, each with its doc.
fn tests_here() -> BTreeMap<String, String> {
    let mut tests = BTreeMap::new();
    for entry in fs::read_dir(here()).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_string();
        // What holds the tables to the tests is not one of them.
        if path.extension().is_none_or(|extension| extension != "rs") || name == "table" {
            continue;
        }
        let (mut doc, mut is_test) = (String::new(), false);
        for line in fs::read_to_string(&path).unwrap().lines() {
            if let Some(text) = line.strip_prefix("///") {
                doc += text;
            } else if line.starts_with("#[tokio::test") || line == "#[test]" {
                is_test = true;
            } else if let Some(rest) = line.strip_prefix("async fn ").or(line.strip_prefix("fn "))
                && is_test
            {
                let (test, _) = rest.split_once('(').unwrap();
                tests.insert(format!("{name}::{test}"), std::mem::take(&mut doc));
                is_test = false;
            } else {
                doc.clear();
            }
        }
    }
    tests
}

/// The clauses that a doc names for a version: `5: 1.5.4-1, 1.5.4-2. 3.1.1: 1.5.3-1.`
fn named<'a>(doc: &'a str, version: &str) -> BTreeSet<&'a str> {
    let mut words = doc.split_whitespace();
    let mut clauses = BTreeSet::new();
    while let Some(word) = words.next() {
        if word.strip_suffix(':') != Some(version) {
            continue;
        }
        for word in words.by_ref() {
            clauses.insert(word.trim_end_matches([',', '.']));
            if word.ends_with('.') {
                break;
            }
        }
    }
    clauses
}

#[test]
fn the_tables_and_the_tests_say_the_same_of_each_other() {
    let tests = tests_here();
    assert!(tests.len() > 100, "{}", tests.len());
    let mut said = BTreeSet::new();
    for standard in STANDARDS {
        let mut by_test: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for row in rows(standard.table) {
            for test in row.tests {
                by_test.entry(test).or_default().insert(row.clause);
            }
        }
        for (test, doc) in &tests {
            let clauses = by_test.remove(test.as_str()).unwrap_or_default();
            assert_eq!(
                named(doc, standard.version),
                clauses,
                "the doc of {test} on the left, the table of {} on the right",
                standard.version
            );
            if !clauses.is_empty() {
                said.insert(test.as_str());
            }
        }
        // Those that are left stand elsewhere.
        for test in by_test.into_keys() {
            let (file, name) = test.rsplit_once("::").unwrap();
            let path = here().join("../../..").join(file);
            let source = fs::read_to_string(&path)
                .unwrap_or_else(|error| panic!("{test}: {}: {error}", path.display()));
            assert!(source.contains(&format!("fn {name}(")), "there is no {test}");
        }
    }
    let unsaid: Vec<&String> = tests
        .keys()
        .filter(|test| !said.contains(test.as_str()))
        .collect();
    assert!(unsaid.is_empty(), "in no table: {unsaid:?}");
}
