//! Tests of the tuner, against a model in which coordination costs so much per group and the work so
//! much per batch.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Copy, Debug)]
struct Load {
    coordination_ns: u64,
    batch_ns: u64,
}

impl Load {
    fn total_ns(self, size: u64) -> u64 {
        self.coordination_ns + size * self.batch_ns
    }
    fn share(self, size: u64) -> u64 {
        share(self.coordination_ns, self.total_ns(size))
    }
    /// The same with so many thousandths of the coordination.
    fn times(self, permille: u64) -> Load {
        Load { coordination_ns: self.coordination_ns * permille / 1_000, ..self }
    }
}

fn run(tuner: &mut Tuner, load: Load, groups: u64) {
    for _ in 0..groups {
        let before = tuner.size();
        let after = tuner.observe(load.coordination_ns, load.total_ns(before));
        assert_eq!(after, tuner.size());
    }
}

/// More groups than it takes to get from any size to any other, and to forget any share.
fn many(options: &TunerOptions) -> u64 {
    let decisions = options.maximum / options.subtract + 20;
    u64::from(options.groups_per_decision) * decisions + 200
}

/// Runs a constant load until nothing changes any more.
fn settle(tuner: &mut Tuner, load: Load) -> Result<(), TestCaseError> {
    run(tuner, load, many(&tuner.options));
    let size = tuner.size();
    for _ in 0..50 * tuner.options.groups_per_decision {
        run(tuner, load, 1);
        prop_assert_eq!(tuner.size(), size, "it stays where it has settled");
    }
    // One thousandth beyond a bound may take an average for ever to get there.
    let (share, slack) = (load.share(size), WHOLE / PERMILLE);
    let low_enough = share <= tuner.upper() + slack || size == tuner.options.maximum;
    let high_enough = share + slack >= tuner.lower() || size == tuner.options.minimum;
    prop_assert!(low_enough && high_enough, "share {} at size {}", share, size);
    Ok(())
}

fn loads() -> impl Strategy<Value = Load> {
    // Both over several orders of magnitude.
    let cost = || (0..10_u32, 0..100_u64).prop_map(|(zeros, n)| n * 10_u64.pow(zeros));
    (cost(), cost())
        .prop_map(|(coordination_ns, batch_ns)| Load { coordination_ns, batch_ns: batch_ns.max(1) })
}

/// The paper's bounds and steps with any sizes and pace.
fn options() -> impl Strategy<Value = TunerOptions> {
    let sizes = (1..20_u64, 0..600_u64, any::<prop::sample::Index>());
    (sizes, 2..9_u32, 100..=1_000_u32).prop_map(|((minimum, more, initial), groups, weight)| {
        TunerOptions {
            initial: minimum + initial.index(more as usize + 1) as u64,
            minimum,
            maximum: minimum + more,
            groups_per_decision: groups,
            smoothing_permille: weight,
            ..TunerOptions::paper()
        }
    })
}

/// Any bounds and steps.
fn any_options() -> impl Strategy<Value = TunerOptions> {
    let bounds = (0..1_000_u32, 1..=1_000_u32);
    let steps = (2..5_u64, 1..50_u64, 1..9_u32, 1..=1_000_u32);
    (options(), bounds, steps).prop_map(
        |(options, (lower, above), (multiply, subtract, groups, weight))| TunerOptions {
            lower_permille: lower,
            upper_permille: lower + above,
            multiply,
            subtract,
            groups_per_decision: groups,
            smoothing_permille: weight,
            ..options
        },
    )
}

/// The sizes where it may be found, one step beyond the bounds, if coordination costs no less than
/// in the one load and no more than in the other.
fn band(tuner: &Tuner, light: Load, heavy: Load) -> std::ops::RangeInclusive<u64> {
    let (options, lower, upper) = (&tuner.options, tuner.lower(), tuner.upper());
    let sizes = || options.minimum..=options.maximum;
    let first = |load: Load| sizes().find(|&size| load.share(size) <= upper);
    let last = |load: Load| sizes().rev().find(|&size| load.share(size) >= lower);
    // Below the first size for the light load it has to go up, from the first one for the heavy load
    // on it cannot; and the other way round.
    let has_to_go_up = first(light).unwrap_or(options.maximum);
    let can_go_up = first(heavy).unwrap_or(options.maximum);
    let can_go_down = last(light).map_or(options.minimum, |size| size + 1);
    let has_to_go_down = last(heavy).unwrap_or(options.minimum);
    let least = has_to_go_up.min(can_go_down.saturating_sub(options.subtract));
    let most = has_to_go_down.max((can_go_up - 1) * options.multiply);
    least.max(options.minimum)..=most.clamp(options.minimum, options.maximum)
}

#[test]
fn the_sizes_of_the_papers_figure_are_found() {
    let mut tuner = Tuner::new(TunerOptions::paper());
    let permille = |size: u64| match size {
        0..4 => 940,
        4..64 if size < 50 => 600,
        _ => 35,
    };
    let mut sizes = vec![tuner.size()];
    while tuner.size() > 49 || sizes.len() < 6 {
        let size = tuner.size();
        let decided = (0..4).map(|_| tuner.observe(permille(size), 1_000)).collect::<Vec<_>>();
        assert_eq!(decided[..3], [size; 3], "it takes four groups to decide");
        sizes.push(decided[3]);
    }
    assert_eq!(sizes, [2, 4, 8, 16, 32, 64, 59, 54, 49]);
    assert_eq!(tuner.share_permille(), 0, "of this size no group was seen");
    (0..4).for_each(|_| assert_eq!(tuner.observe(60, 1_000), 49));
    assert_eq!(tuner.share_permille(), 60);
}

