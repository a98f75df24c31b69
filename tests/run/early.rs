//! Fragments that come before the first of their packet: held while `run` is there, bounded, and told of.

use super::*;

/// Sends fragments, each an IPv4 packet with its header, from a node.
fn send_raw(lab: &Lab, node: &str, to: Ipv4Addr, packets: &[Vec<u8>]) -> Result<()> {
    lab.node(node)?.enter(|| {
        // What is sent by a socket of protocol 255 has its header already.
        let raw = socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::RAW)).context("no raw socket")?;
        for packet in packets {
            sendto(&raw, packet, SendFlags::empty(), &SocketAddrV4::new(to, 0))?;
        }
        Ok(())
    })
}

/// The fragments of a datagram, the last one first.
fn reversed(id: u16, from: (Ipv4Addr, u16), to: (Ipv4Addr, u16), data: &[u8]) -> Vec<Vec<u8>> {
    let payload = Payload::Udp {
        from: from.1,
        to: to.1,
        data: data.to_vec(),
        checksum: true,
    };
    backwards(id, from.0, to.0, payload)
}

/// The fragments of any packet, the last one first.
fn backwards(id: u16, from: Ipv4Addr, to: Ipv4Addr, payload: Payload) -> Vec<Vec<u8>> {
    let frame = Frame {
        id,
        ..Frame::new(from, to, payload)
    };
    let mut pieces: Vec<Vec<u8>> = frame
        .split(1_400)
        .iter()
        .map(|piece| piece.bytes().split_off(14))
        .collect();
    pieces.reverse();
    pieces
}

const HOST_1: Ipv4Addr = Ipv4Addr::new(192, 168, 10, 2);

/// A conversation by UDP between host 1 and the server: the sockets of both, and the host's address as the server sees it.
struct Talk {
    near: UdpSocket,
    far: UdpSocket,
    seen_from: SocketAddrV4,
}

impl Talk {
    fn begin(site: &Site) -> Result<Self> {
        let near = site.lab.node("host1")?.enter(|| numbered::socket((HOST_1, 5_000)))?;
        let far = site
            .lab
            .node("internet")?
            .enter(|| numbered::socket((plan::SERVER, PORT)))?;
        near.connect((plan::SERVER, PORT))?;
        let (seen_from, _) = numbered::greet(&near, &far)?;
        let SocketAddr::V4(seen_from) = seen_from else {
            bail!("{seen_from} is no IPv4 address")
        };
        for socket in [&near, &far] {
            socket.set_read_timeout(Some(Duration::from_millis(500)))?;
        }
        Ok(Self { near, far, seen_from })
    }

    /// Sends a datagram in fragments, the last one first; whether it arrives whole.
    fn backwards(&self, site: &Site, direction: Direction, id: u16, len: usize) -> Result<bool> {
        let data: Vec<u8> = (0..=255).cycle().skip(usize::from(id)).take(len).collect();
        let (node, to, receiver, pieces) = match direction {
            Direction::Up => {
                let pieces = reversed(id, (HOST_1, 5_000), (plan::SERVER, PORT), &data);
                ("host1", plan::SERVER, &self.far, pieces)
            }
            Direction::Down => {
                let to = (*self.seen_from.ip(), self.seen_from.port());
                let pieces = reversed(id, (plan::SERVER, PORT), to, &data);
                ("internet", to.0, &self.near, pieces)
            }
        };
        send_raw(&site.lab, node, to, &pieces)?;
        let mut buffer = vec![0; 65_536];
        match receiver.recv(&mut buffer) {
            Ok(len) => {
                ensure!(buffer[..len] == data, "it arrives changed");
                Ok(true)
            }
            Err(_) => Ok(false),
        }
    }
}

