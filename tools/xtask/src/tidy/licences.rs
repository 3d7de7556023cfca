//! The licences under which the dependencies may be used, as their manifests state them.

use std::process::Command;

use anyhow::{Context, Result};

use super::arrows::metadata;
use super::{Tree, Violation};

const ACCEPTED: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "ISC",
    "MIT",
    "MIT-0",
    "MPL-2.0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

pub(super) fn check(tree: &Tree) -> Vec<Violation> {
    match wrong_packages(tree) {
        Ok(violations) => violations,
        Err(error) => vec![Violation::new("Cargo.lock", 0, format!("{error:#}"))],
    }
}

/// Looks at what is built on this platform: other packages may not be on this machine.
fn wrong_packages(tree: &Tree) -> Result<Vec<Violation>> {
    let metadata = metadata(tree, &["--filter-platform", &host_platform()?])?;
    let built = metadata.resolve.context("cargo resolves the workspace")?.nodes;
    let packages = metadata.packages.iter();
    let packages = packages.filter(|package| built.iter().any(|node| node.id == package.id));
    Ok(packages.filter_map(|package| wrong(&package.name, package.license.as_deref())).collect())
}

pub(super) fn wrong(package: &str, licence: Option<&str>) -> Option<Violation> {
    let advice = match licence {
        None => format!("{package} states no licence; choose another crate"),
        Some(licence) if !accepted(licence) => {
            format!(
                "{package} is under `{licence}`, which is not on the short list; choose another"
            )
        }
        Some(_) => return None,
    };
    Some(Violation::new("Cargo.lock", 0, advice))
}

/// Evaluates a licence expression: `AND` binds tighter than `OR`, `/` is an old spelling of `OR`.
pub(super) fn accepted(expression: &str) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let tokens: Vec<&str> = spaced.split_whitespace().collect();
    let mut rest = tokens.as_slice();
    any_of(&mut rest) && rest.is_empty()
}

fn any_of(rest: &mut &[&str]) -> bool {
    let mut holds = all_of(rest);
    while let ["OR", after @ ..] = *rest {
        *rest = after;
        holds |= all_of(rest);
    }
    holds
}

fn all_of(rest: &mut &[&str]) -> bool {
    let mut holds = one(rest);
    while let ["AND", after @ ..] = *rest {
        *rest = after;
        holds &= one(rest);
    }
    holds
}

/// A licence, with or without an exception (which only adds rights), or an expression in brackets.
fn one(rest: &mut &[&str]) -> bool {
    match *rest {
        ["(", after @ ..] => {
            *rest = after;
            let holds = any_of(rest);
            let closed = rest.first() == Some(&")");
            *rest = rest.get(1..).unwrap_or_default();
            holds && closed
        }
        [licence, "WITH", _, after @ ..] | [licence, after @ ..] => {
            *rest = after;
            ACCEPTED.contains(&licence.trim_end_matches('+'))
        }
        [] => false,
    }
}

fn host_platform() -> Result<String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc).arg("-vV").output().context("ask rustc for its version")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc names its host")?.to_owned())
}
