//! What happens when, from a seed alone. Whom it hits is a number too: whoever is there is counted off.

/// One fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    /// When, after the beginning.
    pub(super) at_ms: u64,
    /// What.
    pub(super) kind: Kind,
    /// To whom.
    pub(super) victim: u64,
    /// For how long.
    pub(super) length_ms: u64,
    /// How exactly.
    pub(super) detail: u64,
}

/// What may happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A worker is killed, and after a while another one started.
    Kill,
    /// A worker is stopped for a while.
    Stop,
    /// What it and its driver tell each other is late for a while.
    Delay,
    /// Its connection to the driver is reset.
    Reset,
    /// In one direction nothing passes for a while.
    OneWay,
    /// A bit is flipped on the way.
    Flip,
    /// A worker joins.
    Join,
    /// A worker leaves.
    Drain,
    /// The driver is killed, and after a while another one started.
    Driver,
}

/// Kinds by how often they come.
const KINDS: [Kind; 16] = [
    Kind::Kill,
    Kind::Kill,
    Kind::Kill,
    Kind::Kill,
    Kind::Stop,
    Kind::Stop,
    Kind::Delay,
    Kind::Reset,
    Kind::Reset,
    Kind::OneWay,
    Kind::OneWay,
    Kind::Flip,
    Kind::Join,
    Kind::Drain,
    Kind::Driver,
    Kind::Driver,
];
/// The least and the most from one fault to the next: at least ten in a minute.
const GAP_MS: (u64, u64) = (2_000, 6_000);
/// How long a fault lasts that is undone.
const LENGTH_MS: (u64, u64) = (200, 3_000);

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::Kill => "kill",
            Kind::Stop => "stop",
            Kind::Delay => "delay",
            Kind::Reset => "reset",
            Kind::OneWay => "one way",
            Kind::Flip => "flip",
            Kind::Join => "join",
            Kind::Drain => "drain",
            Kind::Driver => "driver",
        }
    }

    /// Whether there is one worker less for a while.
    pub(super) fn takes_away(self) -> bool {
        match self {
            Kind::Kill | Kind::Stop | Kind::OneWay | Kind::Drain => true,
            Kind::Delay | Kind::Reset | Kind::Flip | Kind::Join | Kind::Driver => false,
        }
    }
}

/// The faults of so long.
pub(super) fn schedule(seed: u64, length_ms: u64) -> Vec<Fault> {
    let mut random = SplitMix(seed);
    let mut faults = Vec::new();
    let mut at_ms = 0;
    loop {
        at_ms += random.between(GAP_MS);
        if at_ms >= length_ms {
            return faults;
        }
        let kind = KINDS[random.between((0, KINDS.len() as u64)) as usize];
        let (victim, length_ms) = (random.next(), random.between(LENGTH_MS));
        faults.push(Fault { at_ms, kind, victim, length_ms, detail: random.next() });
    }
}

/// The generator splitmix64.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From the first on, and below the second.
    fn between(&mut self, (from, below): (u64, u64)) -> u64 {
        from + self.next() % (below - from)
    }
}

#[cfg(test)]
mod tests {
    use super::schedule;

    #[test]
    fn a_seed_always_gives_the_same_faults_and_enough_of_them() {
        for seed in 0..100 {
            let faults = schedule(seed, 600_000);
            assert_eq!(faults, schedule(seed, 600_000));
            assert!(faults.len() >= 100, "{} of seed {seed}", faults.len());
            assert!(faults.is_sorted_by_key(|fault| fault.at_ms));
        }
        assert_ne!(schedule(1, 600_000), schedule(2, 600_000));
    }
}