/// Pings the server from host 1 with a request of 4,000 bytes whose last fragment goes first; whether it is answered in full.
fn ping_backwards(site: &Site, id: u16) -> Result<bool> {
    const IDENTIFIER: u16 = 0x4d45;
    let echo = Payload::Icmp {
        kind: 8,
        code: 0,
        id: IDENTIFIER,
        data: vec![7; 4_000],
    };
    let listening = site.lab.node("host1")?.enter(|| {
        let raw = socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::ICMP)).context("no raw socket")?;
        set_socket_timeout(&raw, Timeout::Recv, Some(Duration::from_secs(1)))?;
        Ok(raw)
    })?;
    send_raw(
        &site.lab,
        "host1",
        plan::SERVER,
        &backwards(id, HOST_1, plan::SERVER, echo),
    )?;
    let mut buffer = vec![0; 65_536];
    while let Ok((len, _)) = recv(&listening, &mut buffer[..], RecvFlags::empty()) {
        // Behind the IPv4 header: type, code, checksum, identifier.
        let is_answer = buffer[20] == 0 && buffer[24..26] == IDENTIFIER.to_be_bytes();
        if is_answer {
            return Ok(len >= 20 + 8 + 4_000 && buffer[28 + 3_999] == 7);
        }
    }
    Ok(false)
}

/// What a gateway has counted of early fragments.
fn early(site: &Site) -> Result<[u64; 5]> {
    // Counted a few times a second.
    thread::sleep(Duration::from_millis(300));
    let stat = site.stat()?;
    let of = |key: &str| {
        let value = stat.pointer(&format!("/early_fragments/{key}")).and_then(Value::as_u64);
        value.with_context(|| format!("`mape-ctl stat --json` lacks early_fragments/{key}"))
    };
    Ok([
        of("held")?,
        of("released")?,
        of("expired")?,
        of("displaced")?,
        of("lost")?,
    ])
}

fn missing(site: &Site) -> Result<u64> {
    gateway::refused(&site.stat()?, "fragment-first-missing")
}

#[test]
fn fragments_that_come_backwards_arrive_while_run_is_there() {
    let _alone = alone();
    let Some(mut site) = Site::new().unwrap() else { return };
    // What has been put in order here is in order at the border relay, too, but not what comes from beyond it.
    let br = site.lab.gateway(Role::Br).unwrap().clone();
    let node = site.lab.node("br").unwrap().clone();
    let config = br.config().to_string_lossy().into_owned();
    let br_run = br.start(&node, &[], &["run", "--config", &config]).unwrap();
    wait_for("the border relay's run", PATIENCE, || {
        let file = format!("/run/mape/{}.run.pid", br.instance());
        Ok(fs::read_to_string(file).is_ok_and(|text| text.contains("ready")))
    })
    .unwrap();
    let talk = Talk::begin(&site).unwrap();
    let mut id = 0;
    for direction in [Direction::Up, Direction::Down] {
        let mut whole = 0;
        let mut slowest = Duration::ZERO;
        for _ in 0..50 {
            id += 1;
            let begin = Instant::now();
            whole += usize::from(talk.backwards(&site, direction, id, 4_000).unwrap());
            slowest = slowest.max(begin.elapsed());
        }
        if whole < 50 {
            for role in [Role::Ce, Role::Br] {
                let gateway = site.lab.gateway(role).unwrap();
                println!(
                    "{}",
                    gateway
                        .ctl(site.lab.node(role.node()).unwrap(), &["stat"])
                        .unwrap()
                        .stdout
                );
            }
        }
        println!("{direction:?}: {whole} of 50 arrived, the slowest after {slowest:?}");
        assert_eq!(whole, 50, "{direction:?}");
        id += 1;
        assert!(
            talk.backwards(&site, direction, id, 30_000).unwrap(),
            "{direction:?}: many fragments"
        );
    }
    // The server cuts its answers so that they fit the tunnel.
    site.tool("internet", "ip -4 route replace 192.0.2.0/24 via 203.0.113.1 mtu 1460")
        .unwrap();
    for id in 500..520 {
        assert!(ping_backwards(&site, id).unwrap(), "ping {id}");
    }
    let [held, released, expired, displaced, lost] = early(&site).unwrap();
    println!("held {held}, released {released}, expired {expired}, displaced {displaced}, lost {lost}");
    assert_eq!((released, expired, displaced, lost), (held, 0, 0, 0));
    // Outwards two early fragments of each datagram, inwards none where the border relay has put them in order.
    assert!(held >= 100 + 21, "{held}");
    assert_eq!(missing(&site).unwrap(), 0);

    // A first fragment that never comes.
    let pieces = reversed(9_999, (HOST_1, 5_000), (plan::SERVER, PORT), &[7; 4_000]);
    send_raw(&site.lab, "host1", plan::SERVER, &pieces[..2]).unwrap();
    thread::sleep(Duration::from_millis(2_500));
    let after = early(&site).unwrap();
    assert_eq!(after[2], 2, "{after:?}");

    // Without it, dropped and counted.
    kill_process(site.pid().unwrap(), Signal::KILL).unwrap();
    site.run.take().unwrap().finish(PATIENCE).unwrap();
    assert!(!talk.backwards(&site, Direction::Up, 10_000, 4_000).unwrap());
    assert_eq!(missing(&site).unwrap(), 2);
    site.start().unwrap();
    assert!(talk.backwards(&site, Direction::Up, 10_001, 4_000).unwrap());
    assert_eq!(missing(&site).unwrap(), 2);
    drop(br_run);
}

