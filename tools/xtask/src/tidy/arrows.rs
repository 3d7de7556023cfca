//! The arrows between crates: each may depend only on what stands to its left.

use anyhow::{Context, Result};
use cargo_metadata::{DependencyKind, Metadata, MetadataCommand};

use super::{Tree, Violation};

/// The folders in order; a package may depend on packages of earlier folders. Tools may use any.
const ORDER: &[&str] = &["scheduler", "shuffle", "runtime", "apps", "perf", "tools"];

/// What the rule has to know of one package.
pub(super) struct Package {
    pub(super) name: String,
    /// Relative to the root.
    pub(super) manifest: String,
    pub(super) dependencies: Vec<Edge>,
}

pub(super) struct Edge {
    pub(super) name: String,
    pub(super) kind: DependencyKind,
    /// The folder of a package of this workspace, relative to the root; None for any other.
    pub(super) folder: Option<String>,
}

pub(super) fn check(tree: &Tree) -> Vec<Violation> {
    match packages(tree) {
        Ok(packages) => packages.iter().flat_map(wrong_edges).collect(),
        Err(error) => vec![Violation::new("Cargo.toml", 0, format!("{error:#}"))],
    }
}

pub(super) fn wrong_edges(package: &Package) -> Vec<Violation> {
    let from = top_folder(&package.manifest);
    let refuse = |edge: &Edge| match (&edge.folder, edge.kind) {
        (None, DependencyKind::Development) => None,
        _ if from == "scheduler" && edge.kind != DependencyKind::Development => {
            Some("scheduler has no dependencies but dev-dependencies")
        }
        (Some(folder), _) if !allowed(from, top_folder(folder)) => Some(
            "the arrows are scheduler <- shuffle <- runtime <- apps <- perf, tools any of them",
        ),
        _ => None,
    };
    let wrong = package.dependencies.iter().filter_map(|edge| Some((edge, refuse(edge)?)));
    let violation = |(edge, why): (&Edge, &str)| {
        let advice = format!("{} must not depend on {}: {why}", package.name, edge.name);
        Violation::new(&package.manifest, 0, advice)
    };
    wrong.map(violation).collect()
}

fn allowed(from: &str, to: &str) -> bool {
    let rank = |folder: &str| ORDER.iter().position(|known| *known == folder);
    match (rank(from), rank(to)) {
        (Some(from), Some(to)) => to < from,
        _ => false,
    }
}

fn top_folder(path: &str) -> &str {
    path.split('/').next().unwrap_or_default()
}

fn packages(tree: &Tree) -> Result<Vec<Package>> {
    let metadata = metadata(tree, &["--no-deps"])?;
    let root = &metadata.workspace_root;
    let relative = |path: &cargo_metadata::camino::Utf8Path| {
        let inside = path.strip_prefix(root).context("a member lies below the root")?;
        Ok::<_, anyhow::Error>(inside.to_string())
    };
    let package = |package: &cargo_metadata::Package| {
        let edge = |dependency: &cargo_metadata::Dependency| {
            let folder = dependency.path.as_ref().map(|path| relative(path)).transpose()?;
            Ok(Edge { name: dependency.name.clone(), kind: dependency.kind, folder })
        };
        Ok(Package {
            name: package.name.to_string(),
            manifest: relative(&package.manifest_path)?,
            dependencies: package.dependencies.iter().map(edge).collect::<Result<_>>()?,
        })
    };
    metadata.packages.iter().map(package).collect()
}

/// Asks the `cargo` that runs us, first without the network.
pub(super) fn metadata(tree: &Tree, options: &[&str]) -> Result<Metadata> {
    let ask = |network: &[&str]| {
        let options = options.iter().chain(network).map(|option| String::from(*option));
        let mut command = MetadataCommand::new();
        command.manifest_path(tree.root().join("Cargo.toml"));
        command.other_options(options.collect::<Vec<_>>()).exec()
    };
    ask(&["--offline"]).or_else(|_| ask(&[])).context("`cargo metadata` failed")
}
