//! Owns the tests of static forwards with real servers on the LAN that only wait, as an operator makes and ends them.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket},
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use mape_tests::{
    gateway::{self, Role},
    lab::{Lab, LabOptions},
    netns::Netns,
    plan,
    process::{Finished, wait_for, watch_signals},
};
use serde_json::Value;

/// The first port of the lab's line: its set is 4928-4943, 9024-9039, …
const PORT: u16 = 4928;
/// What the servers on the LAN hosts listen on.
const LISTENS: u16 = 8080;
const PATIENCE: Duration = Duration::from_secs(2);
const HOST_1: Ipv4Addr = Ipv4Addr::new(192, 168, 10, 2);
/// An address that host 2 gets late.
const LATE: Ipv4Addr = Ipv4Addr::new(192, 168, 20, 77);

/// A lab whose LAN hosts have sent nothing, with a word for mape-ctl on the customer edge.
struct Bench {
    lab: Lab,
}

impl Bench {
    fn up() -> Result<Option<Self>> {
        if !rustix::process::geteuid().is_root() {
            println!("SKIPPED: network namespaces need root");
            return Ok(None);
        }
        watch_signals()?;
        let mut lab = Lab::up(&LabOptions::default())?;
        lab.load(&gateway::program()?)?;
        Ok(Some(Self { lab }))
    }

    fn mape(&self, words: &str) -> Result<Finished> {
        let words: Vec<&str> = words.split_whitespace().collect();
        self.lab.gateway(Role::Ce)?.ctl(self.lab.node("ce")?, &words)
    }

    fn json(&self, words: &str) -> Result<Value> {
        serde_json::from_str(&self.mape(words)?.success()?.stdout).context("no JSON")
    }

    /// The message of a command that is refused.
    fn refused(&self, words: &str) -> Result<String> {
        let finished = self.mape(words)?;
        ensure!(
            finished.status.code() == Some(1),
            "`{words}` was not refused: {finished:?}"
        );
        Ok(finished.stderr)
    }

    /// `load` again, with more behind the lab's configuration.
    fn reload_with(&self, more: &str) -> Result<Finished> {
        let gateway = self.lab.gateway(Role::Ce)?;
        let file = self.lab.folder().join("with-forwards.toml");
        fs::write(&file, fs::read_to_string(gateway.config())? + more)?;
        self.mape(&format!("load --config {}", file.display()))
    }

    /// A TCP connection from the Internet to a port of the shared address; what it gets for its "hello".
    fn connect(&self, port: u16) -> Result<TcpStream> {
        self.lab.node("internet")?.enter(|| {
            let to = SocketAddr::from((plan::CE_IPV4, port));
            Ok(TcpStream::connect_timeout(&to, PATIENCE)?)
        })
    }
}

/// Accepts one connection and answers what comes by itself, in capitals.
fn serve(listener: &TcpListener, client: &mut TcpStream) -> Result<(TcpStream, String)> {
    client.set_read_timeout(Some(PATIENCE))?;
    client.write_all(b"hello")?;
    let (mut server, _) = listener.accept()?;
    server.set_read_timeout(Some(PATIENCE))?;
    let mut heard = [0; 5];
    server.read_exact(&mut heard)?;
    server.write_all(&heard.to_ascii_uppercase())?;
    client.read_exact(&mut heard)?;
    Ok((server, String::from_utf8(heard.to_vec())?))
}

/// A datagram each way.
fn echo(client: &UdpSocket, server: &UdpSocket) -> Result<SocketAddr> {
    client.send_to(b"hello", (plan::CE_IPV4, PORT))?;
    let mut buffer = [0; 16];
    let (len, from) = server.recv_from(&mut buffer)?;
    server.send_to(&buffer[..len], from)?;
    let (_, answered) = client.recv_from(&mut buffer)?;
    ensure!(
        answered == SocketAddr::from((plan::CE_IPV4, PORT)),
        "answered by {answered}"
    );
    Ok(from)
}

