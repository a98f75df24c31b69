//! Names of the maps in the object, as user space opens and pins them (the kernel keeps 15 characters).

/// `Array<Config>`, one entry.
pub const CONFIG: &str = "CONFIG";
/// `Array<u64>`, one entry, memory-mappable: see `trace::Gate`.
pub const GATE: &str = "GATE";
/// `Array<Link>`, by interface index.
pub const LINKS: &str = "LINKS";
/// `Array<NextHop>`.
pub const HOPS: &str = "HOPS";
/// `Array<Rule>`.
pub const RULES: &str = "RULES";
/// `LpmTrie<[u8; 4], RuleRef>`: rules by IPv4 prefix.
pub const RULES_V4: &str = "RULES_V4";
/// `LpmTrie<[u8; 16], RuleRef>`: rules by IPv6 prefix.
pub const RULES_V6: &str = "RULES_V6";
/// `Array<nat::index::Bucket>`, memory-mappable: the two tables of flows, by `nat::index::number`.
pub const FLOWS: &str = "FLOWS";
/// `Array<Session>`, memory-mappable.
pub const SESSIONS: &str = "SESSIONS";
/// `Stack<u32>`: slots of SESSIONS that are free.
pub const FREE_SLOTS: &str = "FREE_SLOTS";
/// `Array<u64>`, memory-mappable: `Transport::index() * ports + ordinal`, see `nat::port`.
pub const PORTS: &str = "PORTS";
/// `Array<u64>`: which destinations use which shared port, see `nat::overlap`.
pub const OVERLAP: &str = "OVERLAP";
/// `Array<u64>`: refusals of the last second, see `nat::refusal`.
pub const REFUSED: &str = "REFUSED";
/// `Array<nat::fragment::Record>`: packets in fragments that are on their way.
pub const FRAGMENTS: &str = "FRAGMENTS";
/// `HashMap<PermissionKey, u64>`: who may send to an endpoint-independent mapping.
pub const PERMISSIONS: &str = "PERMISSIONS";
/// `Array<HostUse>`, memory-mappable: what LAN hosts have, see `nat::quota`.
pub const HOSTS: &str = "HOSTS";
/// `PerCpuArray<Counter>`: `direction * OUTCOMES + outcome`.
pub const COUNTERS: &str = "COUNTERS";
/// `Array<u64>` of [`super::Gauge`].
pub const GAUGES: &str = "GAUGES";
/// `Array<SweepTimer>`, one entry.
pub const SWEEP: &str = "SWEEP";
/// `Array<SweepOrder>`, one entry: what the sweeper's next direct call shall end.
pub const SWEEP_ORDER: &str = "SWEEP_ORDER";
/// `Array<PortOrder>`, one entry: what the next direct call of [`super::programs::PORT`] shall do.
pub const PORT_ORDER: &str = "PORT_ORDER";
/// `ProgramArray`: the stages that others hand packets on to, see `step::stage`.
pub const STAGES: &str = "STAGES";
/// `ProgramArray`: the same for the tunnel device's programs, by the same numbers.
pub const TUNNEL_STAGES: &str = "TUNNEL_STAGES";
/// `Array<Watch>`, one entry: what those who follow packets are told.
pub const WATCH: &str = "WATCH";
/// `RingBuf` of `trace::Event`.
pub const EVENTS: &str = "EVENTS";
/// `XskMap`: who holds fragments whose first has not come, by [`super::holder`].
pub const HOLDERS: &str = "HOLDERS";
/// `Array<u64>`: how long native IPv6 is forwarded, and which neighbours were left to the stack when, see `step::native`.
pub const NATIVE: &str = "NATIVE";
/// `CpuMap`: processors that take packets from the tunnel over, by the kernel's numbers.
pub const CPUS: &str = "CPUS";
/// `Array<u32>`: which of them takes which packet over, by `step::spread::place`.
pub const SPREAD: &str = "SPREAD";
/// `ProgramArray`: the stages that are run where a packet has been taken over, by the same numbers as in STAGES.
pub const CPU_STAGES: &str = "CPU_STAGES";
/// `PerCpuArray<u64>`: packets handed on by [`super::HANDED_ON`] and taken over by [`super::TAKEN_OVER`].
pub const HANDED: &str = "HANDED";
/// All maps that are pinned, in the order above.
pub const ALL: [&str; 31] = [
    CONFIG,
    GATE,
    LINKS,
    HOPS,
    RULES,
    RULES_V4,
    RULES_V6,
    FLOWS,
    SESSIONS,
    FREE_SLOTS,
    PORTS,
    OVERLAP,
    REFUSED,
    FRAGMENTS,
    PERMISSIONS,
    HOSTS,
    COUNTERS,
    GAUGES,
    SWEEP,
    SWEEP_ORDER,
    PORT_ORDER,
    STAGES,
    TUNNEL_STAGES,
    WATCH,
    EVENTS,
    HOLDERS,
    NATIVE,
    CPUS,
    SPREAD,
    CPU_STAGES,
    HANDED,
];
