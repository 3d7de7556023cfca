//! Tests of the shares.

use drizzle_scheduler::StageId;
use drizzle_scheduler::plan::{Edge, Pacing, Pattern, Plan, Stage, StageKind};

use super::*;

fn plan(edges: u16, partition_count: u32) -> Plan {
    let stage = |number: u16| Stage {
        name: number.to_string(),
        kind: if number == 0 { StageKind::Source(Pacing::Clock) } else { StageKind::Stateful },
        partition_count,
    };
    let edge = |from: u16| Edge {
        from: StageId(from),
        to: StageId(from + 1),
        pattern: Pattern::AllToAll,
        batch_delta: 0,
    };
    Plan {
        name: "plan".to_owned(),
        stages: (0..=edges).map(stage).collect(),
        edges: (0..edges).map(edge).collect(),
        fingerprint: 0,
    }
}

fn cores(own: usize, all: usize, elsewhere: usize) -> CoreCounts {
    CoreCounts { own, all, elsewhere }
}

#[test]
fn the_shares_of_all_cores_stay_within_the_memory() {
    for (own, all, elsewhere) in [(1, 1, 0), (2, 2, 0), (1, 2, 1), (2, 6, 4), (1, 128, 127)] {
        for bytes in [64 << 20, (100 << 20) + 77, 1 << 30] {
            let shares = Memory::EachWorker(bytes).share(&plan(2, 16), cores(own, all, elsewhere));
            let shares = shares.unwrap();
            let sum = shares.written.max_bytes
                + shares.received_bytes
                + shares.state_bytes
                + shares.combiner_bytes
                + shares.results_bytes;
            assert!(sum * own <= bytes, "{shares:?}");
            assert_eq!(shares.received_bytes > 0, elsewhere > 0);
        }
    }
}

#[test]
fn segments_that_writers_hold_take_at_most_a_quarter() {
    for all in 1..=200 {
        for edges in 1..=3 {
            let (plan, cores) = (plan(edges, 16), cores(1, all, 0));
            let least = least_of_core(&plan, cores);
            for bytes in [least, 2 * least, 3 * least + 12_345, 1 << 30] {
                let written = Memory::EachCore(bytes).share(&plan, cores).unwrap().written;
                let held = usize::from(edges) * all * written.segment_bytes;
                assert!(4 * held <= written.max_bytes, "{all} {edges} {bytes} {written:?}");
            }
        }
    }
}

#[test]
fn too_little_memory_is_one_sentence_with_the_least_that_works() {
    let (plan, two) = (plan(1, 16), cores(2, 2, 0));
    let error = Memory::EachWorker(1 << 20).check(&plan, two).unwrap_err();
    assert_eq!(
        error.to_string(),
        "1MiB of memory for a worker are too little for this job's cores and partitions: \
         the least that works is 8MiB"
    );
    assert_eq!(Memory::EachWorker(error.least_bytes).check(&plan, two), Ok(()));
    let less = Memory::EachWorker(error.least_bytes - 1).check(&plan, two);
    assert_eq!(less.map_err(|error| error.least_bytes), Err(error.least_bytes));
}

#[test]
fn more_cores_and_more_partitions_need_more() {
    let least = |plan: &Plan, cores| least_of_core(plan, cores);
    let few = least(&plan(1, 16), cores(1, 2, 0));
    assert!(least(&plan(1, 16), cores(1, 200, 0)) > few);
    assert!(least(&plan(1, 16), cores(1, 200, 199)) > least(&plan(1, 16), cores(1, 200, 0)));
    assert!(least(&plan(1, 16_384), cores(1, 2, 0)) > few);
}

#[test]
fn sizes_are_whole_numbers_and_rounded_up() {
    let text = |bytes| Size(bytes).to_string();
    assert_eq!([text(0), text(1023), text(1024), text(1025)], ["0B", "1023B", "1KiB", "1025B"]);
    assert_eq!(
        [text(3 << 19), text(64 << 20), text((64 << 20) + 1)],
        ["1536KiB", "64MiB", "65MiB"]
    );
    assert_eq!(text(3 << 29), "1536MiB");
}

#[test]
fn a_worker_that_is_alone_has_room_for_what_those_that_join_send() {
    let peer = |worker: u32| Peer {
        worker: WorkerId(worker),
        incarnation: drizzle_scheduler::Incarnation(1),
        cores: 1,
        address: "127.0.0.1:1".parse().unwrap(),
    };
    let (plan, memory) = (plan(2, 16), Memory::EachCore(64 << 20));
    let options = |worker: u32, all: &[Peer]| {
        let reach = Reach::GrowingProcesses;
        let shares = WorkerShares::new(memory, &plan, WorkerId(worker), all, reach).unwrap();
        let linked = all.iter().map(|peer| peer.worker).filter(|other| other.0 != worker);
        shares.of_core(linked, 1 << 20)
    };
    let alone = options(0, &[peer(0)]);
    for count in 2..6 {
        let all: Vec<Peer> = (0..count).map(peer).collect();
        let joined = options(count - 1, &all);
        let from_all = joined.peers[&WorkerId(0)] * (all.len() - 1);
        assert!(alone.received.max_bytes >= from_all, "{count}: {from_all} {alone:?}");
    }
}