fn socket(node: &Netns, address: Ipv4Addr, port: u16) -> Result<UdpSocket> {
    node.enter(|| {
        let socket = UdpSocket::bind(SocketAddrV4::new(address, port))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(socket)
    })
}

#[test]
fn servers_that_only_wait_are_reached_by_the_shared_address() {
    let Some(bench) = Bench::up().unwrap() else { return };
    let (host, internet) = (bench.lab.node("host1").unwrap(), bench.lab.node("internet").unwrap());
    let known = bench.lab.node("ce").unwrap().tool("ip -4 neigh show dev lan0").unwrap();
    assert!(!known.contains("lladdr"), "the host has sent nothing yet: {known}");
    let listener = host.enter(|| Ok(TcpListener::bind((HOST_1, LISTENS))?)).unwrap();
    let datagrams = socket(host, HOST_1, LISTENS).unwrap();
    assert!(bench.connect(PORT).is_err(), "nothing is forwarded yet");

    let add = bench
        .mape("forward add both 4928 192.168.10.2:8080")
        .unwrap()
        .success()
        .unwrap();
    assert_eq!(add.stderr, "", "the host answers, so there is nothing to warn of");
    let mut client = bench.connect(PORT).unwrap();
    let (mut server, heard) = serve(&listener, &mut client).unwrap();
    assert_eq!(heard, "HELLO");
    for stranger in [[198, 51, 100, 1], [198, 51, 100, 53]] {
        let from = socket(internet, stranger.into(), 0).unwrap();
        let seen = echo(&from, &datagrams).unwrap();
        assert_eq!(seen, from.local_addr().unwrap(), "the server sees who it is");
    }
    // What the server begins by itself leaves by its forwarded port.
    let stranger = socket(internet, [198, 51, 100, 80].into(), 7000).unwrap();
    datagrams.send_to(b"ping", ("198.51.100.80", 7000)).unwrap();
    let (_, from) = stranger.recv_from(&mut [0; 16]).unwrap();
    assert_eq!(from, SocketAddr::from((plan::CE_IPV4, PORT)));

    let list = bench.json("forward list --json").unwrap();
    let row = &list["forwards"][0];
    assert_eq!(
        (
            row["origin"].as_str(),
            row["sessions"].as_u64(),
            row["host"].as_str(),
            row["active"].as_bool()
        ),
        (Some("command"), Some(4), Some("known"), Some(true)),
        "{list}"
    );
    let ports = bench.json("ports --json").unwrap();
    for (protocol, sessions) in [("tcp", 1), ("udp", 3)] {
        let port = &ports["protocols"][protocol]["ports"][0];
        assert_eq!(
            (
                port["port"].as_u64(),
                port["state"].as_str(),
                port["sessions"].as_u64(),
                port["owner"].as_str()
            ),
            (
                Some(u64::from(PORT)),
                Some("forwarded"),
                Some(sessions),
                Some("192.168.10.2:8080")
            ),
            "{port}"
        );
    }
    let picture = bench.mape("ports --protocol tcp").unwrap().success().unwrap().stdout;
    assert!(
        picture.contains("\n 4928 F") && picture.contains("1 forwarded"),
        "{picture}"
    );
    bench.mape("sessions --flush --yes").unwrap().success().unwrap();
    assert!(bench.connect(PORT).is_ok(), "ending all sessions leaves the forward");

    let del = bench.mape("forward del both 4928").unwrap().success().unwrap();
    assert!(del.stdout.contains("not forwarding both 4928"), "{del:?}");
    assert!(bench.connect(PORT).is_err());
    client.write_all(b"hello").unwrap();
    assert!(
        server.read(&mut [0; 5]).is_err(),
        "the connection's session has been ended, too"
    );
    let from = socket(internet, [198, 51, 100, 1].into(), 0).unwrap();
    assert!(echo(&from, &datagrams).is_err());
    assert_eq!(
        bench.json("forward list --json").unwrap()["forwards"],
        serde_json::json!([])
    );
}

