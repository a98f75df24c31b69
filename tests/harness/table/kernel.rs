//! The world in the kernel: the same object that is shipped, run by `BPF_PROG_TEST_RUN` in a namespace of its own.

mod device;

use std::{
    collections::HashMap,
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use aya::{
    Ebpf, EbpfLoader, TestRun as _, TestRunOptions, TestRunResult,
    maps::{Array, HashMap as BpfHashMap, MapData, PerCpuArray, ProgramArray, Stack},
    programs::{Xdp, XdpMode, xdp::XdpLinkId},
};
use mape_common::{
    env::Side,
    hop::{Link, NextHop},
    layout::{
        Config, Counter, FRAGMENTS, FlowKey, Gauge, NATIVE_WORDS, PermissionKey, PortOrder, SweepOrder, Transport,
        maps, programs,
    },
    nat::{
        index::{self, WORDS},
        port::PortState,
        session::State,
    },
    step::{native::Lease, stage::Stage},
    time::Tick,
    verdict::{DELIVERED, FORWARDED, NATIVE, OUTCOMES, Reason, TRANSLATED},
};

use rustix::time::{ClockId, clock_gettime};

use super::world::{
    ELSEWHERE, GATEWAY, GATEWAY6, HOST, HOST_MAC, HOST6, LAN_MAC, Outcome, Program, ROUTER_MAC, SERVER6, STRANGER6,
    WAN_MAC, World, config, router,
};
use crate::netns::Netns;

const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const XDP_TX: u32 = 3;
const XDP_REDIRECT: u32 = 4;
/// Larger than any frame of the tables with its outer header.
const ROOM: usize = 4096;

/// A gateway whose state is in BPF maps. Made and used on a thread that is inside its namespace.
pub struct KernelWorld {
    ebpf: Ebpf,
    interfaces: HashMap<Program, u32>,
    attached: HashMap<String, (&'static str, XdpLinkId)>,
    forwards: Vec<PortOrder>,
    /// Ticks that records were made older by, all together.
    aged: u32,
    /// When the router was last heard of.
    heard: Instant,
}

/// The kernel's time, as its programs see it.
pub fn now() -> Tick {
    let time = clock_gettime(ClockId::MonotonicCoarse);
    let nanos = u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0);
    Tick::from_nanos(nanos)
}

/// Makes the NICs, neighbours and routes that the gateway of the tables has.
///
/// # Errors
/// When `ip` fails.
pub fn furnish(netns: &Netns) -> Result<()> {
    for line in [
        format!("ip link add lan0 address {} type veth peer name lan0p", mac(LAN_MAC.0)),
        format!("ip link add wan0 address {} type veth peer name wan0p", mac(WAN_MAC.0)),
        "ip link add other0 type veth peer name other0p".to_owned(),
        "ip tuntap add mape0 mode tun".to_owned(),
    ] {
        netns.tool(&line)?;
    }
    for device in ["lan0", "lan0p", "wan0", "wan0p", "other0", "other0p", "mape0"] {
        netns.tool(&format!("ip link set {device} up"))?;
        netns.sysctl(&format!("ipv4/conf/{device}/forwarding"), "1")?;
    }
    netns.tool("ip addr add 192.168.10.1/24 dev lan0")?;
    netns.tool(&format!(
        "ip neigh replace {HOST} lladdr {} dev lan0 nud permanent",
        mac(HOST_MAC.0)
    ))?;
    netns.tool("ip route add default dev mape0")?;
    netns.tool(&format!("ip route add {ELSEWHERE} dev other0"))?;
    let (host, router, stranger) = (mac(HOST_MAC.0), mac(ROUTER_MAC.0), mac([2, 0, 0, 0, 3, 2]));
    for line in [
        format!("addr add {GATEWAY6}/64 dev lan0 nodad"),
        format!("neigh replace {HOST6} lladdr {host} dev lan0 nud permanent"),
        "addr add 2001:db8:b::2/64 dev wan0 nodad".to_owned(),
        format!("neigh replace 2001:db8:b::1 lladdr {router} dev wan0 nud permanent"),
        format!("route add {SERVER6}/128 via 2001:db8:b::1 dev wan0"),
        "addr add 2001:db8:c::2/64 dev other0 nodad".to_owned(),
        format!("neigh replace 2001:db8:c::1 lladdr {stranger} dev other0 nud permanent"),
        format!("route add {STRANGER6}/128 via 2001:db8:c::1 dev other0"),
    ] {
        netns.tool(&format!("ip -6 {line}"))?;
    }
    for device in ["all", "lan0", "wan0"] {
        netns.sysctl(&format!("ipv6/conf/{device}/forwarding"), "1")?;
    }
    Ok(())
}

fn mac(bytes: [u8; 6]) -> String {
    bytes.map(|b| format!("{b:02x}")).join(":")
}

fn index(device: &str) -> Result<u32> {
    // Through the netlink-free file that belongs to this thread's namespace; /sys would show another one's devices.
    let text = fs::read_to_string("/proc/thread-self/net/dev_mcast")?;
    let by_multicast = text.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        let index = words.next()?.parse().ok()?;
        (words.next()? == device).then_some(index)
    });
    by_multicast
        .or_else(|| by_igmp(device))
        .with_context(|| format!("no device {device} here"))
}

