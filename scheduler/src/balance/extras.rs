//! Which cores run one partition of a stage more than others, where partitions cannot be divided
//! evenly: so that each core runs as many of them in all as any other (or one less), and as few
//! partitions as possible move.
//!
//! This is a flow of minimal cost, from stages over cores. Cores that would like the same stages are
//! one node, which keeps it small on large clusters: there are no more kinds than sets of stages.

use std::collections::{BTreeMap, VecDeque};

use crate::ids::{CoreId, StageId};

/// Cores that may keep one partition more than the others of the same stages.
type Kinds = BTreeMap<Vec<StageId>, Vec<CoreId>>;

/// For each stage, the cores that run one more than the others do: `surplus` has how many there are
/// in each stage, `wishes` the stages of which a core runs more than the even share already.
pub(super) fn extras(
    surplus: &[usize],
    wishes: &BTreeMap<CoreId, Vec<StageId>>,
) -> Vec<Vec<CoreId>> {
    let mut kinds = Kinds::new();
    for (&core, stages) in wishes {
        kinds.entry(stages.clone()).or_default().push(core);
    }
    let flow = divide(surplus, &kinds, wishes.len());
    let mut chosen = vec![Vec::new(); surplus.len()];
    for (kind, cores) in kinds.values().enumerate() {
        // In turn over all stages: no two cores of a kind differ by more than one.
        let mut turn = cores.iter().cycle();
        for (stage, chosen) in chosen.iter_mut().enumerate() {
            chosen.extend(turn.by_ref().take(flow[stage][kind]));
        }
    }
    chosen
}

/// How many of each stage's surplus go to each kind of core.
fn divide(surplus: &[usize], kinds: &Kinds, cores: usize) -> Vec<Vec<usize>> {
    let stage_node = |stage: usize| 2 + stage;
    let kind_node = |kind: usize| 2 + surplus.len() + kind;
    let mut network = Network::new(2 + surplus.len() + kinds.len());
    let total: usize = surplus.iter().sum();
    let even = total / cores;
    // Dearer than all moves together: every core gets the even share before any gets more.
    let reward = 1 + total as i64;
    for (stage, &count) in surplus.iter().enumerate() {
        network.add(SOURCE, stage_node(stage), count, 0);
    }
    let mut arcs = vec![Vec::new(); surplus.len()];
    for (kind, (wishes, members)) in kinds.iter().enumerate() {
        for (stage, arcs) in arcs.iter_mut().enumerate() {
            let moves = i64::from(!wishes.contains(&StageId(stage as u16)));
            arcs.push(network.add(stage_node(stage), kind_node(kind), members.len(), moves));
        }
        network.add(kind_node(kind), SINK, members.len() * even, -reward);
        network.add(kind_node(kind), SINK, members.len(), 0);
    }
    let sent = network.send_all();
    assert_eq!(sent, total, "each stage has fewer partitions left over than there are cores");
    arcs.iter().map(|arcs| arcs.iter().map(|&arc| network.flow(arc)).collect()).collect()
}

const SOURCE: usize = 0;
const SINK: usize = 1;

/// Arcs with capacities and costs; arc `2 n + 1` is the way back of arc `2 n`.
struct Network {
    arcs: Vec<Arc>,
    arcs_from: Vec<Vec<usize>>,
}

struct Arc {
    to: usize,
    left: usize,
    cost: i64,
}

impl Network {
    fn new(nodes: usize) -> Network {
        Network { arcs: Vec::new(), arcs_from: vec![Vec::new(); nodes] }
    }

    fn add(&mut self, from: usize, to: usize, capacity: usize, cost: i64) -> usize {
        let arc = self.arcs.len();
        self.arcs_from[from].push(arc);
        self.arcs_from[to].push(arc + 1);
        self.arcs.push(Arc { to, left: capacity, cost });
        self.arcs.push(Arc { to: from, left: 0, cost: -cost });
        arc
    }

    fn flow(&self, arc: usize) -> usize {
        self.arcs[arc + 1].left
    }

    /// Sends as much as possible, always along the cheapest way: what is sent is then sent as
    /// cheaply as possible.
    fn send_all(&mut self) -> usize {
        let mut sent = 0;
        while let Some(way) = self.cheapest_way() {
            let least = way.iter().map(|&arc| self.arcs[arc].left).min();
            let amount = least.expect("source and sink are not the same");
            for arc in way {
                self.arcs[arc].left -= amount;
                self.arcs[arc ^ 1].left += amount;
            }
            sent += amount;
        }
        sent
    }

    /// The arcs of the cheapest way on which something is left (Bellman and Ford, with a queue).
    fn cheapest_way(&self) -> Option<Vec<usize>> {
        let mut reached: Vec<Option<(i64, usize)>> = vec![None; self.arcs_from.len()];
        let mut is_queued = vec![false; self.arcs_from.len()];
        let mut queue = VecDeque::from([SOURCE]);
        while let Some(node) = queue.pop_front() {
            is_queued[node] = false;
            let so_far = reached[node].map_or(0, |(cost, _)| cost);
            for &arc in &self.arcs_from[node] {
                let Arc { to, left, cost } = self.arcs[arc];
                let cost = so_far + cost;
                let is_cheaper = reached[to].is_none_or(|(known, _)| cost < known);
                if left > 0 && to != SOURCE && is_cheaper {
                    reached[to] = Some((cost, arc));
                    if to != SINK && !is_queued[to] {
                        is_queued[to] = true;
                        queue.push_back(to);
                    }
                }
            }
        }
        let mut way = Vec::new();
        let mut node = SINK;
        while node != SOURCE {
            let (_, arc) = reached[node]?;
            way.push(arc);
            node = self.arcs[arc ^ 1].to;
        }
        Some(way)
    }
}
