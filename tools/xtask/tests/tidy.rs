//! The rules of style on this very checkout, one test per rule.

use std::sync::LazyLock;

use xtask::tidy::{RULES, Tree, workspace_root};

static TREE: LazyLock<Tree> = LazyLock::new(|| {
    let root = workspace_root().expect("cargo tells where this crate stands");
    Tree::open(&root).expect("the checkout can be read")
});

#[track_caller]
fn check(name: &str) {
    let rule = RULES.iter().find(|rule| rule.name == name).expect("the rule is in the list");
    let found: Vec<String> = (rule.check)(&TREE).iter().map(ToString::to_string).collect();
    assert!(found.is_empty(), "{}:\n  {}\n", rule.summary, found.join("\n  "));
}

#[test]
fn arrows() {
    check("arrows");
}

#[test]
fn top_level() {
    check("top_level");
}

#[test]
fn module_docs() {
    check("module_docs");
}

#[test]
fn named_paths() {
    check("named_paths");
}

#[test]
fn banned_words() {
    check("banned_words");
}

#[test]
fn decisions() {
    check("decisions");
}

#[test]
fn unsafe_islands() {
    check("unsafe_islands");
}

#[test]
fn lengths() {
    check("lengths");
}

#[test]
fn machine_paths() {
    check("machine_paths");
}

#[test]
fn blobs() {
    check("blobs");
}

#[test]
fn licences() {
    check("licences");
}

#[test]
fn every_rule_has_its_test_here() {
    let this = include_str!("tidy.rs");
    for rule in RULES {
        assert!(this.contains(&format!("fn {}()", rule.name)), "write a test for `{}`", rule.name);
    }
}