#[test]
fn a_flood_of_early_fragments_is_bounded_and_spares_others() {
    let _alone = alone();
    let Some(site) = Site::new().unwrap() else { return };
    let talk = Talk::begin(&site).unwrap();
    let cpu = |site: &Site| -> Result<u64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", site.pid()?.as_raw_nonzero()))?;
        let (_, fields) = stat.rsplit_once(") ").context("no fields")?;
        let fields: Vec<&str> = fields.split(' ').collect();
        Ok(fields[11].parse::<u64>()? + fields[12].parse::<u64>()?)
    };
    let enough = Arc::new(AtomicBool::new(false));
    let stop = Arc::clone(&enough);
    let flood = site
        .lab
        .node("host2")
        .unwrap()
        .spawn_thread(move || {
            let raw = socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::RAW)).context("no raw socket")?;
            let from = (Ipv4Addr::new(192, 168, 20, 2), 6_000);
            let mut sent = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                let id = u16::try_from(sent % 60_000)?;
                let pieces = reversed(id, from, (plan::SERVER, 9), &[0; 2_000]);
                sendto(
                    &raw,
                    &pieces[0],
                    SendFlags::empty(),
                    &SocketAddrV4::new(plan::SERVER, 0),
                )?;
                sent += 1;
            }
            Ok(sent)
        })
        .unwrap();
    let (begin, before) = (Instant::now(), cpu(&site).unwrap());
    let mut whole = 0;
    for id in 0..40 {
        whole += usize::from(talk.backwards(&site, Direction::Up, id, 4_000).unwrap());
    }
    let used = Duration::from_millis(10) * u32::try_from(cpu(&site).unwrap() - before).unwrap();
    let took = begin.elapsed();
    enough.store(true, Ordering::Relaxed);
    let sent = flood.join().unwrap().unwrap();
    let [held, released, expired, displaced, lost] = early(&site).unwrap();
    println!(
        "{sent} early fragments in {took:?}: {whole} of 40 datagrams beside them arrived, {used:?} of a processor"
    );
    println!("held {held}, released {released}, expired {expired}, displaced {displaced}, lost {lost}");
    assert!(whole >= 38, "{whole}");
    assert!(displaced > 0, "one sender has a share and no more");
    let memory = fs::read_to_string(format!("/proc/{}/status", site.pid().unwrap().as_raw_nonzero())).unwrap();
    let resident = memory.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    println!("{resident}");
}