fn by_igmp(device: &str) -> Option<u32> {
    let text = fs::read_to_string("/proc/thread-self/net/igmp").ok()?;
    text.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        let index = words.next()?.parse().ok()?;
        (words.next()? == device).then_some(index)
    })
}

impl KernelWorld {
    /// Loads the object with room for that many sessions; the calling thread is inside a furnished namespace.
    ///
    /// # Errors
    /// When the kernel refuses it, with the verifier's log.
    pub fn new(object: &[u8], sessions: u32) -> Result<Self> {
        Self::with(object, sessions, |_| {})
    }

    /// The same with a configuration that was changed before anything ran.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with(object: &[u8], sessions: u32, change: impl FnOnce(&mut Config)) -> Result<Self> {
        let (lan, wan, tunnel) = (index("lan0")?, index("wan0")?, index("mape0")?);
        let mut config = config(tunnel, sessions);
        change(&mut config);
        let mut ebpf = EbpfLoader::new()
            .map_max_entries(maps::SESSIONS, sessions)
            .map_max_entries(maps::FLOWS, index::buckets_of_both(sessions))
            .map_max_entries(maps::FREE_SLOTS, sessions)
            .map_max_entries(maps::PERMISSIONS, sessions)
            .map_max_entries(maps::PORTS, 3 * config.ports)
            .map_max_entries(maps::LINKS, 1024)
            .map_max_entries("TEMPLATES", 4096)
            .map_max_entries(maps::RULES, 16)
            .map_max_entries(maps::RULES_V4, 16)
            .map_max_entries(maps::RULES_V6, 16)
            .load(object)?;
        let mut slots: Stack<_, u32> = Stack::try_from(ebpf.map_mut(maps::FREE_SLOTS).context("FREE_SLOTS")?)?;
        for slot in (0..sessions).rev() {
            slots.push(slot, 0)?;
        }
        array::<Config>(&mut ebpf, maps::CONFIG)?.set(0, config, 0)?;
        for (device, mac, address) in [(lan, LAN_MAC, GATEWAY.octets()), (wan, WAN_MAC, [0; 4])] {
            let [first, _] = Link::words(mac, 1500);
            let second = Link::with_address(Link::ATTACHED | Link::ALIVE, address);
            array::<[u64; 2]>(&mut ebpf, maps::LINKS)?.set(device, [first, second], 0)?;
        }
        let heard = Instant::now();
        let hop = NextHop::words(NextHop::FAR_END, &router(wan), now());
        array::<[u64; 4]>(&mut ebpf, maps::HOPS)?.set(0, hop, 0)?;
        array::<u64>(&mut ebpf, maps::GATE)?.set(0, 1, 0)?;
        for name in [
            programs::LAN,
            programs::WAN,
            programs::PASS,
            programs::SWEEP,
            programs::PORT,
        ] {
            program(&mut ebpf, name)?
                .load()
                .with_context(|| format!("loading {name}"))?;
        }
        for stage in Stage::ALL {
            let loaded = program(&mut ebpf, stage.program())?;
            loaded.load().with_context(|| format!("loading {}", stage.program()))?;
            let fd = loaded.fd()?.try_clone()?;
            let mut stages = ProgramArray::try_from(ebpf.map_mut(maps::STAGES).context("STAGES")?)?;
            stages.set(stage.number(), &fd, 0)?;
        }
        // A test run claims to have come in by these NICs; the kernel allows that where they have a receive queue for XDP.
        let mut world = Self {
            ebpf,
            interfaces: HashMap::from([(Program::Lan, lan), (Program::Wan, wan)]),
            attached: HashMap::new(),
            forwards: Vec::new(),
            aged: 0,
            heard,
        };
        for device in ["lan0", "wan0"] {
            world.attach(device, programs::PASS)?;
        }
        Ok(world)
    }

    /// Puts a program on a device, in the place of the one that this world has put there before.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn attach(&mut self, device: &str, name: &'static str) -> Result<()> {
        if let Some((old, link)) = self.attached.remove(device) {
            program(&mut self.ebpf, old)?.detach(link)?;
        }
        let program = program(&mut self.ebpf, name)?;
        if program.fd().is_err() {
            program.load()?;
        }
        let link = program.attach(device, XdpMode::Driver)?;
        self.attached.insert(device.to_owned(), (name, link));
        Ok(())
    }

    /// Interface index of a device of the calling thread's namespace.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn index(device: &str) -> Result<u32> {
        index(device)
    }

    /// The maps and programs, for tests that look further.
    pub const fn ebpf(&mut self) -> &mut Ebpf {
        &mut self.ebpf
    }

    /// Ends every forward that a test has made, and every session, as `mape-ctl sessions --flush` does, and forgets all fragments;
    /// gives how many records the sweeper ended.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn flush(&mut self) -> Result<u32> {
        let mut fragments = array::<[u64; 8]>(&mut self.ebpf, maps::FRAGMENTS)?;
        for index in 0..FRAGMENTS {
            fragments.set(index, [0; 8], 0)?;
        }
        for made in std::mem::take(&mut self.forwards) {
            self.carry_out(PortOrder {
                action: PortOrder::UNFORWARD,
                ..made
            })?;
        }
        self.sweep(SweepOrder {
            flush: 1,
            ..SweepOrder::default()
        })
    }

    /// Ends what has expired and what an order means; gives how many records were ended.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn sweep(&mut self, mut order: SweepOrder) -> Result<u32> {
        let sessions = self.config()?.sessions;
        while order.next_slot < sessions {
            array::<SweepOrder>(&mut self.ebpf, maps::SWEEP_ORDER)?.set(0, order, 0)?;
            let options = TestRunOptions {
                data_in: Some(&[0; 64]),
                ..TestRunOptions::default()
            };
            program(&mut self.ebpf, programs::SWEEP)?.test_run(options)?;
            order = array::<SweepOrder>(&mut self.ebpf, maps::SWEEP_ORDER)?.get(&0, 0)?;
        }
        Ok(order.ended)
    }

    /// A gauge.
    ///
    /// # Errors
    /// When the map refuses.
    pub fn read(&mut self, gauge: Gauge) -> Result<u64> {
        Ok(array::<u64>(&mut self.ebpf, maps::GAUGES)?.get(&gauge.index(), 0)?)
    }

    /// The external port of a flow's session, if there is one.
    ///
    /// # Errors
    /// When a map refuses.
    pub fn external_port(&mut self, key: &FlowKey) -> Result<Option<u16>> {
        let config = self.config()?;
        let flows: Array<_, [u64; WORDS]> = Array::try_from(self.ebpf.map(maps::FLOWS).context("FLOWS")?)?;
        let sessions: Array<_, [u64; 8]> = Array::try_from(self.ebpf.map(maps::SESSIONS).context("SESSIONS")?)?;
        let (bucket, session) = (|n| flows.get(&n, 0), |slot| sessions.get(&slot, 0));
        let facts = index::look_up(&config, Side::Inside, key, bucket, session)?;
        Ok(facts.map(|facts| facts.external_port.0))
    }

    /// Makes records, permissions, fragments, the path's MTU, quarantines and shortages so many ticks older: to the programs, that time has passed.
    ///
    /// What has expired must have been swept before, for the sweeper's timer may run meanwhile.
    ///
    /// # Errors
    /// When a map refuses.
    pub fn age(&mut self, ticks: u32) -> Result<()> {
        let slots = self.config()?.sessions;
        let mut sessions = array::<[u64; 8]>(&mut self.ebpf, maps::SESSIONS)?;
        for slot in 0..slots {
            let [word, rest @ ..] = sessions.get(&slot, 0)?;
            let state = State::from_word(word);
            if state.phase.is_live() {
                let used = Tick(state.used.0.wrapping_sub(ticks));
                let [a, b, c, d, e, f, g] = rest;
                sessions.set(slot, [State { used, ..state }.to_word(), a, b, c, d, e, f, g], 0)?;
            }
        }
        for transport in Transport::ALL {
            let index = Gauge::Pressed(transport).index();
            let mut gauges = array::<u64>(&mut self.ebpf, maps::GAUGES)?;
            let then = u32::try_from(gauges.get(&index, 0)?)?;
            if then != 0 {
                gauges.set(index, u64::from(then.wrapping_sub(ticks)), 0)?;
            }
        }
        let mut ports = array::<u64>(&mut self.ebpf, maps::PORTS)?;
        for index in 0..ports.len() {
            if let PortState::Quarantined(until) = PortState::from_word(ports.get(&index, 0)?) {
                let until = Tick(until.0.wrapping_sub(ticks));
                ports.set(index, PortState::Quarantined(until).to_word(), 0)?;
            }
        }
        let mut fragments = array::<[u64; 8]>(&mut self.ebpf, maps::FRAGMENTS)?;
        for index in 0..FRAGMENTS {
            let [state, rest @ ..] = fragments.get(&index, 0)?;
            if state != 0 {
                // When the first fragment came is the low half.
                let [a, b, c, d, e, f, g] = rest;
                let then = (state & 0xffff_ffff).wrapping_sub(ticks.into()) & 0xffff_ffff;
                fragments.set(index, [state & !0xffff_ffff | then, a, b, c, d, e, f, g], 0)?;
            }
        }
        // When the path's MTU was told is counted in units of 256 ticks: what is left of one is kept for the next time.
        let aged = self.aged.wrapping_add(ticks);
        let units = u64::from((aged >> 8).wrapping_sub(self.aged >> 8)) & 0xffff;
        self.aged = aged;
        let mut hops = array::<[u64; 4]>(&mut self.ebpf, maps::HOPS)?;
        let [address, to, from, told] = hops.get(&0, 0)?;
        let then = (told >> 32 & 0xffff).wrapping_sub(units) & 0xffff;
        hops.set(0, [address, to, from, told & !(0xffff << 32) | then << 32], 0)?;
        let mut permissions: BpfHashMap<_, PermissionKey, u64> =
            BpfHashMap::try_from(self.ebpf.map_mut(maps::PERMISSIONS).context("PERMISSIONS")?)?;
        let keys: Vec<_> = permissions.keys().collect::<Result<_, _>>()?;
        for key in keys {
            if let Ok(then) = permissions.get(&key, 0) {
                // As the programs see it: a tick in the low half.
                let then = u32::try_from(then)?.wrapping_sub(ticks);
                permissions.insert(key, u64::from(then), 0)?;
            }
        }
        Ok(())
    }

    /// The configuration.
    ///
    /// # Errors
    /// When the map refuses.
    pub fn config(&mut self) -> Result<Config> {
        Ok(array::<Config>(&mut self.ebpf, maps::CONFIG)?.get(&0, 0)?)
    }

    /// Changes the configuration between packets.
    ///
    /// # Errors
    /// When the map refuses.
    pub fn configure(&mut self, config: Config) -> Result<()> {
        Ok(array::<Config>(&mut self.ebpf, maps::CONFIG)?.set(0, config, 0)?)
    }

    /// Opens or closes the gate.
    ///
    /// # Errors
    /// When the map refuses.
    pub fn set_gate(&mut self, open: bool) -> Result<()> {
        Ok(array::<u64>(&mut self.ebpf, maps::GATE)?.set(
            0,
            if open {
                mape_common::trace::Gate::OPEN | mape_common::trace::Gate::SLOW
            } else {
                0
            },
            0,
        )?)
    }

    fn carry_out(&mut self, order: PortOrder) -> Result<u32> {
        array::<PortOrder>(&mut self.ebpf, maps::PORT_ORDER)?.set(0, order, 0)?;
        let options = TestRunOptions {
            data_in: Some(&[0; 64]),
            ..TestRunOptions::default()
        };
        program(&mut self.ebpf, programs::PORT)?.test_run(options)?;
        Ok(array::<PortOrder>(&mut self.ebpf, maps::PORT_ORDER)?
            .get(&0, 0)?
            .outcome)
    }

    /// Gives a frame to a program; the time that the kernel measured for it and all stages after it, and what it was counted by.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn time(&mut self, which: Program, frame: &[u8]) -> Result<(Duration, &'static str)> {
        let before = self.counters()?;
        let result = self.test_run(which, frame, &mut vec![0; ROOM])?;
        Ok((result.duration, label(self.counted(&before)?)))
    }

    /// The router of the tables is never silent for long.
    fn hear_router(&mut self) -> Result<()> {
        if self.heard.elapsed() > Duration::from_millis(500) {
            let mut hops = array::<[u64; 4]>(&mut self.ebpf, maps::HOPS)?;
            let mut words = hops.get(&0, 0)?;
            words[3] = words[3] & !0xffff_ffff | u64::from(now().0);
            hops.set(0, words, 0)?;
            self.heard = Instant::now();
        }
        Ok(())
    }

    fn test_run(&mut self, which: Program, frame: &[u8], out: &mut [u8]) -> Result<TestRunResult> {
        self.hear_router()?;
        let name = match which {
            Program::Lan => programs::LAN,
            Program::Wan => programs::WAN,
        };
        // struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex
        let len = u32::try_from(frame.len())?;
        let ingress = self.interfaces.get(&which).copied().unwrap_or(0);
        let context: Vec<u8> = [0, len, 0, ingress, 0, 0]
            .into_iter()
            .flat_map(u32::to_ne_bytes)
            .collect();
        Ok(program(&mut self.ebpf, name)?.test_run(TestRunOptions {
            data_in: Some(frame),
            data_out: Some(out),
            ctx_in: Some(&context),
            ..TestRunOptions::default()
        })?)
    }

    /// The one counter that has moved since.
    fn counted(&mut self, before: &[u64]) -> Result<u32> {
        let after = self.counters()?;
        let counted: Vec<usize> = (0..after.len()).filter(|i| after[*i] != before[*i]).collect();
        let [slot] = counted[..] else {
            bail!("one packet moved {} counters", counted.len())
        };
        Ok(u32::try_from(slot)? % OUTCOMES)
    }

    fn run(&mut self, which: Program, frame: &[u8]) -> Result<(Outcome, &'static str)> {
        let before = self.counters()?;
        let mut out = vec![0; ROOM];
        let result = self.test_run(which, frame, &mut out)?;
        out.truncate(usize::try_from(result.data_size_out)?);
        let slot = self.counted(&before)?;
        let outcome = match result.return_value {
            XDP_TX if slot != FORWARDED => Outcome::Answered(out),
            XDP_TX | XDP_REDIRECT => Outcome::Forwarded(out),
            XDP_PASS => Outcome::Passed(out),
            XDP_DROP => Outcome::Dropped,
            action => bail!("XDP action {action}"),
        };
        let (outbound, inbound) = before.split_at(usize::try_from(OUTCOMES)?);
        let elsewhere = if which == Program::Lan { inbound } else { outbound };
        let after = self.counters()?;
        let (outbound, inbound) = after.split_at(usize::try_from(OUTCOMES)?);
        let now = if which == Program::Lan { inbound } else { outbound };
        assert_eq!(elsewhere, now, "counted in its own direction");
        Ok((outcome, label(slot)))
    }

    fn counters(&mut self) -> Result<Vec<u64>> {
        let map: PerCpuArray<_, Counter> =
            PerCpuArray::try_from(self.ebpf.map_mut(maps::COUNTERS).context("COUNTERS")?)?;
        (0..2 * OUTCOMES)
            .map(|i| Ok(map.get(&i, 0)?.iter().map(|c| c.packets).sum()))
            .collect()
    }
}