#[test]
fn a_host_that_comes_late_is_reached_when_it_is_there() {
    let Some(bench) = Bench::up().unwrap() else { return };
    let add = bench
        .mape("forward add tcp 4929 192.168.20.77:8080")
        .unwrap()
        .success()
        .unwrap();
    assert!(
        add.stderr.contains("192.168.20.77 does not answer on lan1 yet"),
        "{add:?}"
    );
    assert!(bench.connect(4929).is_err());
    let host = bench.lab.node("host2").unwrap();
    host.tool("ip addr add 192.168.20.77/24 dev eth0").unwrap();
    let listener = host.enter(|| Ok(TcpListener::bind((LATE, LISTENS))?)).unwrap();
    // The kernel asks for it again every few seconds, without anybody sending anything.
    let mut client = None;
    wait_for("the host that came late", Duration::from_secs(20), || {
        client = bench.connect(4929).ok();
        Ok(client.is_some())
    })
    .unwrap();
    let (_, heard) = serve(&listener, &mut client.unwrap()).unwrap();
    assert_eq!(heard, "HELLO");
}

#[test]
fn what_cannot_be_forwarded_is_refused_with_what_can() {
    let Some(bench) = Bench::up().unwrap() else { return };
    let foreign = bench.refused("forward add tcp 80 192.168.10.2").unwrap();
    assert!(
        foreign.contains("port 80 is not of this line; it has 4928-4943, 9024-9039,"),
        "{foreign}"
    );
    let own = bench.refused("forward add tcp 4928 192.168.10.1:22").unwrap();
    assert!(own.contains("leads to this machine itself"), "{own}");
    let shared = bench.refused("forward add tcp 4928 192.0.2.18:22").unwrap();
    assert!(shared.contains("the address that the line shares"), "{shared}");
    bench
        .mape("forward add tcp 4928-4930 192.168.10.2:80")
        .unwrap()
        .success()
        .unwrap();
    let same = bench.refused("forward add both 4930 192.168.20.2:80").unwrap();
    assert!(
        same.contains("both 4930 to 192.168.20.2:80") && same.contains("tcp 4928-4930 to 192.168.10.2:80-82"),
        "{same}"
    );
    let absent = bench.refused("forward del tcp 4928").unwrap();
    assert!(
        absent.contains("there are: tcp 4928-4930 to 192.168.10.2:80-82"),
        "{absent}"
    );
}

