//! How many batches a group has: as few as keep the share of coordination within bounds.
//!
//! A small group reacts to changes within a few batches; a large one spreads the cost of
//! scheduling over many. The rule is that of the paper (section 3.4), which takes it from TCP: above
//! the upper bound multiply, below the lower one subtract. The share is averaged exponentially, so
//! that a pause does not move the size. The paper gives no constants; [`TunerOptions::paper`] has
//! what its figure 11 shows.
//!
//! Groups that are in flight when the size changes still have the old one. That is why a decision
//! takes several groups, and asks that most of them lie beyond the bound, beside their average.

/// Bounds and steps of the tuner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunerOptions {
    /// Batches in the first group.
    pub initial: u64,
    /// Batches in the smallest group.
    pub minimum: u64,
    /// Batches in the largest group.
    pub maximum: u64,
    /// Share of coordination below which groups get smaller, in thousandths.
    pub lower_permille: u32,
    /// Share of coordination above which groups get larger, in thousandths.
    pub upper_permille: u32,
    /// How many times as large they get.
    pub multiply: u64,
    /// How many batches smaller they get.
    pub subtract: u64,
    /// How many groups are observed before each decision.
    pub groups_per_decision: u32,
    /// Weight of the newest group in the average, in thousandths.
    pub smoothing_permille: u32,
}

impl TunerOptions {
    /// Bounds, start, steps and pace of the paper's figure 11. Its text gives neither the largest
    /// size nor the weight: 600 is the largest group that it measures.
    pub fn paper() -> TunerOptions {
        TunerOptions {
            initial: 2,
            minimum: 1,
            maximum: 600,
            lower_permille: 50,
            upper_permille: 100,
            multiply: 2,
            subtract: 5,
            groups_per_decision: 4,
            smoothing_permille: 300,
        }
    }

    fn check(&self) {
        assert!(self.minimum >= 1, "a group has at least one batch");
        let sizes = self.minimum..=self.maximum;
        assert!(sizes.contains(&self.initial), "the first group is as small or large as any other");
        assert!(self.lower_permille < self.upper_permille, "the bounds leave room between them");
        assert!(self.multiply >= 2 && self.subtract >= 1, "each step changes the size");
        assert!(self.groups_per_decision >= 1, "a decision takes a group");
        let weights = 1..=PERMILLE;
        assert!(weights.contains(&u64::from(self.smoothing_permille)), "a weight is a share");
    }
}

const PERMILLE: u64 = 1_000;
/// Shares are kept in parts of this: what rounding takes from an average is then never seen.
const WHOLE: u64 = 1_000_000_000;

/// See the module's text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tuner {
    options: TunerOptions,
    size: u64,
    /// Average share since the size last changed, in parts of `WHOLE`.
    share: Option<u64>,
    /// Groups since the last decision.
    groups: u32,
    /// Those of them that were above the upper bound.
    above: u32,
    /// Those of them that were below the lower bound.
    below: u32,
}

impl Tuner {
    /// A tuner that has seen no group.
    pub fn new(options: TunerOptions) -> Tuner {
        options.check();
        Tuner { size: options.initial, options, share: None, groups: 0, above: 0, below: 0 }
    }

    /// How many batches the next group has.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The average share of coordination at this size, in thousandths; 0 before the first group.
    pub fn share_permille(&self) -> u32 {
        let part = WHOLE / PERMILLE;
        let permille = (self.share.unwrap_or(0) + part / 2) / part;
        permille as u32
    }

    /// Takes what a group cost: the time that went into coordination, out of all the time that went
    /// into it. Gives the size of the next group.
    pub fn observe(&mut self, coordination_ns: u64, total_ns: u64) -> u64 {
        if total_ns == 0 {
            return self.size; // It says nothing of shares.
        }
        let sample = share(coordination_ns, total_ns);
        self.share = Some(self.share.map_or(sample, |share| self.average(share, sample)));
        self.groups += 1;
        self.above += u32::from(sample > self.upper());
        self.below += u32::from(sample < self.lower());
        if self.groups >= self.options.groups_per_decision {
            self.decide();
        }
        self.size
    }

    fn decide(&mut self) {
        let average = self.share.unwrap_or(0);
        let most = |groups: u32| groups > self.groups / 2;
        let next = if average > self.upper() && most(self.above) {
            self.size.saturating_mul(self.options.multiply)
        } else if average < self.lower() && most(self.below) {
            self.size.saturating_sub(self.options.subtract)
        } else {
            self.size
        };
        let next = next.clamp(self.options.minimum, self.options.maximum);
        if next != self.size {
            self.size = next;
            self.share = None; // It was that of another size.
        }
        (self.groups, self.above, self.below) = (0, 0, 0);
    }

    /// Rounded to the nearest, so that it drifts neither up nor down.
    fn average(&self, share: u64, sample: u64) -> u64 {
        let weight = u64::from(self.options.smoothing_permille);
        (share * (PERMILLE - weight) + sample * weight + PERMILLE / 2) / PERMILLE
    }

    fn upper(&self) -> u64 {
        u64::from(self.options.upper_permille) * (WHOLE / PERMILLE)
    }

    fn lower(&self) -> u64 {
        u64::from(self.options.lower_permille) * (WHOLE / PERMILLE)
    }
}

/// In parts of `WHOLE`, and never more than that.
fn share(coordination_ns: u64, total_ns: u64) -> u64 {
    let part = u128::from(coordination_ns.min(total_ns)) * u128::from(WHOLE);
    (part / u128::from(total_ns)) as u64
}

#[cfg(test)]
mod tests;
