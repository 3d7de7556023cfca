//! `cargo xtask`: the one place for chores.
#![forbid(unsafe_code)]

use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use xtask::{sim, tidy};

const HELP: &str = "\
cargo xtask tidy    check the rules of style (the same rules run in `cargo test --workspace`)
cargo xtask sim     run the deterministic simulator; `cargo xtask sim --help` says how
cargo xtask ci      run .ci/run: fmt, clippy, tests, then extras while the clock allows
cargo xtask help    this text, and the rules of tidy
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments.iter().map(String::as_str).collect::<Vec<_>>()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(arguments: &[&str]) -> Result<ExitCode> {
    let root = tidy::workspace_root()?;
    match arguments {
        [] | ["help" | "--help" | "-h"] => {
            help();
            Ok(ExitCode::SUCCESS)
        }
        ["tidy"] => run_tidy(&root),
        ["ci"] => run_ci(&root),
        ["sim", arguments @ ..] => sim::run(&root, arguments),
        other => bail!("no such chore: `{}`; see `cargo xtask help`", other.join(" ")),
    }
}

#[allow(clippy::print_stdout, reason = "the answer of the command")]
fn help() {
    print!("{HELP}");
    println!("\nrules of tidy:");
    for rule in tidy::RULES {
        println!("  {:<16} {}", rule.name, rule.summary);
    }
}

#[allow(clippy::print_stdout, reason = "the answer of the command")]
fn run_tidy(root: &Path) -> Result<ExitCode> {
    let tree = tidy::Tree::open(root)?;
    let mut total = 0;
    for rule in tidy::RULES {
        let found = (rule.check)(&tree);
        if !found.is_empty() {
            println!("{}: {}", rule.name, rule.summary);
            found.iter().for_each(|violation| println!("  {violation}"));
        }
        total += found.len();
    }
    println!("{} crates in Cargo.lock", tidy::crate_count(&tree));
    println!("{} files, {} rules, {total} violations", tree.paths().count(), tidy::RULES.len());
    Ok(if total == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn run_ci(root: &Path) -> Result<ExitCode> {
    let status =
        Command::new(root.join(".ci/run")).current_dir(root).status().context("run .ci/run")?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
