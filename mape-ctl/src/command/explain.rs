//! `mape-ctl explain`: what the loaded gateway does with a packet, step by step, without doing it.

use std::{
    cell::Cell,
    collections::BTreeMap,
    io::{self, Write as _},
    net::Ipv6Addr,
};

use anyhow::{Context as _, Result, bail};
use aya::programs::loaded_programs;
use mape_common::{
    env::{Env, Route},
    hop::{Hop, Mac, NextHop},
    host::HostEnv,
    layout::{Config, programs},
    wire::eth,
    word::Word,
};
use serde_json::json;

use crate::{
    cli::{ExplainArgs, LoadArgs},
    config,
    datapath::{pin::PinFolder, rules::RuleTables, tables},
    explain::{
        Port,
        capture::{self, Frame},
        explain,
        flow::{self, Ends, Way},
        loaded::Loaded,
        observer::Observer,
        report,
    },
    gateway::{Gateway, Role},
    instance::Instance,
    netlink::Netlink,
    view,
};

/// A LAN host or router whose real MAC address does not matter.
const SOMEBODY: Mac = Mac([2, 0, 0, 0, 0, 1]);
/// Interfaces of a gateway that is not loaded are numbered from here; HostEnv counts from 1.
const TUNNEL: u32 = 1_000_000;

/// Explains what the arguments ask for.
///
/// # Errors
/// Wrong usage, a gateway that is not loaded or not in this network namespace, or a capture that cannot be read.
pub fn run(instance: &Instance, args: &ExplainArgs) -> Result<()> {
    let subject = Subject::read(args)?;
    if let Some(file) = &args.config {
        let flags = LoadArgs {
            config: Some(file.clone()),
            ..LoadArgs::default()
        };
        let resolved = config::resolve(instance, &flags)?;
        let (env, ports, names) = imagined(&resolved.gateway)?;
        let note = format!(
            "as a gateway of {} without a single session would do it: every IPv4 destination is taken to go into the tunnel, and \
             every private source to be on {}",
            file.display(),
            resolved.gateway.lan.join(", ")
        );
        let observer = Observer::new(env, names);
        return tell(args, &subject, &observer, &ports, &note, || Ok(()));
    }
    let (pins, tables) = view::open("explain", instance)?;
    let names: BTreeMap<u32, String> = interfaces()?
        .into_iter()
        .map(|(index, name, _)| (index, name))
        .collect();
    let ports = ports(instance, &pins)?;
    let observer = Observer::new(Loaded::open(&pins, &tables)?, names);
    let note = format!("as instance {instance} is now; nothing is changed");
    tell(args, &subject, &observer, &ports, &note, || {
        Ok(observer.inner().check()?)
    })
}

/// What is to be explained.
enum Subject {
    Frames(Vec<Frame>),
    Flow(Ends),
}

impl Subject {
    fn read(args: &ExplainArgs) -> Result<Self> {
        Ok(match (&args.pcap, &args.hex) {
            (Some(file), _) => Self::Frames(capture::read(file, args.frame)?),
            (None, Some(text)) => Self::Frames(vec![capture::hex(text)?]),
            (None, None) => Self::Flow(flow::ends(args)?),
        })
    }
}

fn tell<E: Env>(
    args: &ExplainArgs,
    subject: &Subject,
    observer: &Observer<E>,
    ports: &[Port],
    note: &str,
    check: impl Fn() -> Result<()>,
) -> Result<()> {
    let scene = Scene { args, observer, ports };
    let frames = match subject {
        Subject::Flow(ends) => vec![scene.flow(ends)?],
        Subject::Frames(frames) => frames
            .iter()
            .map(|frame| scene.captured(frame))
            .collect::<Result<_>>()?,
    };
    // What was asked until here was ours, not the core's.
    drop(observer.take());
    let config = *observer
        .config()
        .context("the gateway has no configuration yet; run mape-ctl load")?;
    let name = |ifindex| observer.name(ifindex);
    let mut out = io::stdout().lock();
    let several = frames.len() > 1;
    let mut told = Vec::new();
    for (number, (port, frame)) in (1..).zip(&frames) {
        let explanation = explain(observer, port, frame);
        check()?;
        if args.json {
            told.push(report::json(&explanation, &name));
            continue;
        }
        if several {
            writeln!(out, "Frame {number}")?;
        }
        write!(out, "{}", report::text(&explanation, &config, &name)?)?;
        if several {
            writeln!(out)?;
        }
    }
    if args.json {
        writeln!(out, "{}", json!({ "note": note, "packets": told }))?;
    } else {
        writeln!(out, "({note})")?;
        if several && frames.len() == capture::MOST {
            writeln!(
                out,
                "(only the first {} frames; choose one with --frame)",
                capture::MOST
            )?;
        }
    }
    Ok(out.flush()?)
}

