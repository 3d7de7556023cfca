//! Each rule on texts that keep it and on texts that break it.

use cargo_metadata::DependencyKind;

use super::arrows::{Edge, Package, wrong_edges};
use super::source::{Source, find_word};
use super::*;

// In pieces, so that greps and tidy itself do not take these examples for code.
const UNSAFE: &str = concat!("uns", "afe");
const MARK: &str = concat!("FIX", "ME");
const TMP: &str = concat!("/tm", "p/");
const SLEEP: &str = concat!("thread::", "sleep");
const NOW: &str = concat!("Instant", "::now");

fn lines(check: fn(&Tree) -> Vec<Violation>, texts: &[(&str, &str)]) -> Vec<String> {
    let place = |violation: Violation| format!("{}:{}", violation.path, violation.line);
    check(&Tree::of(texts)).into_iter().map(place).collect()
}

#[track_caller]
fn keeps(check: fn(&Tree) -> Vec<Violation>, path: &str, text: &str) {
    assert_eq!(lines(check, &[(path, text)]), Vec::<String>::new(), "{text}");
}

#[track_caller]
fn breaks(check: fn(&Tree) -> Vec<Violation>, path: &str, line: usize, text: &str) {
    assert_eq!(lines(check, &[(path, text)]), [format!("{path}:{line}")], "{text}");
}

// Source.

#[track_caller]
fn code(text: &str, expected: &str) {
    let source = Source::new(text);
    assert_eq!(source.code.len(), text.len(), "offsets agree");
    let words: Vec<&str> = source.code.split_whitespace().collect();
    assert_eq!(words.join(" "), expected);
}

