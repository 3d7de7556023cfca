//! Two workers and who calls whom, on sockets.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use drizzle_scheduler::{Incarnation, Life, WorkerId};

use super::Greetings;
use crate::io::{Completion, Io, IoKind, Outcome, open};
use crate::wire::Peer;

struct Node {
    io: Box<dyn Io>,
    greetings: Greetings,
    peer: Peer,
}

impl Node {
    fn new(worker: u32, incarnation: u64) -> Node {
        let (worker, incarnation) = (WorkerId(worker), Incarnation(incarnation));
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it listens");
        let io = open(IoKind::Epoll).expect("epoll");
        let own = Life { worker, incarnation };
        let greetings = Greetings::new(own, Arc::new(listener), io.waker());
        Node { io, greetings, peer: Peer { worker, incarnation, cores: 1, address } }
    }

    fn turn(&mut self) {
        self.greetings.step(&mut *self.io);
        self.io.park(Some(Duration::from_millis(1)));
        let mut completions = Vec::new();
        self.io.poll(&mut completions);
        for Completion { outcome, .. } in completions {
            if let Outcome::Accepted(accepted) = outcome {
                self.greetings.accepted(accepted);
            }
        }
    }

    fn links(&mut self) -> Vec<Life> {
        let links = self.greetings.take_links();
        let life = |link: crate::core::LinkPlan| Life {
            worker: link.worker,
            incarnation: link.incarnation,
        };
        links.into_iter().map(life).collect()
    }
}

/// Steps both until `done`, or for long enough that it will not be.
fn until(nodes: &mut [Node], mut done: impl FnMut(&mut [Node]) -> bool) -> bool {
    for _ in 0..200 {
        nodes.iter_mut().for_each(Node::turn);
        if done(nodes) {
            return true;
        }
    }
    false
}

#[test]
fn the_younger_one_calls_whatever_its_number() {
    let mut nodes = [Node::new(0, 8), Node::new(1, 7)];
    let peers: Vec<Peer> = nodes.iter().map(|node| node.peer.clone()).collect();
    nodes.iter_mut().for_each(|node| node.greetings.introduce(&peers));
    assert!(until(&mut nodes, |nodes| nodes.iter().all(|n| n.greetings.missing().is_empty())));
    let [younger, older] = &mut nodes;
    assert_eq!(younger.links(), [peers[1].life()]);
    assert_eq!(older.links(), [peers[0].life()]);
}

#[test]
fn one_that_a_new_driver_does_not_name_at_once_stays_connected() {
    let mut nodes = [Node::new(0, 2), Node::new(1, 1)];
    let peers: Vec<Peer> = nodes.iter().map(|node| node.peer.clone()).collect();
    nodes.iter_mut().for_each(|node| node.greetings.introduce(&peers));
    assert!(until(&mut nodes, |nodes| nodes.iter().all(|n| n.greetings.missing().is_empty())));
    let caller = &mut nodes[0].greetings;
    caller.introduce(&peers[..1]);
    caller.introduce(&peers);
    assert!(caller.missing().is_empty());
}

#[test]
fn a_caller_that_the_driver_has_not_named_waits_until_it_has() {
    let mut nodes = [Node::new(0, 1), Node::new(1, 2)];
    let peers: Vec<Peer> = nodes.iter().map(|node| node.peer.clone()).collect();
    nodes[1].greetings.introduce(&peers);
    assert!(until(&mut nodes, |nodes| !nodes[0].greetings.early.is_empty()));
    assert_eq!(nodes[0].links(), []);
    nodes[0].greetings.introduce(&peers);
    assert_eq!(nodes[0].links(), [peers[1].life()]);
}

#[test]
fn a_caller_whose_life_is_over_is_hung_up_on() {
    let mut nodes = [Node::new(0, 1), Node::new(1, 2)];
    let peers: Vec<Peer> = nodes.iter().map(|node| node.peer.clone()).collect();
    let later = Peer { incarnation: Incarnation(3), ..peers[1].clone() };
    nodes[0].greetings.introduce(&[peers[0].clone(), later]);
    nodes[1].greetings.introduce(&peers);
    assert!(!until(&mut nodes, |nodes| !nodes[0].links().is_empty()));
    assert!(nodes[0].greetings.early.is_empty());
}
