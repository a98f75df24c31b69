//! Owns the tests of packets in fragments with real senders and receivers, through a customer edge and a border relay.

use std::{
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use mape_tests::{
    gateway::{self, Role},
    lab::{Lab, LabOptions},
    plan,
    process::watch_signals,
    table::frame::{Frame, Payload},
    traffic::{
        iperf::Direction,
        numbered::{self, Load},
        ping,
    },
};
use rustix::net::{AddressFamily, SendFlags, SocketType, ipproto, sendto, socket};
use serde_json::Value;

const HOST_1: Ipv4Addr = Ipv4Addr::new(192, 168, 10, 2);
/// Where the far side listens.
const PORT: u16 = 7_002;
/// Bytes after the IPv4 header of a fragment that fits the tunnel.
const SIZE: usize = 1_440;

/// A lab whose hosts send no packet larger than the tunnel takes: a larger one would have to be fragmented by the gateways.
fn lab() -> Result<Option<Lab>> {
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED: network namespaces need root");
        return Ok(None);
    }
    watch_signals()?;
    let mut lab = Lab::up(&LabOptions::default())?;
    for (node, route) in [
        ("host1", "default via 192.168.10.1"),
        ("host2", "default via 192.168.20.1"),
        ("internet", "192.0.2.0/24 via 203.0.113.1"),
    ] {
        lab.node(node)?.tool(&format!("ip -4 route replace {route} mtu 1460"))?;
    }
    lab.load(&gateway::program()?)?;
    for host in ["host1", "host2"] {
        lab.wait_until_reachable(host)?;
    }
    Ok(Some(lab))
}

/// How many packets a gateway has not forwarded for that reason, both ways.
fn refused(lab: &Lab, role: Role, label: &str) -> Result<u64> {
    lab.gateway(role)?.refused(lab.node(role.node())?, label)
}

fn noted(lab: &Lab, role: Role) -> Result<u64> {
    let stat = lab.gateway(role)?.stat(lab.node(role.node())?)?;
    stat.pointer("/fragmented/noted")
        .and_then(Value::as_u64)
        .context("`mape-ctl stat --json` lacks the packets in fragments")
}

#[test]
fn large_pings_and_datagrams_arrive_whole_both_ways() {
    let Some(lab) = lab().unwrap() else { return };
    for (host, size) in [("host1", 4_000), ("host2", 4_000), ("host1", 20_000)] {
        let echo = ping::ping(&lab, host, &plan::SERVER.to_string(), 50, size).unwrap();
        println!("{host}, {size} bytes: {echo:?}");
        assert_eq!((echo.sent, echo.received, echo.duplicates), (50, 50, 0), "{echo:?}");
    }
    let loads = [
        Load {
            count: 1_000,
            size: 8_192,
            rate: 300,
        },
        Load {
            count: 50,
            size: 60_000,
            rate: 20,
        },
    ];
    for load in loads {
        for direction in [Direction::Up, Direction::Down] {
            let seen = numbered::send(&lab, "host1", direction, load).unwrap();
            println!("{direction:?}, {load:?}: {seen:?}");
            if seen.lost > 0 {
                for role in [Role::Ce, Role::Br] {
                    let gateway = lab.gateway(role).unwrap();
                    println!(
                        "{}",
                        gateway.ctl(lab.node(role.node()).unwrap(), &["stat"]).unwrap().stdout
                    );
                }
            }
            assert_eq!(
                (seen.sent, seen.lost, seen.duplicates, seen.reordered, seen.damaged),
                (load.count, 0, 0, 0, 0),
                "{direction:?}: {seen:?}"
            );
        }
    }
    for role in [Role::Ce, Role::Br] {
        // 150 pings there and back, 1,050 datagrams each way.
        assert_eq!(noted(&lab, role).unwrap(), 2_400, "{role:?}");
        for label in ["fragment", "fragment-first-missing", "fragments-exhausted", "too-big"] {
            assert_eq!(refused(&lab, role, label).unwrap(), 0, "{role:?}: {label}");
        }
    }
}

/// The fragments of a datagram from host 1, each an IPv4 packet.
fn fragments(id: u16, data: &[u8]) -> Vec<Vec<u8>> {
    let payload = Payload::Udp {
        from: 5_000,
        to: PORT,
        data: data.to_vec(),
        checksum: true,
    };
    let frame = Frame {
        id,
        ..Frame::new(HOST_1, plan::SERVER, payload)
    };
    frame
        .split(SIZE)
        .iter()
        .map(|piece| piece.bytes().split_off(14))
        .collect()
}

/// Sends packets from host 1 as they are.
fn send_raw(lab: &Lab, packets: &[Vec<u8>]) -> Result<()> {
    lab.node("host1")?.enter(|| {
        // What is sent by a socket of protocol 255 has its header already.
        let raw = socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::RAW)).context("no raw socket")?;
        for packet in packets {
            sendto(&raw, packet, SendFlags::empty(), &SocketAddrV4::new(plan::SERVER, 0))?;
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    })
}

#[test]
fn fragments_that_come_before_their_first_are_counted_and_dropped() {
    let Some(lab) = lab().unwrap() else { return };
    let server = lab
        .node("internet")
        .unwrap()
        .enter(|| {
            let server = UdpSocket::bind((plan::SERVER, PORT))?;
            server.set_read_timeout(Some(Duration::from_millis(500)))?;
            Ok(server)
        })
        .unwrap();
    let mut buffer = vec![0; 65_536];
    let data: Vec<u8> = (0..=255).cycle().take(6_000).collect();
    let mut missing = 0;
    for id in 1..=20 {
        let packets = fragments(id, &data);
        send_raw(&lab, &packets).unwrap();
        let (len, from) = server.recv_from(&mut buffer).expect("in order it arrives");
        assert_eq!(buffer[..len], data, "whole");
        assert_eq!(from.ip(), plan::CE_IPV4);
        let mut packets = fragments(100 + id, &data);
        packets.reverse();
        send_raw(&lab, &packets).unwrap();
        missing += u64::try_from(packets.len() - 1).unwrap();
    }
    let check = || -> Result<()> {
        let counted = refused(&lab, Role::Ce, "fragment-first-missing")?;
        ensure!(counted == missing, "{counted} were counted, {missing} sent");
        Ok(())
    };
    check().unwrap();
    assert!(
        server.recv_from(&mut buffer).is_err(),
        "nothing is put together of the rest"
    );
}