impl World for KernelWorld {
    fn forward_native(&mut self, on: bool) {
        let lease = if on { Lease::FOR_EVER } else { Lease::NONE };
        let mut words = array::<u64>(&mut self.ebpf, maps::NATIVE).expect("the map");
        for index in 0..NATIVE_WORDS {
            let word = if index == Lease::INDEX { lease.0 } else { 0 };
            words.set(index, word, 0).expect("a word of NATIVE");
        }
    }

    fn order(&mut self, order: PortOrder) -> u32 {
        let outcome = self.carry_out(order).expect("the kernel runs the program");
        if order.action == PortOrder::FORWARD && outcome == PortOrder::DONE {
            self.forwards.push(order);
        }
        outcome
    }

    fn give(&mut self, program: Program, frame: &[u8]) -> (Outcome, &'static str) {
        self.run(program, frame).expect("the kernel runs the program")
    }
}

/// The name of a counter.
fn label(slot: u32) -> &'static str {
    match slot {
        FORWARDED => "forwarded",
        DELIVERED => "delivered",
        TRANSLATED => "translated",
        NATIVE => "native",
        slot => Reason::ALL
            .iter()
            .find(|r| r.number() == slot)
            .map_or("a number without a reason", |r| r.label()),
    }
}

/// An array map of the object.
fn array<'a, T: aya::Pod>(ebpf: &'a mut Ebpf, name: &str) -> Result<Array<&'a mut MapData, T>> {
    Ok(Array::try_from(
        ebpf.map_mut(name).with_context(|| format!("map {name}"))?,
    )?)
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    Ok(ebpf
        .program_mut(name)
        .with_context(|| format!("program {name}"))?
        .try_into()?)
}