/// What a frame is made from and where it comes by.
struct Scene<'a, E> {
    args: &'a ExplainArgs,
    observer: &'a Observer<E>,
    ports: &'a [Port],
}

impl<E: Env> Scene<'_, E> {
    fn config(&self) -> Result<&Config> {
        self.observer
            .config()
            .context("the gateway has no configuration yet; run mape-ctl load")
    }

    /// The interface that was named.
    fn named(&self) -> Result<Option<&Port>> {
        let Some(name) = &self.args.from else { return Ok(None) };
        let known: Vec<&str> = self.ports.iter().map(|port| port.name.as_str()).collect();
        let found = self.ports.iter().find(|port| port.name == *name);
        match found {
            Some(port) => Ok(Some(port)),
            None => bail!("{name} is no interface of this gateway; it has {}", known.join(", ")),
        }
    }

    fn first(&self, side: impl Fn(&Port) -> bool, what: &str) -> Result<&Port> {
        self.ports
            .iter()
            .find(|port| side(port))
            .with_context(|| format!("this gateway has no interface for packets {what}"))
    }

    /// The frame of a flow in words.
    fn flow(&self, ends: &Ends) -> Result<(Port, Vec<u8>)> {
        let config = self.config()?;
        let named = self.named()?;
        let is_inbound = self.args.inbound
            || self.args.outer_source.is_some()
            || named.is_some_and(|port| port.is_wan() && !port.is_lan());
        if is_inbound {
            let port = match named {
                Some(port) => port,
                None => self.first(Port::is_wan, "out of the tunnel")?,
            };
            let from = self
                .args
                .outer_source
                .unwrap_or_else(|| Ipv6Addr::from(config.relay_address));
            let way = Way::Tunnelled {
                from,
                to: Ipv6Addr::from(config.tunnel_address),
            };
            let router = self.observer.hop(0).and_then(|hop| hop.get(NextHop::FAR_END));
            let sender = router.map_or(SOMEBODY, |hop| hop.destination);
            let args = ExplainArgs {
                inbound: true,
                ..self.args.clone()
            };
            return Ok((port.clone(), flow::frame(&args, ends, way, sender, self.mac(port))?));
        }
        // Where the routing table says that the source is: a packet from there comes by that interface.
        let (source, destination) = (ends.source.address.octets(), ends.destination.address.octets());
        let back = self.observer.route(config.tunnel_ifindex, destination, source);
        let behind = self
            .ports
            .iter()
            .find(|port| port.is_lan() && Some(port.ifindex) == back.ifindex());
        let port = match named.or(behind) {
            Some(port) => port,
            None => self.first(Port::is_lan, "into the tunnel")?,
        };
        let sender = match back {
            Route::Resolved(hop) => hop.destination,
            Route::Unresolved { .. } | Route::Other => SOMEBODY,
        };
        let frame = flow::frame(self.args, ends, Way::Plain, sender, self.mac(port))?;
        Ok((port.clone(), frame))
    }

    /// A captured frame, with an Ethernet header where it has none.
    fn captured(&self, frame: &Frame) -> Result<(Port, Vec<u8>)> {
        let is_ipv6 = if frame.is_bare {
            frame.bytes.first().is_some_and(|first| first >> 4 == 6)
        } else {
            frame.bytes.get(eth::TYPE..eth::LEN) == Some(&[0x86, 0xdd])
        };
        // The one that it is addressed to, else one of the side that it belongs to.
        let side = |port: &&Port| if is_ipv6 { port.is_wan() } else { port.is_lan() };
        let is_addressed = |port: &&Port| !frame.is_bare && frame.bytes.get(..6) == Some(&self.mac(port).0);
        let addressed = self.ports.iter().filter(side).find(is_addressed);
        // Native IPv6 comes from the LAN, too.
        let addressed = addressed.or_else(|| self.ports.iter().find(is_addressed));
        let port = match self.named()?.or(addressed) {
            Some(port) => port,
            None if is_ipv6 => self.first(Port::is_wan, "out of the tunnel")?,
            None => self.first(Port::is_lan, "into the tunnel")?,
        };
        if !frame.is_bare {
            return Ok((port.clone(), frame.bytes.clone()));
        }
        let mut bytes = Vec::new();
        bytes.extend(self.mac(port).0);
        bytes.extend(SOMEBODY.0);
        bytes.extend(if is_ipv6 { [0x86, 0xdd] } else { [0x08, 0x00] });
        bytes.extend(&frame.bytes);
        Ok((port.clone(), bytes))
    }

    fn mac(&self, port: &Port) -> Mac {
        self.observer
            .link(port.ifindex)
            .map_or(SOMEBODY, |link| Mac::from_bits(link.mac()))
    }
}

/// Number, name, and the XDP program of the interfaces of this network namespace.
fn interfaces() -> Result<Vec<(u32, String, Option<u32>)>> {
    Ok(Netlink::open()?
        .interfaces()?
        .into_iter()
        .map(|interface| (interface.index, interface.name, interface.xdp.map(|xdp| xdp.program)))
        .collect())
}