#[test]
fn the_configurations_forwards_come_and_go_with_it_and_those_of_commands_stay() {
    let Some(bench) = Bench::up().unwrap() else { return };
    let origins = || -> Result<Vec<(u64, String)>> {
        let list = bench.json("forward list --json")?;
        let rows = list["forwards"].as_array().context("no rows")?;
        let row = |row: &Value| Some((row["external_first"].as_u64()?, row["origin"].as_str()?.to_owned()));
        rows.iter()
            .map(|one| row(one).context("a row without its keys"))
            .collect()
    };
    bench
        .mape("forward add tcp 4929 192.168.10.2:81")
        .unwrap()
        .success()
        .unwrap();
    let file = "\n[[forward]]\nprotocol = \"tcp\"\nexternal = 4928\ninside = \"192.168.10.2:8080\"\n";
    let load = bench.reload_with(file).unwrap().success().unwrap();
    assert!(
        load.stdout.contains("forwards: 2 ports, 1 of them new, 0 gone"),
        "{load:?}"
    );
    let both = [(4928, "configuration".to_owned()), (4929, "command".to_owned())];
    assert_eq!(origins().unwrap(), both);
    let listener = bench
        .lab
        .node("host1")
        .unwrap()
        .enter(|| Ok(TcpListener::bind((HOST_1, LISTENS))?))
        .unwrap();
    let mut client = bench.connect(PORT).unwrap();
    let (mut server, _) = serve(&listener, &mut client).unwrap();
    let in_file = bench.refused("forward del tcp 4928").unwrap();
    assert!(in_file.contains("stands in the configuration"), "{in_file}");

    // The same again: the connection goes on.
    bench.reload_with(file).unwrap().success().unwrap();
    client.write_all(b"again").unwrap();
    server.read_exact(&mut [0; 5]).unwrap();
    // A port that a command has forwarded cannot be reserved behind its back.
    let reserve = bench.reload_with("reserved-ports = [4929]\n").unwrap();
    assert_eq!(reserve.status.code(), Some(1), "{reserve:?}");
    assert!(reserve.stderr.contains("mape-ctl forward del tcp 4929"), "{reserve:?}");
    assert_eq!(origins().unwrap(), both, "nothing was changed");
    // Another port can, and the sessions on it are the only ones that end.
    let reserve = bench
        .reload_with(&format!("reserved-ports = [4930]\n{file}"))
        .unwrap()
        .success()
        .unwrap();
    assert!(!reserve.stdout.contains("ports have changed"), "{reserve:?}");
    client.write_all(b"again").unwrap();
    server.read_exact(&mut [0; 5]).unwrap();
    let refused = bench.refused("forward add tcp 4930 192.168.10.2:82").unwrap();
    assert!(refused.contains("port 4930 is kept from translation"), "{refused}");

    let load = bench.reload_with("").unwrap().success().unwrap();
    assert!(
        load.stdout.contains("forwards: 1 ports, 0 of them new, 1 gone"),
        "{load:?}"
    );
    assert_eq!(origins().unwrap(), [(4929, "command".to_owned())]);
    assert!(bench.connect(PORT).is_err());
    bench.mape("unload").unwrap().success().unwrap();
    let neighbours = bench.lab.node("ce").unwrap().tool("ip -4 neigh show dev lan0").unwrap();
    assert!(!neighbours.contains("managed"), "{neighbours}");
    let gateway = bench.lab.gateway(Role::Ce).unwrap();
    gateway.load(bench.lab.node("ce").unwrap()).unwrap();
    assert_eq!(origins().unwrap(), [], "unload has forgotten it");
}

/// A folder in the place of a file that `load` must write near its end: so it fails there, and takes everything back.
struct Obstacle(PathBuf);