#[test]
fn comments_and_literals_are_no_code() {
    code("a // b\nc", "a c");
    code("a /* b /* c */ d */ e", "a e");
    code(r#"a("b \" c // d") e"#, "a( ) e");
    code("a(r#\"b \" c\"#) d", "a( ) d");
    code("a(b\"x{\", br\"y{\", c\"z\") d", "a(b , b , c ) d");
    code("match c { '{' => '\\'', '\\u{7d}' => b'\"' }", "match c { => , => b }");
}

#[test]
fn lifetimes_and_raw_identifiers_are_code() {
    code(
        "fn a<'a>(b: &'a str) -> &'static str { r#type }",
        "fn a<'a>(b: &'a str) -> &'static str { r#type }",
    );
    code("let bar = for_r#\"x\"# + y", "let bar = for_r# # + y");
}

#[test]
fn multi_byte_text_keeps_its_offsets() {
    let source = Source::new("// größer\nlet x = \"ä\"; call()");
    assert_eq!(source.line(source.find("call")[0]), 2);
}

#[test]
fn words_are_found_whole() {
    assert_eq!(find_word("spawn_all respawn spawn", "spawn"), [18]);
    assert_eq!(find_word("eprintln! println!", "println!"), [10]);
    assert_eq!(find_word("a.await b.awaited", ".await"), [1]);
}

#[test]
fn functions_are_measured_to_their_closing_brace() {
    let text = "trait T {\n    fn declared(&self) -> [u8; 4];\n}\n\
                fn a<T>(x: [T; 2]) -> fn(u8) -> u8\nwhere\n    T: Fn(u8),\n{\n    let s = \"}\";\n}\nfn b() {}\n";
    let found: Vec<(String, usize, usize)> =
        Source::new(text).functions().into_iter().map(|f| (f.name, f.line, f.lines)).collect();
    assert_eq!(found, [("a".to_owned(), 4, 6), ("b".to_owned(), 10, 1)]);
}

#[test]
fn items_for_tests_are_known() {
    let text = "fn a() {}\n#[cfg(test)]\nmod tests {\n    fn b() {}\n}\n#[cfg(test)]\nmod c;\n#[cfg(not(test))]\nfn d() {}\n";
    let source = Source::new(text);
    let in_test = |word| source.in_test(source.find(word)[0]);
    assert_eq!([in_test("a"), in_test("b"), in_test("d")], [false, true, false]);
    assert_eq!(source.test_modules(), ["c"]);
    assert_eq!(source.lines_without_tests(), 3);
}

// Arrows.

fn edge(name: &str, kind: DependencyKind, folder: Option<&str>) -> Edge {
    Edge { name: name.to_owned(), kind, folder: folder.map(str::to_owned) }
}

fn count_wrong(folder: &str, edge: Edge) -> usize {
    let manifest = format!("{folder}/Cargo.toml");
    wrong_edges(&Package { name: "p".to_owned(), manifest, dependencies: vec![edge] }).len()
}

#[test]
fn arrows_point_to_the_left() {
    let normal = |from, to| count_wrong(from, edge("q", DependencyKind::Normal, Some(to)));
    assert_eq!(normal("shuffle", "scheduler"), 0);
    assert_eq!(normal("runtime", "scheduler"), 0);
    assert_eq!(normal("perf", "apps"), 0);
    assert_eq!(normal("tools/cli", "perf"), 0);
    assert_eq!(normal("shuffle", "runtime"), 1);
    assert_eq!(normal("apps", "perf"), 1);
    assert_eq!(normal("apps", "tools/xtask"), 1);
    assert_eq!(normal("runtime", "elsewhere"), 1);
}

#[test]
fn dev_dependencies_obey_the_arrows() {
    let dev = |from, to| count_wrong(from, edge("q", DependencyKind::Development, Some(to)));
    assert_eq!(dev("apps", "runtime"), 0);
    assert_eq!(dev("scheduler", "shuffle"), 1);
}

#[test]
fn scheduler_depends_on_nothing_but_for_its_tests() {
    assert_eq!(count_wrong("scheduler", edge("x", DependencyKind::Development, None)), 0);
    assert_eq!(count_wrong("scheduler", edge("x", DependencyKind::Normal, None)), 1);
    assert_eq!(count_wrong("scheduler", edge("x", DependencyKind::Build, None)), 1);
    assert_eq!(count_wrong("scheduler", edge("x", DependencyKind::Unknown, None)), 1);
    for kind in [DependencyKind::Normal, DependencyKind::Build] {
        for folder in ["shuffle", "scheduler/macros", "tools/xtask", "elsewhere"] {
            assert_eq!(count_wrong("scheduler", edge("x", kind, Some(folder))), 1, "{folder}");
        }
    }
    assert_eq!(count_wrong("shuffle", edge("x", DependencyKind::Normal, None)), 0);
}

// Layout.

#[test]
fn the_top_level_is_fixed() {
    for path in ["Cargo.toml", "LICENSE", ".ci/run", ".gitignore", "apps/src/main.rs"] {
        keeps(layout::top_level, path, "");
    }
    for path in ["notes.md", "docs/a.md", "rust-toolchain.toml"] {
        breaks(layout::top_level, path, 0, "");
    }
}

#[test]
fn modules_begin_with_their_doc() {
    keeps(layout::module_docs, "apps/src/a.rs", "//! A.\nfn a() {}\n");
    keeps(layout::module_docs, "apps/tests/data/a.rs", "fn a() {}\n");
    breaks(layout::module_docs, "apps/src/a.rs", 1, "fn a() {}\n//! A.\n");
    breaks(layout::module_docs, "apps/src/a.rs", 1, "// A.\n");
}

#[track_caller]
fn named(text: &str, missing: &[usize]) {
    let files = [("README.md", text), ("ARCHITECTURE.md", ""), ("apps/src/ysb/job.rs", "")];
    let expected: Vec<String> = missing.iter().map(|line| format!("README.md:{line}")).collect();
    assert_eq!(lines(layout::named_paths, &files), expected, "{text}");
}

#[test]
fn paths_named_in_the_texts_exist() {
    named("`apps/src/ysb/`, `apps/src/ysb`, `apps/src/{ysb}/job.rs`, `job.rs`", &[]);
    named("`a/b`, `events/s`, `--out PATH.jsonl`, `apps/*/x.rs`, apps/none.rs", &[]);
    named("```\n`apps/none.rs`\n```\n", &[]);
    named("`README.md`\n`apps/src/none`\n`other.rs`", &[2, 3]);
    named("`apps/src/ysb/{job,none}.rs`", &[1]);
    named("`apps/src/ys`", &[1]);
}

#[test]
fn the_texts_have_to_be_there() {
    let files = [("ARCHITECTURE.md", "")];
    assert_eq!(lines(layout::named_paths, &files), ["README.md:0"]);
}

// Words.

#[test]
fn clocks_are_read_in_one_place() {
    let text = format!("fn a() {{\n    {NOW}();\n}}\n");
    keeps(words::check, "runtime/src/clock.rs", &text);
    breaks(words::check, "runtime/src/core.rs", 2, &text);
    breaks(words::check, "apps/tests/it/main.rs", 2, &text);
    keeps(words::check, "runtime/src/core.rs", &format!("// {NOW}\nlet a = \"{NOW}\";\n"));
    breaks(words::check, "perf/src/main.rs", 1, "use std::time::SystemTime;\n");
}

#[test]
fn threads_start_in_hosts_nodes_and_tests() {
    let text = "fn a() {}\nfn b() { std::thread::spawn(a); }\n";
    keeps(words::check, "runtime/src/host/plain.rs", text);
    keeps(words::check, "runtime/src/node/local.rs", text);
    keeps(words::check, "apps/tests/it/main.rs", text);
    keeps(words::check, "runtime/src/mailbox/tests.rs", text);
    keeps(
        words::check,
        "runtime/src/mailbox.rs",
        &format!("#[cfg(test)]\nmod tests {{\n{text}}}\n"),
    );
    breaks(words::check, "runtime/src/mailbox.rs", 2, text);
}

#[test]
fn a_module_declared_for_tests_is_a_test() {
    let texts = [
        ("runtime/src/io/mod.rs", "#[cfg(test)]\nmod peers;\nmod ring;\n"),
        ("runtime/src/io/peers.rs", "fn a() { thread::spawn(b); }"),
        ("runtime/src/io/peers/b.rs", "fn a() { thread::spawn(b); }"),
        ("runtime/src/io/ring.rs", "fn a() { thread::spawn(b); }"),
    ];
    assert_eq!(lines(words::check, &texts), ["runtime/src/io/ring.rs:1"]);
}

#[test]
fn nobody_sleeps_but_perf() {
    keeps(words::check, "perf/src/main.rs", &format!("{SLEEP}(a);"));
    breaks(words::check, "runtime/src/core.rs", 1, &format!("{SLEEP}(a);"));
    breaks(words::check, "apps/tests/it/main.rs", 1, &format!("{SLEEP}(a);"));
}

#[test]
fn async_and_glommio_stay_behind_the_host() {
    for text in ["async fn a() {}", "a(async move { 1 });", "let a = b.await;"] {
        keeps(words::check, "runtime/src/host/glommio.rs", text);
        breaks(words::check, "runtime/src/host/plain.rs", 1, text);
    }
    keeps(words::check, "runtime/src/host/mod.rs", "mod glommio;\nlet a = glommio::Host;");
    breaks(words::check, "runtime/src/node/mod.rs", 1, "use glommio::LocalExecutor;");
}

#[test]
fn only_programs_print() {
    keeps(words::check, "apps/src/main.rs", "println!();");
    keeps(words::check, "runtime/src/core.rs", "eprintln!();");
    breaks(words::check, "runtime/src/core.rs", 1, "println!();");
    breaks(words::check, "runtime/src/core.rs", 1, "print!();");
    keeps(words::check, "scheduler/src/bin/sim.rs", "println!();");
    breaks(words::check, "scheduler/src/sim/trace.rs", 1, "println!();");
}

#[test]
fn leftovers_are_found_even_in_comments() {
    breaks(words::check, "apps/src/a.rs", 2, &format!("//! A.\n// {MARK}: later\n"));
    breaks(words::check, "apps/src/a.rs", 1, concat!("todo", "!();"));
    breaks(words::check, "apps/src/a.rs", 1, concat!("unimplemented", "!();"));
    breaks(words::check, "apps/src/a.rs", 1, "dbg!(a);");
    breaks(words::check, "apps/src/a.rs", 2, concat!("#[test]\n#[", "ignore]\nfn a() {}"));
    keeps(words::check, "apps/src/a.rs", "// what is left to do is in the issue\nlet ignored = 1;");
}

#[test]
fn options_have_no_default() {
    breaks(words::check, "apps/src/a.rs", 1, "impl Default for DriverOptions {}");
    breaks(
        words::check,
        "apps/src/a.rs",
        2,
        "#[derive(Clone, Default)]\npub struct DriverOptions {\n}",
    );
    keeps(words::check, "apps/src/a.rs", "impl Default for Counters {}");
    keeps(
        words::check,
        "apps/src/a.rs",
        "#[derive(Default)]\nstruct A;\n#[derive(Clone)]\nstruct BOptions;",
    );
}

// Decisions.

const DECISIONS: &str = "scheduler/src/driver/mod.rs";
const SIMULATOR: &str = "scheduler/src/sim/trace.rs";
const PROGRAM: &str = "scheduler/src/bin/sim.rs";
const TESTS: &str = "scheduler/src/driver/tests.rs";

/// The places where a line breaks the rule.
#[track_caller]
fn breaks_in(places: &[&str], text: &str) {
    for place in [DECISIONS, SIMULATOR, PROGRAM, TESTS, "shuffle/src/store.rs"] {
        match places.contains(&place) {
            true => breaks(decisions::check, place, 1, text),
            false => keeps(decisions::check, place, text),
        }
    }
}

#[test]
fn nothing_in_the_scheduler_has_a_clock_a_thread_a_socket_or_a_file() {
    for text in [
        "use std::time::Duration;",
        "use std::{time as clock};",
        "use core::time;",
        "let a = std::thread::current();",
        "use std::net::{TcpStream};",
        "use ::std::fs;",
    ] {
        breaks_in(&[DECISIONS, SIMULATOR, PROGRAM, TESTS], text);
    }
}

#[test]
fn nothing_in_the_scheduler_is_hashed_or_a_float() {
    for text in [
        "let a = HashMap::new();",
        "fn a(b: &HashSet<u64>) {}",
        "let a: RandomState;",
        "fn a(b: f64) {}",
        "let a = b as f32;",
        "let a = 0.5;",
        "let a = 1e3;",
        "let a = 1_0E-3;",
        "let a = 2. * b;",
        "for a in 0..1.5 {}",
        "let a = 1.0_f64;",
    ] {
        breaks_in(&[DECISIONS, SIMULATOR, PROGRAM, TESTS], text);
    }
    for text in
        ["a.0.1", "0..5", "0..=a.0", "1.max(2)", "0x1e3", "0b1", "1_000u64", "e1", "a1e3", "1usize"]
    {
        breaks_in(&[], text);
    }
}

#[test]
fn decisions_name_what_is_on_the_list_only() {
    for text in [
        "use std::collections::{BTreeMap, BTreeSet, VecDeque};",
        "use std::sync::Arc;",
        "use std::{fmt, iter::{once, repeat}, sync::Arc};",
        "impl std::fmt::Display for A {}",
        "let a = std::mem::take(&mut self.b);",
        "let a = core::iter::empty::<u64>();",
        "use crate::tests::{chain, core};",
        "let a = crate::alloc::std::io;",
        "let core = CoreId { worker, core };",
        "let a = core as u64;",
    ] {
        breaks_in(&[], text);
    }
    for text in [
        "use std::sync::Mutex;",
        "use std::sync::atomic::AtomicU64;",
        "use std::sync::mpsc;",
        "use std::sync::*;",
        "use std::sync::{self};",
        "use std::{fmt, cell::RefCell};",
        "use std::collections;",
        "use std::*;",
        "use std as other;",
        "extern crate std as other;",
        "let a = core::hint::black_box(1);",
        "use std::fmtx;",
    ] {
        breaks_in(&[DECISIONS], text);
    }
}

#[test]
fn only_the_simulators_program_talks() {
    for text in [
        "use std::io::Write;",
        "std::env::args();",
        "std::process::exit(1);",
        "use std::{fmt, os::fd};",
        "eprintln!();",
    ] {
        breaks_in(&[DECISIONS, SIMULATOR], text);
    }
    breaks_in(&[DECISIONS, SIMULATOR], "thread_local!();");
    breaks_in(&[DECISIONS], "use crate::sim::Trace;");
}

#[test]
fn the_tests_of_decisions_may_ask_how_long_they_should_run() {
    let text = "#[cfg(test)]\nmod t {\n    fn a() { std::env::var_os(b); }\n}\n";
    keeps(decisions::check, DECISIONS, text);
    keeps(decisions::check, "scheduler/tests/kept_seeds.rs", "use std::env;");
    keeps(decisions::check, "scheduler/src/sim/tests.rs", "use std::env;");
}

#[test]
fn comments_and_texts_may_name_anything() {
    breaks_in(&[], "// std::io, f64 and 0.5\nlet a = \"HashMap 1.5 std::net\";");
}

#[test]
fn every_name_in_braces_is_found_with_its_line() {
    let text = "use std::{\n    fmt,\n    sync::{Arc, Mutex as Lock, RwLock},\n    io,\n};\nlet a = 0.5;\n";
    let expected = [3, 3, 4, 6].map(|line| format!("{DECISIONS}:{line}"));
    assert_eq!(lines(decisions::check, &[(DECISIONS, text)]), expected);
}

#[test]
fn the_scheduler_has_no_build_script() {
    breaks(decisions::check, "scheduler/build.rs", 0, "fn main() {}");
    keeps(decisions::check, "shuffle/build.rs", "fn main() {}");
}

// Unsafe code.

#[track_caller]
fn island(ok: bool, above: &str, site: &str) {
    let doc = "//! M.\n//!\n//! 1. One.\n//! 2. Two.\n\n";
    let text = format!("{doc}{above}\n{}\n", site.replace('@', UNSAFE));
    let path = "shuffle/src/segment.rs";
    let found = lines(unsafety::check, &[(path, &text)]);
    assert_eq!(found.is_empty(), ok, "{text}{found:?}");
}

#[test]
fn unsafe_code_lives_in_islands() {
    let text = format!("//! 1. A.\n// SAFETY: invariant 1.\nlet a = {UNSAFE} {{ b }};\n");
    for path in ["shuffle/src/archive/view.rs", "runtime/src/io/uring.rs", "runtime/src/clock.rs"] {
        keeps(unsafety::check, path, &text);
    }
    let scheduler =
        ["scheduler/src/driver.rs", "scheduler/src/sim/trace.rs", "scheduler/src/bin/sim.rs"];
    for path in ["shuffle/src/store.rs", "runtime/src/iota.rs"].into_iter().chain(scheduler) {
        breaks(unsafety::check, path, 3, &text);
    }
    keeps(
        unsafety::check,
        "shuffle/src/store.rs",
        &format!("#![deny({UNSAFE}_code)]\n// {UNSAFE}\n"),
    );
}

#[test]
fn unsafe_sites_cite_an_invariant() {
    island(true, "// SAFETY: invariant 2: the slot is ours.", "let a = @ { b };");
    island(
        true,
        "// SAFETY: the slot is ours,\n// see invariants 1 and 3.",
        "let a =\n    @ { b };",
    );
    island(true, "// SAFETY: I1.", "@ impl Send for A {}");
    island(false, "", "let a = @ { b };");
    island(false, "// SAFETY: values are valid.", "let a = @ { b };");
    island(false, "// SAFETY: invariant 3.", "let a = @ { b };");
    island(false, "// SAFETY: 64 bytes.", "let a = @ { b };");
    island(false, "// SAFETY: invariant 1.\nlet a;\nlet b;\nlet c;\nlet d;", "let e = @ { f };");
}

#[test]
fn unsafe_functions_tell_what_to_keep() {
    island(true, "/// # Safety\n/// `a` is mapped.\n#[inline]", "pub @ fn a() {}");
    island(false, "/// A.", "pub @ fn a() {}");
    island(true, "", "type A = @ fn(u8);");
}

#[test]
fn the_parent_module_may_hold_the_invariants() {
    let child = format!("//! C.\n// SAFETY: invariant 7.\nlet a = {UNSAFE} {{ b }};\n");
    let path = "runtime/src/io/uring.rs";
    let with = |doc| lines(unsafety::check, &[("runtime/src/io/mod.rs", doc), (path, &child)]);
    assert_eq!(with("//! 7. Seven.\n"), Vec::<String>::new());
    assert_eq!(with("//! 6. Six.\n"), [format!("{path}:3")]);
    let own = format!("//! 1. One.\n{child}");
    let texts = [("runtime/src/io/mod.rs", "//! 7. Seven.\n"), (path, own.as_str())];
    assert_eq!(lines(unsafety::check, &texts), [format!("{path}:4")], "its own list counts alone");
}

// Lengths.

fn function_of(count: usize) -> String {
    format!("fn long() {{\n{}}}\n", "    call();\n".repeat(count - 2))
}

fn with_ratchet(path: &str, text: &str, ratchet: &str) -> Vec<String> {
    lines(length::check, &[(path, text), ("tools/xtask/ratchet.txt", ratchet)])
}

#[test]
fn functions_have_at_most_seventy_lines() {
    keeps(length::check, "apps/src/a.rs", &function_of(70));
    breaks(length::check, "apps/src/a.rs", 1, &function_of(71));
    keeps(
        length::check,
        "apps/src/a.rs",
        &format!("#[cfg(test)]\nmod t {{\n{}}}\n", function_of(99)),
    );
}

#[test]
fn files_have_at_most_six_hundred_lines_without_tests() {
    let tests = format!("#[cfg(test)]\nmod tests {{\n{}}}\n", "// a\n".repeat(300));
    keeps(length::check, "apps/src/a.rs", &format!("{}{tests}", "// a\n".repeat(600)));
    breaks(length::check, "apps/src/a.rs", 0, &format!("{}{tests}", "// a\n".repeat(601)));
    keeps(length::check, "apps/src/tests.rs", &"// a\n".repeat(999));
}

#[test]
fn unwraps_are_counted_outside_tests() {
    breaks(length::check, "apps/src/a.rs", 2, "fn a() {\n    b.unwrap();\n    c.unwrap();\n}\n");
    keeps(length::check, "apps/src/a.rs", "// .unwrap()\nfn a() { b.unwrap_or(1); }\n");
    keeps(length::check, "apps/src/a.rs", "#[cfg(test)]\nmod t {\n    fn a() { b.unwrap(); }\n}\n");
}

#[test]
fn the_ratchet_turns_one_way() {
    let (path, text) = ("apps/src/a.rs", function_of(80));
    let with = |line: &str| with_ratchet(path, &text, line);
    let line = |number| format!("# why\nfunction apps/src/a.rs::long {number} # reason\n");
    assert_eq!(with(&line(80)), Vec::<String>::new());
    assert_eq!(with(&line(79)), ["apps/src/a.rs:1"]);
    assert_eq!(with(&line(81)), ["tools/xtask/ratchet.txt:2"]);
    assert_eq!(with_ratchet(path, "", &line(80)), ["tools/xtask/ratchet.txt:2"]);
    assert_eq!(with_ratchet(path, "", "function apps"), ["tools/xtask/ratchet.txt:1"]);
    let both = "function apps/src/a.rs::long 80\nunwrap apps/src/b.rs 1\n";
    assert_eq!(with(both), ["tools/xtask/ratchet.txt:2"]);
}

// Hygiene.

#[test]
fn paths_of_one_machine_are_found() {
    breaks(hygiene::machine_paths, "README.md", 2, &format!("A\nin {TMP}a\n"));
    keeps(hygiene::machine_paths, "README.md", &format!("a{TMP}b, ./a{TMP}b, ${{D}}{TMP}b"));
    keeps(hygiene::machine_paths, "apps/tests/data/a.txt", TMP);
}

#[test]
fn registry_hosts_are_found() {
    let host = concat!("index.crates", ".io");
    breaks(hygiene::machine_paths, ".ci/run", 1, host);
    keeps(hygiene::machine_paths, "Cargo.lock", host);
    keeps(hygiene::machine_paths, "README.md", "crates, io");
}

#[test]
fn blobs_are_found() {
    let large = "a".repeat((1 << 20) + 1);
    breaks(hygiene::blobs, "perf/a.bin", 0, &large);
    keeps(hygiene::blobs, "perf/a.bin", &large[1..]);
    keeps(hygiene::blobs, "apps/tests/data/ysb/a.jsonl", &large);
}

// Licences.

#[test]
fn licence_expressions_are_evaluated() {
    let accepted = [
        "MIT",
        "MIT/Apache-2.0",
        "MPL-2.0+",
        "GPL-3.0 OR MIT",
        "MIT OR GPL-3.0 AND LGPL-2.1",
        "(MIT OR GPL-3.0) AND Unicode-3.0",
        "Apache-2.0 WITH LLVM-exception OR GPL-3.0",
    ];
    let refused = [
        "",
        "GPL-3.0",
        "MIT AND GPL-3.0",
        "(MIT AND GPL-3.0) OR LGPL-2.1",
        "(MIT OR GPL-3.0",
        "MIT GPL-3.0",
        "GPL-3.0 OR",
    ];
    let wrong = |expression: &&str| licences::wrong("p", Some(*expression)).is_some();
    assert_eq!(accepted.iter().filter(|e| wrong(e)).collect::<Vec<_>>(), Vec::<&&str>::new());
    assert_eq!(refused.iter().filter(|e| !wrong(e)).collect::<Vec<_>>(), Vec::<&&str>::new());
    assert!(licences::wrong("p", None).is_some());
}

// The tree.

#[test]
fn packages_of_the_lock_file_are_counted() {
    let lock = "version = 4\n\n[[package]]\nname = \"a\"\n\n[[package]]\nname = \"b\"\n";
    assert_eq!(crate_count(&Tree::of(&[("Cargo.lock", lock)])), 2);
}

#[test]
fn violations_name_the_place() {
    assert_eq!(Violation::new("a.rs", 3, "do b").to_string(), "a.rs:3: do b");
    assert_eq!(Violation::new("a.rs", 0, "do b").to_string(), "a.rs: do b");
}