#[test]
fn sizes_saturate_at_both_ends() {
    let huge = TunerOptions {
        initial: u64::MAX - 1,
        maximum: u64::MAX,
        groups_per_decision: 1,
        ..TunerOptions::paper()
    };
    assert_eq!(Tuner::new(huge).observe(1, 1), u64::MAX);
    let small = TunerOptions { initial: 3, groups_per_decision: 1, ..TunerOptions::paper() };
    assert_eq!(Tuner::new(small).observe(0, u64::MAX), 1);
}

#[test]
fn a_group_that_took_no_time_says_nothing() {
    let mut tuner = Tuner::new(TunerOptions::paper());
    let before = tuner.clone();
    assert_eq!(tuner.observe(7, 0), 2);
    assert_eq!(tuner, before);
}

#[test]
fn more_coordination_than_time_is_a_whole_share() {
    let mut tuner = Tuner::new(TunerOptions::paper());
    tuner.observe(u64::MAX, 1);
    assert_eq!(tuner.share_permille(), 1_000);
    assert_eq!(share(u64::MAX, u64::MAX), WHOLE);
    assert_eq!(share(u64::MAX / 2, u64::MAX), WHOLE / 2 - 1);
}

#[test]
fn groups_still_in_flight_with_the_old_size_do_not_move_it_again() {
    let mut tuner = Tuner::new(TunerOptions::paper());
    (0..4).for_each(|_| {
        tuner.observe(150, 1_000);
    });
    assert_eq!(tuner.size(), 4);
    for permille in [150, 150, 80, 80, 80, 80, 80, 80] {
        assert_eq!(tuner.observe(permille, 1_000), 4);
    }
}

#[test]
fn most_groups_beyond_a_bound_are_not_enough_if_their_average_is_not() {
    let mut tuner = Tuner::new(TunerOptions::paper());
    let sizes = [0, 105, 105, 105].map(|permille| tuner.observe(permille, 1_000));
    assert_eq!(sizes, [2; 4]);
    let sizes = [105; 8].map(|permille| tuner.observe(permille, 1_000));
    assert_eq!(sizes, [2, 2, 2, 2, 2, 2, 2, 4], "until the average has followed");
}

#[test]
fn an_average_does_not_drift() {
    // Thousands of times up and down around a share that is within bounds.
    let options = TunerOptions { smoothing_permille: 7, ..TunerOptions::paper() };
    let mut tuner = Tuner::new(options);
    tuner.observe(75, 1_000);
    for _ in 0..10_000 {
        tuner.observe(70, 1_000);
        tuner.observe(80, 1_000);
    }
    assert_eq!((tuner.size(), tuner.share_permille()), (2, 75));
    // What rounding keeps it away from a steady share is the same from below and from above.
    let follow = |from: u64| (0..10_000).fold(from, |share, _| tuner.average(share, 75_000_000));
    let [below, above] = [follow(0), follow(WHOLE)];
    assert!((75_000_000 - below).abs_diff(above - 75_000_000) <= 1, "{below} and {above}");
}

#[test]
#[should_panic(expected = "the bounds leave room between them")]
fn bounds_have_to_leave_room() {
    Tuner::new(TunerOptions { lower_permille: 100, ..TunerOptions::paper() });
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn it_settles_under_constant_load(options in options(), load in loads()) {
        settle(&mut Tuner::new(options), load)?;
    }

    #[test]
    fn it_follows_a_change(options in options(), loads in prop::collection::vec(loads(), 2..5)) {
        let mut tuner = Tuner::new(options);
        for load in loads {
            settle(&mut tuner, load)?;
        }
    }

    #[test]
    fn one_spike_does_not_move_it(
        options in options(),
        load in loads(),
        phase in 0..9_u64,
        spike in (any::<u64>(), any::<u64>()),
    ) {
        let mut tuner = Tuner::new(options);
        settle(&mut tuner, load)?;
        run(&mut tuner, load, phase);
        let size = tuner.size();
        prop_assert_eq!(tuner.observe(spike.0, spike.1), size);
        for _ in 0..100 {
            run(&mut tuner, load, 1);
            prop_assert_eq!(tuner.size(), size);
        }
    }

    /// Steps may be too long for the bounds, and loads uneven: then it goes to and fro, but no
    /// further than one step beyond the sizes that are within bounds.
    #[test]
    fn it_stays_near_the_bounds_whatever_the_steps(
        options in any_options(),
        load in loads(),
        noise in prop::collection::vec(800..1_200_u64, 1..50),
    ) {
        let band = band(&Tuner::new(options.clone()), load.times(800), load.times(1_200));
        let mut tuner = Tuner::new(options.clone());
        let mut noise = noise.into_iter().cycle();
        let decisions = options.maximum / options.subtract + 20;
        for group in 0..2 * decisions * u64::from(options.groups_per_decision) {
            let size = tuner.size();
            let entered = group > decisions * u64::from(options.groups_per_decision);
            let in_band = band.contains(&size);
            prop_assert!(!entered || in_band, "{} is outside of {:?}", size, band);
            let load = load.times(noise.next().unwrap_or(1_000));
            tuner.observe(load.coordination_ns, load.total_ns(size));
        }
    }

    #[test]
    fn it_never_leaves_its_limits(
        options in any_options(),
        groups in prop::collection::vec((any::<u64>(), any::<u64>()), 0..200),
    ) {
        let limits = options.minimum..=options.maximum;
        let mut tuner = Tuner::new(options);
        for (coordination_ns, total_ns) in groups {
            prop_assert!(limits.contains(&tuner.observe(coordination_ns, total_ns)));
            prop_assert!(tuner.share_permille() <= 1_000);
        }
    }
}