/// The interfaces of a loaded gateway, and the programs on them.
fn ports(instance: &Instance, pins: &PinFolder) -> Result<Vec<Port>> {
    let linked = pins.linked_interfaces();
    let loaded: BTreeMap<u32, String> = loaded_programs()
        .filter_map(Result::ok)
        .filter_map(|info| Some((info.id(), info.name_as_str()?.to_owned())))
        .collect();
    let ports: Vec<Port> = interfaces()?
        .into_iter()
        .filter(|(_, name, _)| linked.contains(name))
        .filter_map(|(ifindex, name, program)| {
            let program = loaded.get(&program?)?.clone();
            Some(Port { name, ifindex, program })
        })
        .collect();
    if ports.is_empty() {
        bail!(
            "the interfaces of instance {instance} ({}) are not in this network namespace; explain it where it was loaded",
            linked.join(", ")
        );
    }
    Ok(ports)
}

/// A gateway of that configuration that nobody has used yet, its interfaces and their names.
fn imagined(gateway: &Gateway) -> Result<(HostEnv, Vec<Port>, BTreeMap<u32, String>)> {
    let config = tables::config(gateway, TUNNEL, tables::Secrets::new()?);
    let mut env = HostEnv::new(config);
    let (lan, wan, both) = match gateway.role {
        Role::CustomerEdge => (programs::LAN, programs::WAN, programs::ONE_ARM),
        Role::BorderRelay => (programs::RELAY_V4, programs::RELAY_V6, programs::RELAY_ONE_ARM),
    };
    let mut ports: Vec<Port> = Vec::new();
    let mut add = |name: &str, program: &str| {
        let number = u8::try_from(ports.len()).unwrap_or(u8::MAX);
        ports.push(Port {
            name: name.to_owned(),
            ifindex: env.add_link(Mac([2, 0, 0, 0, 1, number]), mtu(gateway)),
            program: program.to_owned(),
        });
    };
    for name in &gateway.lan {
        add(name, if *name == gateway.wan { both } else { lan });
    }
    if !gateway.lan.contains(&gateway.wan) {
        add(&gateway.wan, wan);
    }
    let find = |name: &str| {
        ports
            .iter()
            .find(|port| port.name == name)
            .map_or(0, |port| port.ifindex)
    };
    let (uplink, near) = (find(&gateway.wan), gateway.lan.first().map_or(0, |name| find(name)));
    env.set_far_hop(
        0,
        &Hop {
            ifindex: uplink,
            mtu: mtu(gateway),
            destination: SOMEBODY,
            source: Mac([2, 0, 0, 0, 1, 0]),
        },
    );
    let rules = RuleTables::new(&gateway.rules, &vec![Some(0); gateway.rules.len()]);
    let narrow = |len: u32| u8::try_from(len).unwrap_or(0);
    env.rules_v4 = rules
        .by_ipv4
        .iter()
        .map(|(len, prefix, rule)| (*prefix, narrow(*len), *rule))
        .collect();
    env.rules_v6 = rules
        .by_ipv6
        .iter()
        .map(|(len, prefix, rule)| (*prefix, narrow(*len), *rule))
        .collect();
    env.rules = rules.rules;
    let mut routes = vec![([0; 4], 0, Route::Unresolved { ifindex: TUNNEL })];
    for (prefix, len) in [([10, 0, 0, 0], 8), ([172, 16, 0, 0], 12), ([192, 168, 0, 0], 16)] {
        routes.push((prefix, len, Route::Unresolved { ifindex: near }));
    }
    env.routes.replace(routes);
    if let Some(domain) = &gateway.domain {
        let set = domain.port_set();
        for (index, word) in tables::fresh_ports(&set, &gateway.nat.reserved_ports) {
            let transport = mape_common::layout::Transport::ALL
                .into_iter()
                .find(|transport| Some(transport.index()) == index.checked_div(set.len()));
            if let (Some(transport), Some(ordinal)) = (transport, index.checked_rem(set.len()))
                && let Some(port) = env.port(transport, ordinal)
            {
                Word::store(port, word);
            }
        }
    }
    env.gate = Cell::new(true);
    env.now = Cell::new(view::snapshot::now());
    if let Some(router) = env.hop(0) {
        router.confirm(env.now());
    }
    let mut names: BTreeMap<u32, String> = ports.iter().map(|port| (port.ifindex, port.name.clone())).collect();
    names.insert(TUNNEL, gateway.tunnel.device.clone());
    Ok((env, ports, names))
}

/// The MTU that the interfaces of such a gateway have at least.
fn mtu(gateway: &Gateway) -> u16 {
    gateway.tunnel.mtu.saturating_add(40).max(1_500)
}
