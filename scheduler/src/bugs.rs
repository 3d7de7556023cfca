//! Deliberate mistakes, each of which the simulator must find: they show that it can find anything
//! at all. They exist in builds for the simulator only; in all others [`Bugs`] is empty and the
//! compiler removes every question about it.

/// A mistake that somebody might have made. The names are those of `cargo xtask sim --bug NAME`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// A block that arrives once more (same attempt) is counted and folded once more.
    DeduplicationOff,
    /// A worker obeys a driver of an older term.
    TermCheckOff,
    /// A core takes blocks of a fenced incarnation.
    IncarnationCheckOff,
    /// A core relays only the ranges that it took itself, not those that it heard of.
    RangeNotRelayed,
    /// Blocks are forgotten one batch before their last possible reader is safe.
    RetentionShort,
    /// The new owner of a partition does not count the dependencies that its own core already holds.
    PrefillLeftOut,
    /// A block of another attempt is not recognised as a repetition.
    AttemptsFolded,
    /// The driver commits one batch less than the largest promise.
    CutOffByOne,
    /// A cut voids the rest of its own group, but not the group scheduled after it.
    SecondGroupSurvivesCut,
    /// A snapshot holds the changes since the last one that was begun, not since the last durable one.
    AbandonedClearsChanges,
    /// Workers hear of a manifest before it is durable.
    ReleaseBeforeManifest,
    /// A new driver starts from the manifest before the newest.
    StaleManifest,
    /// Blocks written after a recovery still go to the owner of before.
    RedirectForgotten,
    /// The old owner of a moved partition drops its copy as soon as it is shipped.
    CopyFreedEarly,
}

impl Bug {
    /// All of them.
    pub const ALL: [Bug; 14] = [
        Bug::DeduplicationOff,
        Bug::TermCheckOff,
        Bug::IncarnationCheckOff,
        Bug::RangeNotRelayed,
        Bug::RetentionShort,
        Bug::PrefillLeftOut,
        Bug::AttemptsFolded,
        Bug::CutOffByOne,
        Bug::SecondGroupSurvivesCut,
        Bug::AbandonedClearsChanges,
        Bug::ReleaseBeforeManifest,
        Bug::StaleManifest,
        Bug::RedirectForgotten,
        Bug::CopyFreedEarly,
    ];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Bug::DeduplicationOff => "deduplication-off",
            Bug::TermCheckOff => "term-check-off",
            Bug::IncarnationCheckOff => "incarnation-check-off",
            Bug::RangeNotRelayed => "range-not-relayed",
            Bug::RetentionShort => "retention-short",
            Bug::PrefillLeftOut => "prefill-left-out",
            Bug::AttemptsFolded => "attempts-folded",
            Bug::CutOffByOne => "cut-off-by-one",
            Bug::SecondGroupSurvivesCut => "second-group-survives-cut",
            Bug::AbandonedClearsChanges => "abandoned-clears-changes",
            Bug::ReleaseBeforeManifest => "release-before-manifest",
            Bug::StaleManifest => "stale-manifest",
            Bug::RedirectForgotten => "redirect-forgotten",
            Bug::CopyFreedEarly => "copy-freed-early",
        }
    }
}

/// The mistake that is built in, if any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bugs {
    #[cfg(any(test, feature = "simulator"))]
    planted: Option<Bug>,
}

impl Bugs {
    /// None: what every build but the simulator's has.
    pub const NONE: Bugs = Bugs {
        #[cfg(any(test, feature = "simulator"))]
        planted: None,
    };

    /// One, for the simulator.
    #[cfg(any(test, feature = "simulator"))]
    pub fn planted(bug: Bug) -> Bugs {
        Bugs { planted: Some(bug) }
    }

    /// Whether `bug` is built in.
    #[cfg(any(test, feature = "simulator"))]
    pub fn has(self, bug: Bug) -> bool {
        self.planted == Some(bug)
    }

    /// Whether `bug` is built in.
    #[cfg(not(any(test, feature = "simulator")))]
    pub const fn has(self, _bug: Bug) -> bool {
        false
    }
}
