//! Tests of the driver's time, with made-up samples.

use super::{ClockSample, DriverClock, monotonic_now, thread_cpu_ns};

fn sample(sent: u64, driver_now: u64, received: u64) -> ClockSample {
    ClockSample { sent, driver_now, received }
}

#[test]
fn without_a_sample_local_time_is_told() {
    let mut clock = DriverClock::new();
    assert_eq!(clock.at(7), 7);
    assert_eq!(clock.error_bound(), None);
}

#[test]
fn the_answer_is_taken_to_be_given_half_way() {
    let mut clock = DriverClock::new();
    clock.add(sample(100, 5_000, 140));
    assert_eq!(clock.at(140), 5_020);
    assert_eq!(clock.local(5_020), 140);
    assert_eq!(clock.error_bound(), Some(20));
}

#[test]
fn a_driver_behind_us_is_followed_too() {
    let mut clock = DriverClock::new();
    clock.add(sample(1_000, 10, 1_020));
    assert_eq!(clock.at(1_030), 30);
    assert_eq!(clock.at(0), 30, "not before what was told");
    assert_eq!(DriverClock { samples: clock.samples.clone(), told: 0 }.at(0), 0, "nor before zero");
}

#[test]
fn the_shortest_round_trip_decides() {
    let mut clock = DriverClock::new();
    clock.add(sample(0, 1_000, 400));
    clock.add(sample(1_000, 2_105, 1_010));
    clock.add(sample(2_000, 3_400, 2_900));
    assert_eq!(clock.at(3_000), 4_100);
    assert_eq!(clock.error_bound(), Some(5));
}

#[test]
fn an_old_sample_is_forgotten_after_eight_more() {
    let mut clock = DriverClock::new();
    clock.add(sample(0, 0, 0));
    for round in 1..=8 {
        clock.add(sample(round * 100, round * 100 + 50 + 7, round * 100 + 100));
    }
    assert_eq!(clock.at(1_000), 1_007);
}

#[test]
fn time_stands_still_rather_than_run_backwards() {
    let mut clock = DriverClock::new();
    clock.add(sample(0, 1_000, 200));
    assert_eq!(clock.at(200), 1_100);
    clock.add(sample(300, 700, 310));
    assert_eq!(clock.at(320), 1_100, "the better sample says 715");
    assert_eq!(clock.at(705), 1_100);
    assert_eq!(clock.at(706), 1_101);
}

#[test]
fn a_sample_against_the_order_of_time_is_ignored() {
    let mut clock = DriverClock::new();
    clock.add(sample(10, 1_000, 9));
    assert_eq!(clock.at(5), 5);
}

#[test]
fn the_clocks_advance() {
    let (before, cpu_before) = (monotonic_now(), thread_cpu_ns());
    let mut sum = 0u64;
    for value in 0..100_000u64 {
        sum = std::hint::black_box(sum.wrapping_add(value));
    }
    assert!(monotonic_now() > before);
    assert!(thread_cpu_ns() > cpu_before);
}
