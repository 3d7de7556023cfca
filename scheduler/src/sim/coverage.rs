//! The matrix of fault classes by phases of the protocol: how often which was injected when.

/// What may go wrong, or be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// All links are slow for a while.
    DelaySpike,
    /// A connection breaks: what is under way on it is lost.
    LostConnection,
    /// Nothing gets from one node to another for a while, but the other way it does.
    PartitionOneWay,
    /// Nothing gets from one node to another for a while, nor back.
    PartitionBothWays,
    /// A process dies and comes back much later.
    WorkerCrash,
    /// A process dies and is there again before anybody noticed.
    WorkerRestart,
    /// A process stands still until it is given up, and then goes on as if nothing had been.
    PauseAndWake,
    /// The driver is told that a worker is lost, which it is not.
    WrongSuspicion,
    /// A core takes many times longer for everything.
    SlowCore,
    /// A worker's clock is off.
    ClockOffset,
    /// Storage takes many times longer.
    SlowStorage,
    /// Storage refuses, or says that it did.
    FailingStorage,
    /// A worker retains more than its limit.
    FullMemory,
    /// The driver dies.
    DriverCrash,
    /// The driver stands still, another takes over, and the first one wakes.
    DriverPause,
    /// Two workers die at once.
    TwoWorkers,
    /// All workers but one die.
    AllButOne,
    /// The driver and a worker die together.
    DriverAndWorker,
    /// A worker joins.
    Join,
    /// A worker is to leave.
    Drain,
}

impl Fault {
    /// All of them.
    pub const ALL: [Fault; 20] = [
        Fault::DelaySpike,
        Fault::LostConnection,
        Fault::PartitionOneWay,
        Fault::PartitionBothWays,
        Fault::WorkerCrash,
        Fault::WorkerRestart,
        Fault::PauseAndWake,
        Fault::WrongSuspicion,
        Fault::SlowCore,
        Fault::ClockOffset,
        Fault::SlowStorage,
        Fault::FailingStorage,
        Fault::FullMemory,
        Fault::DriverCrash,
        Fault::DriverPause,
        Fault::TwoWorkers,
        Fault::AllButOne,
        Fault::DriverAndWorker,
        Fault::Join,
        Fault::Drain,
    ];

    /// As the matrix calls it.
    pub fn name(self) -> &'static str {
        match self {
            Fault::DelaySpike => "delay spike",
            Fault::LostConnection => "lost connection",
            Fault::PartitionOneWay => "partition one-way",
            Fault::PartitionBothWays => "partition both ways",
            Fault::WorkerCrash => "worker crash",
            Fault::WorkerRestart => "worker restart",
            Fault::PauseAndWake => "pause and wake",
            Fault::WrongSuspicion => "wrong suspicion",
            Fault::SlowCore => "slow core",
            Fault::ClockOffset => "clock offset",
            Fault::SlowStorage => "slow storage",
            Fault::FailingStorage => "failing storage",
            Fault::FullMemory => "full memory",
            Fault::DriverCrash => "driver crash",
            Fault::DriverPause => "driver pause",
            Fault::TwoWorkers => "two workers at once",
            Fault::AllButOne => "all workers but one",
            Fault::DriverAndWorker => "driver and worker",
            Fault::Join => "join",
            Fault::Drain => "drain",
        }
    }
}

/// What the protocol is in the middle of. Several may be true at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// A group is scheduled and not done.
    InGroup,
    /// Promises were asked for, and the cut is not committed.
    PromiseOpen,
    /// A cut is committed, and no group is scheduled after it.
    CommittedNotScheduled,
    /// Snapshots are being taken.
    Collecting,
    /// A manifest is on its way to the journal.
    WritingManifest,
    /// A life was fenced, and not all survivors have answered.
    Fencing,
    /// Lost partitions replay.
    Recovering,
    /// New owners load what will move to them.
    PreparingMoves,
    /// A state is on its way to its new owner.
    Shipping,
    /// A new driver has not taken over yet.
    Takeover,
    /// The last group is scheduled.
    Flushing,
}

impl Phase {
    /// All of them.
    pub const ALL: [Phase; 11] = [
        Phase::InGroup,
        Phase::PromiseOpen,
        Phase::CommittedNotScheduled,
        Phase::Collecting,
        Phase::WritingManifest,
        Phase::Fencing,
        Phase::Recovering,
        Phase::PreparingMoves,
        Phase::Shipping,
        Phase::Takeover,
        Phase::Flushing,
    ];

    /// As the head of the matrix calls it.
    pub fn name(self) -> &'static str {
        match self {
            Phase::InGroup => "group",
            Phase::PromiseOpen => "promise",
            Phase::CommittedNotScheduled => "cut",
            Phase::Collecting => "collect",
            Phase::WritingManifest => "manifest",
            Phase::Fencing => "fence",
            Phase::Recovering => "recover",
            Phase::PreparingMoves => "prepare",
            Phase::Shipping => "ship",
            Phase::Takeover => "takeover",
            Phase::Flushing => "flush",
        }
    }
}

const FAULTS: usize = Fault::ALL.len();
const PHASES: usize = Phase::ALL.len();

/// Cells that cannot be, with the reason.
pub const IMPOSSIBLE: &[(Fault, Phase, &str)] = &[];

/// How often which fault was injected in which phase.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Matrix {
    counts: [[u64; PHASES]; FAULTS],
}

impl Default for Matrix {
    fn default() -> Matrix {
        Matrix { counts: [[0; PHASES]; FAULTS] }
    }
}

impl Matrix {
    pub(crate) fn count(&mut self, fault: Fault, phase: Phase) {
        self.counts[fault as usize][phase as usize] += 1;
    }

    /// Adds another's counts.
    pub fn merge(&mut self, other: &Matrix) {
        for (row, other) in self.counts.iter_mut().zip(&other.counts) {
            row.iter_mut().zip(other).for_each(|(count, other)| *count += other);
        }
    }

    /// For another program: one line `matrix <fault number> <count of each phase>...` for each fault.
    pub fn to_lines(&self) -> Vec<String> {
        let line = |(index, row): (usize, &[u64; PHASES])| {
            let counts: Vec<String> = row.iter().map(u64::to_string).collect();
            format!("matrix {index} {}", counts.join(" "))
        };
        self.counts.iter().enumerate().map(line).collect()
    }
}