impl Obstacle {
    fn new(bench: &Bench) -> Result<Self> {
        let instance = bench.lab.gateway(Role::Ce)?.instance();
        let path = Path::new("/run/mape").join(format!("{instance}.new"));
        fs::create_dir(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Obstacle {
    fn drop(&mut self) {
        // Gone already where the test has removed it.
        let _ = fs::remove_dir(&self.0);
    }
}

#[test]
fn a_load_that_fails_leaves_forwards_and_reservations_as_they_were() {
    let Some(bench) = Bench::up().unwrap() else { return };
    let forwards = |port: u16| {
        format!(
            "reserved-ports = [{}]\n[[forward]]\nprotocol = \"tcp\"\nexternal = {port}\ninside = \"192.168.10.2:8080\"\n",
            port + 1
        )
    };
    bench.reload_with(&forwards(PORT)).unwrap().success().unwrap();
    let listener = bench
        .lab
        .node("host1")
        .unwrap()
        .enter(|| Ok(TcpListener::bind((HOST_1, LISTENS))?))
        .unwrap();
    let in_use = || -> Result<Vec<Value>> {
        let shown = bench.json("ports --protocol tcp --json")?;
        let ports = shown["protocols"]["tcp"]["ports"].as_array().context("no ports")?;
        Ok(ports.iter().filter(|port| port["state"] != "free").cloned().collect())
    };
    let before = in_use().unwrap();
    assert_eq!(before.len(), 2, "{before:?}");
    let obstacle = Obstacle::new(&bench).unwrap();

    let other_port = bench.reload_with(&forwards(PORT + 2)).unwrap();
    assert_eq!(other_port.status.code(), Some(1), "{other_port:?}");
    // Another line: its ports begin at 9856.
    let gateway = bench.lab.gateway(Role::Ce).unwrap();
    let text = fs::read_to_string(gateway.config()).unwrap();
    let file = bench.lab.folder().join("other-line.toml");
    fs::write(
        &file,
        text.replace("psid-offset = 4", "psid-offset = 3") + &forwards(9856),
    )
    .unwrap();
    let other_line = bench.mape(&format!("load --config {}", file.display())).unwrap();
    assert_eq!(other_line.status.code(), Some(1), "{other_line:?}");
    for failed in [&other_port, &other_line] {
        assert!(failed.stderr.contains("error: cannot write /run/mape/"), "{failed:?}");
        // The obstacle is in the way of the old record, too; nothing else may have failed.
        let mut complaints = failed.stderr.lines().filter(|line| line.contains("while taking back"));
        assert!(
            complaints.all(|line| line.contains("the record of what was made")),
            "{failed:?}"
        );
    }
    drop(obstacle);
    assert_eq!(in_use().unwrap(), before);
    let mut client = bench.connect(PORT).unwrap();
    serve(&listener, &mut client).unwrap();
}

#[test]
fn a_forward_comes_and_goes_under_fire_and_its_neighbour_loses_nothing() {
    let Some(bench) = Bench::up().unwrap() else { return };
    let (host, internet) = (bench.lab.node("host1").unwrap(), bench.lab.node("internet").unwrap());
    bench
        .mape("forward add udp 4928 192.168.10.2:8080")
        .unwrap()
        .success()
        .unwrap();
    let steady = socket(host, HOST_1, LISTENS).unwrap();
    // Answers whatever comes to the port that is forwarded now and then.
    let changing = socket(host, HOST_1, LISTENS + 1).unwrap();
    changing.set_nonblocking(true).unwrap();
    let client = socket(internet, [198, 51, 100, 1].into(), 0).unwrap();
    let strangers: Vec<UdpSocket> = (0..50)
        .map(|_| socket(internet, [198, 51, 100, 53].into(), 0).unwrap())
        .collect();
    let done = AtomicBool::new(false);
    let echoes = thread::scope(|scope| {
        let fire = scope.spawn(|| {
            let mut arrived = 0_u32;
            // Ten thousand at most, whatever happens to the other thread.
            for stranger in strangers.iter().cycle().take(10_000) {
                if done.load(Ordering::Relaxed) {
                    break;
                }
                stranger.send_to(b"fire", (plan::CE_IPV4, PORT + 1)).unwrap();
                while let Ok((_, from)) = changing.recv_from(&mut [0; 16]) {
                    changing.send_to(b"back", from).unwrap();
                    arrived += 1;
                }
                thread::sleep(Duration::from_millis(1));
            }
            arrived
        });
        let mut echoes = 0;
        for _ in 0..15 {
            bench
                .mape("forward add udp 4929 192.168.10.2:8081")
                .unwrap()
                .success()
                .unwrap();
            echo(&client, &steady).unwrap();
            bench.mape("forward del udp 4929").unwrap().success().unwrap();
            echo(&client, &steady).unwrap();
            echoes += 2;
        }
        done.store(true, Ordering::Relaxed);
        assert!(
            fire.join().unwrap() > 0,
            "something came through while the forward was there"
        );
        echoes
    });
    assert_eq!(echoes, 30);
    bench.mape("sessions --flush --yes").unwrap().success().unwrap();
    let stat = bench
        .lab
        .gateway(Role::Ce)
        .unwrap()
        .stat(bench.lab.node("ce").unwrap())
        .unwrap();
    let ports = bench.json("ports --protocol udp --json").unwrap();
    let counts = &ports["protocols"]["udp"]["counts"];
    assert_eq!(
        (
            counts["exclusive"].as_u64(),
            counts["shared"].as_u64(),
            counts["forwarded"].as_u64()
        ),
        (Some(0), Some(0), Some(1)),
        "{counts}, {stat}"
    );
    assert_eq!(
        bench
            .mape("sessions --count --mappings")
            .unwrap()
            .success()
            .unwrap()
            .stdout
            .trim(),
        "1"
    );
    echo(&client, &steady).unwrap();
}
